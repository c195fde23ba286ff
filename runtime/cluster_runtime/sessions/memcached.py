"""The cache that holds sessions: several memcached nodes, values that are signed JSON, and no stale answer.

Each key has its nodes in an order of its own, by rendezvous hashing. With a database behind it (engine cached_db) the
first node alone holds it, and a node that is away is a miss. Without one (engine cache) the first two hold it, and each
answers for the other; a node that comes back is refilled from the others.

What a node holds is trusted only while every write to it has succeeded (see `nodes`): otherwise an instance that could
not store a session would leave the former one for the next instance to find, and a stale session is worse than a miss.
With a database behind it a node that missed a write is wholly distrusted. Without one that would end sessions that are
nowhere else (two nodes that stood still for a moment would be distrusted each because of the other): there the newer of
the two copies counts, by the time at which it was written, until the node has been refilled.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache

from cluster_runtime.sessions import compare_and_swap
from cluster_runtime.sessions import nodes as files
from cluster_runtime.sessions.connection import FAILURES, Node, expiry_of, ignore
from cluster_runtime.sessions.placeholders import (
    DURABLE_TOMBSTONE_SECONDS,
    LEASE_SECONDS,
    TOMBSTONE_SECONDS,
    Lease,
    Tombstone,
    written_at,
)
from cluster_runtime.sessions.refill import Refill
from cluster_runtime.sessions.rendezvous import Rendezvous
from cluster_runtime.sessions.signing import THERE, Signed

if TYPE_CHECKING:
    from collections.abc import Callable

#: What may be a key as it is; all else is hashed. memcached's own limit is 250 bytes, with what comes before it.
PLAIN_KEY = re.compile(r"[!-~]{1,200}").fullmatch

#: How many nodes hold a value that is nowhere else.
COPIES = 2

#: How many keys are asked for at once.
AT_ONCE = 100


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
        self._timeouts = {
            name: options[name] for name in ("connect_timeout", "timeout", "write_timeout") if name in options
        }
        self._durable = bool(options["durable"])
        self.paths = [path.removeprefix("unix:") for path in servers]
        self.copies = 1 if self._durable else min(COPIES, len(self.paths))
        self._rendezvous = Rendezvous(self.paths, self.copies)
        self._refill = Refill(self._rendezvous, self._node) if self.copies > 1 else None
        came_back = self._refill.begin if self._refill else ignore
        self.nodes = [self._node(path, came_back) for path in self.paths]
        self._by_path = {node.path: node for node in self.nodes}
        self._everybody = files.of_all(self.paths)

    def _node(self, path: str, came_back: Callable[[str], None] = ignore) -> Node:
        return Node(path, **self._timeouts, came_back=came_back, missed_write=self._missed_write)

    # --- where a key is

    def _on(self, node: Node, key: str) -> str:
        """Return a key as it is on a node."""
        return f"{node.state.get(files.GENERATION):x}:{key}" if self._durable else key

    def _places(self, key: str, version: int | None) -> list[tuple[Node, str]]:
        """Return the nodes of a key, and the key as it is on each."""
        full = self.make_key(key, version)
        if not PLAIN_KEY(full):
            full = hashlib.sha256(full.encode()).hexdigest()
        nodes = [self._by_path[path] for path in self._rendezvous.holders(full)]
        return [(node, self._on(node, full)) for node in nodes]

    def held(self, is_wanted: Callable[[str], bool]) -> set[str]:
        """Return the keys of the values that are held and trusted, on whichever node, of which `is_wanted` says so.

        Tombstones are no values: each key is asked for, many at a time.
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
        return expiry_of(timeout)

    # --- reading

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        """Return the value of `key`; one that does not verify is a miss."""
        return self.read(key, default, version)[0]

    def read(self, key: str, default: Any = None, version: int | None = None) -> tuple[Any, Any]:
        """Return the value of `key`, and a token by which `replace` need not look again; None where it must."""
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
                    compare_and_swap.fill(former, where, partial(compare_and_swap.value_at, node, place))
                return found[0], token if node is places[0][0] else None
            if isinstance(found, Tombstone):
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
                found.append((written_at(one), node, place, one))
                sure = sure or not node.is_doubtful()
            except FAILURES as error:
                failure = error
        if failure is not None and not sure:
            raise failure
        written, newest, _place, value = max(found, key=lambda one: one[0])
        for former, node, place, _one in found:
            if former < written:
                with contextlib.suppress(*FAILURES):  # said by the node
                    compare_and_swap.copy(place, newest, node)
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
        found = loaded() if self._is_split() else compare_and_swap.fill(node, place, loaded)
        return None if found is None else found[0]

    # --- writing

    def _signed(self, key: str, item: list[Any], version: int | None) -> object:
        """Sign a value once for all its copies; with a database behind it there is one, signed when it is sent."""
        return item if self._durable else Signed(self._places(key, version)[0][1], item)

    def _missed_write(self, path: str) -> None:
        """Say that a node has missed a write, for every instance."""
        if self._durable:
            files.distrust(path)
        elif self.copies > 1:
            files.doubt(path)

    def _write(self, places: list[tuple[Node, str]], write: Callable[[Node, str], Any]) -> list[Any]:
        """Write to all places; return the results of those that were reached.

        A node that was not reached has missed a write. Where none was reached and no database is behind them, the
        failure is raised instead: no node has anything newer, so none need be distrusted.
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
            node.missed_write()
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
            return compare_and_swap.exchange(node, place, item, expiry, over=lambda found: found is not THERE) is True

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
                return compare_and_swap.exchange(node, place, item, expiry, over, written)

            return self._write(places, put)

        found = exchange(lambda one: one is THERE)
        if any(isinstance(one, Tombstone) for one in found):
            self.delete(key, version)  # on the other node too, if it was stored there a moment before
            return False
        if True not in found:
            return False
        if not all(one is True for one in found):  # one has begun with nothing, or is just being filled
            exchange(lambda one: not isinstance(one, Tombstone))
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

    def begin(self, key: str, version: int | None = None) -> Lease | None:
        """Leave a lease before the database is written; return it, for `finish`. None where there could be none."""
        if self._is_split():
            return None
        ((node, place),) = self._places(key, version)
        lease = Lease.taken()
        try:
            node.write("set", place, lease, LEASE_SECONDS)
        except FAILURES:
            node.missed_write()
            return None
        return lease

    def finish(  # noqa: PLR0913 - a cache's, and what was read
        self,
        key: str,
        value: Any,
        timeout: Any = DEFAULT_TIMEOUT,
        version: int | None = None,
        *,
        lease: Lease | None = None,
        token: Any = None,
    ) -> None:
        """Store what the database has now, unless it has been written or deleted meanwhile: then it is read from there.

        lease: what `begin` gave. token: instead, what `read` gave before the database was written.
        Django's own engine stores in any case: a session that was logged out a moment before would live on here.
        """
        ((node, place),) = self._places(key, version)
        item = [value, self._expiry(timeout)[1], time.time_ns()]
        try:
            if lease is not None:
                found, token = node.read("gets", place)
                token = token if found == lease else None
            if token is None or not compare_and_swap.put(node, place, item, token):
                self.delete(key, version)
        except FAILURES:
            node.missed_write()

    def touch(self, key: str, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Let a value live on; tell whether there is one."""
        value = self.get(key, version=version)
        return value is not None and self.replace(key, value, timeout, version)

    def delete(self, key: str, version: int | None = None) -> bool:
        """Remove a value; tell whether there was one.

        A tombstone stays for a while: nobody stores what was read before.
        """
        places = self._places(key, version)
        there = False
        for node, place in places:
            with contextlib.suppress(*FAILURES):  # what can't be asked is told by the write
                there = there or isinstance(node.read("get", place), list)

        def bury(seconds: int) -> list[Any]:
            tombstone, (expiry, _end) = Tombstone.of_now(), expiry_of(seconds)
            return self._write(places, lambda node, place: node.write("set", place, tombstone, expiry))

        reached = bury(DURABLE_TOMBSTONE_SECONDS if self._durable else TOMBSTONE_SECONDS)
        if not self._durable and len(reached) < len(places):
            # What the other node still has is older than the tombstone, which so must outlive it.
            bury(settings.SESSION_COOKIE_AGE)
        return there

    def clear(self) -> None:
        """Remove all values of all nodes."""
        for node in self.nodes:
            node.write("flush_all")

    def close(self, **_kwargs: object) -> None:
        """Keep the connections after a request: the process has them for the next one."""

    # --- refilling nodes

    def restore(self) -> bool:
        """Begin to refill each node that may lack what it should hold; tell whether all have it already."""
        return self._refill is None or self._refill.begin_all()
