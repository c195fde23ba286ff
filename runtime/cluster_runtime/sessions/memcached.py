"""The cache that holds sessions: several memcached nodes, values that are signed JSON, and no stale answer.

Each key has its nodes in an order of its own, by rendezvous hashing. With a database behind it (engine cached_db) the
first node alone holds it, and a node that is away is a miss. Without one (engine cache) the first two hold it, and each
answers for the other; a node that comes back gets again what it should hold.

What a node holds is trusted only while every write to it has succeeded (see `nodes`): otherwise an instance that could
not store a session would leave the former one for the next instance to find, and a stale session is worse than a miss.
With a database behind it a node that missed a write is wholly distrusted. Without one that would end sessions that are
nowhere else (two nodes that stood still for a moment would be distrusted each because of the other): there the newer of
the two copies counts, by the time at which it was written, until the node has been filled again.

A deletion leaves a mark for a while, and who stores what was read elsewhere leaves one before reading: so that nothing
that was deleted or written meanwhile is replaced by what was there before.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import logging
import os
import re
import socket
import struct
import threading
import time
import uuid
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from django.conf import settings
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache
from django.utils.encoding import force_bytes
from django.utils.module_loading import import_string
from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheError, MemcacheServerError, MemcacheUnexpectedCloseError

from cluster_runtime.sessions import nodes as files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

logger = logging.getLogger("cluster.sessions")

SALT = b"cluster_runtime.sessions."

#: Bytes of an HMAC by SHA-256.
SIGNATURE = 32

#: Seconds that this process leaves a node alone after it has failed.
PAUSE = 1.0

#: Beyond this many seconds memcached reads an expiry as a point in time.
LONGEST_RELATIVE_EXPIRY = 30 * 24 * 3600

#: What may be a key as it is; all else is hashed. memcached's own limit is 250 bytes, with what comes before it.
PLAIN_KEY = re.compile(r"[!-~]{1,200}").fullmatch

#: Bytes of a value that memcached surely takes (its items have at most 1 MiB, key and header included). It is not asked
#: to refuse more: what it had under that key would be gone.
LARGEST_VALUE = 1_000_000

#: How many nodes hold a value that is nowhere else.
COPIES = 2

#: pymemcache's flags of what is stored: a value, the mark of who is about to store one, the mark of a deletion.
VALUE, LEASE, TOMBSTONE = 1, 2, 3

#: Seconds that somebody has to store what was read elsewhere.
LEASE_SECONDS = 10

#: Seconds for which a deletion is remembered: with a database behind it, which has the last word, and without one. No
#: request that has read a session before should last longer.
DURABLE_DELETION_SECONDS, DELETION_SECONDS = 10, 3600

#: Seconds that a node has to say what it holds.
LIST_SECONDS = 10.0

#: How often a node's keys are listed to fill another one.
PASSES = 4

#: How many keys are asked for at once.
AT_ONCE = 100

#: How often a write is tried again that found something else than a moment before.
TRIES = 20

TOO_LARGE = b"too large"

#: What memcached or the way to it may fail with.
FAILURES = (OSError, MemcacheError)


class TooLarge(ValueError):  # noqa: N818 - what it is
    """A session is larger than what its store takes; nothing was stored, and the former one is still there."""


class _Mark:
    """What stands in a value's place. text: whose mark it is, or when a deletion was."""

    def __init__(self, text: bytes, flags: int = LEASE) -> None:
        self.text, self.flags = text, flags

    @classmethod
    def of_deletion(cls) -> _Mark:
        return cls(str(time.time_ns()).encode(), TOMBSTONE)


def _written_at(found: object) -> int:
    """Return when a value was written or deleted, nanoseconds; 0 for what says neither."""
    if isinstance(found, list):
        return int(found[2])
    if isinstance(found, _Mark) and found.flags == TOMBSTONE and found.text.isdigit():
        return int(found.text)
    return 0


def _keys() -> Iterator[bytes]:
    """Yield what signs, and then what else is accepted: SECRET_KEY and its fallbacks, each derived for this alone."""
    yield _derived(settings.SECRET_KEY)
    for key in settings.SECRET_KEY_FALLBACKS:
        yield _derived(key)


@lru_cache(maxsize=16)
def _derived(key: str | bytes) -> bytes:
    return hashlib.sha256(SALT + force_bytes(key)).digest()


def _signature(derived: bytes, key: bytes | str, text: bytes) -> bytes:
    place = key.encode() if isinstance(key, str) else key
    return hmac.digest(derived, place + b"\0" + text, "sha256")


def _is_signed(key: bytes | str, signature: bytes, text: bytes) -> bool:
    """Tell whether `text` was signed for this key."""
    return any(hmac.compare_digest(signature, _signature(derived, key, text)) for derived in _keys())


def _sign(key: bytes | str, value: object) -> bytes:
    text: bytes = _serializer().dumps(value)
    return _signature(next(_keys()), key, text) + text


class SignedJSON:
    """pymemcache's serde: JSON after an HMAC (SHA-256) of it and the key, by SECRET_KEY or one of its fallbacks.

    A value is signed together with the time at which it ends (seconds since 1970, or None) and the one at which it was
    written (nanoseconds). The project's SESSION_SERIALIZER stands in JSON's place, as in Django's other session stores.
    django.core.signing does the same and more (encoding, a time stamp), for three times the time.

    Whoever reaches memcached can neither run code by it, as pickle would allow, nor forge a session, nor put one
    session's value in another's place. A value that does not verify is a miss.
    """

    def serialize(self, key: bytes | str, value: object) -> tuple[bytes, int]:
        """Return the signed text of `value` and pymemcache's flags; TooLarge where memcached would not take it."""
        if isinstance(value, _Mark):
            return value.text, value.flags
        text = value.text if isinstance(value, _Signed) else _sign(key, value)
        if len(text) > LARGEST_VALUE:
            raise TooLarge(
                f"a session of {len(text):,} bytes is too large for memcached, which takes {LARGEST_VALUE:,}"
            )
        return text, VALUE

    def deserialize(self, key: bytes | str, value: bytes, flags: int) -> object:
        """Return the value, or None where it was not signed for this key."""
        if flags in (LEASE, TOMBSTONE):
            return _Mark(value, flags)
        signature, text = value[:SIGNATURE], value[SIGNATURE:]
        if not _is_signed(key, signature, text):
            return None
        try:
            _value, end, _written = found = _serializer().loads(text)
        except Exception:  # noqa: BLE001 - signed by us, but by a serializer that the project has changed since
            return None
        return None if end is not None and end <= time.time() else found


class Unread(SignedJSON):
    """The same for who only asks whether there is a value: it is not worth being verified."""

    def deserialize(self, key: bytes | str, value: bytes, flags: int) -> object:
        """Return THERE in the place of any value."""
        return super().deserialize(key, value, flags) if flags in (LEASE, TOMBSTONE) else THERE


#: Stands for a value that nobody has looked at.
THERE = object()

SIGNED, UNREAD = SignedJSON(), Unread()


class _Signed:
    """A value that is signed already, for the key under which it is stored."""

    def __init__(self, text: bytes) -> None:
        self.text = text


def _serializer() -> Any:
    return import_string(settings.SESSION_SERIALIZER)()


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


class Node:
    """One memcached node. Times are seconds: to connect, to read and to write."""

    def __init__(
        self, path: str, *, connect_timeout: float, timeout: float, write_timeout: float | None = None
    ) -> None:
        self.path = path
        self.shared = _shared.setdefault(path, _Shared())
        self.state = files.state(path)
        self.connect_timeout = connect_timeout
        self.read_timeout = timeout
        self.write_timeout = write_timeout or timeout
        self.came_back: Callable[[], None] = lambda: None

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

    def _call(self, method: str, timeout: float, *arguments: object, serde: SignedJSON = SIGNED) -> Any:
        """Call pymemcache; a failure closes the connection and pauses the node for this process.

        A node that was started again between two requests does not fail: it is connected to anew.
        """
        if not self.shared.may_try():
            raise ConnectionError(f"{self.path}: failed a moment ago")
        restarted = False
        try:
            try:
                client = self.shared.idle.pop()
            except IndexError:
                result = self._ask(self._new(timeout), timeout, serde, method, arguments)
            else:
                try:
                    result = self._ask(client, timeout, serde, method, arguments)
                except (ConnectionError, MemcacheUnexpectedCloseError):
                    self.shared.idle.clear()  # they have ended with it
                    result = self._ask(self._new(timeout), timeout, serde, method, arguments)
                    restarted = True
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
            self.came_back()
        return result

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
        self.paths = [path.removeprefix("unix:") for path in servers]
        self.nodes = [Node(path, **timeouts) for path in self.paths]
        self.copies = 1 if self._durable else min(COPIES, len(self.nodes))
        self._by_path = {node.path: node for node in self.nodes}
        self._begun = {path: hashlib.blake2b(f"{path}\0".encode()) for path in self.paths}
        self._everybody = files.of_all(self.paths)
        if self.copies > 1:
            for node in self.nodes:
                node.came_back = lambda path=node.path: self._begin_restore(path)  # type: ignore[misc]

    # --- where a key is

    def _ranked(self, key: str) -> list[str]:
        """Return the paths of the nodes that hold a key, the first first."""
        text = key.encode()

        def rank(path: str) -> bytes:
            begun = self._begun[path].copy()
            begun.update(text)
            return begun.digest()

        if self.copies == 1:
            return [max(self.paths, key=rank)]
        return sorted(self.paths, key=rank, reverse=True)[: self.copies]

    def _on(self, node: Node, key: str) -> str:
        """Return a key as it is on a node."""
        return f"{node.state.get(files.GENERATION):x}:{key}" if self._durable else key

    def _places(self, key: str, version: int | None) -> list[tuple[Node, str]]:
        """Return the nodes of a key, and the key as it is on each."""
        full = self.make_key(key, version)
        if not PLAIN_KEY(full):
            full = hashlib.sha256(full.encode()).hexdigest()
        nodes = [self._by_path[path] for path in self._ranked(full)]
        return [(node, self._on(node, full)) for node in nodes]

    def held(self, is_wanted: Callable[[str], bool]) -> set[str]:
        """Return the keys of the values that are held and trusted, on whichever node, of which `is_wanted` says so.

        Marks of deletions are no values: each key is asked for, many at a time.
        """
        found: set[str] = set()
        for node in self.nodes:
            prefix = self._on(node, "")
            names = (name for name in node.held() if name.startswith(prefix))
            wanted = [name for name in names if is_wanted(name.removeprefix(prefix))]
            for begin in range(0, len(wanted), AT_ONCE):
                there = node.peek_many(wanted[begin : begin + AT_ONCE])
                found |= {name.removeprefix(prefix) for name in there}
        return found

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

    # --- reading

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        """Return the value of `key`; one that does not verify is a miss."""
        return self.read(key, default, version)[0]

    def read(self, key: str, default: Any = None, version: int | None = None) -> tuple[Any, Any]:
        """Return the value of `key`, and what `replace` takes so that it need not look again; None where it must."""
        if self._durable and self._is_split():
            return default, None
        places = self._places(key, version)
        if self._is_doubtful(places):
            return self._newest(places, default), None
        empty: list[tuple[Node, str]] = []
        failure: Exception | None = None
        for node, place in places:
            try:
                found, token = node.read("gets", place)
            except FAILURES as error:
                failure = error
                continue
            if isinstance(found, list):
                for former, where in empty:
                    self._fill(former, where, lambda node=node, place=place: _value_of(node.read("get", place)))  # type: ignore[misc]
                return found[0], token if node is places[0][0] else None
            if _is_deletion(found):
                return default, None
            empty.append((node, place))
        if failure is not None and not empty and not self._durable:
            raise failure
        return default, None

    def _is_split(self) -> bool:
        """Tell whether instances beside each other use other nodes."""
        return bool(self._everybody.get(files.SPLIT))

    def _is_doubtful(self, places: list[tuple[Node, str]]) -> bool:
        return self.copies > 1 and any(node.is_doubtful() for node, _place in places)

    def _newest(self, places: list[tuple[Node, str]], default: Any) -> Any:
        """Return the newer of the copies of a value, of which one may have missed a write.

        Where only that one answers, nobody can say what the session is now, and the failure of the other is raised.
        """
        found: list[tuple[int, Node, str, object]] = []
        failure, sure = None, False
        for node, place in places:
            try:
                one = node.read("get", place)
                found.append((_written_at(one), node, place, one))
                sure = sure or not node.is_doubtful()
            except FAILURES as error:
                failure = error
        if failure is not None and not sure:
            raise failure
        written, newest, _place, value = max(found, key=lambda one: one[0])
        for former, node, place, _one in found:
            if former < written:
                with contextlib.suppress(*FAILURES):  # said by the node
                    self._copy(place, newest, node)
        return value[0] if isinstance(value, list) else default

    def fill(self, key: str, load: Callable[[], tuple[Any, Any] | None], version: int | None = None) -> Any:
        """Return what `load` returns (a value and its timeout, or None), and store it unless somebody was faster.

        Django's own engine stores what it has read even if another instance has written or deleted it meanwhile: an
        old session, or one that was logged out, would come back.
        """

        def loaded() -> Any:
            found = load()
            return None if found is None else [found[0], self._expiry(found[1])[1], time.time_ns()]

        ((node, place),) = self._places(key, version)
        found = loaded() if self._is_split() else self._fill(node, place, loaded)
        return None if found is None else found[0]

    def _fill(self, node: Node, place: str, load: Callable[[], Any]) -> Any:
        """Leave a mark, load, and put the value in the mark's place: a write or deletion in between removes it."""
        token = None
        lease = _Mark(uuid.uuid4().bytes)
        try:
            if node.write("add", place, lease, LEASE_SECONDS):
                found, cas = node.read("gets", place)
                token = cas if _is_mine(found, lease) else None
        except FAILURES:
            token = None  # said once by the node
        value = load()
        if value is None or token is None:
            return value
        self._put(node, place, value, token)
        return value

    def _put(self, node: Node, place: str, value: list[Any], token: Any) -> bool:
        """Put a value in the place of what had `token`; False where that is gone, or the value is over already."""
        expiry = 0 if value[1] is None else value[1] - int(time.time())
        if value[1] is not None and expiry <= 0:
            return False
        try:
            return bool(node.write("cas", place, value, token, self._expiry(expiry or None)[0]))
        except FAILURES:
            self._missed(node)  # nobody knows whether it was stored, and when
        except TooLarge as error:
            logger.warning("%s", error)
        return False

    # --- writing

    def _signed(self, key: str, item: list[Any], version: int | None) -> object:
        """Return a value so that it is signed once for all its copies; that works where all have the same key."""
        return item if self._durable else _Signed(_sign(self._places(key, version)[0][1], item))

    def _missed(self, node: Node) -> None:
        """Say that a node has missed a write."""
        if self._durable:
            files.distrust(node.path)
        elif self.copies > 1:
            files.doubt(node.path)

    def _write(self, places: list[tuple[Node, str]], write: Callable[[Node, str], Any]) -> list[Any]:
        """Write to all places; return what came of it where they were reached. Without a database none is an error.

        A node that was not reached is distrusted, unless nobody else has the value.
        """
        results, failed = [], []
        for node, place in places:
            try:
                results.append(write(node, place))
            except FAILURES as error:
                failed.append((node, error))
        if failed and not results and not self._durable:
            raise failed[0][1]
        for node, _error in failed:
            self._missed(node)
        return results

    def set(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        """Store a value, whatever is there."""
        expiry, end = self._expiry(timeout)
        item = [value, end, time.time_ns()]
        self._write(self._places(key, version), lambda node, place: node.write("set", place, item, expiry))

    def add(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Store a value where there is none; tell whether it was stored."""
        expiry, end = self._expiry(timeout)
        item = self._signed(key, [value, end, time.time_ns()], version)

        def add(node: Node, place: str) -> bool:
            return self._exchange(node, place, item, expiry, over=lambda found: found is not THERE) is True

        stored = self._write(self._places(key, version), add)
        return bool(stored) and all(stored)

    def replace(
        self,
        key: str,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        token: Any = None,
    ) -> bool:
        """Store a value where there is one; False where there is none, or it has been deleted meanwhile.

        token: what `read` gave with the value.
        """
        expiry, end = self._expiry(timeout)
        places = self._places(key, version)
        if token is not None:
            item = self._signed(key, [value, end, time.time_ns()], version)
            if self._replace_read(places, item, expiry, token):
                return True
        # Newer than what the nodes may just have got: else neither copy would give way to the other.
        written = time.time_ns()
        item = self._signed(key, [value, end, written], version)

        def exchange(over: Callable[[object], bool]) -> list[Any]:
            def put(node: Node, place: str) -> Any:
                return self._exchange(node, place, item, expiry, over, written)

            return self._write(places, put)

        found = exchange(lambda one: one is THERE)
        if any(_is_deletion(one) for one in found):
            self.delete(key, version)  # on the other node too, if it was stored there a moment before
            return False
        if True not in found:
            return False
        if not all(one is True for one in found):  # one has begun with nothing, or is just being filled
            exchange(lambda one: not _is_deletion(one))
        return True

    def _replace_read(self, places: list[tuple[Node, str]], item: object, expiry: int, token: Any) -> bool:
        """Store a value if the first node still has what was read there; False: it must be looked at anew.

        The first node is the last to get it. Where that refuses, since somebody has written or deleted the value, what
        the others have got by now is replaced by who looks anew.
        """
        if self._is_doubtful(places):
            return False
        (first, place), *others = places
        try:
            for node, where in others:
                node.write("set", where, item, expiry)
            return bool(first.write("cas", place, item, token, expiry))
        except FAILURES:
            return False

    def _exchange(  # noqa: PLR0913, PLR0917 - what and where
        self, node: Node, place: str, item: object, expiry: int, over: Callable[[object], bool], written: int = 0
    ) -> Any:
        """Put `item` in the place of what is there, if `over` says so of that; True, or else what is there.

        written: when `item` was, where of two values the newer one stays, so that both copies are the same in the end.
        """
        for _try in range(TRIES):
            found, token = node.read("gets", place) if written else node.peek(place)
            newer = _written_at(found) > written > 0
            found = THERE if token is not None and not isinstance(found, _Mark) else found
            if not over(found):
                return found
            if newer:
                return True
            if token is None:
                stored = node.write("add", place, item, expiry)
            else:
                stored = node.write("cas", place, item, token, expiry)
            if stored:
                return True
        raise MemcacheError(f"{node.path}: others write the same session all the time")

    def begin(self, key: str, version: int | None = None) -> object:
        """Leave a mark before the database is written; return what `finish` takes."""
        if self._is_split():
            return None
        ((node, place),) = self._places(key, version)
        lease = _Mark(uuid.uuid4().bytes)
        try:
            node.write("set", place, lease, LEASE_SECONDS)
        except FAILURES:
            self._missed(node)
            return None
        return lease

    def finish(  # noqa: PLR0913 - a cache's, and what was read
        self,
        key: str,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        mark: object = None,
        token: Any = None,
    ) -> None:
        """Store what the database has now, unless it has been written or deleted meanwhile: then it is read from there.

        mark: what `begin` gave. token: instead, what `read` gave before the database was written.
        Django's own engine stores in any case: a session that was logged out a moment before would live on here.
        """
        ((node, place),) = self._places(key, version)
        item = [value, self._expiry(timeout)[1], time.time_ns()]
        try:
            if isinstance(mark, _Mark):
                found, token = node.read("gets", place)
                token = token if _is_mine(found, mark) else None
            if token is None or not self._put(node, place, item, token):
                self.delete(key, version)
        except FAILURES:
            self._missed(node)

    def touch(self, key: str, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Let a value live on; tell whether there is one."""
        value = self.get(key, version=version)
        return value is not None and self.replace(key, value, timeout, version)

    def delete(self, key: str, version: int | None = None) -> bool:
        """Remove a value; tell whether there was one. A mark stays for a while: nobody stores what was read before."""
        places = self._places(key, version)
        there = False
        for node, place in places:
            with contextlib.suppress(*FAILURES):  # what can't be asked is told by the write
                there = there or isinstance(node.read("get", place), list)

        def mark(seconds: int) -> list[Any]:
            deletion = _Mark.of_deletion()
            expiry, _end = self._expiry(seconds)
            return self._write(places, lambda node, place: node.write("set", place, deletion, expiry))

        reached = mark(DURABLE_DELETION_SECONDS if self._durable else DELETION_SECONDS)
        if not self._durable and len(reached) < len(places):
            # What the other node still has is older than the mark, which so must outlive it.
            mark(settings.SESSION_COOKIE_AGE)
        return there

    def clear(self) -> None:
        """Remove all values of all nodes."""
        for node in self.nodes:
            node.write("flush_all")

    def close(self, **_kwargs: object) -> None:
        """Keep the connections after a request: the process has them for the next one."""

    # --- giving a node again what it should hold

    def restore(self) -> bool:
        """Begin to give each node what it should hold and may have lost; tell whether all have it already."""
        lacking = [path for path in self.paths if self.copies > 1 and not self._is_whole(path)]
        for path in lacking:
            self._begin_restore(path)
        return not lacking

    def _is_whole(self, path: str) -> bool:
        """Tell whether a node holds all that it should, as far as anybody knows."""
        try:
            life = Node(path, **self._timeouts).life()
        except FAILURES:
            return False
        return _restored(path) == life and not files.state(path).get(files.DOUBT)

    def _begin_restore(self, path: str) -> None:
        thread = threading.Thread(target=self._restore_now, args=(path,), name="cluster-sessions-restore", daemon=True)
        thread.start()

    def _restore_now(self, path: str) -> None:
        """Give a node what it should hold from the others, unless another process is at it."""
        descriptor = os.open(path + files.NODE_RESTORE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            nodes = {node.path: Node(node.path, **self._timeouts) for node in self.nodes}
            mine = nodes.pop(path)
            life, since = mine.life(), mine.state.get(files.DOUBT)
            if _restored(path) == life and not since:
                return  # each process notices for itself
            count = sum(self._take_over(other, mine) for other in nodes.values())
            os.pwrite(descriptor, life, 0)
            files.end_doubt(path, since)
        except BlockingIOError:
            return
        except FAILURES as error:
            logger.warning("memcached %s: not all sessions are on two nodes again: %s", path, error)
        else:
            logger.warning("memcached %s: %d sessions are on two nodes again", path, count)
        finally:
            os.close(descriptor)

    def _take_over(self, source: Node, target: Node) -> int:
        """Give a node what another one holds of what it should hold too; return how much that was.

        A list of keys lacks some that were used while it was made: it is made again until it tells nothing new.
        """
        count = 0
        for _pass in range(PASSES):
            new = sum(self._copy(key, source, target) for key in source.held() if target.path in self._ranked(key))
            count += new
            if not new:
                break
        return count

    def _copy(self, key: str, source: Node, target: Node) -> bool:
        """Give `target` what `source` has under a key, if it is newer than what it has itself; tell whether it was."""
        found, token = target.read("gets", key)
        if token is None:
            filled = self._fill(target, key, lambda: _value_of(source.read("get", key)))
            return filled is not None
        newer = source.read("get", key)
        if isinstance(found, _Mark) and found.flags == LEASE:
            return False  # another one is just about to store it
        if _written_at(newer) <= _written_at(found):
            return False
        end = newer[1] if isinstance(newer, list) else int(time.time()) + DELETION_SECONDS
        expiry = self._expiry(None if end is None else end - int(time.time()))[0]
        return bool(target.write("cas", key, newer, token, expiry))


def _is_mine(found: object, lease: _Mark) -> bool:
    return isinstance(found, _Mark) and (found.flags, found.text) == (LEASE, lease.text)


def _is_deletion(found: object) -> bool:
    return isinstance(found, _Mark) and found.flags == TOMBSTONE


def _value_of(found: object) -> list[Any] | None:
    return found if isinstance(found, list) else None


def _restored(path: str) -> bytes:
    """Return in which of its lives a node was filled last."""
    try:
        with open(path + files.NODE_RESTORE, "rb") as file:  # noqa: PTH123 - as in nodes
            return file.read()
    except FileNotFoundError:
        return b""
