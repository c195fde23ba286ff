"""The instance process: the parent of one gunicorn, and the keeper of one name.

It starts gunicorn on a socket of its own, proves it healthy, takes the instance's name where no living process holds
it, watches over it, and on SIGTERM gives the name up before it lets gunicorn end its requests. It runs the same under
Supervisor, in a container and under systemd: when it ends by itself, whoever started it starts it again.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cluster_runtime.activity import BEAT_VARIABLE
from cluster_runtime.attempts import BEGUN_VARIABLE, FILE
from cluster_runtime.checks import Checks, Unhealthy
from cluster_runtime.clearing import Clearing
from cluster_runtime.config import (
    CONFIG_VARIABLE,
    INSTANCE_VARIABLE,
    RELEASE_VARIABLE,
    SOCKET_VARIABLE,
    ConfigError,
    RuntimeConfig,
)
from cluster_runtime.handover import serve
from cluster_runtime.heartbeats import LAST_BEATS, Heartbeats
from cluster_runtime.instance_link import LONGEST_SOCKET_PATH, InstanceLink, process_of
from cluster_runtime.lasting import lasting
from cluster_runtime.log import tell
from cluster_runtime.manager import tell_manager, without_manager
from cluster_runtime.proof import Proof
from cluster_runtime.sessions.coordination import Coordination
from cluster_runtime.sessions.ended import ENDED, MARKS_VARIABLE
from cluster_runtime.sessions.stage import STAGE_VARIABLE
from cluster_runtime.status import DRAINING, READY, SERVING, STARTING, STATUS_INTERVAL
from cluster_runtime.supervision import RESTART_PAUSE, TICK, die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

T = TypeVar("T")

#: Seconds beyond graceful_timeout after which gunicorn is killed.
STOP_MARGIN = 5.0

#: Checks in a row by which a project fails by itself until it counts as sure that it will go on so.
SURE = 3

#: Seconds between two checks of an instance that starts and answers, but not as it should.
RECHECK = 1.0

#: Seconds that the first, deep check may take, where app.health.timeout is less.
DEEP_TIMEOUT = 10.0


class Instance:
    """One life of one instance process."""

    def __init__(  # noqa: PLR0913 - what its command line says
        self,
        instance: str,
        config_path: Path,
        sockets: Path,
        *,
        container: bool = False,
        told: bool = False,
        prove: Proof | None = None,
    ) -> None:
        self.config_path = config_path
        self.config = RuntimeConfig.load(config_path)
        self.instance = instance
        self.name = InstanceLink(sockets, instance)
        self.release = self.config.release
        self.process = process_of(self.release, container=container)
        self.container = container
        self.told = told
        self.prove = prove
        self.socket = self.name.socket(self.process)
        self.state = STARTING
        self.since = time.time()
        self.message = ""
        self.failure = ""
        self.sure = 0
        self.gunicorn: subprocess.Popen[bytes] | None = None
        self.stopping = False
        self.failing: set[str] = set()
        self.lost_name_at = time.monotonic()
        self.lasting = lasting(
            self.config.sessions.path,
            self.config.secret("secret_key"),
            self.config.database,
            self.config.secret("database_url"),
            self.config.shared,
        )
        health, leaving_time = self.config.health, self.config.graceful_timeout + STOP_MARGIN
        self.heartbeats = Heartbeats(self.name.beat_socket(self.process), health, leaving_time, self._log)
        self.checks = Checks(self.socket, self.config.hosts[0].lstrip("."))
        self.sessions = Coordination(self.name, self.process, self.config.sessions, self._log)
        self.clearing = Clearing(config_path, self.config.project, sockets, self._log)
        self.next_status_look = 0.0

    def run(self) -> int:
        """Live until told to stop (0) or until gunicorn can't be kept up (1)."""
        if len(os.fsencode(str(self.socket))) > LONGEST_SOCKET_PATH:
            print(f"{self.socket}: longer than the {LONGEST_SOCKET_PATH} bytes of a unix socket", file=sys.stderr)
            time.sleep(RESTART_PAUSE)
            return 2
        self.name.directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        if self.container:
            self.name.sweep()
        lock = self.name.open_lock(self.process)
        if lock is None:
            print(f"{self.instance}: release {self.release} runs already", file=sys.stderr)
            time.sleep(RESTART_PAUSE)
            return 1
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        self._write_status()
        try:
            return self._live()
        except OSError as error:
            self._log(f"can't start: {error}")
            time.sleep(RESTART_PAUSE)
            return 1
        finally:
            self._clear_away()
            os.close(lock)

    def _clear_away(self) -> None:
        """Leave nothing of this process but what it wrote down for the next one."""
        self._tend("the name", self._give_up)
        self._kill_gunicorn()
        for path in (
            self.socket,
            self.name.status_file(self.process),
            self.name.beat_socket(self.process),
            self.name.stage_file(self.process),
        ):
            self._tend("its files", partial(path.unlink, missing_ok=True))

    def _live(self) -> int:
        with self.heartbeats.received():
            self.sessions.distrust_former()
            self._look_at_sessions()
            self._start_gunicorn()
            try:
                self._become_healthy()
                if self.stopping:
                    return self._stop_gunicorn()
                self.name.admit(self.process)
                self._set_state(READY)
                if self.prove:
                    fit = self.prove.judge(self.socket)
                    self._stop_gunicorn()
                    return fit
                if self._take_name():
                    self._set_state(SERVING)
                self._watch()
            except Unhealthy as error:
                return self._fail(error)
        return self._drain()

    def _fail(self, error: Unhealthy) -> int:
        """End at once, to be started again; return the exit status."""
        self._log(str(error))
        self._set_state(self.state, str(error))
        if self.prove:
            self.prove.refuse(error)
        self._tend("the name", self._give_up)
        self._kill_gunicorn()
        self._wait(RESTART_PAUSE)
        return 0 if self.stopping else 1

    # --- starting

    def _take_name(self) -> bool:
        """Take the name where no living process holds it; tell whether it is held."""
        ungiven = not self.told or self.state == SERVING
        return bool(self._tend("the name", partial(self.name.take_if_free, self.process, ungiven=ungiven)))

    def _give_up(self) -> bool:
        return self.name.give_up(self.process)

    def _start_gunicorn(self) -> None:
        environment = {
            **without_manager(),
            **self.config.environment,
            CONFIG_VARIABLE: str(self.config_path),
            BEAT_VARIABLE: str(self.name.beat_socket(self.process)),
            SOCKET_VARIABLE: str(self.socket),
            INSTANCE_VARIABLE: self.instance,
            RELEASE_VARIABLE: self.release,
            MARKS_VARIABLE: str(self.name.directory.parent / ENDED),
            BEGUN_VARIABLE: str(self.name.directory.parent / FILE),
            **({STAGE_VARIABLE: str(self.sessions.stages.path)} if self.sessions.stages else {}),
        }
        self.gunicorn = subprocess.Popen(
            [
                # -P: a project may well call its configuration gunicorn.py.
                *(sys.executable, "-P", "-m", "gunicorn", "-c", "python:cluster_runtime.gunicorn_conf"),
                f"cluster_runtime.{self.config.interface}:application",
            ],
            env=environment,
            cwd=self.config.project,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - no threads here; nothing else ends a child with its parent
        )
        self.heartbeats.gunicorn = self.gunicorn.pid

    def _become_healthy(self) -> None:
        """Wait for the first, deep check; a database that is not there yet has until start_timeout."""
        health = self.config.health
        deadline = time.monotonic() + health.start_timeout
        while not self.stopping:
            self._check_child()
            self.heartbeats.read()
            self._look_at_sessions()
            try:
                self._check("/-/health?deep", max(health.timeout, DEEP_TIMEOUT))
                self._check(health.path, health.timeout)
            except Unhealthy as found:
                error = self._first_failure(found)
                self._tell_failure(error)
                if time.monotonic() > deadline:
                    told = f"not healthy within {health.start_timeout:g} s (app.health.start_timeout): {error}"
                    raise Unhealthy(told, failure=error.failure) from found
                if self.prove and self.sure >= SURE:
                    raise
                self._wait(min(RECHECK, health.interval) if error.status else TICK)
            else:
                return

    def _first_failure(self, found: Unhealthy) -> Unhealthy:
        """Return why it is not healthy yet, where a check has failed at the start."""
        self.heartbeats.read()
        # Without its socket gunicorn is loading the project before it forks workers.
        loading = not found.status and (self.heartbeats.is_between_workers() or not self.socket.exists())
        return Unhealthy("no worker has loaded the project yet") if loading else found

    def _tell_failure(self, error: Unhealthy) -> None:
        """Say why it is not healthy yet; once, however often the same is found."""
        same = (str(error), error.failure) == (self.message, self.failure)
        sure = (self.sure + 1 if same else 1) if error.lasting else 0
        if not same and error.failure:
            self._log(f"{error}\n{error.failure}")
        told = same and (sure >= SURE) == (self.sure >= SURE)
        self.sure, self.failure = sure, error.failure
        if not told:
            self._set_state(STARTING, str(error))

    # --- serving

    def _watch(self) -> None:
        """Look at gunicorn, the name and the health until told to stop; raise Unhealthy to be started again."""
        failures = 0
        next_check = time.monotonic() + self.config.health.interval
        while not self.stopping:
            self._check_child()
            self.heartbeats.read()
            self._look_at_name()
            self._tend("the stage of sessions", self._look_at_sessions)
            self._say_again()
            self._refill_sessions()
            clear = partial(self.clearing.tend, may_begin=self.state == SERVING)
            self._tend("the daily clearing of sessions", clear)
            self.heartbeats.kill_silent_workers()
            self.heartbeats.end_boots()
            if time.monotonic() >= next_check:
                failures = self._running_check(failures)
                next_check = time.monotonic() + self.config.health.interval
            self._wait(TICK)

    def _tend(self, what: str, action: Callable[[], T]) -> T | None:
        """Do what serving does not need; where the disk does not let it, say so once. Whoever calls tries again."""
        try:
            done = action()
        except OSError as error:
            if what not in self.failing:
                self._log(f"{what}: {error}; it serves on, and tries again")
            self.failing.add(what)
            return None
        if what in self.failing:
            self.failing.discard(what)
            self._log(f"{what}: works again")
        return done

    def _look_at_name(self) -> None:
        holder = self.name.holder()
        # Removed by hand, with the whole directory of sockets perhaps: nobody would be reached by it any more.
        holds = holder == self.process or (holder is None and self._take_name())
        if holds and self.state != SERVING:
            self._set_state(SERVING)
        elif not holds and self.state == SERVING:
            self.lost_name_at = time.monotonic()
            self._set_state(READY)

    def _say_again(self) -> None:
        """Write the status again where it was removed or hurt, or could not be written; tell the manager of life.

        Whoever releases would take this process for dead.
        """
        if time.monotonic() < self.next_status_look:
            return
        tell_manager("WATCHDOG=1")
        self.next_status_look = time.monotonic() + STATUS_INTERVAL
        said = self.name.status(self.process)
        if said is None or said["pid"] != os.getpid() or "its status" in self.failing:
            self._write_status()

    def _look_at_sessions(self) -> None:
        if self.sessions.look():
            self._write_status()

    def _refill_sessions(self) -> None:
        """See that sessions in memcached alone are on two nodes: a refill may have ended with who was at it."""
        if self.state != SERVING or self.heartbeats.all_are_busy() or not self.sessions.is_refill_look_due():
            return
        with contextlib.suppress(Unhealthy):  # whether it works is the running check's business
            self._check("/-/probe/restore", self.config.health.timeout)

    def _running_check(self, failures: int) -> int:
        """Do the shallow check; return how many have failed in a row. A busy instance is not asked."""
        if self.heartbeats.all_are_busy():
            stuck = self.heartbeats.stuck_for()
            if stuck > self.config.health.busy_timeout:
                raise Unhealthy(f"all threads are in requests, and none has moved for {stuck:.0f} s")
            return 0
        if self.heartbeats.is_between_workers():
            return 0
        try:
            self._check(self.config.health.path, self.config.health.timeout)
        except Unhealthy as error:
            failures += 1
            self._log(f"check {failures} of {self.config.health.retries} failed: {error}")
            if failures >= self.config.health.retries:
                raise Unhealthy(f"{failures} checks in a row failed, the last: {error}") from error
            return failures
        return 0

    def _check(self, url: str, timeout: float) -> None:
        self.checks.check(url, timeout, explain=self.state == STARTING)

    def _check_child(self) -> None:
        if self.gunicorn is None:
            return
        pid, status = os.waitpid(self.gunicorn.pid, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return
        if os.WIFSTOPPED(status):
            os.kill(self.gunicorn.pid, signal.SIGCONT)
            raise Unhealthy("gunicorn was stopped by a signal")
        self.gunicorn.returncode = os.waitstatus_to_exitcode(status)
        raise Unhealthy(f"gunicorn ended with status {self.gunicorn.returncode}")

    # --- stopping

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.stopping = True

    def _drain(self) -> int:
        """Give the name up, wait until nginx's connections are worn out, then let gunicorn end its requests."""
        # Where another took the name just before the stop, nobody has looked since: the state still says so.
        if self._tend("the name", self._give_up) or self.state == SERVING:
            self.lost_name_at = time.monotonic()
        self._set_state(DRAINING)
        while time.monotonic() < self.lost_name_at + self.config.drain:
            if self.gunicorn is None or self.gunicorn.poll() is not None:
                break
            self._tend("the stage of sessions", self._look_at_sessions)
            time.sleep(TICK)
        return self._stop_gunicorn()

    def _stop_gunicorn(self) -> int:
        if self.gunicorn is not None and self.gunicorn.poll() is None:
            self.gunicorn.terminate()
            try:
                self.gunicorn.wait(self.config.graceful_timeout + STOP_MARGIN)
            except subprocess.TimeoutExpired:
                self._log("gunicorn did not end within graceful_timeout: killed")
        return 0

    def _kill_gunicorn(self) -> None:
        """Kill gunicorn and every process of its session that is left."""
        if self.gunicorn is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.gunicorn.pid, signal.SIGKILL)
        if self.gunicorn.returncode is None:
            self.gunicorn.wait()

    # --- saying so

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        pause = min(TICK, seconds)
        while not self.stopping and (began := time.monotonic()) < deadline:
            time.sleep(pause)
            late = time.monotonic() - began - pause
            if late > LAST_BEATS:  # less makes no worker that beats a silent one
                self.heartbeats.stood_still(late)

    def _set_state(self, state: str, message: str = "") -> None:
        if state != self.state:
            self._log(state)
            self.since = time.time()
        self.state = state
        self.message = message
        told = f"STATUS={state}{f': {message}' if message else ''}"
        tell_manager(told, *(["READY=1"] if state in (READY, SERVING) else []))
        self._write_status()

    def _write_status(self) -> None:
        status: dict[str, Any] = {
            "instance": self.instance,
            "release": self.release,
            "state": self.state,
            "since": self.since,
            "pid": os.getpid(),
            "gunicorn": self.gunicorn.pid if self.gunicorn else None,
            "message": self.message,
            "failure": self.failure if self.message else "",
            "sure": self.sure >= SURE,
            "sessions": {**self.sessions.said(), **self.lasting},
        }
        self._tend("its status", partial(self.name.write_status, self.process, status))

    def _log(self, message: str) -> None:
        tell(self.instance, self.release, message)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cluster_runtime.instance", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="be the instance process")
    run.add_argument("--config", type=Path, required=True)
    run.add_argument("--told", action="store_true", help="take the name only where it was given to this release before")
    take = commands.add_parser("serve", help="let a healthy release take the instance's name")
    take.add_argument("--release", required=True)
    take.add_argument("--turn", type=int, dest="generation", help="written down where the name was given")
    take.add_argument("--wait", type=float, default=0.0, help="seconds that the release has to get healthy")
    status = commands.add_parser("status", help="print the status of a release; exit 0 if it is ready or serving")
    status.add_argument("--release", required=True)
    run.add_argument(
        "--prove", type=Path, metavar="FILE", help="only prove the release; FILE gets why it must not serve"
    )
    run.add_argument("--former", type=Path, metavar="SOCKET", help="of what serves, whose pages are compared")
    run.add_argument("--no-pages", action="store_true", help="let health alone prove it")
    for command in (run, take, status):
        command.add_argument("--sockets", type=Path, required=True)
        command.add_argument("--instance", required=True)
        command.add_argument("--container", action="store_true", help="name its files by the host's name too")
    return parser


def _run(options: argparse.Namespace) -> int:
    sockets, config = options.sockets.absolute(), options.config.absolute()
    proof = None
    if options.prove:
        proof = Proof(verdict=options.prove, former=options.former, pages=not options.no_pages)
    kind = {"container": options.container, "told": options.told}
    return Instance(options.instance, config, sockets, **kind, prove=proof).run()


def _serve(options: argparse.Namespace) -> int:
    serve(options.sockets, options.instance, process_of(options.release, container=options.container), options.wait)
    if options.generation is not None:
        InstanceLink(options.sockets, options.instance).write_generation(options.generation)
    return 0


def _print_status(options: argparse.Namespace) -> int:
    process = process_of(options.release, container=options.container)
    found = InstanceLink(options.sockets, options.instance).status(process)
    print(json.dumps(found))
    return 0 if found is not None and found.get("state") in (READY, SERVING) else 1


def main(arguments: list[str] | None = None) -> int:
    """Run `cluster_runtime.instance`'s command line; return its exit status."""
    gc.freeze()  # what is imported stays: nobody looks through it, at the end neither
    options = _parser().parse_args(arguments)
    commands = {"run": _run, "serve": _serve, "status": _print_status}
    try:
        return commands[options.command](options)
    except (ConfigError, Unhealthy) as error:
        print(error, file=sys.stderr)
        if options.command == "run":
            time.sleep(RESTART_PAUSE)
        return 1


if __name__ == "__main__":
    sys.exit(main())
