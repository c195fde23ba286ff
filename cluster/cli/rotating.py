"""`cluster rotate-key`: the same on every platform."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cluster.cli.context import CommandError, tell
from cluster.rotation import DROP, LostKey, load, rotate

if TYPE_CHECKING:
    from cluster.cli.context import Commands, Stack


def run_rotate_key(stack: Stack, platform: Commands) -> None:
    """Begin a rotation, or go on with it."""
    path = stack.root / ".cluster" / stack.name / "rotation.json"
    report = platform.sessions(stack)
    if report is None:
        raise CommandError(f"stack {stack.name} does not serve; `cluster up {stack.name}` first")
    rotation = load(path)
    waiting = rotation is not None and rotation.step == DROP
    if waiting and rotation is not None and rotation.since is not None and time.time() < rotation.since + report["age"]:
        tell(f"the new key signs; the old one may go after {_date(rotation.since + report['age'])}: say it again then")
        return
    try:
        left = rotate(
            path,
            platform.keys(stack),
            release=lambda: platform.run_up(stack),
            say=tell,
            now=time.time,
            age=report["age"],
        )
    except LostKey as error:
        raise CommandError(f"{error}; remove {path} to begin anew") from error
    if left is None:
        tell(f"the old key is gone: stack {stack.name} knows the new one alone")
    elif left.since is not None:
        date = _date(left.since + report["age"])
        tell(f"what the old key has signed is valid until {date}; then say `cluster rotate-key {stack.name}` again")


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
