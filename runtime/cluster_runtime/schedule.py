"""A schedule: a command that runs at certain times, once for the whole cluster.

The process that holds the schedule's lock runs it. In a release the new one waits for the lock, which the former lets
go of once its run has ended; what was due meanwhile is made up for. When it was looked at last stands beside the lock,
in `runs.json`, and a run is written down there before it begins: one whose process was killed does not run twice.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from cronsim import CronSim

from cluster_runtime import unfollowed
from cluster_runtime.instance_link import put
from cluster_runtime.service import FIRST_PAUSE, LAST_SECONDS, Service, told
from cluster_runtime.status import CRASHED, DRAINING, LAST_MOMENT, RUNNING, WAITING
from cluster_runtime.supervision import TICK

if TYPE_CHECKING:
    import argparse

#: Seconds by which a run that begins is not late: those of a busy machine.
ON_TIME = 60.0

#: The lock of the process that runs the command. Not called as the locks of processes are, which are swept away.
HELD = "held"


@dataclass(kw_only=True)
class Runs:
    """What is known of a schedule's runs; times are seconds since the epoch.

    at, zone: cron's fields and the time zone by which the rest was found. checked: every run that was due until then
    has begun, or is counted as one that never will. due, began, ended: of the last run, when it should have begun, and
    when it did begin and end; ended is None while it runs. failure: why it is no success; empty where it is one.
    overlaps: how many runs did not begin since the one before was still under way. missed: how many are too late.
    """

    at: str
    checked: float
    zone: str = "UTC"
    due: float | None = None
    began: float | None = None
    ended: float | None = None
    failure: str = ""
    overlapped: bool = False
    overlaps: int = 0
    missed: int = 0

    @classmethod
    def load(cls, path: Path, at: str, zone: str) -> Runs:
        """Read what is known. Where nothing is, or the schedule has other times since, no run is due before now."""
        try:
            found = json.loads(unfollowed.read(path))
            runs = cls(**{field.name: found[field.name] for field in fields(cls) if field.name in found})
        except (OSError, unfollowed.NotAFileError, ValueError, TypeError, KeyError, RecursionError):
            return cls(at=at, zone=zone, checked=time.time())
        if not runs.is_whole():
            return cls(at=at, zone=zone, checked=time.time())
        if (runs.at, runs.zone) != (at, zone):
            runs.at, runs.zone, runs.checked = at, zone, time.time()
        return runs

    def is_whole(self) -> bool:
        """Tell whether all that was read is of its kind."""
        moments = (self.checked, *(moment for moment in (self.due, self.began, self.ended) if moment is not None))
        return (
            all(isinstance(text, str) for text in (self.at, self.zone))
            and all(type(moment) in (int, float) and 0 <= moment < LAST_MOMENT for moment in moments)
            and all(type(number) is int for number in (self.overlaps, self.missed))
            and isinstance(self.failure, str)
            and isinstance(self.overlapped, bool)
        )

    def save(self, path: Path) -> None:
        """Write it down, at once or not at all."""
        put(path, json.dumps(asdict(self)), durable=True)


class Schedule(Service):
    """One life of a schedule's process."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.at: str = options.at
        self.starting_deadline = max(options.starting_deadline, ON_TIME)
        # What is known of the runs outlives the sockets, where the platform says where.
        self.kept = Path(self.config.schedules) / self.service if self.config.schedules else self.name.directory
        self.path = self.kept / "runs.json"
        self.runs = Runs(at=self.at, checked=time.time())
        self.zone = ZoneInfo("UTC")

    def live(self) -> int:
        """Run the command whenever it is due."""
        zone = self._time_zone()
        if zone is None:
            self.pause(FIRST_PAUSE)
            return 0 if self.stopping else 1
        self.zone = zone
        self.set_state(WAITING)
        self.kept.mkdir(mode=0o750, parents=True, exist_ok=True)
        lock = unfollowed.open_lock(self.kept / HELD)
        try:
            if not self._take(lock):
                return 0
            self.runs = Runs.load(self.path, self.at, self.zone.key)
            if self.runs.began is not None and self.runs.ended is None:
                self._finish("its process was killed")
            self.runs.save(self.path)  # what is due while nobody looks is made up for, of the first run too
            self._tell()
            while not self.stopping:
                self._look()
                self.say_again()
                time.sleep(TICK)
            return self._drain()
        finally:
            os.close(lock)

    def details(self) -> dict[str, Any]:
        """Return what is known of the runs, and when the next one is due."""
        following = next(CronSim(self.at, dt.datetime.now(self.zone))).timestamp()
        return {"runs": asdict(self.runs), "next": following}

    def _take(self, lock: int) -> bool:
        """Wait until no other process of the schedule is there; False where this one is to stop before."""
        while not self.stopping:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.say_again()
                time.sleep(TICK)
            else:
                return True
        return False

    def _time_zone(self) -> ZoneInfo | None:
        """Return the project's TIME_ZONE; None where its settings can't be read.

        A process of its own reads them: this one stays small.
        """
        done = subprocess.run(
            [sys.executable, "-P", "-m", "cluster_runtime.program", "python", "-m", "cluster_runtime.schedule"],
            env={**os.environ, **self.environment()},
            cwd=self.config.project,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        try:
            if done.returncode == 0:
                return ZoneInfo(done.stdout.rpartition("\n")[2])
            why = (done.stderr.strip().splitlines() or [told(done.returncode)])[-1]
        except (ValueError, OSError, KeyError) as error:  # the last: the machine knows no such zone
            why = f"TIME_ZONE: {error}"
        sys.stderr.write(done.stderr)
        self.set_state(CRASHED, f"the project's settings can't be read: {why}")
        return None

    # --- running

    def _look(self) -> None:
        """See the run off that has ended, and begin the one that is due."""
        if self.child is not None:
            status = self.ended()
            if status is not None:
                self._see_off(status)
        now = time.time()
        if self.runs.checked > now + ON_TIME:
            self.log("the clock was set back: what was due until now is over")
            self.runs.checked = now
            self.runs.save(self.path)
        due = self._last_due(now)
        if due <= self.runs.checked:
            return
        self.runs.checked = due
        if self.child is not None:
            self.runs.overlaps += 1
            self.runs.overlapped = True
            self.log("due, while the run before is still under way: it is left out")
        elif now - due > self.starting_deadline:
            self.runs.missed += 1
            self.log(f"was due at {self._shown(due)}, which is too late now (starting_deadline)")
        else:
            self.runs.due, self.runs.began, self.runs.ended = due, now, None
            self.runs.overlapped = False
            self.runs.save(self.path)
            self.start()
            self.log("begins")
        self.runs.save(self.path)
        self._tell()

    def _last_due(self, now: float) -> float:
        """Return when it was due the last time."""
        # Of a moment itself cronsim tells the one before.
        after = dt.datetime.fromtimestamp(int(now) + 1, self.zone)
        return next(CronSim(self.at, after, reverse=True)).timestamp()

    def _see_off(self, status: int) -> None:
        self.kill()
        self._finish("" if status == 0 else f"{self.command[0]} {told(status)}")

    def _finish(self, failure: str) -> None:
        """Write down how a run has ended."""
        self.runs.ended, self.runs.failure = time.time(), failure
        self.runs.save(self.path)
        self.log(failure or "ended")
        self._tell()

    def _tell(self) -> None:
        """Say how it stands: well is a schedule whose last run was a success, and did not run into the next one."""
        runs = self.runs
        words = []
        if runs.failure and self.child is None:
            words.append(f"the run of {self._shown(runs.due or 0)}: {runs.failure}")
        if runs.overlapped:
            words.append(f"the run of {self._shown(runs.due or 0)} was still under way when the next one was due")
        self.well = not words
        self.set_state(RUNNING if self.child is not None else WAITING, "; ".join(words))

    def _shown(self, moment: float) -> str:
        return dt.datetime.fromtimestamp(moment, self.zone).strftime("%Y-%m-%d %H:%M %Z")

    # --- stopping

    def _drain(self) -> int:
        """Let the run that is under way end. What is due meanwhile is the next process's."""
        if self.child is None:
            return 0
        self.set_state(DRAINING)
        status = self.wait(self.graceful_timeout, stoppable=False)
        if status is None:
            self.signal(signal.SIGTERM)
            self.wait(LAST_SECONDS, stoppable=False)
            self.kill()
            self._finish(f"it did not end within graceful_timeout ({self.graceful_timeout:g} s) of being told to stop")
            return 0
        self._see_off(status)
        return 0


def main() -> None:
    """Print the project's TIME_ZONE, in a process that the overlay is set up for."""
    from django.conf import settings  # noqa: PLC0415 - only here

    sys.stdout.write(f"\n{settings.TIME_ZONE or 'UTC'}")


if __name__ == "__main__":
    main()
