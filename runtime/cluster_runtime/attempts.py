"""How often each request was begun, over all instances: one that has ended two workers is not begun a third time.

nginx sends a GET that an instance did not answer to the next one, which saves it where that instance was killed, and
kills the next one where the request itself is to blame. So nginx names each request ($request_id, the same in each
attempt), and every worker notes here that it begins one. A third beginning is refused while the instances that began
it before live on: those lost a worker by it. Where a whole instance was killed the request is not to blame.

The file is a table that all workers share: the identity of a request says which row is its own, and who needs the row
next just takes it. It is never read nor written as memory, since a full disk would end the process then.
"""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

from cluster_runtime.config import INSTANCE_VARIABLE
from cluster_runtime.log import say

#: The header by which nginx names a request.
HEADER = "x-cluster-request"

#: The table, beside the instances' directories.
FILE = ".begun"

#: The environment variable that holds its path.
BEGUN_VARIABLE = "CLUSTER_BEGUN"

ROWS = 4096

#: Bytes of a request's identity, and of an instance's life.
IDENTITY, LIFE = 16, 8

ROW = IDENTITY + 2 * LIFE

NO_LIFE = bytes(LIFE)


def life_of(beat: str | Path) -> bytes:
    """Return what stands for one life of an instance process: each makes its socket of beats anew."""
    try:
        found = Path(beat).stat()
    except OSError:
        return NO_LIFE
    return hashlib.sha256(f"{found.st_ino} {found.st_mtime_ns}".encode()).digest()[:LIFE]


def _lives(beat: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(beat))
        except OSError:
            return False
    return True


class Attempts:
    """The table, as one worker process sees it. Without it (a disk that can't be written) no request is refused."""

    def __init__(self, path: str | None, beat: str | None) -> None:
        """Take the table at `path`, for a worker of the instance that reads `beat`; without a path there is none."""
        self.path, self.beat = Path(path) if path else None, beat
        self._file: int | None = None
        self._process = 0
        self._life = NO_LIFE
        self._said = False

    def begin(self, request: str | None) -> bool:
        """Count the beginning of a request; False where it has ended two workers already and must not begin again."""
        if self.path is None or not request:
            return True
        try:
            return self._begin(self.path, bytes.fromhex(request))
        except (OSError, ValueError) as error:
            if not self._said:
                say(f"{self.path}: {error}: a request that ends its worker is tried everywhere")
                self._said = True
            return True

    def _begin(self, path: Path, identity: bytes) -> bool:
        file, place = self._open(path), int.from_bytes(identity[:4], "big") % ROWS * ROW
        row = os.pread(file, ROW, place).ljust(ROW, b"\0")
        first, second = row[IDENTITY : IDENTITY + LIFE], row[IDENTITY + LIFE :]
        if row[:IDENTITY] != identity:
            first, second = self._life, NO_LIFE
        elif second == NO_LIFE:
            second = self._life
        else:
            living = _living(path.parent)
            if first in living and second in living:
                return False
            first, second = (first if first in living else second), self._life
        os.pwrite(file, identity + first + second, place)
        return True

    def _open(self, path: Path) -> int:
        """Open the table, once in each worker process: it may have been loaded before the fork."""
        if self._file is None or self._process != os.getpid():
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o660)
            self._process = os.getpid()
            self._life = life_of(self.beat) if self.beat else NO_LIFE
        return self._file


def _living(sockets: Path) -> set[bytes]:
    """Return the lives of the instances that live: asked for only where a request is begun for the third time."""
    return {life_of(beat) for beat in sockets.glob("*/*.beat") if _lives(beat)} - {NO_LIFE}


def refusal(method: str, path: str) -> bytes:
    """Say in the log that a request is not begun again, and return what its client is told."""
    instance = os.environ.get(INSTANCE_VARIABLE, "")
    say(f"{instance}: {method} {path!r} ended two workers; it is answered with 502 and not begun again")
    return b"This request ended two processes of the site. It is not tried again.\n"
