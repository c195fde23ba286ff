"""One memcached node as this process reaches it: kept connections, time-outs, and a pause after a failure."""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheError, MemcacheServerError, MemcacheUnexpectedCloseError

from cluster_runtime.sessions import nodes as files
from cluster_runtime.sessions.signing import SIGNED, THERE, UNREAD, SignedJSON, TooLarge

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("cluster.sessions")

#: Seconds that this process leaves a node alone after it has failed.
PAUSE = 1.0

#: Beyond this many seconds memcached reads an expiry as a point in time.
LONGEST_RELATIVE_EXPIRY = 30 * 24 * 3600

#: Seconds that a node has to say what it holds.
LIST_SECONDS = 10.0

TOO_LARGE = b"too large"

#: What memcached or the way to it may fail with.
FAILURES = (OSError, MemcacheError)


def expiry_of(timeout: float | None) -> tuple[int, int | None]:
    """Return a timeout (seconds; None: never) as memcached takes it, and when it ends (seconds since 1970)."""
    if timeout is None:
        return 0, None
    seconds = int(timeout)
    now = int(time.time())
    if seconds <= 0:
        return -1, now
    return (seconds if seconds <= LONGEST_RELATIVE_EXPIRY else now + seconds), now + seconds


class Connection(Client):  # type: ignore[misc] # ships no types
    """pymemcache's client, whose socket waits in the kernel: Python's own time-outs cost more system calls."""

    patience = 0.0

    def _connect(self) -> None:
        super()._connect()
        connection: Any = self.sock
        connection.settimeout(None)
        patience, self.patience = self.timeout, 0.0
        self.wait_for(patience)

    def wait_for(self, seconds: float) -> None:
        """Let the node have so many seconds for each answer from now on; BlockingIOError after them."""
        self.timeout = seconds
        if self.sock is not None and seconds != self.patience:
            value = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                self.sock.setsockopt(socket.SOL_SOCKET, option, value)
            self.patience = seconds


class _Shared:
    """What the threads of this process share of a node: whether it fails, when to try it again, idle connections."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.failing = False
        self.paused_until = 0.0
        self.idle: list[Connection] = []

    def may_try(self) -> bool:
        """Tell whether to ask the node; while it fails one thread at a time does, after a pause."""
        if not self.failing:
            return True
        with self.lock:
            now = time.monotonic()
            if now < self.paused_until:
                return False
            self.paused_until = now + PAUSE
            return True

    def failed(self) -> bool:
        """Note a failure; tell whether it is the first."""
        with self.lock:
            first, self.failing = not self.failing, True
            self.paused_until = time.monotonic() + PAUSE
            return first


_shared: dict[str, _Shared] = {}


def ignore(_path: str) -> None:
    """Do nothing about what has happened to the node at a path."""


class Node:
    """One memcached node. Times are seconds: to connect, to read and to write.

    came_back is called with the node's path when it answers again and may have begun with nothing, missed_write when
    what it holds may be older than what was stored.
    """

    def __init__(  # noqa: PLR0913 - what its store says of it
        self,
        path: str,
        *,
        connect_timeout: float,
        timeout: float,
        write_timeout: float | None = None,
        came_back: Callable[[str], None] = ignore,
        missed_write: Callable[[str], None] = ignore,
    ) -> None:
        self.path = path
        self.shared = _shared.setdefault(path, _Shared())
        self.state = files.state(path)
        self.connect_timeout = connect_timeout
        self.read_timeout = timeout
        self.write_timeout = write_timeout or timeout
        self._came_back = came_back
        self._missed_write = missed_write

    def is_doubtful(self) -> bool:
        """Tell whether the node may lack what another one has."""
        return bool(self.state.get(files.DOUBT))

    def read(self, method: str, *arguments: object) -> Any:
        """Call a method of pymemcache that changes nothing."""
        return self._call(method, self.read_timeout, *arguments)

    def peek(self, place: str) -> tuple[object, Any]:
        """Return what is there, THERE for any value, and the token with which it can be replaced."""
        found, token = self._call("gets", self.read_timeout, place, serde=UNREAD)
        return found, token

    def peek_many(self, places: list[str]) -> list[str]:
        """Return at which places there are values."""
        found = self._call("get_many", self.read_timeout, places, serde=UNREAD)
        return [place for place, one in found.items() if one is THERE]

    def write(self, method: str, *arguments: object) -> Any:
        """Call a method of pymemcache that changes something; TooLarge where the node does not take the value."""
        return self._call(method, self.write_timeout, *arguments)

    def missed_write(self) -> None:
        """Say that the node has missed a write."""
        self._missed_write(self.path)

    def _call(self, method: str, timeout: float, *arguments: object, serde: SignedJSON = SIGNED) -> Any:
        """Call pymemcache; a failure closes the connection and pauses the node for this process."""
        if not self.shared.may_try():
            raise ConnectionError(f"{self.path}: failed a moment ago")
        try:
            result, restarted = self._reach(timeout, serde, method, arguments)
        except TooLarge:
            files.note_too_large(self.path)
            raise
        except FAILURES as error:
            if self.shared.failed():
                logger.warning("memcached %s: %s: %s", self.path, type(error).__name__, error)
            raise
        if self.shared.failing:
            self.shared.failing = False
            logger.warning("memcached %s: answers again", self.path)
            restarted = True
        if restarted:
            self._came_back(self.path)
        return result

    def _reach(self, timeout: float, serde: SignedJSON, method: str, arguments: tuple[object, ...]) -> tuple[Any, bool]:
        """Call over an idle connection or a new one; tell too whether the node was started again since the last call.

        A node that was started again between two requests does not fail: it is connected to anew.
        """
        try:
            client = self.shared.idle.pop()
        except IndexError:
            return self._ask(self._new(timeout), timeout, serde, method, arguments), False
        try:
            return self._ask(client, timeout, serde, method, arguments), False
        except (ConnectionError, MemcacheUnexpectedCloseError):
            self.shared.idle.clear()  # they have ended with it
            return self._ask(self._new(timeout), timeout, serde, method, arguments), True

    def _new(self, timeout: float) -> Connection:
        return Connection(self.path, connect_timeout=self.connect_timeout, timeout=timeout, default_noreply=False)

    def _ask(
        self, client: Connection, timeout: float, serde: SignedJSON, method: str, arguments: tuple[object, ...]
    ) -> Any:
        """Call pymemcache over one connection, which is kept if that worked, and else closed."""
        client.wait_for(timeout)
        client.serde = serde
        try:
            result = getattr(client, method)(*arguments)
        except TooLarge:
            self.shared.idle.append(client)  # nothing was sent
            raise
        except FAILURES as error:
            client.close()
            if isinstance(error, MemcacheServerError) and error.args and TOO_LARGE in error.args[0]:
                raise TooLarge(f"memcached {self.path}: {error.args[0].decode()}") from error
            raise
        self.shared.idle.append(client)
        return result

    def life(self) -> bytes:
        """Return what is another each time that the node has begun with nothing."""
        found = self.read("stats")
        return f"{int(found[b'time']) - int(found[b'uptime']):012x} {int(found[b'pid']):08x}".encode()

    def held(self) -> list[str]:
        """Return the keys of all that the node holds."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(LIST_SECONDS)
            connection.connect(self.path)
            connection.sendall(b"lru_crawler metadump all\r\n")
            names = []
            with connection.makefile("rb") as answer:
                while (line := answer.readline()) != b"END\r\n":
                    if not line.startswith(b"key="):  # it is busy with another's list, or has died
                        raise MemcacheError(f"{self.path}: does not list its keys: {line!r}")
                    names.append(unquote(line.split(b" ", 1)[0].removeprefix(b"key=").decode()))
        return names
