"""Django's session settings for each engine of the stack file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster_runtime.config import Sessions

#: The cache aliases that sessions use, with a database behind it and without; the project's own stay the project's.
CACHE_ALIAS, ONLY_CACHE_ALIAS = "cluster_sessions", "cluster_sessions_only"

ENGINES = {
    "db": "cluster_runtime.sessions.db",
    "cached_db": "cluster_runtime.sessions.cached_db",
    "cache": "cluster_runtime.sessions.cache",
    "file": "cluster_runtime.sessions.file",
    "signed_cookies": "cluster_runtime.sessions.signed_cookies",
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

#: The engine's cache alias.
ALIASES = {"cached_db": CACHE_ALIAS, "cache": ONLY_CACHE_ALIAS}

#: Seconds until a memcached node counts as dead, to connect, to read and to write: it is a socket of this machine.
#: Where nothing is behind it more patience is better than to do without a node that is only slow.
CONNECT_TIMEOUT, READ_TIMEOUT, PATIENT_READ_TIMEOUT, WRITE_TIMEOUT = 0.1, 0.1, 0.5, 0.5


def settings_for(sessions: Sessions, caches: dict[str, Any] | None) -> dict[str, Any]:
    """Return the settings that make Django keep sessions as `sessions` says; `caches` are the project's own CACHES."""
    if sessions.engine == PROJECT:
        return {"CLUSTER_SESSION_ENGINES": (PROJECT,)}
    engines = [engine for engine in (sessions.engine, sessions.previous) if engine]
    settings: dict[str, Any] = {
        "SESSION_ENGINE": BRIDGE if sessions.previous else ENGINES[sessions.engine],
        "CLUSTER_SESSION_ENGINES": tuple(engines),
    }
    if "file" in engines:
        settings["SESSION_FILE_PATH"] = sessions.path
    aliases = {ALIASES[engine]: engine == "cached_db" for engine in engines if engine in ALIASES}
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
