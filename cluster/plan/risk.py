"""What of sessions and data a change ends, because the stack file lets it go: the same on every platform."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster.config.models import SessionEngine
from cluster.plan.costs import Cost
from cluster.sessions import Discard, lines, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from cluster.config import ClusterConfig
    from cluster.topology import Topology


def discarded(
    config: ClusterConfig,
    said: Iterable[Mapping[str, Any] | None],
    refused: Callable[[Discard], str | None],
) -> list[Cost]:
    """Return what it costs that the stack file lets sessions or data go: nothing where none would be lost.

    said: what the instances that serve say of their sessions. refused: why the wanted release must not serve, where
    this alone may be left behind.
    """
    may = Discard.of(config)
    if not any(may) or refused(may) is not None:
        return []
    sessions = config.sessions.model_copy(update={"discard": False})
    kept = config.model_copy(update={"sessions": sessions})
    ended = may.sessions and (
        refusal(kept, list(said), lambda: None) is not None or refused(Discard(sessions=False, data=True)) is not None
    )
    left = may.data and refused(Discard(sessions=True, data=False)) is not None
    return [*([Cost.LOGGED_OUT] if ended else []), *([Cost.DATA_LEFT] if left else [])]


def empties_the_only_node(topology: Topology, emptied: Sequence[str]) -> bool:
    """Tell whether the only place where sessions are is emptied; `emptied`: nodes that lose what they hold."""
    sessions = topology.config.sessions
    alone = SessionEngine.CACHE in (sessions.engine, sessions.previous)
    return alone and bool(emptied) and topology.memcached_nodes == 1


def at_risk(report: Mapping[str, Any] | None, config: ClusterConfig) -> str:
    """Return how many sessions end, in words. report: what an instance says of the session store."""
    return "nobody can count them" if not report else lines(report, config)[0]
