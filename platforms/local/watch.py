"""Lets what a signal has stopped go on: a program of its own under Supervisor, of the standard library alone.

A stopped process does not end, so nobody starts it again: a stopped nginx worker keeps the connections that it has, and
their clients wait for a minute; a stopped Supervisor starts nothing any more. It looks at Supervisor, at what that has
started, and at nginx's workers; an instance looks after its own workers. It also ends nginx workers whose master was
killed: they keep the ports, and no new nginx could start.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

#: Seconds between two looks; what was stopped at two looks in a row goes on.
LOOK = 2.0

#: Of /proc/PID/stat: stopped by a signal. (`t` is stopped by a debugger, and left alone.)
STOPPED = "T"

#: How a program is called that may be nginx, in /proc/PID/stat.
NGINX = b"(nginx"

#: In Supervisor's command line. Whoever else has this as a child has inherited it, and its other children are nobody's.
SUPERVISOR = b"supervisor.supervisord"

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Seen:
    """One process: the ids of its parent and its process group, its state's letter, how its command line begins.

    The command line is read where the program's name has `nginx` in it; else it is empty.
    """

    parent: int
    group: int
    state: str
    command: bytes = b""


def processes() -> dict[int, Seen]:
    """Return all processes of this machine that can be read."""
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - names; a machine has hundreds, and this looks at them for ever
        if not name.isdigit():
            continue
        try:
            before, _end, after = _read(f"/proc/{name}/stat").rpartition(b")")
            state, parent, group = after.split(None, 3)[:3]
            command = command_of(int(name)) if NGINX in before else b""
        except OSError:
            continue  # it has ended
        found[int(name)] = Seen(int(parent), int(group), state.decode("ascii"), command)
    return found


def command_of(pid: int) -> bytes:
    """Return how the command line of a process begins."""
    return _read(f"/proc/{pid}/cmdline")


def _read(path: str) -> bytes:
    """Return the first bytes of a small file, without what a file object costs."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4000)
    finally:
        os.close(descriptor)


def masters(there: dict[int, Seen], supervisor: int) -> set[int]:
    """Return Supervisor's nginx."""
    return {
        pid for pid, seen in there.items() if seen.parent == supervisor and seen.command.startswith(b"nginx: master")
    }


def kept(there: dict[int, Seen], supervisor: int) -> set[int]:
    """Return Supervisor, what it has started, and the workers of its nginx."""
    started = {pid for pid, seen in there.items() if seen.parent == supervisor}
    nginx = masters(there, supervisor)
    return {supervisor, *started, *(pid for pid, seen in there.items() if seen.parent in nginx)}


def left_workers(there: dict[int, Seen], state: Path, former: set[int]) -> set[int]:
    """Return nginx workers that have no nginx master any more, and stand in the stack's directory.

    former: masters that there were. Where a container lacks CAP_SYS_PTRACE nothing tells where another user's process
    stands: there it is known by its process group, which is its master's.
    """
    found = set()
    for pid, seen in there.items():
        if not seen.command.startswith(b"nginx: worker"):
            continue
        parent = there.get(seen.parent)
        if parent is not None and parent.command.startswith(b"nginx: master"):
            continue
        try:
            is_ours = Path(f"/proc/{pid}/cwd").readlink() == state
        except PermissionError:
            is_ours = seen.group in former
        except OSError:
            continue
        if is_ours:
            found.add(pid)
    return found


def main() -> None:
    """Watch until Supervisor ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    supervisor, state = os.getppid(), Path.cwd()
    if SUPERVISOR not in command_of(supervisor):
        sys.exit("this is started by Supervisor, and has outlived it")
    before: set[tuple[int, str]] = set()
    former: set[int] = set()
    while os.getppid() == supervisor:
        there = processes()
        former |= masters(there, supervisor)
        stopped = {(pid, "stopped") for pid in kept(there, supervisor) if pid in there and there[pid].state == STOPPED}
        found = stopped | {(pid, "left") for pid in left_workers(there, state, former)}
        for pid, how in sorted(found & before):
            sent = signal.SIGCONT if how == "stopped" else signal.SIGQUIT
            words = "was stopped by a signal: it goes on" if how == "stopped" else "has no master any more: it ends"
            try:
                name = command_of(pid).replace(b"\0", b" ").decode("utf-8", "replace")[:60]
                print(
                    f"{time.strftime('%Y-%m-%d %H:%M:%S')} process {pid} ({name}) {words}", file=sys.stderr, flush=True
                )
                os.kill(pid, sent)
            except OSError as error:
                print(f"process {pid}: {error.strerror}", file=sys.stderr, flush=True)
        before = found - before if found & before else found
        time.sleep(LOOK)


if __name__ == "__main__":
    main()
