"""Which TCP sockets the processes of a stack listen on, read from /proc."""

from __future__ import annotations

from pathlib import Path

#: The state of a listening socket in /proc/net/tcp.
LISTENING = "0A"


def listening_ports(pids: set[int]) -> list[tuple[int, int]]:
    """Return (process id, port) of each TCP socket that the processes, or those they started, listen on."""
    ports = _listening_inodes()
    found = []
    for pid in sorted(with_children(pids)):
        try:
            links = list(Path(f"/proc/{pid}/fd").iterdir())
        except OSError:
            continue  # it has ended
        for link in links:
            try:
                target = str(link.readlink())
            except OSError:
                continue
            if target.startswith("socket:[") and target[8:-1] in ports:
                found.append((pid, ports[target[8:-1]]))
    return found


def with_children(pids: set[int]) -> set[int]:
    """Return the processes and all that they have started and that still run."""
    parents: dict[int, int] = {}
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                text = (directory / "stat").read_text(encoding="ascii", errors="replace")
            except OSError:
                continue
            parents[int(directory.name)] = int(text.rpartition(")")[2].split()[1])
    found = set(pids)
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found
        found |= more


def _listening_inodes() -> dict[str, int]:
    inodes = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue  # no IPv6
        for line in lines:
            fields = line.split()
            if fields[3] == LISTENING:
                inodes[fields[9]] = int(fields[1].rpartition(":")[2], 16)
    return inodes
