"""The directory of sockets of an instance, and the name in it.

`<sockets>/app1/<release>.sock` is where one process listens, `<sockets>/app1/http.sock` is a symbolic link to it: the
instance's name, the only thing that nginx knows. Who holds the name changes by one rename(2), which is atomic.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The longest path that a unix socket may have, in bytes (struct sockaddr_un, less the closing zero).
LONGEST_SOCKET_PATH = 107

NAME = "http.sock"


class Name:
    """The name of one instance, `root/instance/http.sock`, and the files of its releases beside it."""

    def __init__(self, root: str | Path, instance: str) -> None:
        self.directory = Path(root) / instance
        self.link = self.directory / NAME

    def socket(self, release: str) -> Path:
        """Where the process of `release` listens."""
        return self.directory / f"{release}.sock"

    def status_file(self, release: str) -> Path:
        """Where the process of `release` says what it is doing."""
        return self.directory / f"{release}.json"

    def beat_socket(self, release: str) -> Path:
        """Where the workers of `release` tell the instance process that they live."""
        return self.directory / f"{release}.beat"

    def holder(self) -> str | None:
        """Return the release that holds the name, alive or not; None where nothing does."""
        try:
            return self.link.readlink().name.removesuffix(".sock")
        except FileNotFoundError:
            return None

    def alive(self, release: str) -> bool:
        """Tell whether something accepts connections on the socket of `release`."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self.socket(release)))
            except (FileNotFoundError, ConnectionRefusedError):
                return False
            except (TimeoutError, BlockingIOError):
                return True  # its backlog is full: busy, not gone
            return True

    def take(self, release: str) -> str | None:
        """Let `release` hold the name, whoever holds it now; return the former holder."""
        with self._locked():
            former = self.holder()
            self._point_at(release)
            return former

    def take_if_free(self, release: str) -> bool:
        """Let `release` hold the name unless another, living process does; tell whether it holds it now."""
        with self._locked():
            holder = self.holder()
            if holder == release:
                return True
            if holder is not None and self.alive(holder):
                return False
            self._point_at(release)
            return True

    def give_up(self, release: str) -> bool:
        """Remove the name if `release` holds it; tell whether it did."""
        with self._locked():
            if self.holder() != release:
                return False
            self.link.unlink()
            return True

    def status(self, release: str) -> dict[str, Any] | None:
        """Return what the process of `release` last said of itself; None where it never said anything."""
        try:
            status: dict[str, Any] = json.loads(self.status_file(release).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return status

    def write_status(self, release: str, status: dict[str, Any]) -> None:
        """Put `status` in place atomically, so that a reader never sees half of it."""
        path = self.status_file(release)
        new = path.with_suffix(".json.new")
        new.write_text(json.dumps(status), encoding="utf-8")
        new.rename(path)

    def _point_at(self, release: str) -> None:
        new = self.directory / f"{NAME}.new"
        new.unlink(missing_ok=True)
        new.symlink_to(self.socket(release).name)
        new.rename(self.link)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.directory / "name.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
