"""Looks at what runs in a process of its own, while Pulumi's engine begins, for the program that the engine runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import tempfile
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from cluster.errors import ClusterError
from cluster_runtime.supervision import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: Where a program that a command has begun finds what is being looked at: a path, locked until all is there.
LOOKING_VARIABLE = "CLUSTER_LOOKING"

#: Ends what was written whole, and is nowhere else in it.
WHOLE = "\n"


@contextmanager
def looking(look: Callable[[], str]) -> Iterator[dict[str, str]]:
    """Look in a process of its own; yield the variables by which the program finds what that returns.

    Nothing else runs here meanwhile: it is a fork. No variables where none may be had: the program looks itself.
    """
    with tempfile.TemporaryDirectory() as aside:
        path = Path(aside) / "looked"
        pid = None
        try:
            with _uninterrupted():
                pid = _forked(path, look)
            yield {} if pid is None else {LOOKING_VARIABLE: str(path)}
        finally:
            if pid is not None:  # whoever would wait for it has ended
                _end(pid)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let an interrupt wait until what was begun is known."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _forked(path: Path, look: Callable[[], str]) -> int | None:
    """Begin the process that looks; None where none may be had. The file is locked until that one ends."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # the fork's too
            parent, pid = os.getpid(), os.fork()
            if pid == 0:
                _be(file, look, parent)
            return pid
    except OSError:
        return None


def _be(file: TextIO, look: Callable[[], str], parent: int) -> None:
    """Look, write it down, and end; what is away is told by whoever looks again."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever asked says that it was interrupted
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        os.setsid()  # so that what it begins can be ended with it
        die_with_parent()
        if os.getppid() == parent:
            with contextlib.suppress(ClusterError, OSError):
                file.write(f"{look()}{WHOLE}")
                file.flush()
    except BaseException:  # noqa: BLE001 - a fork never goes back into what it was forked from
        traceback.print_exc()
    finally:
        os._exit(0)


def _end(pid: int) -> None:
    """End it, and what it has begun."""
    for kill in (os.kill, os.killpg):  # it may not have come to a group of its own
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):  # where nobody is told of children that have ended
        os.waitpid(pid, 0)


def seen_by_another(variables: Mapping[str, str] = os.environ) -> str | None:
    """Return what the command has seen that began this run, once it has; None where there is none, or it could not.

    variables: those that `looking` yields, in a program its environment.
    """
    path = variables.get(LOOKING_VARIABLE)
    if path is None:
        return None
    try:
        with Path(path).open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            found = file.read()
    except OSError:
        return None
    return found if found.endswith(WHOLE) else None


__all__ = ["LOOKING_VARIABLE", "looking", "seen_by_another"]
