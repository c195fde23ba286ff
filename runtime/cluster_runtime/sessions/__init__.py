"""Django's session settings for each engine of the stack file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cluster_runtime.config import Sessions

#: The cache aliases that sessions use, with a database behind it and without; the project's own stay the project's.
CACHE_ALIAS, ONLY_CACHE_ALIAS = "cluster_sessions", "cluster_sessions_only"

#: django.contrib.sessions' table.
DJANGO_TABLE = "django_session"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What a session engine is.

    store: the module of its SessionStore.
    table: of the database, whose rows its sessions are; engines of one table have the same sessions.
    alias: of the cache that it keeps them in. app: what must be among INSTALLED_APPS for it, whatever the project has.
    """

    store: str
    table: str = ""
    alias: str = ""
    app: str = ""


#: The engines of the stack file, all but the project's own.
ENGINES: Mapping[str, Engine] = {
    "db": Engine(store="cluster_runtime.sessions.db", table=DJANGO_TABLE),
    "cached_db": Engine(
        store="cluster_runtime.sessions.cached_db",
        table=DJANGO_TABLE,
        alias=CACHE_ALIAS,
        # Whoever deletes a session's row ends it: memcached must hear of it.
        app="cluster_runtime.sessions.rows.Rows",
    ),
    "cache": Engine(store="cluster_runtime.sessions.cache", alias=ONLY_CACHE_ALIAS),
    "file": Engine(store="cluster_runtime.sessions.file"),
    "signed_cookies": Engine(store="cluster_runtime.sessions.signed_cookies"),
}

#: The stack file's word for an engine of the project's own, with all that its settings say of sessions.
PROJECT = "project"

#: The engine whose sessions are nowhere but in the browsers.
COOKIES = "signed_cookies"

#: Seconds for which a session that was moved into a cookie stays where it was before: requests that began with the
#: former cookie may still be on their way.
LEFT_SECONDS = 600

#: What reads a former engine's sessions too.
BRIDGE = "cluster_runtime.sessions.bridge"

#: Seconds until a memcached node counts as dead, to connect, to read and to write: it is a socket of this machine.
#: Where nothing is behind it more patience is better than to do without a node that is only slow.
CONNECT_TIMEOUT, READ_TIMEOUT, PATIENT_READ_TIMEOUT, WRITE_TIMEOUT = 0.1, 0.1, 0.5, 0.5


def table_of(engine: str) -> str:
    """Return the table of the database whose rows an engine's sessions are; empty for none, and where nobody knows."""
    return ENGINES[engine].table if engine in ENGINES else ""


def share_rows(one: str, other: str) -> bool:
    """Tell whether the sessions of two engines are the same rows: each reads and ends what the other has stored."""
    return one != other and bool(table_of(one)) and table_of(one) == table_of(other)


def apps_for(engines: Iterable[str]) -> list[str]:
    """Return what must be among INSTALLED_APPS for these engines."""
    return [ENGINES[engine].app for engine in engines if engine in ENGINES and ENGINES[engine].app]


def settings_for(sessions: Sessions, caches: dict[str, Any] | None) -> dict[str, Any]:
    """Return the settings that make Django keep sessions as `sessions` says; `caches` are the project's own CACHES."""
    if sessions.engine == PROJECT:
        return {"CLUSTER_SESSION_ENGINES": (PROJECT,)}
    engines = [engine for engine in (sessions.engine, sessions.previous) if engine]
    settings: dict[str, Any] = {
        "SESSION_ENGINE": BRIDGE if sessions.previous else ENGINES[sessions.engine].store,
        "CLUSTER_SESSION_ENGINES": tuple(engines),
    }
    if "file" in engines:
        settings["SESSION_FILE_PATH"] = sessions.path
    # What has a database behind it may do without a node for a while.
    aliases = {ENGINES[engine].alias: bool(table_of(engine)) for engine in engines if ENGINES[engine].alias}
    if aliases:
        settings["SESSION_CACHE_ALIAS"] = next(iter(aliases))
        settings["CACHES"] = {
            **(caches or {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}),
            **{alias: _cache(sessions, durable=durable) for alias, durable in aliases.items()},
        }
    return settings


def _cache(sessions: Sessions, *, durable: bool) -> dict[str, Any]:
    return {
        "BACKEND": "cluster_runtime.sessions.memcached.SessionCache",
        "LOCATION": [f"unix:{path}" for path in sessions.memcached],
        "OPTIONS": {
            "connect_timeout": CONNECT_TIMEOUT,
            "timeout": READ_TIMEOUT if durable else PATIENT_READ_TIMEOUT,
            "write_timeout": WRITE_TIMEOUT,
            "durable": durable,
        },
    }
