"""Which TCP sockets the processes of a stack listen on."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator


def listening_ports(pids: set[int]) -> list[tuple[int, int]]:
    """Return (process id, port) of each TCP socket that the processes, or those they started, listen on.

    Nothing of one that has ended, or whose sockets are not told: another user's, without root.
    """
    return sorted({(pid, port) for pid, _ipv6, port in _listening(pids)})


def ports_held(pids: set[int]) -> set[tuple[bool, int]]:
    """Return the same ports, each with whether it is one of IPv6."""
    return {(ipv6, port) for _pid, ipv6, port in _listening(pids)}


def _listening(pids: set[int]) -> Iterator[tuple[int, bool, int]]:
    for pid in with_children(pids):
        with contextlib.suppress(psutil.Error):
            for one in psutil.Process(pid).net_connections("tcp"):
                if one.status == psutil.CONN_LISTEN:
                    yield pid, one.family == socket.AF_INET6, one.laddr.port


def with_children(pids: set[int]) -> set[int]:
    """Return the processes and all that they have started and that still run."""
    found = set(pids)
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            found |= {child.pid for child in psutil.Process(pid).children(recursive=True)}
    return found
