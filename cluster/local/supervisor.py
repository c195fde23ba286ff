"""Talks to this stack's Supervisor over its socket. Source: http://supervisord.org/api.html."""

from __future__ import annotations

import http.client
import os
import socket
import struct
import subprocess
import sys
import time
import xmlrpc.client
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.render.supervisor import Program, render_program, render_supervisord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cluster.local.owner import Owner
    from cluster.local.places import Places

#: How long Supervisor may take to answer its first call, seconds.
START_SECONDS = 15.0

#: Supervisor's fault codes that mean that what was asked for is so already.
BAD_NAME, ALREADY_STARTED, NOT_RUNNING, ALREADY_ADDED = 10, 60, 70, 90


class SupervisorError(Exception):
    """Supervisor does not start, or refuses what it is asked."""


@dataclass(frozen=True)
class Process:
    """One program's process: `state` is Supervisor's word (RUNNING, EXITED, …), `pid` 0 where there is none."""

    name: str
    state: str
    pid: int


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=120)
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

    def __init__(self, places: Places) -> None:
        self.places = places
        self.programs = places.supervisor / "programs"
        self.conf = places.supervisor / "supervisord.conf"

    def _call(self, method: str, *arguments: object) -> Any:
        server = xmlrpc.client.ServerProxy("http://localhost", transport=_Transport(str(self.places.supervisor_socket)))
        call: Callable[..., Any] = getattr(server.supervisor, method)
        try:
            return call(*arguments)
        finally:
            server("close")()

    def is_running(self) -> bool:
        """Tell whether it answers."""
        try:
            self._call("getState")
        except (OSError, http.client.HTTPException):
            return False
        return True

    def processes(self) -> dict[str, Process]:
        """Return the programs that it keeps, by name; none where it does not run."""
        try:
            found = self._call("getAllProcessInfo")
        except (FileNotFoundError, ConnectionRefusedError):
            return {}
        return {info["name"]: Process(info["name"], info["statename"], info["pid"]) for info in found}

    def start_daemon(self, owner: Owner) -> None:
        """Start Supervisor itself, with the programs whose files are there."""
        self.programs.mkdir(parents=True, exist_ok=True)
        log = self.places.logs / "supervisord.log"
        self.conf.write_text(
            render_supervisord(
                socket=str(self.places.supervisor_socket),
                pid=str(self.places.supervisor_pid),
                log=str(log),
                directory=str(self.places.state),
                programs=f"{self.programs}/*.conf",
                user="root" if owner.changed or owner.uid == 0 else None,
            ),
            encoding="utf-8",
        )
        done = subprocess.run(
            [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.conf)],
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

    def is_current(self, program: Program) -> bool:
        """Tell whether a program's file says what it should."""
        path = self.programs / f"{program.name}.conf"
        return path.is_file() and path.read_text(encoding="utf-8") == render_program(program)

    def write(self, program: Program) -> None:
        """Put a program's file in place."""
        self.programs.mkdir(parents=True, exist_ok=True)
        path = self.programs / f"{program.name}.conf"
        new = path.with_suffix(".new")
        new.write_text(render_program(program), encoding="utf-8")
        new.rename(path)

    def ensure(self, programs: Iterable[Program]) -> None:
        """Let the programs run as their files should say; one that changed is started again."""
        changed = [program for program in programs if not self.is_current(program)]
        for program in changed:
            self.write(program)
        self._call("reloadConfig")
        running = self.processes()
        for program in changed:
            if program.name in running:
                self.remove([program.name], keep_files=True)
        for program in programs:
            self._tolerant("addProcessGroup", program.name, allowed=(ALREADY_ADDED,))
            self._tolerant("startProcess", program.name, False, allowed=(ALREADY_STARTED,))

    def stop(self, names: Iterable[str]) -> None:
        """Stop programs, all at the same time; return when they have ended."""
        names = list(names)
        for name in names:
            self._tolerant("stopProcess", name, False, allowed=(BAD_NAME, NOT_RUNNING))
        while True:
            processes = self.processes()
            if not any(name in processes and processes[name].state == "STOPPING" for name in names):
                return
            time.sleep(0.05)

    def remove(self, names: Iterable[str], *, keep_files: bool = False) -> None:
        """Stop programs and forget them."""
        names = list(names)
        self.stop(names)
        for name in names:
            if not keep_files:
                (self.programs / f"{name}.conf").unlink(missing_ok=True)
            self._tolerant("removeProcessGroup", name, allowed=(BAD_NAME,))

    def signal(self, name: str, signal: str) -> None:
        """Send a signal to a program's process."""
        self._call("signalProcess", name, signal)

    def shutdown(self) -> None:
        """Stop Supervisor and whatever it still keeps; return when it is gone."""
        pid = int(self._call("getPID"))
        self._call("shutdown")
        while Path(f"/proc/{pid}").exists() and self.places.supervisor_socket.exists():
            time.sleep(0.05)

    def _tolerant(self, method: str, *arguments: object, allowed: tuple[int, ...]) -> bool:
        """Call; False where it is so already."""
        try:
            self._call(method, *arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode in allowed:
                return False
            raise SupervisorError(f"Supervisor: {method}({arguments[0]}): {fault.faultString}") from fault
        return True


def clean_environment() -> dict[str, str]:
    """Return what processes of the cluster inherit: nothing that happens to be set in the caller's shell."""
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
