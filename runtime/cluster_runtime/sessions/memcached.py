"""The cache that holds sessions: several memcached nodes, values that are signed JSON, and no stale answer.

Each key has one node, by rendezvous hashing. With a database behind it (engine cached_db) a node that is away is a
miss, and its keys go to no other node. What a node holds is trusted only while every write to it has succeeded: each
node has a generation, kept in a file beside its socket and so shared by all instances; a write or a deletion that fails
begins a new one, and all that the node held before is a miss from then on. Otherwise an instance that could not store a
session would leave the former one for the next instance to find, and a stale session is worse than a miss.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from typing import Any

from django.conf import settings
from django.core import signing
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.utils.module_loading import import_string
from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheError

logger = logging.getLogger("cluster.sessions")

SALT = "cluster_runtime.sessions."

#: Seconds that a thread leaves a node alone after it has failed.
PAUSE = 1.0

#: Beyond this many seconds memcached reads an expiry as a point in time.
LONGEST_RELATIVE_EXPIRY = 30 * 24 * 3600

#: memcached's limit for a key, bytes; longer ones are hashed.
LONGEST_KEY = 200


class SignedJSON:
    """pymemcache's serde: JSON with an HMAC bound to the key (django.core.signing, fallback keys honoured).

    The project's SESSION_SERIALIZER stands in JSON's place, as it does in Django's other session stores.

    Whoever reaches memcached can neither run code by it, as pickle would allow, nor forge a session, nor put one
    session's value in another's place. A value that does not verify is a miss.
    """

    def serialize(self, key: bytes | str, value: object) -> tuple[bytes, int]:
        """Return the signed text of `value` and pymemcache's flags."""
        return signing.dumps(value, salt=_salt(key), serializer=_serializer()).encode("ascii"), 1

    def deserialize(self, key: bytes | str, value: bytes, _flags: int) -> object:
        """Return the value, or None where it was not signed for this key."""
        try:
            return signing.loads(value.decode("ascii"), salt=_salt(key), serializer=_serializer())
        except (signing.BadSignature, ValueError):
            return None


def _serializer() -> Any:
    return import_string(settings.SESSION_SERIALIZER)


def _salt(key: bytes | str) -> str:
    return SALT + (key.decode("utf-8") if isinstance(key, bytes) else key)


class Node:
    """One memcached node, as one thread sees it."""

    def __init__(self, path: str, *, connect_timeout: float, timeout: float) -> None:
        self.path = path
        self.paused_until = 0.0
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

    def call(self, method: str, *arguments: object, **options: object) -> Any:
        """Call pymemcache; a failure closes the connection and pauses the node for this thread."""
        if time.monotonic() < self.paused_until:
            raise ConnectionError(f"{self.path}: failed a moment ago")
        try:
            return getattr(self.client, method)(*arguments, **options)
        except (OSError, MemcacheError):
            self.client.close()
            self.paused_until = time.monotonic() + PAUSE
            raise


class SessionCache(BaseCache):
    """Django's cache for sessions. OPTIONS: connect_timeout, timeout (seconds), durable.

    durable: a database has every session too, so that a node's failure is a miss. Without it a failure is raised: to
    say that a session was stored when it was not would lose it silently.
    """

    def __init__(self, server: str | list[str], params: dict[str, Any]) -> None:
        super().__init__(params)
        options = params.get("OPTIONS", {})
        servers = [server] if isinstance(server, str) else server
        timeouts = {name: options[name] for name in ("connect_timeout", "timeout")}
        self._durable = bool(options["durable"])
        self._nodes = [Node(path.removeprefix("unix:"), **timeouts) for path in servers]

    def _place(self, key: str, version: int | None) -> tuple[Node, str]:
        """Return the node of a key, and the key as it is there."""
        full = self.make_key(key, version)
        node = max(self._nodes, key=lambda node: hashlib.blake2b(f"{node.path}\0{full}".encode()).digest())
        if len(full.encode()) > LONGEST_KEY or not full.isascii() or not full.isprintable() or " " in full:
            full = hashlib.sha256(full.encode()).hexdigest()
        return node, (f"{node.generation():x}:{full}" if self._durable else full)

    def _expiry(self, timeout: Any) -> int:
        if timeout is DEFAULT_TIMEOUT:
            timeout = self.default_timeout
        if timeout is None:
            return 0
        seconds = int(timeout)
        if seconds <= 0:
            return -1
        return seconds if seconds <= LONGEST_RELATIVE_EXPIRY else int(time.time()) + seconds

    def _read(self, method: str, key: str, version: int | None) -> Any:
        node, place = self._place(key, version)
        try:
            return node.call(method, place)
        except (OSError, MemcacheError) as error:
            if not self._durable:
                raise
            logger.warning("memcached %s: %s", node.path, error)
            return None

    def _write(self, method: str, key: str, version: int | None, *arguments: object) -> bool:
        node, place = self._place(key, version)
        try:
            return bool(node.call(method, place, *arguments))
        except (OSError, MemcacheError) as error:
            if not self._durable:
                raise
            node.distrust()
            logger.warning("memcached %s: %s; what it holds is not trusted any more", node.path, error)
            return False

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        """Return the value of `key`; one that does not verify is a miss."""
        value = self._read("get", key, version)
        return default if value is None else value

    def set(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """Store a value."""
        self._write("set", key, version, value, self._expiry(timeout))

    def add(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Store a value where there is none; tell whether it was stored."""
        return self._write("add", key, version, value, self._expiry(timeout))

    def touch(self, key: str, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Let a value live on; tell whether there is one."""
        return self._write("touch", key, version, self._expiry(timeout))

    def delete(self, key: str, version: int | None = None) -> bool:
        """Remove a value; tell whether there was one."""
        return self._write("delete", key, version)

    def clear(self) -> None:
        """Remove all values of all nodes."""
        for node in self._nodes:
            node.call("flush_all")

    def close(self, **_kwargs: object) -> None:
        """Keep the connections after a request: each thread has its own."""
