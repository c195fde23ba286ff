"""Which TCP sockets the processes of a stack listen on.

The kernel's tables of sockets are read once a look: each reading goes through all that it has room for, some
milliseconds. (psutil reads both for each process, and all processes for the children of each.)
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from cluster_runtime.supervision import parent_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: What proc_pid_net(5) calls a socket that listens, and the columns of its address, its state and its inode.
LISTENING, ADDRESS, STATE, INODE = "0A", 1, 3, 9

#: The tables, each with whether it is of IPv6; a kernel without that has no such file.
TABLES = ((Path("/proc/net/tcp"), False), (Path("/proc/net/tcp6"), True))

#: What the kernel says that a descriptor leads to, before and after the socket's inode.
SOCKET, END = "socket:[", "]"


def listening_ports(pids: set[int]) -> list[tuple[int, int]]:
    """Return (process id, port) of each TCP socket that the processes, or those they started, listen on.

    Nothing of one that has ended, or whose sockets are not told: another user's, without root.
    """
    return sorted({(pid, port) for pid, _ipv6, port in _listening(pids)})


def ports_held(pids: set[int]) -> set[tuple[bool, int]]:
    """Return the same ports, each with whether it is one of IPv6."""
    return {(ipv6, port) for _pid, ipv6, port in _listening(pids)}


def _listening(pids: set[int]) -> Iterator[tuple[int, bool, int]]:
    holders: defaultdict[str, list[int]] = defaultdict(list)
    for pid in with_children(pids) if pids else ():
        for inode in _sockets(pid):
            holders[inode].append(pid)
    for table, ipv6 in TABLES if holders else ():
        for line in table.read_text(encoding="ascii").splitlines()[1:] if table.exists() else ():
            words = line.split()
            if words[STATE] == LISTENING:
                port = int(words[ADDRESS].rpartition(":")[2], 16)
                yield from ((pid, ipv6, port) for pid in holders.get(words[INODE], ()))


def _sockets(pid: int) -> Iterator[str]:
    """Yield the inodes of the sockets that a process has open."""
    directory = f"/proc/{pid}/fd"
    try:
        names = os.listdir(directory)  # noqa: PTH208 - names
    except OSError:
        return  # it has ended, or is not ours to read
    for name in names:
        try:
            target = os.readlink(f"{directory}/{name}")  # noqa: PTH115 - a Path each takes longer than the look
        except OSError:
            continue  # closed by now
        if target.startswith(SOCKET):
            yield target.removeprefix(SOCKET).removesuffix(END)


def with_children(pids: Iterable[int]) -> set[int]:
    """Return the processes and all that they have started and that still run."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for name in os.listdir("/proc"):  # noqa: PTH208 - names
        if name.isdigit():
            try:
                children[parent_of(Path("/proc", name))].append(int(name))
            except OSError:
                continue  # it has ended
    found: set[int] = set()
    waiting = [*pids]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children[pid]
    return found
