"""The instance process: the parent of one gunicorn, and the keeper of one name.

It starts gunicorn on a socket of its own, proves it healthy, takes the instance's name where no living process holds
it, watches over it, and on SIGTERM gives the name up before it lets gunicorn end its requests. It runs the same under
Supervisor, in a container and under systemd: when it ends by itself, whoever started it starts it again.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from cluster_runtime.activity import BEAT_INTERVAL, BEAT_VARIABLE, Beat, read_beat
from cluster_runtime.attempts import BEGUN_VARIABLE, FILE
from cluster_runtime.config import CONFIG_VARIABLE, ConfigError, RuntimeConfig
from cluster_runtime.lasting import lasting
from cluster_runtime.log import say
from cluster_runtime.names import LONGEST_SOCKET_PATH, Name, process_of
from cluster_runtime.sessions import nodes
from cluster_runtime.sessions.stage import ENDED, MARKS_VARIABLE, STAGE_VARIABLE, Stages, forget_ended, living
from cluster_runtime.trial import UNAVAILABLE, VISITOR

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

T = TypeVar("T")

#: Below it the runtime answers by itself.
PREFIX = "/-/"

#: States of an instance process, in the order it goes through them. `ready`: healthy, but another holds the name.
STARTING, READY, SERVING, DRAINING = "starting", "ready", "serving", "draining"

#: Seconds between two looks at the child, the name and the beats.
TICK = 0.1

#: Seconds between two looks at how far the others are with a change of the session engine.
STAGE_INTERVAL = 0.5

#: Seconds between two looks at whether the status is still there.
STATUS_INTERVAL = 1.0

#: Seconds between two looks at whether each memcached node has the sessions that it should.
RESTORE_INTERVAL = 2.0

#: Seconds between two looks at whether sessions that are over are to be removed, and between two removals.
CLEAR_LOOK, CLEAR_INTERVAL = 60.0, 24 * 3600.0

#: What tells, by when it was changed, when that was done last; beside the instances' directories.
CLEARED = "cleared-sessions"

#: Seconds that a process waits before it ends because its gunicorn did, so that restarts don't spin.
RESTART_PAUSE = 1.0

#: Seconds beyond graceful_timeout after which gunicorn is killed.
STOP_MARGIN = 5.0

#: Checks in a row by which a project fails by itself until it counts as sure that it will go on so.
SURE = 3

#: The exit status of a proof by which a healthy release must not serve.
UNFIT = 4

#: Seconds between two checks of an instance that starts and answers, but not as it should.
RECHECK = 1.0

PR_SET_PDEATHSIG = 1


class Unhealthy(Exception):  # noqa: N818 - a state, not a mistake
    """A health check failed; the text says how.

    status: that of the answer; 0 where there was none. failure: the last frames of what the project raised. lasting:
    what it waits for is there, and it fails by itself: to ask again and again will hardly help.
    """

    def __init__(self, message: str, *, status: int = 0, failure: str = "", lasting: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.failure = failure
        self.lasting = lasting


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(path: Path, url: str, host: str, timeout: float) -> tuple[int, str]:
    """GET `url` over the socket at `path`; return status and text, or raise Unhealthy where none comes in time."""
    connection = UnixConnection(str(path), timeout)
    try:
        headers = {"Host": host, **VISITOR, "X-Forwarded-Proto": "https", "Connection": "close"}
        connection.request("GET", url, headers=headers)
        response = connection.getresponse()
        return response.status, response.read(65536).decode("utf-8", "replace")
    except TimeoutError as error:
        raise Unhealthy(f"GET {url}: no answer within {timeout:g} s (app.health.timeout)") from error
    except (OSError, http.client.HTTPException) as error:
        raise Unhealthy(f"GET {url}: {type(error).__name__}: {error}") from error
    finally:
        connection.close()


def check(path: Path, url: str, host: str, timeout: float) -> None:
    """GET `url` over the socket at `path`; raise Unhealthy unless it is answered in time and below 400."""
    status, body = ask(path, url, host, timeout)
    if status < http.HTTPStatus.BAD_REQUEST:
        return
    said = _said(body) if url.startswith(PREFIX) else {}
    problems = "; ".join(said.get("problems", ())) or body[:500]
    raise Unhealthy(
        f"GET {url} was answered with {status}: {problems}",
        status=status,
        failure=said.get("failure", ""),
        lasting=said.get("lasting", False),
    )


def _said(body: str) -> dict[str, Any]:
    """Return what the runtime said; nothing where it is no answer of the runtime's."""
    try:
        said = json.loads(body)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def die_with_parent() -> None:
    """Let the kernel kill this process when the one that started it ends, whatever state both are in."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class Proof:
    """An instance only proves its release, and takes no name.

    verdict: where it writes why the release must not serve. former: where an instance of the serving one listens.
    """

    verdict: Path
    former: Path | None
    pages: bool


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
        self.name = Name(sockets, instance)
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
        self.beats: dict[int, tuple[float, Beat]] = {}
        self.booting: dict[int, float] = {}
        self.leaving: dict[int, float] = {}
        self.stopping = False
        self.failing: set[str] = set()
        self.lost_name_at = time.monotonic()
        sessions = self.config.sessions
        self.lasting = lasting(
            sessions.path,
            self.config.secret("secret_key"),
            self.config.database,
            self.config.secret("database_url"),
            self.config.shared,
        )
        self.stages = Stages(self.name, self.process, sessions.engine, sessions.previous) if sessions.previous else None
        self.marks = sockets / ENDED
        self.next_stage_look = 0.0
        self.agreed = True
        self.next_clear_look = 0.0
        self.next_restore_look = 0.0
        self.next_status_look = 0.0
        self.clearing: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Live until told to stop (0) or until gunicorn can't be kept up (1)."""
        if len(os.fsencode(str(self.socket))) > LONGEST_SOCKET_PATH:
            print(
                f"{self.socket}: longer than the {LONGEST_SOCKET_PATH} bytes of a unix socket",
                file=sys.stderr,
            )
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
            self._tend("the name", self._give_up)
            self._kill_gunicorn()
            for path in (
                self.socket,
                self.name.status_file(self.process),
                self.name.beat_socket(self.process),
                self.name.stage_file(self.process),
            ):
                self._tend("its files", partial(path.unlink, missing_ok=True))
            os.close(lock)

    def _live(self) -> int:
        with self._open_beats() as beats:
            self._distrust_former()
            self._look_at_stage()
            self._start_gunicorn()
            try:
                self._become_healthy(beats)
                if self.stopping:
                    return self._stop_gunicorn()
                self._set_state(READY)
                if self.prove:
                    return self._judge_pages(self.prove)
                if self._take_name():
                    self._set_state(SERVING)
                self._watch(beats)
            except Unhealthy as error:
                self._log(str(error))
                self._set_state(self.state, str(error))
                if self.prove and error.failure:
                    self.prove.verdict.write_text(f"{error}\n{error.failure}\n", encoding="utf-8")
                self._tend("the name", self._give_up)
                self._kill_gunicorn()
                self._wait(RESTART_PAUSE)
                return 0 if self.stopping else 1
        return self._drain()

    # --- starting

    def _open_beats(self) -> socket.socket:
        path = self.name.beat_socket(self.process)
        path.unlink(missing_ok=True)
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        receiver.setblocking(False)
        receiver.bind(str(path))
        return receiver

    def _take_name(self) -> bool:
        """Take the name where no living process holds it; tell whether it is held."""
        ungiven = not self.told or self.state == SERVING
        return bool(self._tend("the name", partial(self.name.take_if_free, self.process, ungiven=ungiven)))

    def _give_up(self) -> bool:
        return self.name.give_up(self.process)

    def _start_gunicorn(self) -> None:
        environment = {
            **os.environ,
            **self.config.environment,
            CONFIG_VARIABLE: str(self.config_path),
            BEAT_VARIABLE: str(self.name.beat_socket(self.process)),
            "CLUSTER_SOCKET": str(self.socket),
            "CLUSTER_INSTANCE": self.instance,
            "CLUSTER_RELEASE": self.release,
            MARKS_VARIABLE: str(self.marks),
            BEGUN_VARIABLE: str(self.name.directory.parent / FILE),
            **({STAGE_VARIABLE: str(self.stages.path)} if self.stages else {}),
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

    def _become_healthy(self, beats: socket.socket) -> None:
        """Wait for the first, deep check; a database that is not there yet has until start_timeout."""
        health = self.config.health
        deadline = time.monotonic() + health.start_timeout
        while not self.stopping:
            self._check_child()
            self._read_beats(beats)
            self._look_at_stage()
            try:
                self._check("/-/health?deep", timeout=max(health.timeout, 10.0))
                self._check(health.path, timeout=health.timeout)
            except Unhealthy as found:
                self._read_beats(beats)
                # Without its socket gunicorn is loading the project before it forks workers.
                loading = not found.status and (self._is_between_workers() or not self.socket.exists())
                error = Unhealthy("no worker has loaded the project yet") if loading else found
                self._tell_failure(error)
                if time.monotonic() > deadline:
                    told = f"not healthy within {health.start_timeout:g} s (app.health.start_timeout): {error}"
                    raise Unhealthy(told, failure=error.failure) from found
                if self.prove and self.sure >= SURE:
                    raise
                self._wait(min(RECHECK, health.interval) if error.status else TICK)
            else:
                return

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

    def _judge_pages(self, proof: Proof) -> int:
        """Look at the release's pages, end it, and return the exit status."""
        from cluster_runtime.gate import judge  # noqa: PLC0415 - it asks by what is here

        lines = judge(self.socket, proof.former) if proof.pages else []
        if lines:
            proof.verdict.write_text("\n".join([*lines, ""]), encoding="utf-8")
        self._stop_gunicorn()
        return UNFIT if lines else 0

    # --- serving

    def _watch(self, beats: socket.socket) -> None:
        """Look at gunicorn, the name and the health until told to stop; raise Unhealthy to be started again."""
        failures = 0
        next_check = time.monotonic() + self.config.health.interval
        while not self.stopping:
            self._check_child()
            self._read_beats(beats)
            self._look_at_name()
            self._tend("the stage of sessions", self._look_at_stage)
            self._say_again()
            self._restore_sessions()
            self._tend("the daily clearing of sessions", self._clear_sessions)
            self._kill_silent_workers()
            self._end_boots()
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
        """Write the status again where it was removed or hurt, or could not be written.

        Whoever releases would take this process for dead.
        """
        if time.monotonic() < self.next_status_look:
            return
        self.next_status_look = time.monotonic() + STATUS_INTERVAL
        said = self.name.status(self.process)
        if said is None or said["pid"] != os.getpid() or "its status" in self.failing:
            self._write_status()

    def _look_at_stage(self) -> None:
        """Go on with a change of the session engine, or of the memcached nodes, as far as all others can follow."""
        if time.monotonic() < self.next_stage_look:
            return
        self.next_stage_look = time.monotonic() + STAGE_INTERVAL
        sessions = self.config.sessions
        if sessions.memcached and "cached_db" in (sessions.engine, sessions.previous):
            others = [one.get("memcached", []) for one in living(self.name, self.process) if one]
            agreed = nodes.agree(sessions.memcached, others)
            if agreed != self.agreed:
                self._log(f"memcached nodes: {'the same everywhere' if agreed else 'others use other ones'}")
            self.agreed = agreed
        if self.stages is not None and self.stages.look():
            self._log(f"sessions: {self.stages.declared} ({self.stages.previous} to {self.stages.engine})")
            self._write_status()

    def _distrust_former(self) -> None:
        """Let memcached have nothing from before sessions come to cached_db: they were written elsewhere since.

        An instance that is started again meanwhile costs some reads of the database.
        """
        sessions = self.config.sessions
        if sessions.engine == "cached_db" and sessions.previous not in {"", "db"}:
            for path in sessions.memcached:
                nodes.distrust(path)

    def _restore_sessions(self) -> None:
        """See that sessions in memcached alone are on two nodes: a refill may have ended with who was at it."""
        sessions = self.config.sessions
        if "cache" not in (sessions.engine, sessions.previous) or len(sessions.memcached) < 2:  # noqa: PLR2004 - copies
            return
        if self.state != SERVING or self._is_busy() or time.monotonic() < self.next_restore_look:
            return
        self.next_restore_look = time.monotonic() + RESTORE_INTERVAL
        with contextlib.suppress(Unhealthy):  # whether it works is the running check's business
            self._check("/-/probe/restore", self.config.health.timeout)

    def _clear_sessions(self) -> None:
        """Let one serving instance a day remove the sessions that are over, in a process of its own."""
        if self.clearing is not None and self.clearing.poll() is not None:
            self._log(f"clearsessions ended with status {self.clearing.returncode}")
            self.clearing = None
        if self.clearing is not None or self.state != SERVING or time.monotonic() < self.next_clear_look:
            return
        self.next_clear_look = time.monotonic() + CLEAR_LOOK
        if not self._is_turn_to_clear():
            return
        forget_ended(self.marks)
        command = [sys.executable, "-P", "-m", "cluster_runtime.manage", "clearsessions"]
        environment = {**os.environ, CONFIG_VARIABLE: str(self.config_path)}
        self.clearing = subprocess.Popen(
            ["nice", *command] if shutil.which("nice") else command,
            env=environment,
            cwd=self.config.project,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - as above
        )

    def _is_turn_to_clear(self) -> bool:
        """Tell whether a day has gone by; whoever is told so is the only one."""
        path = self.name.directory.parent / CLEARED
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            status = os.fstat(descriptor)
            if not status.st_size:
                os.write(descriptor, b"cluster_runtime\n")  # the first time: in a day
                return False
            if time.time() < status.st_mtime + CLEAR_INTERVAL:
                return False
            os.utime(descriptor)
            return True
        finally:
            os.close(descriptor)

    def _running_check(self, failures: int) -> int:
        """Do the shallow check; return how many have failed in a row. A busy instance is not asked."""
        beats = [beat for _at, beat in self.beats.values()]
        if self._is_busy():
            stuck = time.monotonic() - max(beat.progress for beat in beats)
            if stuck > self.config.health.busy_timeout:
                raise Unhealthy(f"all threads are in requests, and none has moved for {stuck:.0f} s")
            return 0
        if self._is_between_workers():
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

    def _is_busy(self) -> bool:
        """Tell whether all threads are in requests: nobody would answer a check."""
        beats = [beat for _at, beat in self.beats.values()]
        return bool(beats) and all(beat.busy for beat in beats)

    def _read_beats(self, receiver: socket.socket) -> None:
        while True:
            try:
                beat = read_beat(receiver.recv(4096))
            except BlockingIOError:
                return
            now = time.monotonic()
            if beat.booting:
                self.booting[beat.pid] = now
                continue
            self.booting.pop(beat.pid, None)
            self.beats[beat.pid] = (now, beat)
            if beat.leaving:
                self.leaving.setdefault(beat.pid, now)

    def _is_between_workers(self) -> bool:
        """Tell whether nobody answers because every worker begins or ends: what is asked meanwhile waits for the next.

        A worker that recycles itself (max_requests) ends its requests first, within graceful_timeout; the one in its
        place has start_timeout to load the project, as each has.
        """
        since = time.monotonic() - self.config.graceful_timeout - STOP_MARGIN
        ending = {pid for pid, at in self.leaving.items() if at > since}
        if any(self._is_worker(pid) for pid in self.beats if pid not in ending):
            return False
        return any(self._is_worker(pid) for pid in [*self.booting, *ending])

    def _end_boots(self) -> None:
        """Kill workers that don't get ready within start_timeout; Unhealthy where none is left that answers."""
        self.leaving = {pid: at for pid, at in self.leaving.items() if self._is_worker(pid)}
        for pid, at in list(self.booting.items()):
            if not self._is_worker(pid):
                del self.booting[pid]
            elif time.monotonic() - at > self.config.health.start_timeout:
                del self.booting[pid]
                limit = f"{self.config.health.start_timeout:g} s (app.health.start_timeout)"
                self._log(f"worker {pid} has not loaded the project within {limit}: killed")
                os.kill(pid, signal.SIGKILL)
                if not any(self._is_worker(other) for other in self.beats):
                    raise Unhealthy(f"no worker has loaded the project within {limit}")

    def _kill_silent_workers(self) -> None:
        """Kill workers that were alive and no longer beat: stopped, or spinning with the interpreter's lock held."""
        health = self.config.health
        patience = max(health.retries * health.interval + health.timeout, 4 * BEAT_INTERVAL)
        for pid, (at, _beat) in list(self.beats.items()):
            silent = time.monotonic() - at
            if silent <= patience:
                continue
            del self.beats[pid]
            if self._is_worker(pid):
                self._log(f"worker {pid} has been silent for {silent:.1f} s: killed")
                os.kill(pid, signal.SIGKILL)

    def _is_worker(self, pid: int) -> bool:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return self.gunicorn is not None and int(fields[1]) == self.gunicorn.pid

    def _check(self, url: str, timeout: float) -> None:
        host = self.config.hosts[0].lstrip(".")
        try:
            check(self.socket, url, host, timeout)
        except Unhealthy as error:
            if url.startswith(PREFIX) or not error.status:
                raise
            if error.status == UNAVAILABLE:
                # A project that answers so to everything means it; a page that does so alone says what it is asked for.
                _status, body = ask(self.socket, "/-/health?project", host, timeout)
                if _said(body).get("project") == UNAVAILABLE:
                    return
            raise self._explained(error, url, host, timeout) from error

    def _explained(self, error: Unhealthy, url: str, host: str, timeout: float) -> Unhealthy:
        """Return what is known of a page of the project's that failed; at the start with what the project raised."""
        if self.state != STARTING or error.status < http.HTTPStatus.INTERNAL_SERVER_ERROR:
            return error
        _status, body = ask(self.socket, f"/-/probe/failure?path={quote(url, safe='/')}", host, timeout)
        said = _said(body)
        failed = said.get("status") == error.status
        return Unhealthy(
            f"GET {url} was answered with {error.status}",
            status=error.status,
            failure=said.get("failure", ""),
            lasting=failed and not said.get("passing", True),
        )

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
            self._tend("the stage of sessions", self._look_at_stage)
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
        while not self.stopping and time.monotonic() < deadline:
            time.sleep(min(TICK, seconds))

    def _set_state(self, state: str, message: str = "") -> None:
        if state != self.state:
            self._log(state)
            self.since = time.time()
        self.state = state
        self.message = message
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
            "sessions": {
                "engine": self.config.sessions.engine,
                "previous": self.config.sessions.previous,
                "stage": self.stages.declared if self.stages else "",
                "memcached": list(self.config.sessions.memcached),
                **self.lasting,
            },
        }
        self._tend("its status", partial(self.name.write_status, self.process, status))

    def _log(self, message: str) -> None:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        say(f"{stamp} {self.instance} {self.release}: {message}")


def serve(sockets: Path, instance: str, release: str, patience: float = 0.0) -> None:
    """Let `release` take the name of `instance` from whoever holds it; Unhealthy unless it is proven healthy.

    patience: seconds that it has to get so.
    """
    name = Name(sockets, instance)
    deadline = time.monotonic() + patience
    while (state := _state(name, release)) in (None, STARTING) and time.monotonic() < deadline:
        time.sleep(TICK)
    if state not in (READY, SERVING):
        raise Unhealthy(f"{instance}: release {release} is {state or 'not running'}")
    if not name.alive(release):
        raise Unhealthy(f"{instance}: release {release} does not listen")
    name.take(release)


def _state(name: Name, release: str) -> str | None:
    status = name.status(release)
    return None if status is None else status.get("state", "")


def main(arguments: list[str] | None = None) -> int:
    """Run `cluster_runtime.instance`'s command line; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m cluster_runtime.instance", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="be the instance process")
    run.add_argument("--config", type=Path, required=True)
    run.add_argument("--told", action="store_true", help="take the name only where it was given to this release before")
    take = commands.add_parser("serve", help="let a healthy release take the instance's name")
    take.add_argument("--release", required=True)
    take.add_argument("--turn", type=int, help="written down where the name was given")
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
    options = parser.parse_args(arguments)
    try:
        if options.command == "run":
            sockets, config = options.sockets.absolute(), options.config.absolute()
            proof = None
            if options.prove:
                proof = Proof(verdict=options.prove, former=options.former, pages=not options.no_pages)
            kind = {"container": options.container, "told": options.told}
            return Instance(options.instance, config, sockets, **kind, prove=proof).run()
        process = process_of(options.release, container=options.container)
        if options.command == "serve":
            serve(options.sockets, options.instance, process, options.wait)
            if options.turn is not None:
                Name(options.sockets, options.instance).write_turn(options.turn)
            return 0
        found = Name(options.sockets, options.instance).status(process)
        print(json.dumps(found))
        return 0 if found is not None and found.get("state") in (READY, SERVING) else 1
    except (ConfigError, Unhealthy) as error:
        print(error, file=sys.stderr)
        if options.command == "run":
            time.sleep(RESTART_PAUSE)
        return 1


if __name__ == "__main__":
    sys.exit(main())
