"""A process of a release beside its instances, the parent of one program: a background worker, or a schedule.

It runs the same under Supervisor and in a container, says what it is doing in a status file, and on SIGTERM lets its
program end what it is at. `<sockets>/.services/<name>/<generation>.json` is where it says so: a generation is a release
with what the stack file says of the service, so that another command replaces the process, and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster_runtime.config import CONFIG_VARIABLE, RELEASE_VARIABLE, ConfigError, RuntimeConfig
from cluster_runtime.instance_link import SERVICES, InstanceLink, process_of
from cluster_runtime.log import say, tell
from cluster_runtime.manager import tell_manager, without_manager
from cluster_runtime.secret_files import hold_release
from cluster_runtime.status import DRAINING, RUNNING, STARTING, STATUS_INTERVAL, WAITING
from cluster_runtime.supervision import RESTART_PAUSE, TICK, die_with_parent, session_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

#: States in which a service does what it is for.
WELL = (RUNNING, WAITING)

#: Seconds until a program that has ended by itself is started again, the first time and at most; twice as long each
#: time, until it has lived for STEADY seconds.
FIRST_PAUSE, LONGEST_PAUSE, STEADY = 1.0, 60.0, 60.0

#: Seconds that processes have after SIGTERM where they have had their time already.
LAST_SECONDS = 5.0

#: What a program finds in its environment: which service it is, and of which process's.
SERVICE_VARIABLE, GENERATION_VARIABLE = "CLUSTER_SERVICE", "CLUSTER_SERVICE_PROCESS"


class Service:
    """One life of a service's process."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.config_path: Path = options.config.absolute()
        self.config = RuntimeConfig.load(self.config_path)
        self.service: str = options.name
        self.generation: str = options.generation
        self.graceful_timeout: float = options.graceful_timeout
        self.command: Sequence[str] = options.command
        self.container: bool = options.container
        self.name = InstanceLink(options.sockets.absolute() / SERVICES, self.service)
        self.process = process_of(self.generation, container=self.container)
        self.child: subprocess.Popen[bytes] | None = None
        self.stopping = False
        self.state, self.message, self.since = STARTING, "", time.time()
        self.well = True
        self.next_status = 0.0

    def run(self) -> int:
        """Live until told to stop (0), or until that is impossible (1)."""
        self.name.directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        if self.container:
            self.name.sweep()
        lock = self.name.open_lock(self.process)
        if lock is None:
            self.log("runs already")
            time.sleep(RESTART_PAUSE)
            return 1
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        hold_release(self.config.secrets, self.config_path)
        end_left(self._owner)  # of a former life
        self.set_state(STARTING)
        try:
            return self.live()
        except OSError as error:
            self.log(f"can't go on: {error}")
            time.sleep(RESTART_PAUSE)
            return 1
        finally:
            self.kill()
            self.name.status_file(self.process).unlink(missing_ok=True)
            os.close(lock)

    def live(self) -> int:
        """Do what the service is for, until `stopping`; return the exit status."""
        raise NotImplementedError

    # --- its program

    def start(self) -> None:
        """Start the program, in a session of its own."""
        self.child = subprocess.Popen(
            [sys.executable, "-P", "-m", "cluster_runtime.program", *self.command],
            env={**without_manager(), **self.environment()},
            cwd=self.config.project,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - no thread is there
        )

    def environment(self) -> dict[str, str]:
        """Return what the program finds in its environment beside what is plain of the release."""
        return {
            CONFIG_VARIABLE: str(self.config_path),
            SERVICE_VARIABLE: self.service,
            GENERATION_VARIABLE: self._owner,
            RELEASE_VARIABLE: self.config.release,
        }

    def ended(self) -> int | None:
        """Return the status with which the program has ended; None while it runs.

        Whoever was left to this process (in a container it is the first one) is seen off too.
        """
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                pid = 0
            if pid == 0:
                break
            if os.WIFSTOPPED(status):
                self.log("was stopped by a signal: it goes on")
                os.kill(pid, signal.SIGCONT)
            elif self.child is not None and pid == self.child.pid:
                self.child.returncode = os.waitstatus_to_exitcode(status)
        return None if self.child is None else self.child.returncode

    def wait(self, seconds: float, *, stoppable: bool = True) -> int | None:
        """Wait for the program's end; return its status, or None where it has not ended by then, or was to stop."""
        deadline = time.monotonic() + seconds
        while (status := self.ended()) is None and time.monotonic() < deadline:
            if stoppable and self.stopping:
                return None
            self.say_again()
            time.sleep(min(TICK, seconds))
        return status

    def pause(self, seconds: float) -> None:
        """Wait, unless told to stop."""
        deadline = time.monotonic() + seconds
        while not self.stopping and time.monotonic() < deadline:
            self.ended()
            self.say_again()
            time.sleep(min(TICK, seconds))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program itself: its own children are its business."""
        if self.child is not None and self.child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child.pid, number)

    def kill(self) -> None:
        """Kill whatever is left of the program's session, whatever groups its processes have made."""
        if self.child is None:
            return
        session = self.child.pid
        with contextlib.suppress(ProcessLookupError):
            os.killpg(session, signal.SIGKILL)
        _end_all(lambda process: session_of(process) == session)
        if self.child.returncode is None:
            self.child.wait()
        self.child = None

    @property
    def _owner(self) -> str:
        return f"{self.name.directory}/{self.process}"

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.stopping = True

    # --- saying so

    def set_state(self, state: str, message: str = "") -> None:
        """Say what it is doing."""
        if state != self.state:
            self.log(f"{state}: {message}" if message not in ("", self.message) else state)
            self.since = time.time()
        self.state, self.message = state, message
        told = f"STATUS={state}{f': {message}' if message else ''}"
        tell_manager(told, *(["READY=1"] if state in WELL else []))
        self._write_status()

    def say_again(self) -> None:
        """Write the status again now and then, whoever has removed it."""
        if time.monotonic() >= self.next_status:
            self._write_status()

    def details(self) -> dict[str, Any]:
        """Return what more the status says."""
        return {}

    def _write_status(self) -> None:
        self.next_status = time.monotonic() + STATUS_INTERVAL
        tell_manager("WATCHDOG=1")
        status = {
            "instance": self.service,
            "release": self.config.release,
            "state": self.state,
            "since": self.since,
            "pid": os.getpid(),
            "message": self.message,
            "well": self.well and self.state in (*WELL, DRAINING),
            **self.details(),
        }
        try:
            self.name.write_status(self.process, status)
        except OSError as error:  # the disk is full: what it is for goes on
            self.log(f"its status can't be written: {error}")

    def log(self, message: str) -> None:
        """Write a line to the log."""
        tell(self.service, self.generation, message)


def _end_all(is_meant: Callable[[Path], bool]) -> None:
    """Kill the processes (of this user) that are meant, by their directories in /proc."""
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended, or is not ours
            if is_meant(process):
                os.kill(int(process.name), signal.SIGKILL)


def end_left(owner: str) -> None:
    """Kill what programs have left whose own process was killed: their children, which nobody else ends.

    They are known by their environment, which only root and their own user read. owner: the process, as its programs'
    environment names it, or a directory of many.
    """
    one = f"{GENERATION_VARIABLE}={owner}".encode()

    def is_meant(process: Path) -> bool:
        variables = (process / "environ").read_bytes().split(b"\0")
        return any(variable == one or variable.startswith(one + b"/") for variable in variables)

    _end_all(is_meant)


def told(status: int) -> str:
    """Return in words how a program has ended."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def _made(options: argparse.Namespace) -> Service:
    """Return the service of a kind; what a schedule needs is there only where the stack has one."""
    if options.kind == "worker":
        from cluster_runtime.worker import Worker  # noqa: PLC0415 - it is made of what is here

        return Worker(options)
    from cluster_runtime.schedule import Schedule  # noqa: PLC0415 - as above

    return Schedule(options)


def main(arguments: list[str] | None = None) -> int:
    """Run `cluster_runtime.service`'s command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m cluster_runtime.service", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    worker = kinds.add_parser("worker", help="keep a background worker running")
    worker.add_argument("--startsecs", type=float, required=True)
    worker.add_argument("--stop-signal", required=True)
    schedule = kinds.add_parser("schedule", help="run a command at certain times")
    schedule.add_argument("--at", required=True, help="cron's five fields")
    schedule.add_argument("--starting-deadline", type=float, required=True)
    for kind in (worker, schedule):
        kind.add_argument("--name", required=True)
        kind.add_argument("--generation", required=True)
        kind.add_argument("--config", type=Path, required=True)
        kind.add_argument("--sockets", type=Path, required=True)
        kind.add_argument("--graceful-timeout", type=float, required=True)
        kind.add_argument("--container", action="store_true", help="name its files by the host's name too")
        kind.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    try:
        return _made(options).run()
    except ConfigError as error:
        say(str(error))
        time.sleep(RESTART_PAUSE)
        return 1


if __name__ == "__main__":
    sys.exit(main())
