"""Processes that tests have started, or that those have."""

from __future__ import annotations

from pathlib import Path


def stat(pid: int) -> list[str]:
    """Return what the kernel says of a process, from its state on (proc(5)).

    Raises:
        OSError: it is no more: FileNotFoundError, or ProcessLookupError where it ends just then.

    """
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def lives(pid: int) -> bool:
    """Tell whether a process runs still; one that nobody has asked for its status yet does not."""
    try:
        return stat(pid)[0] not in "ZX"
    except OSError:
        return False


__all__ = ["lives", "stat"]
