"""The processes of a stack, found in /proc: also where Supervisor was killed or can't be reached, or files were moved.

They are known by what they were started with, and by the directory that they stand in: the kernel keeps that one right
when the checkout is moved. What only happens to stand there (a shell, an editor, `cluster manage`) is none of them.

psutil takes three times as long for such a look, and an `up` takes dozens.
"""

from __future__ import annotations

import os
import re
import signal
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from cluster.services import PACKAGED
from cluster.stack.paths import STACKS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cluster.services import Kind as ServiceKind
    from platforms.local.paths import LocalPaths

#: Seconds that they have to end by themselves: an instance drains (DRAIN_SECONDS), and ends its requests.
PATIENCE = 40.0

#: Seconds between two looks whether a process has ended.
LOOK_SECONDS = 0.02

#: How the file of a socket ends.
SOCKET = ".sock"

#: What the kernel adds to the path of a directory that was removed.
DELETED = " (deleted)"

#: One of these stands in the command line of each.
TELLING = re.compile(
    b"|".join(
        (
            *(b"nginx", b"supervisord", rb"cluster_runtime\.(?:instance|service)", rb"watch\.py"),
            *(re.escape(name.encode()) for packaged in PACKAGED.values() for name in packaged.names),
        )
    )
)

#: Bytes that are read at once of a command line: there is hardly ever a longer one.
PIECE = 64 * 1024

#: Of /proc/PID/stat: stopped by a signal. (Not `t`, which a debugger has stopped.)
STOPPED = "T"


class Kind(StrEnum):
    """What a process of a stack is."""

    SUPERVISOR = "Supervisor"
    WATCH = "watch"
    INSTANCE = "instance"
    SERVICE = "worker or schedule"
    DAEMON = "daemon"
    NGINX = "nginx"
    WORKER = "nginx worker"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A process of the stack. `group` is its process group: Supervisor makes one for each that it starts.

    daemon: which kind of service one of the distribution's programs is.
    """

    pid: int
    parent: int
    group: int
    kind: Kind
    stopped: bool
    arguments: tuple[str, ...]
    daemon: ServiceKind | None = None

    def __str__(self) -> str:
        return f"{self.daemon or self.kind} (process {self.pid})"

    @property
    def daemon_name(self) -> str:
        """What Supervisor would call a daemon: as its socket is called."""
        return _socket_name(self.arguments)

    def argument(self, name: str) -> str:
        """Return what follows an option on its command line; empty where it has none."""
        position = self.arguments.index(name) + 1 if name in self.arguments else len(self.arguments)
        return self.arguments[position] if position < len(self.arguments) else ""


def stack_processes(paths: LocalPaths) -> list[Found]:
    """Return the stack's processes: Supervisor, and all that it starts but what those start themselves."""
    found: list[Found] = []
    workers: list[Found] = []
    stack, own = _Stack.of(paths), str(os.getpid())
    for name in os.listdir("/proc"):  # noqa: PTH208 - names; a machine has hundreds, and each command looks several times
        if not name.isdigit() or name == own:
            continue
        try:
            arguments = _arguments(name)
            kind = _kind(arguments) if arguments else None
            if kind is None:
                continue
            stands = _where(name)
            untold = kind is Kind.WORKER and stands is None
            if not untold and not stack.has(stands, arguments, kind):
                continue
            directory = Path("/proc", name)
            # The project's code can call itself what it likes; these two are of who says `up`, or of root.
            if kind in (Kind.SUPERVISOR, Kind.NGINX) and directory.stat().st_uid not in (0, os.geteuid()):
                continue
            fields = (directory / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it has ended, or is not ours to read
        if fields[0] in "ZX":
            continue
        pid, parent, group, stopped = int(name), int(fields[1]), int(fields[2]), fields[0] == STOPPED
        process = Found(
            pid=pid,
            parent=parent,
            group=group,
            kind=kind,
            stopped=stopped,
            arguments=arguments,
            daemon=daemon_of(arguments) if kind is Kind.DAEMON else None,
        )
        (workers if untold else found).append(process)
    found = _without_forks(found)
    return found + _of_nginx(workers, found, paths) if workers else found


def _without_forks(found: list[Found]) -> list[Found]:
    """Return them without those that have not begun the program yet which they were forked for.

    Until then one has the command line of its parent: it would pass for a second Supervisor, a second instance. (An
    nginx that is its parent's successor, after a USR2, has it for good.)
    """
    command = {process.pid: process.arguments for process in found if process.kind is not Kind.NGINX}
    return [process for process in found if command.get(process.parent) != process.arguments]


def _of_nginx(workers: Iterable[Found], found: Iterable[Found], paths: LocalPaths) -> list[Found]:
    """Return those nginx workers that are of the stack's nginx, of which nothing but their process group is told.

    A container without CAP_SYS_PTRACE tells of no other user's process where it stands.
    """
    masters = {process.pid for process in found if process.kind is Kind.NGINX}
    try:
        last = int(paths.nginx_pid.read_text(encoding="ascii"))
    except (OSError, ValueError):
        last = 0
    # No process gets the number of a group in which one still is: where none has it, it is the killed master's.
    if last and not _lives(last):
        masters.add(last)
    return [process for process in workers if process.group in masters]


def _where(pid: str) -> str | None:
    """Return the directory that a process stands in; None where it is another user's, and that is not told."""
    try:
        return str(Path("/proc", pid, "cwd").readlink()).removesuffix(DELETED)
    except PermissionError:
        return None


def _arguments(pid: str) -> tuple[str, ...]:
    """Return the command line of a process that may be one of a stack's; nothing of any other."""
    descriptor = os.open(f"/proc/{pid}/cmdline", os.O_RDONLY | os.O_CLOEXEC)  # a file object takes half as long again
    try:
        line = piece = os.read(descriptor, PIECE)
        while len(piece) == PIECE:
            piece = os.read(descriptor, PIECE)
            line += piece
    finally:
        os.close(descriptor)
    if not TELLING.search(line):
        return ()
    return tuple(line.decode("utf-8", "surrogateescape").rstrip("\0").split("\0"))


def _program(arguments: tuple[str, ...]) -> str:
    return arguments[0].rpartition("/")[2]


def _socket_name(arguments: tuple[str, ...]) -> str:
    return next((PurePath(word).stem for word in arguments if word.endswith(SOCKET)), "")


def daemon_of(arguments: tuple[str, ...]) -> ServiceKind | None:
    """Return which service a program of the distribution's is; several may be the same program, with other sockets."""
    kinds = [kind for kind, packaged in PACKAGED.items() if _program(arguments) in packaged.names]
    called = _socket_name(arguments).rstrip("0123456789")
    return next((kind for kind in kinds if kind == called), next(iter(kinds), None))


def _kind(arguments: tuple[str, ...]) -> Kind | None:
    first = arguments[0]
    if first.startswith("nginx: "):
        return Kind.NGINX if first.startswith("nginx: master") else Kind.WORKER
    if "supervisor.supervisord" in arguments:
        return Kind.SUPERVISOR
    if "cluster_runtime.instance" in arguments and "run" in arguments:
        return Kind.INSTANCE
    if "cluster_runtime.service" in arguments and "--generation" in arguments:
        return Kind.SERVICE
    if any(argument.endswith("/local/watch.py") for argument in arguments[:4]):
        return Kind.WATCH
    name = _program(arguments)
    return Kind.NGINX if name == "nginx" else Kind.DAEMON if daemon_of(arguments) else None


@dataclass(frozen=True, kw_only=True)
class _Stack:
    """What a look compares each process with: its own directory, `state`, and what is in command lines of its own.

    Text, made once: a machine where other stacks run has dozens of such processes.
    """

    paths: LocalPaths
    state: str
    run: str
    marks: Mapping[Kind, tuple[str, ...]]

    @classmethod
    def of(cls, paths: LocalPaths) -> _Stack:
        """Return a stack's."""
        run = str(paths.run)
        marks = {
            Kind.SUPERVISOR: (f"-c {paths.supervisor}/supervisord.conf ",),
            Kind.INSTANCE: (f"--sockets {run} ",),
            Kind.SERVICE: (f"--sockets {run} ",),
            Kind.NGINX: (f"-p {paths.state} ", f"-p {paths.state}/ "),
        }
        return cls(paths=paths, state=str(paths.state.resolve()), run=run, marks=marks)

    def has(self, stands: str | None, arguments: tuple[str, ...], kind: Kind) -> bool:
        """Tell whether a process was started with this stack's paths, or stands in its directory."""
        if stands is not None and (
            stands == self.state
            or (kind in (Kind.INSTANCE, Kind.SERVICE) and stands.startswith(f"{self.state.rstrip('/')}/"))
        ):
            return True
        command = " ".join(arguments) + " "
        if not any(mark in command for mark in self._marks(kind, arguments)):
            return False
        return stands is None or not _is_of_another(Path(stands), self.paths)

    def _marks(self, kind: Kind, arguments: tuple[str, ...]) -> tuple[str, ...]:
        if kind is not Kind.DAEMON:
            return self.marks.get(kind, ())
        daemon = daemon_of(arguments)
        # Its socket is in a directory of its kind's, or, as a former version made it, in the run directory itself.
        return (f" {self.run}/.{daemon}/{daemon}", f" {self.run}/{daemon}")


def _is_of_another(stands: Path, paths: LocalPaths) -> bool:
    """Tell whether a directory is the state of another checkout: of the one that was here before, and was moved."""
    for directory in (stands, *stands.parents):
        root = directory.parent.parent
        if directory.parent.name == ".cluster" and (root / STACKS).is_dir():
            return root != paths.root.resolve()
    return False


def supervisors(paths: LocalPaths, there: Iterable[Found] | None = None) -> list[Found]:
    """Return the Supervisors of the stack: one, or none; more only where something went wrong.

    there: what a look at the stack's processes has just found.
    """
    found = stack_processes(paths) if there is None else there
    return [process for process in found if process.kind is Kind.SUPERVISOR]


def orphaned_processes(paths: LocalPaths) -> list[int]:
    """Return the ids of all processes of the stack but Supervisor, and nginx's workers, which end with their master."""
    return [process.pid for process in stack_processes(paths) if process.kind not in (Kind.SUPERVISOR, Kind.WORKER)]


def orphaned_nginx(paths: LocalPaths) -> list[int]:
    """Return the ids of the stack's nginx workers whose master was killed: they serve on, and keep its ports."""
    found = stack_processes(paths)
    masters = {process.pid for process in found if process.kind is Kind.NGINX}
    return [process.pid for process in found if process.kind is Kind.WORKER and process.parent not in masters]


def end_processes(pids: Iterable[int], ask: signal.Signals = signal.SIGTERM, patience: float = PATIENCE) -> None:
    """Ask the processes to end, and kill those that have not after a while; PermissionError where they are another's.

    One that is stopped is let go on: it would not hear.
    """
    waiting = set(pids)
    for sent, seconds in ((ask, patience), (signal.SIGKILL, 5.0)):
        for pid in waiting:
            try:
                os.kill(pid, sent)
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue
        waiting = await_end(waiting, seconds)


def await_end(pids: Iterable[int], seconds: float) -> set[int]:
    """Wait for so many seconds until all processes have ended; return those that have not."""
    deadline = time.monotonic() + seconds
    waiting = {pid for pid in pids if _lives(pid)}
    while waiting and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        waiting = {pid for pid in waiting if _lives(pid)}
    return waiting


def _lives(pid: int) -> bool:
    """Tell whether a process has not ended; one whose parent has not noticed yet has."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"
