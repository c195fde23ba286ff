"""Real memcached nodes over unix sockets."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.runtime.standing import wait_until

if TYPE_CHECKING:
    from pathlib import Path

MEMCACHED = shutil.which("memcached", path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/sbin")


class Memcached:
    """One node; where memcached is not installed, the test is skipped."""

    def __init__(self, path: Path) -> None:
        if MEMCACHED is None:
            pytest.skip("memcached is not installed")
        self.path = path
        self.start()

    def start(self) -> None:
        assert MEMCACHED is not None
        self.path.unlink(missing_ok=True)
        as_root = ("-u", "root") if os.geteuid() == 0 else ()
        self.process = subprocess.Popen([MEMCACHED, "-s", str(self.path), "-a", "0700", "-m", "8", *as_root])
        wait_until(self._listens, "listening")

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.path)) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)
