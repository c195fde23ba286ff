"""Putting a value in the place of what was read, on one node: nothing that came in between is overwritten.

memcached gives what it has with a token ("gets") and stores by it ("cas") only while nobody else has stored. `place` is
a key as it is on the node; a value is a list, of which the second is when it ends and the third when it was written.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from pymemcache.exceptions import MemcacheError

from cluster_runtime.sessions.connection import FAILURES, expiry_of
from cluster_runtime.sessions.placeholders import LEASE_SECONDS, TOMBSTONE_SECONDS, Lease, Tombstone, written_at
from cluster_runtime.sessions.signing import THERE, TooLarge

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_runtime.sessions.connection import Node

logger = logging.getLogger("cluster.sessions")

#: How often a write is tried again that found something else than a moment before.
TRIES = 20


def fill(node: Node, place: str, load: Callable[[], list[Any] | None]) -> list[Any] | None:
    """Leave a lease, load, and put the value in the lease's place: a write or deletion in between removes it."""
    token = None
    lease = Lease.taken()
    try:
        if node.write("add", place, lease, LEASE_SECONDS):
            found, cas = node.read("gets", place)
            token = cas if found == lease else None
    except FAILURES:
        token = None  # said once by the node
    value = load()
    if value is None or token is None:
        return value
    put(node, place, value, token)
    return value


def put(node: Node, place: str, value: list[Any], token: Any) -> bool:
    """Put a value in the place of what had `token`; False where that is gone, or the value is over already."""
    seconds = 0 if value[1] is None else value[1] - int(time.time())
    if value[1] is not None and seconds <= 0:
        return False
    try:
        return bool(node.write("cas", place, value, token, expiry_of(seconds or None)[0]))
    except FAILURES:
        node.missed_write()  # nobody knows whether it was stored, and when
    except TooLarge as error:
        logger.warning("%s", error)
    return False


def exchange(  # noqa: PLR0913, PLR0917 - what and where
    node: Node, place: str, item: object, expiry: int, over: Callable[[object], bool], written: int = 0
) -> Any:
    """Put `item` over what is there, if `over`, asked with that, allows it; return True, or else what is there.

    expiry: as memcached takes it. written: when `item` was written; given where of two values the newer one
    stays, so that both copies are the same in the end.
    """
    for _try in range(TRIES):
        found, token = node.read("gets", place) if written else node.peek(place)
        newer = written_at(found) > written > 0
        found = THERE if token is not None and not isinstance(found, Lease | Tombstone) else found
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


def copy(place: str, source: Node, target: Node) -> bool:
    """Give `target` what `source` has, if it is newer than what it has itself; tell whether it was."""
    found, token = target.read("gets", place)
    if token is None:
        return fill(target, place, partial(value_at, source, place)) is not None
    newer = source.read("get", place)
    if isinstance(found, Lease):
        return False  # another one is just about to store it
    if written_at(newer) <= written_at(found):
        return False
    end = newer[1] if isinstance(newer, list) else int(time.time()) + TOMBSTONE_SECONDS
    expiry, _end = expiry_of(None if end is None else end - int(time.time()))
    return bool(target.write("cas", place, newer, token, expiry))


def value_at(node: Node, place: str) -> list[Any] | None:
    """Return the value that a node has; None where it has none."""
    found = node.read("get", place)
    return found if isinstance(found, list) else None
