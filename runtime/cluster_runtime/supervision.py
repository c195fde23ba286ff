"""What every parent of a program needs (an instance's, a service's): its pace, and that no child outlives it."""

from __future__ import annotations

import ctypes
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: Seconds between two looks at the child and at what else is watched.
TICK = 0.1

#: Seconds that a process waits before it ends because its program did, so that restarts don't spin.
RESTART_PAUSE = 1.0

PR_SET_PDEATHSIG = 1


def die_with_parent(by: signal.Signals = signal.SIGKILL) -> None:
    """Let the kernel send this process a signal when the one that started it ends, whatever state both are in."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, by, 0, 0, 0)


def parent_of(process: Path) -> int:
    """Return the parent of a process, by its directory in /proc; OSError where it has ended."""
    return int(_stat(process)[1])


def session_of(process: Path) -> int:
    """Return the session of a process, by its directory in /proc; OSError where it has ended."""
    return int(_stat(process)[3])


def _stat(process: Path) -> list[str]:
    """Return what the kernel says of a process after its name, which may hold anything: proc_pid_stat(5)."""
    return (process / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
