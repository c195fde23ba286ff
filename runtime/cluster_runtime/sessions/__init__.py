"""Django's session settings for each engine of the stack file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster_runtime.config import Sessions

#: The cache alias that sessions use; the project's own aliases stay the project's.
CACHE_ALIAS = "cluster_sessions"

ENGINES = {
    "db": "django.contrib.sessions.backends.db",
    "cached_db": "django.contrib.sessions.backends.cached_db",
    "cache": "django.contrib.sessions.backends.cache",
    "file": "django.contrib.sessions.backends.file",
    "signed_cookies": "django.contrib.sessions.backends.signed_cookies",
}

#: Seconds until a memcached node counts as dead, to connect and to answer: it is a socket of this machine.
CONNECT_TIMEOUT = 0.1
ANSWER_TIMEOUT = 0.5


def settings_for(sessions: Sessions, caches: dict[str, Any] | None) -> dict[str, Any]:
    """Return the settings that make Django keep sessions as `sessions` says; `caches` are the project's own CACHES."""
    settings: dict[str, Any] = {"SESSION_ENGINE": ENGINES[sessions.engine]}
    if sessions.engine == "file":
        settings["SESSION_FILE_PATH"] = sessions.path
    if sessions.engine in ("cache", "cached_db"):
        settings["SESSION_CACHE_ALIAS"] = CACHE_ALIAS
        settings["CACHES"] = {
            **(caches or {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}),
            CACHE_ALIAS: {
                "BACKEND": "cluster_runtime.sessions.memcached.SessionCache",
                "LOCATION": [f"unix:{path}" for path in sessions.memcached],
                "OPTIONS": {
                    "connect_timeout": CONNECT_TIMEOUT,
                    "timeout": ANSWER_TIMEOUT,
                    "durable": sessions.engine == "cached_db",
                },
            },
        }
    return settings
