"""The daily clearing: one serving instance a day removes the sessions that are over, in a process of its own."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from cluster_runtime.config import CONFIG_VARIABLE
from cluster_runtime.sessions.ended import ENDED, forget_ended
from cluster_runtime.supervision import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: Seconds between two looks at whether sessions that are over are to be removed, and between two removals.
CLEAR_LOOK, CLEAR_INTERVAL = 60.0, 24 * 3600.0

#: What tells, by when it was changed, when that was done last; beside the instances' directories.
CLEARED = "cleared-sessions"


class Clearing:
    """The clearing as one instance does it. sockets: the directory of all instances' directories."""

    def __init__(self, config_path: Path, project: str, sockets: Path, log: Callable[[str], None]) -> None:
        self.config_path = config_path
        self.project = project
        self.sockets = sockets
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._next_look = 0.0

    def tend(self, *, may_begin: bool) -> None:
        """See off a clearing that has ended, and begin the next one where it is due and `may_begin`."""
        if self._process is not None and self._process.poll() is not None:
            self.log(f"clearsessions ended with status {self._process.returncode}")
            self._process = None
        if self._process is not None or not may_begin or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + CLEAR_LOOK
        if self._takes_lease():
            forget_ended(self.sockets / ENDED)
            self._begin()

    def _takes_lease(self) -> bool:
        """Tell whether a day has gone by since the last clearing; whoever is told so is the only one."""
        descriptor = os.open(self.sockets / CLEARED, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
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

    def _begin(self) -> None:
        command = [sys.executable, "-P", "-m", "cluster_runtime.manage", "clearsessions"]
        self._process = subprocess.Popen(
            ["nice", *command] if shutil.which("nice") else command,
            env={**os.environ, CONFIG_VARIABLE: str(self.config_path)},
            cwd=self.project,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - no threads here; nothing else ends a child with its parent
        )
