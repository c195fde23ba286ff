"""The engine cache: Django's, but that a store which does not answer is an error and not the end of a session."""

from __future__ import annotations

from typing import Any

from django.contrib.sessions.backends.cache import SessionStore as CacheStore
from django.core.cache import caches

from cluster_runtime.sessions import ONLY_CACHE_ALIAS
from cluster_runtime.sessions.asynchronous import Asynchronous


class SessionStore(Asynchronous, CacheStore):
    """Sessions in memcached alone, each on two nodes."""

    def __init__(self, session_key: str | None = None) -> None:
        super().__init__(session_key)
        self._cache = caches[ONLY_CACHE_ALIAS]

    def load(self) -> dict[str, Any]:
        """Return the session; OSError where no node that could have it answers."""
        data: dict[str, Any] | None = self._cache.get(self.cache_key)
        if data is None:
            self._session_key = None
            return {}
        return data
