"""Processes of a stack that nobody keeps any more: what is left when Supervisor itself was killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cluster.local.places import Places

#: Seconds that they have to end by themselves; an instance drains for three and ends its requests.
PATIENCE = 40.0


def orphaned_processes(places: Places) -> list[int]:
    """Return the ids of the stack's instances, memcached nodes and nginx masters, by what they were started with."""
    marks = (f"--sockets {places.run} ", f"-s {places.run}/memcached", f"-p {places.state} ")
    found = []
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit() or int(directory.name) == os.getpid():
            continue
        try:
            command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace") + " "
        except OSError:
            continue  # it has ended, or is not ours to read
        if any(mark in command for mark in marks) and "worker process" not in command:
            found.append(int(directory.name))
    return found


def orphaned_nginx(places: Places) -> list[int]:
    """Return the ids of the stack's nginx workers whose master was killed: they serve on, and keep its ports."""
    found = []
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            command = (directory / "cmdline").read_bytes()
            if not command.startswith(b"nginx: worker") or (directory / "cwd").readlink() != places.state.resolve():
                continue
            parent = (directory / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[1]
            master = Path(f"/proc/{parent}/cmdline").read_bytes()
        except OSError:
            continue  # it has ended, or is not ours to read
        if not master.startswith(b"nginx: master"):
            found.append(int(directory.name))
    return found


def end_processes(pids: Iterable[int], ask: signal.Signals = signal.SIGTERM) -> None:
    """Ask the processes to end, and kill those that have not after a while."""
    waiting = set(pids)
    for sent, patience in ((ask, PATIENCE), (signal.SIGKILL, 5.0)):
        for pid in waiting:
            try:
                os.kill(pid, sent)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + patience
        while waiting and time.monotonic() < deadline:
            waiting = {pid for pid in waiting if Path(f"/proc/{pid}").exists()}
            time.sleep(0.05)
