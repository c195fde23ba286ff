"""What becomes of sessions: which change would end them, and what a person is told of the store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.config.models import SessionEngine
from cluster_runtime.lasting import database_name, lasting, mark
from cluster_runtime.paths import is_within
from cluster_runtime.sessions import share_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cluster.config.models import ClusterConfig


class Fault(StrEnum):
    """What may happen to the stores of sessions."""

    MEMCACHED_NODE = "a memcached node killed"
    ALL_OF_MEMCACHED = "all of memcached killed at once"
    DATABASE = "the database restarted"


#: What an engine cannot survive, and why: the only faults that end sessions (with one node, each is all of memcached).
CANNOT_SURVIVE = {
    (SessionEngine.CACHE, Fault.ALL_OF_MEMCACHED): (
        "memcached alone has the sessions: when all nodes end at once, as with their machine, everybody is logged out."
    ),
}

#: From this part of a node's memory on `status` says that it gets full.
NEARLY = 0.8

#: From this part of a node's connections on `status` says so.
NEARLY_CONNECTED = 0.8


Said = Mapping[str, Any]


def _keeps(one: Said) -> str:
    """Return the engine in which a process keeps sessions: until all can follow, where its former release did."""
    return str(one["previous"] if one["stage"] == "follow" else one["engine"])


def ended_by(engine: str, previous: str, said: Iterable[Said | None]) -> str | None:
    """Return the engine whose sessions would be ended by instances that know `engine` and `previous`; None: none.

    said: what the processes that serve say of their sessions ({"engine", "previous", "stage", "memcached"}); None where
    one says nothing.
    """
    return next((_keeps(one) for one in said if one is not None and _keeps(one) not in (engine, previous)), None)


def refusal(
    config: ClusterConfig, said: Iterable[Said | None], left: Callable[[], Mapping[str, Any] | None] = lambda: None
) -> str | None:
    """Return why a stack must not come up as it is written: it would log users out; None where it would not.

    left: gives the report of `cluster_runtime.sessions.report`; asked only where `previous` is taken away.
    """
    sessions = config.sessions
    if sessions.discard:
        return None
    engine, previous = sessions.engine.value, sessions.previous.value if sessions.previous else ""
    told = [one for one in said if one is not None]
    ended = ended_by(engine, previous, told)
    if ended is not None and SessionEngine.PROJECT in (ended, engine):
        return (
            f"sessions.engine: sessions are in {_called(ended)} now, and with {_called(engine)} everybody would be "
            f"logged out, since nothing reads both; set `engine: {ended}` (or `discard: true`, if they shall end)"
        )
    if ended is not None:
        why = (
            "of the instances beside each other one would not see what the other one has stored or logged out"
            if share_rows(ended, engine)
            else f"with sessions.engine {engine} alone everybody would be logged out"
        )
        return (
            f"sessions.previous: sessions are in {ended} now, and {why}; set `previous: {ended}` "
            "(or `discard: true`, if they shall end)"
        )
    return _other_nodes(config, {engine, previous}, told) or _left_behind({engine, previous}, told, left)


def _called(engine: str) -> str:
    return "the project's own engine" if engine == SessionEngine.PROJECT else engine


def _other_nodes(config: ClusterConfig, known: set[str], told: list[Said]) -> str | None:
    """Return why the number of memcached nodes must stay as it is: which node has a session depends on it."""
    nodes = config.sessions.memcached.nodes
    for one in told:
        former = len(one.get("memcached") or ())
        if former and former != nodes and _keeps(one) == SessionEngine.CACHE and SessionEngine.CACHE.value in known:
            return (
                f"sessions.memcached.nodes: sessions are in memcached alone, on {former}, and with {nodes} many would "
                "be looked for where they are not; change `engine` to another with `previous: cache` first, then "
                "`nodes`, then `engine` back (or set `discard: true`, if they shall end)"
            )
    return None


def _left_behind(known: set[str], told: list[Said], left: Callable[[], Mapping[str, Any] | None]) -> str | None:
    """Return why `previous` must stay: sessions that were not used since are still in the former engine."""
    # Of those in the browsers nobody knows ever.
    known = {*known, "", SessionEngine.SIGNED_COOKIES.value}
    apart = [one for one in told if not share_rows(one["engine"], one["previous"])]
    former = next((one["previous"] for one in apart if one["previous"] not in known), None)
    if former is None:
        return None
    count = ((left() or {}).get(former) or {}).get("count")
    if count == 0:
        return None
    what = (
        f"nobody can say now how many sessions are still in {former} alone"
        if count is None
        else f"{count:,} sessions are still in {former} alone"
    )
    return (
        f"sessions.previous: {what}, and their users would be logged out; set `previous: {former}` again until "
        "`cluster status` says that it may go (or `discard: true`, if they shall end)"
    )


def refused_hiding(release: str, runtime: Mapping[str, Any], said: Iterable[Said | None]) -> str | None:
    """Return why a former release must not serve again: it would not see what its project has written since."""
    hidden = hidden_by(runtime.get("shared", ()), said)
    if hidden is None:
        return None
    return (
        f"app.shared: what the project writes to {hidden} is kept now, and release {release}, which does not share it, "
        "would hide it. Take the code back instead, and say `cluster up`"
    )


def refused_rollback(release: str, runtime: Mapping[str, Any], said: Iterable[Said | None]) -> str | None:
    """Return why a former release must not serve again; `runtime` is its configuration file."""
    sessions = runtime["sessions"]
    ended = ended_by(sessions["engine"], sessions.get("previous", ""), said)
    if ended is None:
        return None
    if SessionEngine.PROJECT in (ended, sessions["engine"]):
        return (
            f"release {release} does not read the sessions that are in {_called(ended)} now: everybody would be logged "
            f"out. Set `engine: {sessions['engine']}` and `discard: true` in the stack file, if they shall end"
        )
    return (
        f"release {release} does not read the sessions that are in {ended} now: everybody would be logged out. "
        f"Set `engine: {sessions['engine']}` and `previous: {ended}` in the stack file instead, and say `cluster up`"
    )


def discard_key(database: object) -> str:
    """Return the key of the stack file that lets data be left behind; database: which there is, empty for none."""
    return "database.discard" if database else "sessions.discard"


class Discard(NamedTuple):
    """What a release may leave behind: the sessions, and what the database and the shared paths hold."""

    sessions: bool
    data: bool

    @classmethod
    def of(cls, config: ClusterConfig) -> Discard:
        """Return what the stack file lets go."""
        return cls(config.sessions.discard, (config.database or config.sessions).discard)


@dataclass(frozen=True, kw_only=True)
class Lasting:
    """What users' sessions and data hang on, of who is to serve.

    keys: marks of the SECRET_KEY and its fallbacks. path: the directory of sessions in files. database: which it is;
    empty for the project's own. shared: the paths of the project that are kept outside the releases; None where the
    platform looks itself whether anything is in those that are given up.
    """

    keys: frozenset[str]
    path: str
    database: str
    shared: frozenset[str] | None = None

    @classmethod
    def of(cls, sessions_path: str, database: Mapping[str, Any] | None, secrets: Mapping[str, str]) -> Lasting:
        """Return it of a release's configuration and secrets."""
        keys = [secrets.get("secret_key", ""), *json.loads(secrets.get("secret_key_fallbacks") or "[]")]
        return cls(
            keys=frozenset(mark(str(key)) for key in keys if key),
            path=sessions_path,
            database=database_name(database, secrets.get("database_url")),
        )


def refused_loss(
    said: Iterable[Said | None], wanted: Lasting, *, discard_sessions: bool = False, discard_data: bool = False
) -> str | None:
    """Return why a release must not serve: its key, directory or database would end sessions or hide data."""
    for one in said:
        if one is None:
            continue
        words = None if discard_sessions else _ended_sessions(one, wanted)
        words = words or (None if discard_data else _hidden_data(one, wanted))
        if words:
            return words
    return None


def _ended_sessions(one: Said, wanted: Lasting) -> str | None:
    if one.get("key") and one["key"] not in wanted.keys:
        return (
            "secret_key: it is another than the one that signs now, and that one is not among secret_key_fallbacks: "
            "everybody would be logged out. Put it back (or pull the stack file, where somebody else has changed it), "
            "and change it by `cluster rotate-key` (or set `sessions.discard: true`, if all sessions shall end)"
        )
    if _keeps(one) == SessionEngine.FILE and one.get("path") and one["path"] != wanted.path:
        return (
            f"sessions.path: sessions are in {one['path']} now, and with {wanted.path} everybody would be logged out; "
            "set it back (or `sessions.discard: true`, if they shall end)"
        )
    return None


def hidden_by(shared: Iterable[str], said: Iterable[Said | None]) -> str | None:
    """Return what is kept now and would not be seen by a release that shares these paths; None where all would be."""
    known = list(shared)
    kept = (str(path) for one in said if one is not None for path in one.get("shared", ()))
    return next((path for path in kept if not is_within(path, known)), None)


def _hidden_data(one: Said, wanted: Lasting) -> str | None:
    hidden = None if wanted.shared is None else hidden_by(wanted.shared, [one])
    key = discard_key(wanted.database)
    if hidden is not None:
        return (
            f"app.shared: what the project writes to {hidden} is kept, and a release that does not share it would hide "
            f"it. Put {hidden} back, or set `{key}: true` for one `up`, if it may be left behind"
        )
    former = one.get("database")
    if not former or former == wanted.database:
        return None
    other = wanted.database or "the database of the project itself"
    return (
        f"database: the data is in {former} now, and {other} has none of it; set `cluster:database` back, "
        f"or copy the data over and set `{key}: true` for this release"
    )


def of_release(runtime: Mapping[str, Any], secrets: Mapping[str, str] | None = None) -> Said:
    """Return what instances of a release said of their sessions when it served last; `runtime`: its configuration."""
    sessions, known = runtime["sessions"], secrets or {}
    kept = {"engine": sessions["engine"], "previous": sessions.get("previous", ""), "stage": ""}
    return {
        **kept,
        "memcached": sessions.get("memcached", []),
        **lasting(
            sessions.get("path", ""),
            known.get("secret_key"),
            runtime.get("database"),
            known.get("database_url"),
            runtime.get("shared", ()),
        ),
    }


def lines(report: Mapping[str, Any], config: ClusterConfig) -> list[str]:
    """Return what a person is told of what `cluster_runtime.sessions.report` found."""
    engine, previous = report["engine"], report["previous"]
    found = [f"sessions in {engine}: {_amount(report[engine])}"]
    if previous:
        found.append(_former(previous, report[previous]))
    if report.get("too_large"):
        found.append(
            f"{report['too_large']:,} times a session was too large for memcached (1 MB) and was not stored there: "
            "keep less in sessions"
        )
    for node in {node["node"]: node for name in (engine, previous) if name for node in _nodes(report, name)}.values():
        found += _node(
            node, alone=SessionEngine.CACHE.value in (engine, previous), memory=str(config.sessions.memcached.memory)
        )
    return found


def _nodes(report: Mapping[str, Any], engine: str) -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = report[engine].get("nodes", [])
    return nodes


def _amount(found: Mapping[str, Any]) -> str:
    if found["count"] is None:
        return "nobody can count them"
    over = f", and {found['over']:,} that are over" if found.get("over") else ""
    return f"{found['count']:,}, {_size(found['bytes'])}{over}"


def _former(previous: str, found: Mapping[str, Any]) -> str:
    if found["count"] == 0:
        return f"still in {previous}: none; sessions.previous may go"
    if found["count"] is None:
        return (
            f"still in {previous}: nobody can count them; sessions.previous may go SESSION_COOKIE_AGE after the change"
        )
    return f"still in {previous}: {_amount(found)}; until they are used or over, sessions.previous must stay"


def _node(node: Mapping[str, Any], *, alone: bool, memory: str) -> list[str]:
    name = node["node"]
    if "error" in node:
        return [f"{name}: {node['error']}"]
    used = node["bytes"] / node["limit"]
    room = f"{_size(node['bytes'])} of {_size(node['limit'])} ({used:.0%})"
    connections = f"{node['connections']} of {node['most_connections']} connections"
    found = [f"{name}: {room}, {connections}, {node['evicted']:,} evicted"]
    if node["evicted"] and alone:
        found.append(f"{name}: sessions were dropped for want of room: raise sessions.memcached.memory above {memory}")
    elif used >= NEARLY and alone:
        found.append(f"{name} gets full, and will drop sessions: raise sessions.memcached.memory above {memory}")
    if node["refused"] or node["connections"] >= NEARLY_CONNECTED * node["most_connections"]:
        found.append(f"{name} runs out of connections: lower app.workers or app.threads")
    return found


def _size(count: int) -> str:
    value = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if value < 1024:  # noqa: PLR2004 - what a unit is
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


__all__ = [
    "CANNOT_SURVIVE",
    "Discard",
    "Fault",
    "Lasting",
    "ended_by",
    "lines",
    "of_release",
    "refusal",
    "refused_loss",
    "refused_rollback",
]
