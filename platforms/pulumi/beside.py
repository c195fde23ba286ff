"""Work in a process of its own, which ends with what is done meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cluster_runtime.supervision import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[None]:
    """Work in a fork, which is killed at the end, with what it has begun. OSError where none may be had.

    It is a fork of all that is imported by then; what is open here is open there too, until it ends.
    """
    pid = None
    try:
        with _uninterrupted():
            parent, pid = os.getpid(), os.fork()
            if pid == 0:
                _be(work, parent)
        yield
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


def _be(work: Callable[[], object], parent: int) -> None:
    """Work, and end."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever asked says that it was interrupted
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        os.setsid()  # so that what it begins can be ended with it
        die_with_parent()
        if os.getppid() == parent:
            work()
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


__all__ = ["beside"]
