"""Talks to this stack's Supervisor over its socket. Source: http://supervisord.org/api.html.

Its own transport (supervisor.xmlrpc.SupervisorTransport) waits for ever for one that hangs, and does not look who
listens there: root would obey another user.
"""

from __future__ import annotations

import configparser
import contextlib
import http.client
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
import xmlrpc.client
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from xml.parsers.expat import ExpatError

from cluster.errors import ClusterError
from cluster.kept import make_way, write_durably
from cluster.machine.confined import clean_environment
from platforms.local.orphans import await_end, end_processes, supervisors
from platforms.local.supervisor_files import Program, render_program, render_supervisord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from platforms.local.orphans import Found
    from platforms.local.paths import LocalPaths

#: The option without which a program's file is none.
COMMAND = "command"

#: How long Supervisor may take to answer its first call, seconds.
START_SECONDS = 15.0

#: How long it may take to answer any call, seconds: each is answered at once, or it hangs.
ANSWER_SECONDS = 10.0

#: How long it has to end all that it keeps: the longest drain, and graceful_timeout's default, and some.
END_SECONDS = 90.0

#: How long Supervisor is not asked whether programs have ended while their processes live, seconds: it costs it
#: milliseconds.
STOPPING_SECONDS = 1.0

#: How long it may take to notice that one has ended, seconds.
NOTICE_SECONDS = 0.02

#: Supervisor's fault codes that mean that what was asked for is so already.
BAD_NAME, ALREADY_STARTED, NOT_RUNNING, ALREADY_ADDED = 10, 60, 70, 90


class SupervisorError(ClusterError):
    """Supervisor does not start, or refuses what it is asked."""


@dataclass(frozen=True)
class Process:
    """One program's process: `state` is Supervisor's word (RUNNING, EXITED, …), `pid` 0 where there is none."""

    name: str
    state: str
    pid: int


class Condition(StrEnum):
    """How Supervisor is."""

    GONE = "is not running"
    RUNNING = "runs"
    STOPPED = "is stopped by a signal (SIGSTOP)"
    SILENT = "does not answer"
    UNREACHABLE = "runs, but its socket is gone"


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
        if _listener(self.sock) not in (0, os.geteuid()):
            raise SupervisorError(f"{self._path}: another user listens there, and not this stack's Supervisor")


def _listener(connection: socket.socket) -> int:
    """Return the user who listens at the other end of a unix socket (unix(7), SO_PEERCRED)."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid: int = struct.unpack("3i", found)[1]
    return uid


def accepts(path: Path) -> bool:
    """Tell whether somebody accepts connections on a unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        trial.settimeout(1.0)
        try:
            trial.connect(str(path))
        except OSError:
            return False
        return True


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, _host: Any) -> http.client.HTTPConnection:
        return _Connection(self._path)


class Supervisor:
    """This stack's Supervisor, running or not."""

    def __init__(self, paths: LocalPaths) -> None:
        self.paths = paths
        self.programs = paths.supervisor / "programs"
        self.conf = paths.supervisor / "supervisord.conf"

    def _call(self, method: str, *arguments: object) -> Any:
        server = xmlrpc.client.ServerProxy("http://localhost", transport=_Transport(str(self.paths.supervisor_socket)))
        call: Callable[..., Any] = getattr(server.supervisor, method)
        try:
            return call(*arguments)
        finally:
            server("close")()

    def pids(self) -> list[int]:
        """Return the ids of its processes, found in /proc: one where it runs, whatever became of its files."""
        return [process.pid for process in supervisors(self.paths)]

    def condition(self, there: Iterable[Found] | None = None) -> Condition:
        """Look how it is, without waiting for one that can't answer.

        there: what a look at the stack's processes has just found.
        """
        found = supervisors(self.paths, there)
        if any(process.stopped for process in found):
            return Condition.STOPPED
        try:
            self._call("getState")
        except TimeoutError:
            return Condition.SILENT
        except (OSError, http.client.HTTPException, xmlrpc.client.Error, ExpatError):
            return Condition.UNREACHABLE if found else Condition.GONE
        return Condition.RUNNING if len(found) <= 1 else Condition.UNREACHABLE

    def is_running(self) -> bool:
        """Tell whether it answers."""
        return self.condition() is Condition.RUNNING

    def wake(self) -> list[int]:
        """Let a stopped one go on; return the ids of those that were stopped."""
        stopped = [process.pid for process in supervisors(self.paths) if process.stopped]
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        return stopped

    def processes(self) -> dict[str, Process]:
        """Return the programs that it keeps, by name; none where it can't be asked."""
        try:
            found = self._call("getAllProcessInfo")
        except TimeoutError as error:
            raise SupervisorError(self._silent()) from error
        except (OSError, http.client.HTTPException, xmlrpc.client.Error, ExpatError):
            return {}
        return {info["name"]: _process(info) for info in found}

    def process(self, name: str) -> Process | None:
        """Return one program's process, at a fraction of what all of them cost; None where it can't be told."""
        try:
            return _process(self._call("getProcessInfo", name))
        except TimeoutError as error:
            raise SupervisorError(self._silent()) from error
        except (OSError, http.client.HTTPException, xmlrpc.client.Error, ExpatError):
            return None

    def _silent(self) -> str:
        pids = ", ".join(map(str, self.pids()))
        return (
            f"Supervisor (process {pids}) {Condition.SILENT} within {ANSWER_SECONDS:g} s; say it again, or end it "
            f"(kill -9 {pids}) and say `cluster up`"
        )

    def _write_conf(self) -> None:
        """Put Supervisor's own file in place; it reads that again whenever a program is added."""
        self._make_directory()
        text = render_supervisord(
            socket=str(self.paths.supervisor_socket),
            pid=str(self.paths.supervisor_pid),
            log=str(self.paths.logs / "supervisord.log"),
            directory=str(self.paths.state),
            # From this file's directory: names are parted by spaces, which the path may have.
            programs=f"{self.programs.name}/*.conf",
            user="root" if os.geteuid() == 0 else None,
        )
        if not _holds(self.conf, text):
            write_durably(self.conf, text)

    def put_back(self) -> None:
        """Write again what a running one has read and written at its start, where that was hurt since."""
        self._write_conf()
        for pid in self.pids():
            put_pid(self.paths.supervisor_pid, pid)

    def start_daemon(self) -> None:
        """Start Supervisor itself, with the programs whose files are there."""
        self._write_conf()
        self._forget_hurt()
        log = self.paths.logs / "supervisord.log"
        make_way(self.paths.supervisor_socket, stat.S_IFSOCK)
        for path in (self.paths.supervisor_pid, log):
            make_way(path, stat.S_IFREG)
        done = subprocess.run(
            [sys.executable, "-P", "-m", "supervisor.supervisord", "-c", str(self.conf)],
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise SupervisorError(f"Supervisor did not start: {done.stdout.strip()}")
        deadline = time.monotonic() + START_SECONDS
        while not self.is_running():
            if time.monotonic() > deadline:
                raise SupervisorError(f"Supervisor does not answer; {log} says why")
            time.sleep(0.05)

    def _make_directory(self) -> None:
        for path in (self.paths.supervisor, self.programs):
            make_way(path, stat.S_IFDIR)
        self.programs.mkdir(parents=True, exist_ok=True)

    def is_current(self, program: Program) -> bool:
        """Tell whether a program's file says what it should."""
        return _holds(self.programs / f"{program.name}.conf", render_program(program))

    def write(self, program: Program) -> None:
        """Put a program's file in place."""
        self._make_directory()
        write_durably(self.programs / f"{program.name}.conf", render_program(program))

    def ensure(self, programs: Iterable[Program]) -> None:
        """Let the programs run as their files should say; one that changed is started again."""
        changed = [program for program in programs if not self.is_current(program)]
        for program in changed:
            self.write(program)
        self._write_conf()
        self._forget_hurt()
        self._tolerant("reloadConfig", allowed=())
        running = self.processes()
        for program in changed:
            if program.name in running:
                self.remove([program.name], keep_files=True)
        # What could not be started is tried again after longer and longer pauses; now is better.
        pausing = [name for name, process in running.items() if process.state == "BACKOFF"]
        self.stop([program.name for program in programs if program.name in pausing])
        for program in programs:
            self._tolerant("addProcessGroup", program.name, allowed=(ALREADY_ADDED,))
            self._tolerant("startProcess", program.name, False, allowed=(ALREADY_STARTED,))

    def _forget_hurt(self) -> None:
        """Move aside files of programs that Supervisor can't read: one of them would keep it from reading any."""
        for path in self.programs.glob("*.conf"):
            if not self.is_readable(path.stem):
                path.rename(path.with_name(f".{path.name}.hurt-{time.time_ns():x}"))

    def is_readable(self, name: str) -> bool:
        """Tell whether a program's file is there, and one that Supervisor can read."""
        parser = configparser.RawConfigParser()
        try:
            parser.read_string((self.programs / f"{name}.conf").read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, configparser.Error):
            return False
        return parser.sections() == [f"program:{name}"] and parser.has_option(f"program:{name}", COMMAND)

    def stop(self, names: Iterable[str], *, kill: bool = False) -> None:
        """Stop programs, all at the same time; return when they have ended. `kill` those that have nothing to end."""
        names = list(names)
        for name in names:
            self._tolerant("stopProcess", name, False, allowed=(BAD_NAME, NOT_RUNNING))
            if kill:
                self._tolerant("signalProcess", name, "KILL", allowed=(BAD_NAME, NOT_RUNNING))
        while True:
            there = self.processes()
            stopping = [there[name].pid for name in names if name in there and there[name].state == "STOPPING"]
            if not stopping:
                return
            await_end(stopping, STOPPING_SECONDS)
            time.sleep(NOTICE_SECONDS)

    def remove(self, names: Iterable[str], *, keep_files: bool = False, kill: bool = False) -> None:
        """Stop programs, as `stop` does, and forget them."""
        names = list(names)
        self.stop(names, kill=kill)
        for name in names:
            if not keep_files:
                (self.programs / f"{name}.conf").unlink(missing_ok=True)
            self._tolerant("removeProcessGroup", name, allowed=(BAD_NAME,))

    def signal(self, name: str, signal: str) -> None:
        """Send a signal to a program's process."""
        self._tolerant("signalProcess", name, signal, allowed=())

    def shutdown(self) -> None:
        """Stop Supervisor and whatever it still keeps, reachable or not; return when it is gone.

        SupervisorError names the processes where they are another user's.
        """
        pids = self.pids()
        try:
            end_processes(pids, patience=END_SECONDS)
        except PermissionError as error:
            raise SupervisorError(not_ours(pids)) from error

    def _tolerant(self, method: str, *arguments: object, allowed: tuple[int, ...]) -> bool:
        """Call; False where it is so already."""
        try:
            self._call(method, *arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode in allowed:
                return False
            what = f"{method}({', '.join(map(str, arguments[:1]))})"
            raise SupervisorError(f"Supervisor: {what}: {fault.faultString}") from fault
        except TimeoutError as error:
            raise SupervisorError(self._silent()) from error
        except (OSError, http.client.HTTPException) as error:
            raise SupervisorError(f"Supervisor went away ({error}); `cluster up` starts it again") from error
        return True


def _process(info: dict[str, Any]) -> Process:
    return Process(info["name"], info["statename"], info["pid"])


def put_pid(path: Path, pid: int) -> None:
    """Let a file hold the id of a process that runs."""
    if not _holds(path, f"{pid}\n"):
        write_durably(path, f"{pid}\n", mode=0o644)


def _holds(path: Path, text: str) -> bool:
    with contextlib.suppress(OSError):
        return path.read_bytes() == text.encode()
    return False


def not_ours(pids: Iterable[int]) -> str:
    """Return what to say of processes of the stack that this user may not end."""
    listed = " ".join(map(str, pids))
    return f"processes of this stack run as another user, and must be ended first: sudo kill {listed}"
