"""What a stack would leave behind of one that serves as another file says: sessions, and what its database holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster.config.models import DatabaseEngine, SessionEngine
from cluster.plan.costs import Cost
from cluster.plan.side import runtime_paths
from cluster.release import runtime_config
from cluster.sessions import Discard, Lasting, of_release, refusal, refused_loss
from cluster.source import shared_paths
from cluster_runtime.paths import is_within

if TYPE_CHECKING:
    from cluster.plan.side import Side


def losses(old: Side, new: Side) -> tuple[list[str], list[Cost], list[str]]:
    """Return why `up` would refuse a stack where the former one serves, what it costs, and what nobody knows here."""
    said = [of_release(_runtime(old), {})]
    wanted = _runtime(new)
    lasting = Lasting.of(wanted["sessions"]["path"], wanted["database"], {})
    may = Discard.of(new.config)
    # As if nothing were let go, and as if all had moved on from the engine before.
    kept = new.config.model_copy(update={"sessions": new.config.sessions.model_copy(update={"discard": False})})
    moved = {engine.value: {"count": 0} for engine in SessionEngine}
    ended = refusal(kept, said, lambda: moved) or refused_loss(said, lasting, discard_data=True)
    left = refused_loss(said, lasting, discard_sessions=True)
    refused, costs, unknown = [], list[Cost](), list[str]()
    for words, let_go, cost in ((ended, may.sessions, Cost.LOGGED_OUT), (left, may.data, Cost.DATA_LEFT)):
        if words is not None and let_go:
            costs.append(cost)
        elif words is not None:
            refused.append(words)
    if _leaves_own(old, new):
        costs.append(Cost.DATA_LEFT)
    if ended is None and not may.sessions and refusal(kept, said) is not None:
        unknown.append(
            "whether sessions are still in the former engine alone: `up` refuses then to take `previous` away"
        )
    given_up = [path for path in shared_paths(old.config) if not is_within(path, shared_paths(new.config))]
    if given_up:
        unknown.append(f"whether anything is kept in {', '.join(given_up)}, no longer shared: `up` refuses then")
    if DatabaseEngine.EXTERNAL in {side.config.database.engine for side in (old, new) if side.config.database}:
        unknown.append("which database database_url names")
    return refused, costs, unknown


def _runtime(side: Side) -> dict[str, Any]:
    return runtime_config(side.config, runtime_paths(side.topology), "")


def _leaves_own(old: Side, new: Side) -> bool:
    """Tell whether the database of the project's own settings is another one from now on."""
    if old.config.database is not None:
        return False  # it is the cluster's, and judged as that
    if new.config.database is not None:
        return True
    before, after = _named(old), _named(new)
    return None not in (before, after) and before != after


def _named(side: Side) -> tuple[str, ...] | None:
    """Return which database the project's own settings name; None where they don't say it plainly."""
    source = side.code.spec.source if side.code is not None else None
    databases: Any = source.settings.known("DATABASES") if source is not None else None
    default = databases.get("default") if isinstance(databases, dict) else None
    if source is None or not isinstance(default, dict):
        return None
    return tuple(
        str(default.get(name) or "").removeprefix(f"{source.project}/") for name in ("ENGINE", "NAME", "HOST", "PORT")
    )
