"""Tells what a stack keeps on one host, and would not find on the one where it is to be now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.config.models import DatabaseEngine, SessionEngine
from cluster.sessions import Discard, discard_key
from cluster.source import shared_paths
from platforms.remote import broker, filesystem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cluster.topology import Topology
    from platforms.remote.looked import Looked, Seen


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What is kept on a host. key: in the stack file. kind: as a host says it. discard: what lets it be left behind.

    may: whether that is said.
    """

    key: str
    what: str
    kind: str
    host: str
    discard: str
    may: bool


def misplaced(topology: Topology, seen: Seen, elsewhere: Callable[[], Iterable[Looked]]) -> str | None:
    """Return why a release must not serve: another host has what it needs; None where all is where it should be.

    elsewhere: looks at the hosts that the stack file does not name any more, as far as they are known and answer.
    """
    data_may = Discard.of(topology.config).data
    refused = filesystem.left(seen, may=data_may)
    if refused is not None:
        return refused
    for part in _parts(topology, seen):
        if part.may or _has(seen.each[part.host], part.kind):
            continue
        holder = next(_holders(part, topology, seen, elsewhere), None)
        if holder is None and part.kind == "database" and _is_asked(topology, seen):
            holder = "another machine of that name"
        if holder is None and part.kind == "broker" and _asks_broker(seen):
            holder = "a host that does not answer, or another machine of that name"
        if holder is not None:
            return (
                f"{part.key}: {holder} has {part.what}, and {part.host}, where it is to be now, has none: put the role "
                f"or the address back, or set `{part.discard}: true` for one `up`, and copy the data over"
            )
    return None


def let_go(topology: Topology, seen: Seen, elsewhere: Callable[[], Iterable[Looked]]) -> dict[str, list[str]]:
    """Return which kinds hosts keep that the stack file lets be left behind, by their names: nobody asks again.

    elsewhere: as above.
    """
    found: dict[str, list[str]] = {}
    for part in _parts(topology, seen):
        for holder in _holders(part, topology, seen, elsewhere) if part.may else ():
            found.setdefault(holder, []).append(part.kind)
    return found


def _holders(part: _Part, topology: Topology, seen: Seen, elsewhere: Callable[[], Iterable[Looked]]) -> Iterator[str]:
    """Yield the other hosts that have it, and have not been left with it before; those that are named come first."""
    # What a host has itself of what all share is copied there.
    shares = topology.config.app.shared_filesystem is not None and part.kind == "shared"
    gathered = seen.placement.hosts if shares else ()
    named = [looked for name, looked in seen.each.items() if name != part.host and name not in gathered]
    for looked in (*named, *elsewhere()):
        if _has(looked, part.kind) and part.kind not in (looked.stack or {}).get("let_go", ()):
            yield looked.host


def _parts(topology: Topology, seen: Seen) -> Iterator[_Part]:
    config, placement = topology.config, seen.placement
    sessions_key, data_key = discard_key(None), discard_key(config.database)
    sessions_may, data_may = Discard.of(config)
    leader = placement.leader
    if config.database is not None and config.database.engine is DatabaseEngine.SQLITE:
        yield _Part(key="database", what="the data (sqlite)", kind="data", host=leader, discard=data_key, may=data_may)
    if topology.config.makes_postgres and placement.database is not None:
        what, host = "the data (PostgreSQL)", placement.database
        yield _Part(key="database", what=what, kind="database", host=host, discard=data_key, may=data_may)
    if shared_paths(config):
        what = "what the project has written"
        yield _Part(key="app.shared", what=what, kind="shared", host=leader, discard=data_key, may=data_may)
    if config.broker is not None:
        host, may = placement.host_of[broker.service_of(topology).name], config.broker.discard
        yield _Part(key="broker", what="jobs", kind="broker", host=host, discard="broker.discard", may=may)
    if SessionEngine.FILE in (config.sessions.engine, config.sessions.previous):
        what = "the sessions"
        yield _Part(key="sessions", what=what, kind="sessions", host=leader, discard=sessions_key, may=sessions_may)


def _has(looked: Looked, kind: str) -> bool:
    stack: dict[str, Any] = dict(looked.stack or {})
    return stack.get("database") is not None if kind == "database" else kind in stack.get("kept", ())


def _is_asked(topology: Topology, seen: Seen) -> bool:
    """Tell whether what serves has its data in a database that was made."""
    told = seen.live.served(topology.names)
    return any(str((one or {}).get("database", "")).startswith("postgres ") for one in told)


def _asks_broker(seen: Seen) -> bool:
    """Tell whether what serves puts its jobs into a broker that other hosts ask."""
    return any((looked.stack or {}).get("asks_broker") for looked in seen.each.values())
