"""`cluster rotate-key`: the same on every platform."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cli.commands import up
from cluster.console import tell
from cluster.errors import CommandError
from cluster.stack.rotation import DROP, HOSTS, UNKNOWN, AlreadyDropped, LostKey, rotate

if TYPE_CHECKING:
    from cluster.stack.opened import Stack
    from platforms.base import Platform


def run_rotate_key(stack: Stack, platform: Platform, *, keep_fallback: bool) -> None:
    """Begin a rotation, or go on with it."""
    keys = platform.keys()
    progress = keys.progress(stack.state)
    report = platform.sessions()
    if report is None:
        raise CommandError(f"stack {stack.name} does not serve; `cluster up {stack.name}` first")
    try:
        rotation = progress.load()
    except LostKey as error:
        raise CommandError(f"{error}; {progress.forget}, and say it again") from error
    due = None if rotation is None or rotation.since is None else rotation.since + report["age"]
    if not keep_fallback and rotation is not None and rotation.step == DROP and due is not None and time.time() < due:
        tell(f"the new key signs; the old one may go after {_date(due)}: say it again then")
        _tell_unknown(stack)
        return
    try:
        left = rotate(
            progress,
            keys,
            release=lambda: up(stack, platform),
            say=tell,
            now=time.time,
            age=report["age"],
            keep_fallback=keep_fallback,
        )
    except LostKey as error:
        raise CommandError(f"{error}; {progress.forget} to begin anew") from error
    except AlreadyDropped as error:
        raise CommandError(
            f"--keep-fallback: the old key is no fallback any more; say `cluster rotate-key {stack.name}` to end the "
            "rotation, which says where the key is kept aside, and put it into secret_key_fallbacks"
        ) from error
    if left is None and keep_fallback:
        tell(
            f"the new key signs, and the old one stays a fallback of stack {stack.name}, accepted as before; a later "
            f"`cluster rotate-key {stack.name}` changes to another new key, and drops both"
        )
    elif left is None:
        tell(f"the old key is gone: stack {stack.name} knows the new one alone")
    elif left.since is not None:
        date = _date(left.since + report["age"])
        tell(f"what the old key has signed is valid until {date}; then say `cluster rotate-key {stack.name}` again")
        _tell_unknown(stack)


def run_rotate_hosts(stack: Stack, platform: Platform, *, keep_fallback: bool) -> None:
    """Change what a stack's hosts are known by to each other, and the database's password."""
    if keep_fallback:
        raise CommandError("--keep-fallback is for SECRET_KEY: of what hosts are known by nothing outlasts the change")
    keys = platform.hosts_keys()
    if keys is None:
        raise CommandError(f"--hosts: stack {stack.name} has no hosts that ask each other for anything")
    if not keys.read()[0]:
        raise CommandError(f"stack {stack.name} was never up; `cluster up {stack.name}` first")
    progress = keys.progress(stack.state)
    try:
        rotate(progress, keys, release=lambda: up(stack, platform), say=tell, now=time.time, age=0, kind=HOSTS)
    except LostKey as error:
        raise CommandError(f"{error}; {progress.forget} to begin anew") from error
    tell(f"the old key is gone: the hosts of stack {stack.name} believe the new one alone")


def _tell_unknown(stack: Stack) -> None:
    for line in UNKNOWN:
        tell(line)
    tell(
        f"where there is any, `cluster rotate-key {stack.name} --keep-fallback` ends the rotation and keeps the old key"
    )


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
