"""How many sessions there are, what room they take, and how near their store is to its limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: What of memcached's `stats` and `stats settings` is told of a node.
STATS = {
    "sessions": "curr_items",
    "bytes": "bytes",
    "limit": "limit_maxbytes",
    "evicted": "evictions",
    "connections": "curr_connections",
    "refused": "listen_disabled_num",
}


def report() -> dict[str, Any]:
    """Return what the engine holds, and what the former one still holds, by its name.

    age: seconds for which what was signed is valid. Each engine: {"count": …, "bytes": …}, None where nobody can say;
    memcached also {"nodes": [{"node", "sessions", "bytes", "limit", "evicted", "connections", "most_connections",
    "refused"}]}, or "error" for a node that is away.
    """
    from django.conf import settings  # noqa: PLC0415 - after the settings

    engine, *former = settings.CLUSTER_SESSION_ENGINES
    found: dict[str, Any] = {
        "engine": engine,
        "previous": former[0] if former else "",
        "age": max(settings.SESSION_COOKIE_AGE, settings.PASSWORD_RESET_TIMEOUT),
        engine: _of(engine),
    }
    if former:
        found[former[0]] = _of(former[0])
        if {engine, former[0]} == {"db", "cached_db"}:
            found[former[0]] |= {"count": 0, "bytes": 0}  # both keep them in the same rows
    return found


def _of(engine: str) -> dict[str, Any]:
    if engine == "db":
        return _rows()
    if engine == "cached_db":
        return {**_rows(), "nodes": _nodes("cluster_sessions")}
    if engine == "cache":
        nodes = _nodes("cluster_sessions_only")
        copies = min(2, len(nodes))
        known = [node for node in nodes if "error" not in node]
        held, taken = (sum(node[what] for node in known) for what in ("sessions", "bytes"))
        # Of two nodes each has all; one that is away says nothing of what it holds.
        whole = len(known) == len(nodes)
        return {"count": held // copies if whole else None, "bytes": taken if whole else None, "nodes": nodes}
    if engine == "file":
        return _files()
    return {"count": None, "bytes": None}  # in the browsers


def _rows() -> dict[str, Any]:
    from django.contrib.sessions.models import Session  # noqa: PLC0415 - after the settings
    from django.db.models import Count, Sum  # noqa: PLC0415
    from django.db.models.functions import Length  # noqa: PLC0415
    from django.utils import timezone  # noqa: PLC0415

    living = Session.objects.filter(expire_date__gt=timezone.now())
    found = living.aggregate(count=Count("pk"), bytes=Sum(Length("session_data")))
    over = Session.objects.count() - found["count"]
    return {"count": found["count"], "bytes": found["bytes"] or 0, "over": over}


def _files() -> dict[str, Any]:
    from django.conf import settings  # noqa: PLC0415 - after the settings

    sizes = []
    for path in Path(settings.SESSION_FILE_PATH).iterdir():
        try:
            if path.name.startswith(settings.SESSION_COOKIE_NAME):
                sizes.append(path.stat().st_size)
        except FileNotFoundError:
            continue  # it has just ended
    return {"count": len(sizes), "bytes": sum(sizes)}


def _nodes(alias: str) -> list[dict[str, Any]]:
    from django.core.cache import caches  # noqa: PLC0415 - after the settings

    cache: Any = caches[alias]
    return [_node(node) for node in cache.nodes]


def _node(node: Any) -> dict[str, Any]:
    name = Path(node.path).name.removesuffix(".sock")
    try:
        stats, limits = node.read("stats"), node.read("stats", "settings")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is told
        return {"node": name, "error": f"{type(error).__name__}: {error}"}
    found = {what: int(stats[key.encode()]) for what, key in STATS.items()}
    return {"node": name, **found, "most_connections": int(limits[b"maxconns"])}
