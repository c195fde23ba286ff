"""Commands that are the same on every platform: what they ask, and what they print."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import typer

from cluster.console import Terminal, say, tell
from cluster.errors import CommandError
from cluster.plan.costs import Cost
from cluster.stack.judge import judge
from cluster.topology import site_url
from platforms.base import Back, Forward, OnHosts, run_told

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.plan import Planned
    from cluster.stack.opened import Stack
    from platforms.base import Applied, Invocation, LogSource, Platform


def up(stack: Stack, platform: Platform, *, pull: bool = False, plan_digest: str | None = None) -> None:
    """Make the cluster what its stack file says, and prove it; `pull`: on images that are pulled anew.

    plan_digest: of the plan that is to be carried out; CommandError says what differs where it is another one by now.
    """
    wanted = Forward(pull=pull)
    if plan_digest is None:
        _change(stack, platform, wanted)
        return
    first = _planned_as(platform, wanted, plan_digest).costs == (Cost.START,)
    # Once more when nobody else changes it any more. A first release has got its keys by then, and another digest.
    _change(stack, platform, wanted, lambda: None if first else _planned_as(platform, wanted, plan_digest))


def _planned_as(platform: Platform, wanted: Forward, plan_digest: str) -> Planned:
    """Return the plan as it is now; CommandError where its digest is another one."""
    from cluster.plan.digest import misfit  # noqa: PLC0415 - only who has a digest asks

    planned = platform.plan(wanted)
    words = misfit(planned, plan_digest)
    if words is not None:
        raise CommandError(words)
    return planned


def forget_host(stack: Stack, platform: Platform, name: str, *, gone: bool) -> None:
    """Forget a host that is gone for good."""
    if not isinstance(platform, OnHosts):
        raise CommandError(f"stack {stack.name} runs on no hosts of its own: its platform is {stack.config.platform}")
    platform.forget_host(name, gone=gone)
    tell(f"{name} is forgotten: `cluster up {stack.name}` goes on without it")


def rollback(stack: Stack, platform: Platform, to: str | None) -> None:
    """Let a former release serve, by the same way as forward."""
    applied = _change(stack, platform, Back(release=to))
    if applied.changed:
        tell(f"release {applied.release} serves. The next `cluster up` follows the stack file and the code again.")


def _change(
    stack: Stack, platform: Platform, wanted: Forward | Back, check: Callable[[], object] = lambda: None
) -> Applied:
    """Judge, say what will be done, do it, and prove it. check: is called when nobody else changes the stack."""
    began = time.monotonic()
    with platform.change(wanted, partial(judge, warn=Terminal().warn)) as change:
        check()
        if change.lines:
            tell(f"stack {stack.name}: {change.lines[0]}")
        for line in change.lines[1:]:
            say(line)
        applied = change.apply()
    if not applied.changed:
        tell(f"stack {stack.name}: no changes; release {applied.release} serves at {site_url(stack.config)}")
        _tell_maintenance(stack, applied)
        return applied
    tell(f"done in {time.monotonic() - began:.1f} s")
    from cluster.checks import fail_unverified  # noqa: PLC0415 - an `up` that changes nothing sends no requests

    checks = applied.checks()
    fail_unverified(checks)
    tell(f"verified: {sum(check.ok is True for check in checks)} checks; {site_url(stack.config)}")
    _tell_maintenance(stack, applied)
    return applied


def _tell_maintenance(stack: Stack, applied: Applied) -> None:
    """Say that visitors don't get what serves."""
    if applied.maintenance is not None:
        tell(f"the site is in maintenance: {applied.maintenance}")
        tell(f"`cluster maintenance {stack.name} off` lets visitors in again")


def down(stack: Stack, platform: Platform, *, delete_data: bool, yes: bool) -> None:
    """Stop everything; with `delete_data` ask, unless `yes`, and remove the data too."""
    data = platform.data()
    if delete_data and not yes:
        if not sys.stdin.isatty():
            raise CommandError("--delete-data asks first; without a terminal say --yes as well")
        typer.confirm(f"Delete {data} of stack {stack.name}?", abort=True)
    if not platform.down(delete_data=delete_data):
        tell(f"stack {stack.name} was never up")
        return
    left = "its data is deleted" if delete_data else f"what stays: {data}"
    tell(f"stack {stack.name} is down; {left}")


def logs(stack: Stack, platform: Platform, names: list[str], *, lines: int, follow: bool) -> None:
    """Print logs, each line after the name of whose it is."""
    found = platform.logs(lines=lines, follow=follow)
    wanted = [source for source in found if not names or source.words.intersection(names)]
    if not wanted:
        raise CommandError("no such log" if names else f"stack {stack.name} has no logs yet")
    width = max(len(source.name) for source in wanted)
    threads = [threading.Thread(target=_print_log, args=(source, width), daemon=True) for source in wanted]
    for thread in threads:
        thread.start()
        if not follow:
            thread.join()
    for thread in threads:
        thread.join()


def _print_log(source: LogSource, width: int) -> None:
    # Anybody's words: a client's, the project's.
    run_told(source.printed, lambda line: tell(f"{source.name.ljust(width)} | {line}"))


def run(platform: Platform, words: list[str]) -> int:
    """Run a program once in the serving release; return its exit status."""
    return run_here(platform.program(words, terminal=sys.stdin.isatty() and sys.stdout.isatty()))


def run_here(invocation: Invocation) -> int:
    """Run a program with this terminal's input and output; return its exit status.

    Where it is another user's it gets a session of its own: from within this one it could type into root's terminal.
    Interrupts are passed on to it instead.
    """
    apart = bool(invocation.identity)
    directory = invocation.directory
    with subprocess.Popen(
        invocation.command,
        env=invocation.environment,
        start_new_session=apart,
        # As its user: what leads there may be its to change.
        preexec_fn=partial(os.chdir, directory) if directory else None,  # noqa: PLW1509 - no threads here
        **invocation.identity,
    ) as process:

        def pass_on(*_what: object) -> None:
            if apart:  # in this session it hears them itself, and ends as it sees fit
                process.send_signal(signal.SIGINT)

        former = signal.signal(signal.SIGINT, pass_on)
        try:
            status = process.wait()
        finally:
            signal.signal(signal.SIGINT, former)
        return status if status >= 0 else 128 - status  # as a shell says by which signal it ended
