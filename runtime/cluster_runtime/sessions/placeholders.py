"""What stands in a value's place on a memcached node: a lease, or a tombstone. Neither is a value to who reads.

A deletion leaves a tombstone for a while, and who stores what was read elsewhere leaves a lease before reading: so that
nothing that was deleted or written meanwhile is replaced by what was there before.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

#: pymemcache's flags of what is stored.
VALUE, LEASE, TOMBSTONE = 1, 2, 3

#: Seconds that somebody has to store what was read elsewhere.
LEASE_SECONDS = 10

#: Seconds for which a deletion is remembered: with a database behind it, which has the last word, and without one. No
#: request that has read a session before should last longer.
DURABLE_TOMBSTONE_SECONDS, TOMBSTONE_SECONDS = 10, 3600


@dataclass(frozen=True)
class Lease:
    """Somebody is about to store a value here. text: whose lease it is."""

    text: bytes
    flags = LEASE

    @classmethod
    def taken(cls) -> Lease:
        """Return a lease that nobody else has."""
        return cls(uuid.uuid4().bytes)


@dataclass(frozen=True)
class Tombstone:
    """A value was deleted here. text: when, nanoseconds since 1970."""

    text: bytes
    flags = TOMBSTONE

    @classmethod
    def of_now(cls) -> Tombstone:
        """Return the tombstone of a deletion at this moment."""
        return cls(str(time.time_ns()).encode())


#: The placeholders by pymemcache's flags.
PLACEHOLDERS: dict[int, type[Lease | Tombstone]] = {LEASE: Lease, TOMBSTONE: Tombstone}


def written_at(found: object) -> int:
    """Return when a value was written or deleted, nanoseconds; 0 for what says neither."""
    if isinstance(found, list):
        return int(found[2])
    if isinstance(found, Tombstone) and found.text.isdigit():
        return int(found.text)
    return 0
