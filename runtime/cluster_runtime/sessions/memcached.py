"""The cache that holds sessions: several memcached nodes, values that are signed JSON, and no stale answer.

Each key has its nodes in an order of its own, by rendezvous hashing. With a database behind it (engine cached_db) the
first node alone holds it, and a node that is away is a miss. Without one (engine cache) the first two hold it, and each
answers for the other; a node that comes back gets again what it should hold.

What a node holds is trusted only while every write to it has succeeded: each node has a generation, kept in a file
beside its socket and so shared by all instances; a write or a deletion that fails begins a new one, and all that the
node held before is a miss from then on. Otherwise an instance that could not store a session would leave the former one
for the next instance to find, and a stale session is worse than a miss.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import select
import socket
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from django.conf import settings
from django.core import signing
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.utils.module_loading import import_string
from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheError, MemcacheServerError

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("cluster.sessions")

SALT = "cluster_runtime.sessions."

#: Seconds that this process leaves a node alone after it has failed.
PAUSE = 1.0

#: Beyond this many seconds memcached reads an expiry as a point in time.
LONGEST_RELATIVE_EXPIRY = 30 * 24 * 3600

#: memcached's limit for a key, bytes; longer ones are hashed.
LONGEST_KEY = 200

#: How many nodes hold a value that is nowhere else.
COPIES = 2

#: pymemcache's flags of what is stored: a value, or the mark of somebody who is about to store one.
VALUE, LEASE = 1, 2

#: Seconds that somebody who found nothing has to store what the database (or the other node) has.
LEASE_SECONDS = 10

#: Seconds that a node has to say what it holds.
LIST_SECONDS = 10.0

TOO_LARGE = b"too large"


class TooLarge(ValueError):  # noqa: N818 - what it is
    """A session is larger than what its store takes; nothing was stored."""


class _Lease:
    """The mark of somebody who is about to store a value."""

    def __init__(self, text: bytes) -> None:
        self.text = text


class SignedJSON:
    """pymemcache's serde: JSON with an HMAC bound to the key (django.core.signing, fallback keys honoured).

    A value is signed together with the time at which it ends (seconds since 1970, or None). The project's
    SESSION_SERIALIZER stands in JSON's place, as it does in Django's other session stores.

    Whoever reaches memcached can neither run code by it, as pickle would allow, nor forge a session, nor put one
    session's value in another's place. A value that does not verify is a miss.
    """

    def serialize(self, key: bytes | str, value: object) -> tuple[bytes, int]:
        """Return the signed text of `value` and pymemcache's flags."""
        if isinstance(value, _Lease):
            return value.text, LEASE
        return signing.dumps(value, salt=_salt(key), serializer=_serializer()).encode("ascii"), VALUE

    def deserialize(self, key: bytes | str, value: bytes, flags: int) -> object:
        """Return the value, or None where it was not signed for this key."""
        if flags == LEASE:
            return _Lease(value)
        try:
            found = signing.loads(value.decode("ascii"), salt=_salt(key), serializer=_serializer())
        except (signing.BadSignature, ValueError):
            return None
        try:
            _value, end = found
            return None if end is not None and end <= time.time() else found
        except (TypeError, ValueError):
            return None  # signed for another purpose


def _serializer() -> Any:
    return import_string(settings.SESSION_SERIALIZER)


def _salt(key: bytes | str) -> str:
    return SALT + (key.decode("utf-8") if isinstance(key, bytes) else key)


class _Watch:
    """What this process knows of a node: whether it fails, and when it may be tried again."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.failing = False
        self.paused_until = 0.0

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


_watches: dict[str, _Watch] = {}


class Node:
    """One memcached node, as one thread sees it. Times are seconds: to connect, to read and to write."""

    def __init__(
        self, path: str, *, connect_timeout: float, timeout: float, write_timeout: float | None = None
    ) -> None:
        self.path = path
        self.watch = _watches.setdefault(path, _Watch())
        self.read_timeout = timeout
        self.write_timeout = write_timeout or timeout
        self.came_back: Callable[[], None] = lambda: None
        self.client = Client(
            path, serde=SignedJSON(), connect_timeout=connect_timeout, timeout=timeout, default_noreply=False
        )

    @property
    def _generation_file(self) -> str:
        return f"{self.path}.generation"

    def generation(self) -> int:
        """Return the number that is part of every key of this node."""
        try:
            return os.stat(self._generation_file).st_mtime_ns  # noqa: PTH116 - on every access: a Path costs more
        except FileNotFoundError:
            return 0

    def distrust(self) -> None:
        """Begin a new generation: what the node holds is a miss from now on, for every instance."""
        now = max(time.time_ns(), self.generation() + 1)
        descriptor = os.open(self._generation_file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o660)
        try:
            os.utime(descriptor, ns=(now, now))
        finally:
            os.close(descriptor)

    def read(self, method: str, *arguments: object) -> Any:
        """Call a method of pymemcache that changes nothing."""
        return self._call(method, self.read_timeout, *arguments)

    def write(self, method: str, *arguments: object) -> Any:
        """Call a method of pymemcache that changes something; TooLarge where the node does not take the value."""
        return self._call(method, self.write_timeout, *arguments)

    def _call(self, method: str, timeout: float, *arguments: object) -> Any:
        """Call pymemcache; a failure closes the connection and pauses the node for this process."""
        if not self.watch.may_try():
            raise ConnectionError(f"{self.path}: failed a moment ago")
        client = self.client
        client.timeout = timeout
        restarted = client.sock is not None and not self._is_connected(timeout)
        try:
            result = getattr(client, method)(*arguments)
        except MemcacheServerError as error:
            client.close()
            if TOO_LARGE in error.args[0]:
                raise TooLarge(f"memcached {self.path}: {error.args[0].decode()}") from error
            self._failed(error)
            raise
        except (OSError, MemcacheError) as error:
            client.close()
            self._failed(error)
            raise
        if self.watch.failing:
            self.watch.failing = False
            logger.warning("memcached %s: answers again", self.path)
            restarted = True
        if restarted:
            self.came_back()
        return result

    def _is_connected(self, timeout: float) -> bool:
        """Tell whether the connection still stands; it does not where the node was started again, or something came.

        A node that was started again between two requests does not fail: it is connected to anew.
        """
        connection: Any = self.client.sock
        connection.settimeout(timeout)
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        if not poll.poll(0):
            return True
        self.client.close()
        return False

    def life(self) -> bytes:
        """Return what is another each time that the node has begun with nothing."""
        found = self.read("stats")
        return f"{self.generation():020x} {int(found[b'time']) - int(found[b'uptime']):012x}".encode()

    def trusted(self) -> list[str]:
        """Return the keys of what the node holds and is trusted."""
        prefix = f"{self.generation():x}:"
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
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    def _failed(self, error: Exception) -> None:
        if self.watch.failed():
            logger.warning("memcached %s: %s: %s", self.path, type(error).__name__, error)


class SessionCache(BaseCache):
    """Django's cache for sessions. OPTIONS: connect_timeout, timeout, write_timeout (seconds), durable.

    durable: a database has every session too, so that a node's failure is a miss. Without it each value is on two
    nodes; the failure of both (of the only one) is raised: to say that a session was stored when it was not, or that
    there is none when nobody can say, would lose it silently.
    """

    def __init__(self, server: str | list[str], params: dict[str, Any]) -> None:
        super().__init__(params)
        options = params.get("OPTIONS", {})
        servers = [server] if isinstance(server, str) else server
        self._timeouts = timeouts = {
            name: options[name] for name in ("connect_timeout", "timeout", "write_timeout") if name in options
        }
        self._durable = bool(options["durable"])
        self.nodes = [Node(path.removeprefix("unix:"), **timeouts) for path in servers]
        self._copies = 1 if self._durable else min(COPIES, len(self.nodes))
        # With one copy and nothing behind it there is nothing to distrust it for: a failed write is raised.
        self._generations = self._durable or self._copies > 1
        if self._copies > 1:
            for node in self.nodes:
                node.came_back = lambda node=node: self._restore(node.path)  # type: ignore[misc]

    def _restore(self, path: str) -> None:
        """Begin to give a node again what it should hold, unless another process is at it."""
        thread = threading.Thread(target=self._restore_now, args=(path,), name="cluster-sessions-restore", daemon=True)
        thread.start()

    def restore(self) -> bool:
        """Give each node what it should hold and may have lost; tell whether all have it now."""
        return self._copies == 1 or all(self._restore_now(node.path) for node in self.nodes)

    def _restore_now(self, path: str) -> bool:
        """Give a node what it should hold from the others; tell whether it has it."""
        descriptor = os.open(f"{path}.restore", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            nodes = {node.path: Node(node.path, **self._timeouts) for node in self.nodes}
            mine, count = nodes.pop(path), 0
            life = mine.life()
            if os.pread(descriptor, len(life), 0) == life:
                return True  # each process notices for itself
            for other in nodes.values():
                for key in other.trusted():
                    if path in self._ranked(key):
                        count += self._copy(key, other, mine)
            os.pwrite(descriptor, life, 0)
        except BlockingIOError:
            return False  # another process is at it
        except (OSError, MemcacheError) as error:
            logger.warning("memcached %s: not all sessions are on two nodes again: %s", path, error)
            return False
        else:
            logger.warning("memcached %s: %d sessions are on two nodes again", path, count)
            return True
        finally:
            os.close(descriptor)

    def _copy(self, key: str, source: Node, target: Node) -> bool:
        def load() -> Any:
            found = source.read("get", self._on(source, key))
            return found if isinstance(found, list) else None

        return self._fill(target, self._on(target, key), load) is not None

    def _ranked(self, key: str) -> list[str]:
        """Return the paths of the nodes that hold a key, the first first."""
        paths = [node.path for node in self.nodes]
        paths.sort(key=lambda path: hashlib.blake2b(f"{path}\0{key}".encode()).digest(), reverse=True)
        return paths[: self._copies]

    def _on(self, node: Node, key: str) -> str:
        """Return a key as it is on a node."""
        return f"{node.generation():x}:{key}" if self._generations else key

    def _places(self, key: str, version: int | None) -> list[tuple[Node, str]]:
        """Return the nodes of a key, and the key as it is on each."""
        full = self.make_key(key, version)
        if len(full.encode()) > LONGEST_KEY or not full.isascii() or not full.isprintable() or " " in full:
            full = hashlib.sha256(full.encode()).hexdigest()
        nodes = {node.path: node for node in self.nodes}
        return [(nodes[path], self._on(nodes[path], full)) for path in self._ranked(full)]

    def _expiry(self, timeout: Any) -> tuple[int, int | None]:
        """Return a timeout as memcached takes it, and when it ends."""
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        if timeout is None:
            return 0, None
        seconds = int(timeout)
        now = int(time.time())
        if seconds <= 0:
            return -1, now
        return (seconds if seconds <= LONGEST_RELATIVE_EXPIRY else now + seconds), now + seconds

    def _write(self, places: list[tuple[Node, str]], method: str, *arguments: object) -> list[Any]:
        """Write to all places; return what those said that were reached. Without a database none reached is an error.

        A node that was not reached is distrusted, unless nobody else has the value.
        """
        results, failed = [], []
        for node, place in places:
            try:
                results.append(node.write(method, place, *arguments))
            except (OSError, MemcacheError) as error:
                failed.append((node, error))
        if failed and not results and not self._durable:
            raise failed[0][1]
        if self._generations:
            for node, _error in failed:
                node.distrust()
        return results

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        """Return the value of `key`; one that does not verify is a miss."""
        empty: list[tuple[Node, str]] = []
        failure: Exception | None = None
        for node, place in self._places(key, version):
            try:
                found = node.read("get", place)
            except (OSError, MemcacheError) as error:
                failure = error
                continue
            if isinstance(found, list):
                for former, where in empty:
                    self._fill(former, where, lambda found=found: found)  # type: ignore[misc]
                return found[0]
            empty.append((node, place))
        if failure is not None and not empty and not self._durable:
            raise failure
        return default

    def fill(self, key: str, load: Callable[[], tuple[Any, Any] | None], version: int | None = None) -> Any:
        """Return what `load` returns (a value and its timeout, or None), and store it unless somebody was faster.

        Django's own engine stores what it has read even if another instance has written or deleted it meanwhile: an
        old session, or one that was logged out, would come back.
        """
        ((node, place),) = self._places(key, version)

        def loaded() -> Any:
            found = load()
            return None if found is None else [found[0], self._expiry(found[1])[1]]

        found = self._fill(node, place, loaded)
        return None if found is None else found[0]

    def _fill(self, node: Node, place: str, load: Callable[[], Any]) -> Any:
        """Leave a mark, load, and put the value in the mark's place: a write or deletion in between removes it."""
        token = None
        lease = _Lease(uuid.uuid4().bytes)
        try:
            if node.write("add", place, lease, LEASE_SECONDS):
                found, cas = node.read("gets", place)
                token = cas if isinstance(found, _Lease) and found.text == lease.text else None
        except (OSError, MemcacheError):
            token = None  # said once by the node
        value = load()
        if value is None or token is None:
            return value
        expiry = 0 if value[1] is None else value[1] - int(time.time())
        if value[1] is None or expiry > 0:
            try:
                node.write("cas", place, value, token, self._expiry(expiry or None)[0])
            except (OSError, MemcacheError):
                node.distrust()  # nobody knows whether it was stored, and when
            except TooLarge as error:
                logger.warning("%s", error)
        return value

    def set(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """Store a value. One that is too large is removed: with a database behind it that is a miss, else an error."""
        expiry, end = self._expiry(timeout)
        places = self._places(key, version)
        try:
            self._write(places, "set", [value, end], expiry)
        except TooLarge as error:
            self._write(places, "delete")
            if not self._durable:
                raise
            logger.warning("%s: read from the database each time", error)

    def add(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Store a value where there is none; tell whether it was stored."""
        expiry, end = self._expiry(timeout)
        stored = self._write(self._places(key, version), "add", [value, end], expiry)
        return bool(stored) and all(stored)

    def touch(self, key: str, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Let a value live on; tell whether there is one."""
        value = self.get(key, version=version)
        if value is None:
            return False
        self.set(key, value, timeout, version)
        return True

    def delete(self, key: str, version: int | None = None) -> bool:
        """Remove a value; tell whether there was one."""
        return any(self._write(self._places(key, version), "delete"))

    def clear(self) -> None:
        """Remove all values of all nodes."""
        for node in self.nodes:
            node.write("flush_all")

    def close(self, **_kwargs: object) -> None:
        """Keep the connections after a request: each thread has its own."""
