"""Watches the workers of one gunicorn by their beats (see `activity`): who is busy, begins, leaves or is silent.

A busy instance is not a hung one: a worker whose threads are all in long requests answers no check, and beats. One that
is stopped, or holds the interpreter's lock, does not beat.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cluster_runtime.activity import BEAT_INTERVAL, Beat, read_beat
from cluster_runtime.checks import Unhealthy
from cluster_runtime.supervision import parent_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster_runtime.config import Health

#: Bytes of a beat at most.
LONGEST_BEAT = 4096

#: Seconds in which a worker that is well beats, and surely again. No patience is shorter than twice of it.
LAST_BEATS = 2 * BEAT_INTERVAL


class Heartbeats:
    """The beats that arrive at the socket `path`. leaving_time: seconds that a worker has to end its last requests."""

    def __init__(self, path: Path, health: Health, leaving_time: float, log: Callable[[str], None]) -> None:
        self.path = path
        self.health = health
        self.leaving_time = leaving_time
        self.log = log
        #: gunicorn's process, the parent of all workers; None before it is started.
        self.gunicorn: int | None = None
        self._beats: dict[int, tuple[float, Beat]] = {}
        self._booting: dict[int, float] = {}
        self._leaving: dict[int, float] = {}
        #: When this process went on after it had stood still, and for how many seconds it had.
        self._stood: deque[tuple[float, float]] = deque(maxlen=100)
        #: Since when a worker is about to be killed for its silence.
        self._suspected: dict[int, float] = {}
        self._receiver: socket.socket

    @contextmanager
    def received(self) -> Iterator[None]:
        """Receive beats meanwhile."""
        self.path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as self._receiver:
            self._receiver.setblocking(False)
            self._receiver.bind(str(self.path))
            yield

    def read(self) -> None:
        """Take in the beats that have arrived."""
        while True:
            try:
                beat = read_beat(self._receiver.recv(LONGEST_BEAT))
            except BlockingIOError:
                return
            now = time.monotonic()
            if beat.booting:
                self._booting[beat.pid] = now
                continue
            self._booting.pop(beat.pid, None)
            self._beats[beat.pid] = (now, beat)
            self._suspected.pop(beat.pid, None)
            if beat.leaving:
                self._leaving.setdefault(beat.pid, now)

    def stood_still(self, seconds: float) -> None:
        """Take it for nobody's silence that this process stood still for so long: all may have (a paused container)."""
        self.read()
        now = time.monotonic()
        self._stood.append((now, seconds))
        self._beats = {pid: (min(at + seconds, now), beat) for pid, (at, beat) in self._beats.items()}
        for times in (self._booting, self._leaving, self._suspected):
            times.update({pid: min(at + seconds, now) for pid, at in times.items()})

    def all_are_busy(self) -> bool:
        """Tell whether all threads are in requests: nobody would answer a check."""
        beats = [beat for _at, beat in self._beats.values()]
        return bool(beats) and all(beat.busy for beat in beats)

    def stuck_for(self) -> float:
        """Return for how many seconds no request has moved, in any worker, though this process did."""
        moved = max(beat.progress for _at, beat in self._beats.values())
        return time.monotonic() - moved - sum(seconds for at, seconds in self._stood if at > moved)

    def is_between_workers(self) -> bool:
        """Tell whether nobody answers because every worker begins or ends: what is asked meanwhile waits for the next.

        A worker that recycles itself (max_requests) ends its requests first, within graceful_timeout; the one in its
        place has start_timeout to load the project, as each has.
        """
        since = time.monotonic() - self.leaving_time
        ending = {pid for pid, at in self._leaving.items() if at > since}
        if any(self._is_worker(pid) for pid in self._beats if pid not in ending):
            return False
        return any(self._is_worker(pid) for pid in [*self._booting, *ending])

    def end_boots(self) -> None:
        """Kill workers that don't get ready within start_timeout; Unhealthy where none is left that answers."""
        self._leaving = {pid: at for pid, at in self._leaving.items() if self._is_worker(pid)}
        for pid, at in list(self._booting.items()):
            if not self._is_worker(pid):
                del self._booting[pid]
            elif time.monotonic() - at > self.health.start_timeout:
                del self._booting[pid]
                limit = f"{self.health.start_timeout:g} s (app.health.start_timeout)"
                self.log(f"worker {pid} has not loaded the project within {limit}: killed")
                os.kill(pid, signal.SIGKILL)
                if not any(self._is_worker(other) for other in self._beats):
                    raise Unhealthy(f"no worker has loaded the project within {limit}")

    def kill_silent_workers(self) -> None:
        """Kill workers that were alive and no longer beat: stopped, or spinning with the interpreter's lock held.

        One that is found silent has time for two beats more: where all stood still, it may only not have gone on yet.
        """
        self.read()  # what was looked at since the last time may have taken a while
        patience = max(self.health.retries * self.health.interval + self.health.timeout, 4 * BEAT_INTERVAL)
        for pid, (at, _beat) in list(self._beats.items()):
            now = time.monotonic()
            silent = now - at
            if silent <= patience - LAST_BEATS:
                continue
            if now - self._suspected.setdefault(pid, now) < LAST_BEATS or silent <= patience:
                continue
            del self._beats[pid], self._suspected[pid]
            if self._is_worker(pid):
                self.log(f"worker {pid} has been silent for {silent:.1f} s: killed")
                os.kill(pid, signal.SIGKILL)

    def _is_worker(self, pid: int) -> bool:
        try:
            return parent_of(Path(f"/proc/{pid}")) == self.gunicorn
        except (FileNotFoundError, ProcessLookupError):
            return False
