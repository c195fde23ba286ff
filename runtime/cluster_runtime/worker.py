"""A background worker: one program that takes jobs from a queue, started again whenever it ends by itself."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

from cluster_runtime.service import FIRST_PAUSE, LONGEST_PAUSE, STEADY, Service, told
from cluster_runtime.status import CRASHED, DRAINING, RUNNING, STARTING

if TYPE_CHECKING:
    import argparse


class Worker(Service):
    """One life of a worker's process."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.startsecs: float = options.startsecs
        self.stop_signal = signal.Signals[f"SIG{options.stop_signal}"]
        self.restarts = 0

    def live(self) -> int:
        """Keep the program running."""
        pause = FIRST_PAUSE
        while not self.stopping:
            began = time.monotonic()
            self.start()
            self.set_state(STARTING, self.message)
            status = self.wait(self.startsecs)
            if status is None and not self.stopping:
                self.set_state(RUNNING)
                status = self._watch()
            if status is None:
                return self._drain()
            self.kill()
            self.restarts += 1
            lived = time.monotonic() - began
            pause = FIRST_PAUSE if lived > STEADY else pause
            again = f"started again in {pause:g} s (time {self.restarts})"
            self.set_state(CRASHED, f"{self.command[0]} {told(status)} after {lived:.1f} s; {again}")
            self.pause(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        return 0

    def details(self) -> dict[str, Any]:
        """Return how often the program was started again."""
        return {"restarts": self.restarts}

    def _watch(self) -> int | None:
        """Wait until the program ends by itself (its status) or is to stop (None)."""
        while not self.stopping:
            status = self.wait(STEADY)
            if status is not None:
                return status
        return None

    def _drain(self) -> int:
        """Let the program end the job that it is at."""
        self.set_state(DRAINING)
        self.signal(self.stop_signal)
        if self.wait(self.graceful_timeout, stoppable=False) is None:
            self.log(f"did not end within graceful_timeout ({self.graceful_timeout:g} s): killed")
        return 0
