"""Which TCP sockets the processes of a stack listen on."""

from __future__ import annotations

import contextlib

import psutil


def listening_ports(pids: set[int]) -> list[tuple[int, int]]:
    """Return (process id, port) of each TCP socket that the processes, or those they started, listen on.

    Nothing of one that has ended, or whose sockets are not told: another user's, without root.
    """
    found: set[tuple[int, int]] = set()
    for pid in with_children(pids):
        with contextlib.suppress(psutil.Error):
            there = psutil.Process(pid).net_connections("tcp")
            found |= {(pid, one.laddr.port) for one in there if one.status == psutil.CONN_LISTEN}
    return sorted(found)


def with_children(pids: set[int]) -> set[int]:
    """Return the processes and all that they have started and that still run."""
    found = set(pids)
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            found |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
    return found
