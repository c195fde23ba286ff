"""How many sessions there are, what room they take, and how near their store is to its limits."""

from __future__ import annotations

import contextlib
from importlib import import_module
from pathlib import Path
from typing import Any

from cluster_runtime.sessions import ENGINES, nodes, share_rows
from cluster_runtime.sessions.ended import not_ended as living

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

    What was moved into a cookie a while ago is not counted where it was.
    age: seconds for which what was signed is valid. too_large: how many were refused as larger than memcached takes.
    Each engine: {"count": …, "bytes": …}, None where nobody can say; memcached also {"nodes": [{"node", "sessions",
    "bytes", "limit", "evicted", "connections", "most_connections", "refused"}]}, or "error" for a node that is away.
    """
    from django.conf import settings  # noqa: PLC0415 - after the settings

    engine, *former = settings.CLUSTER_SESSION_ENGINES
    found: dict[str, Any] = {
        "engine": engine,
        "previous": former[0] if former else "",
        "age": max(settings.SESSION_COOKIE_AGE, settings.PASSWORD_RESET_TIMEOUT),
        "too_large": _too_large(),
        engine: _of(engine),
    }
    if former:
        found[former[0]] = _of(former[0])
        if share_rows(engine, former[0]):
            found[former[0]] |= {"count": 0, "bytes": 0}
    return found


def _of(engine: str) -> dict[str, Any]:
    known = ENGINES.get(engine)
    if known is not None and known.table:
        return {**_rows(known.store), **({"nodes": _nodes(known.alias)} if known.alias else {})}
    if engine == "cache":
        return _copies()
    if engine == "file":
        return _files()
    return {"count": None, "bytes": None}  # in the browsers, or wherever the project keeps them


def _copies() -> dict[str, Any]:
    from django.core.cache import caches  # noqa: PLC0415 - after the settings

    from cluster_runtime.sessions import ONLY_CACHE_ALIAS  # noqa: PLC0415
    from cluster_runtime.sessions.cache import SessionStore  # noqa: PLC0415
    from cluster_runtime.sessions.connection import FAILURES  # noqa: PLC0415
    from cluster_runtime.sessions.keys import is_key  # noqa: PLC0415

    cache: Any = caches[ONLY_CACHE_ALIAS]
    held = _nodes(ONLY_CACHE_ALIAS)

    def is_session(key: str) -> bool:
        return is_key(key.rpartition(SessionStore.cache_key_prefix)[2])

    count = None
    with contextlib.suppress(*FAILURES):  # of a node that is away nobody knows what it holds
        # What else is there is cached_db's, of which the database has the whole.
        names = (key.rpartition(SessionStore.cache_key_prefix)[2] for key in cache.held(is_session))
        count = sum(1 for _key in living(names))
    taken = None if any("error" in node for node in held) else sum(node["bytes"] for node in held) // cache.copies
    return {"count": count, "bytes": taken, "nodes": held}


def _rows(store: str) -> dict[str, Any]:
    """Look at the rows of an engine, by the module of its store."""
    from django.db.models import Sum  # noqa: PLC0415 - after the settings
    from django.db.models.functions import Length  # noqa: PLC0415
    from django.utils import timezone  # noqa: PLC0415

    Session = import_module(store).SessionStore.get_model_class()  # noqa: N806 - a class
    now = timezone.now()
    rows = Session.objects.filter(expire_date__gt=now)
    count = sum(1 for _key in living(rows.values_list("session_key", flat=True).iterator()))
    taken = rows.aggregate(bytes=Sum(Length("session_data")))["bytes"]
    over = Session.objects.filter(expire_date__lte=now).count()
    return {"count": count, "bytes": taken or 0, "over": over}


def _files() -> dict[str, Any]:
    from django.conf import settings  # noqa: PLC0415 - after the settings

    from cluster_runtime.sessions.file import SessionStore  # noqa: PLC0415

    directory, prefix, sizes = Path(settings.SESSION_FILE_PATH), settings.SESSION_COOKIE_NAME, []
    names = (path.name.removeprefix(prefix) for path in directory.iterdir() if path.name.startswith(prefix))
    for key in living(names):
        if SessionStore().read(key) is not None:
            with contextlib.suppress(FileNotFoundError):  # it has just ended
                sizes.append((directory / f"{prefix}{key}").stat().st_size)
    return {"count": len(sizes), "bytes": sum(sizes)}


def _nodes(alias: str) -> list[dict[str, Any]]:
    from django.core.cache import caches  # noqa: PLC0415 - after the settings

    cache: Any = caches[alias]
    return [_node(node) for node in cache.nodes]


def _too_large() -> int:
    from django.conf import settings  # noqa: PLC0415 - after the settings

    paths = [path for cache in settings.CACHES.values() for path in _paths(cache)]
    return sum(nodes.state(path).get(nodes.TOO_LARGE) for path in set(paths))


def _paths(cache: dict[str, Any]) -> list[str]:
    ours = str(cache.get("BACKEND", "")).startswith("cluster_runtime.")
    return [path.removeprefix("unix:") for path in cache["LOCATION"]] if ours else []


def _node(node: Any) -> dict[str, Any]:
    name = Path(node.path).name.removesuffix(".sock")
    try:
        stats, limits = node.read("stats"), node.read("stats", "settings")
    except BlockingIOError:  # by the socket's own time-out
        return {"node": name, "error": "it does not answer in time"}
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is told
        return {"node": name, "error": f"{type(error).__name__}: {error}"}
    found = {what: int(stats[key.encode()]) for what, key in STATS.items()}
    return {"node": name, **found, "most_connections": int(limits[b"maxconns"])}
