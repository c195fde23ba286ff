"""What the requests of one worker process are doing, told to the instance process once a second.

A worker whose threads are all in long requests can't answer a health check, yet it works. So each worker has a thread
of its own that sends a datagram ("beat") to the instance process: how many requests it holds, and when one of them last
moved. No beat means that the process is stopped, or that something holds the interpreter's lock. A worker that has only
begun to load the project says so by a first beat, since it sends no other one until it is done; and one that takes no
more requests, as it is to be replaced, says that too.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: The environment variable that holds the path of the instance's datagram socket.
BEAT_VARIABLE = "CLUSTER_BEAT"

#: Seconds between two beats.
BEAT_INTERVAL = 0.5


@dataclass(frozen=True, kw_only=True)
class Beat:
    """One worker's word: `progress` is when a request last began, ended or sent a part (CLOCK_MONOTONIC, seconds).

    booting: it begins to load the project. leaving: it takes no more requests, and ends those that it has.
    """

    pid: int
    requests: int
    threads: int
    progress: float
    booting: bool = False
    leaving: bool = False

    @property
    def busy(self) -> bool:
        """Whether every thread is in a request. Without threads (asgi) a worker is never busy."""
        return 0 < self.threads <= self.requests


class Activity:
    """Counts the requests of this worker process, from any thread."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.requests = 0
        self.files = 0
        self.progress = time.monotonic()
        self.is_leaving: Callable[[], bool] = lambda: False
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Count a request in."""
        with self._lock:
            self.requests += 1
            self.progress = time.monotonic()

    def move(self) -> None:
        """Note that a part of a response is on its way."""
        self.progress = time.monotonic()

    def end(self) -> None:
        """Count a request out."""
        with self._lock:
            self.requests -= 1
            self.progress = time.monotonic()

    def begin_file(self) -> None:
        """Note that the server sends a file by itself: nobody sees its parts, so it counts as moving until it ends."""
        with self._lock:
            self.files += 1

    def end_file(self) -> None:
        """Note that a file was sent, or given up."""
        with self._lock:
            self.files -= 1

    def start_beating(self) -> None:
        """Send beats from now on, where the environment names a socket to send them to."""
        path = os.environ.get(BEAT_VARIABLE)
        if path:
            threading.Thread(target=self._beat, args=(path,), name="cluster-beat", daemon=True).start()

    def _beat(self, path: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            while True:
                beat = {
                    "pid": os.getpid(),
                    "requests": self.requests,
                    "threads": self.threads,
                    "progress": time.monotonic() if self.files else self.progress,
                    "leaving": self.is_leaving(),
                }
                # The instance process is gone or behind: gunicorn notices the first, the next beat mends the second.
                with contextlib.suppress(OSError):
                    sender.sendto(json.dumps(beat).encode(), path)
                time.sleep(BEAT_INTERVAL)


def announce_boot() -> None:
    """Tell the instance process that this worker begins to load the project, where the environment names a socket."""
    path = os.environ.get(BEAT_VARIABLE)
    if path:
        beat = {"pid": os.getpid(), "requests": 0, "threads": 0, "progress": time.monotonic(), "booting": True}
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
            sender.settimeout(BEAT_INTERVAL)  # the queue may be full for a moment, and this is said only once
            sender.sendto(json.dumps(beat).encode(), path)


def read_beat(message: bytes) -> Beat:
    """Read a datagram that `Activity` sent."""
    return Beat(**json.loads(message))
