"""The engine cached_db: Django's, but that what was read from the database never replaces what is newer."""

from __future__ import annotations

from typing import Any

from django.contrib.sessions.backends.cached_db import SessionStore as CachedDBStore
from django.core.cache import caches

from cluster_runtime.sessions import CACHE_ALIAS
from cluster_runtime.sessions.asynchronous import Asynchronous


class SessionStore(Asynchronous, CachedDBStore):
    """Sessions in the database, read from memcached."""

    def __init__(self, session_key: str | None = None) -> None:
        super().__init__(session_key)
        self._cache: Any = caches[CACHE_ALIAS]

    def load(self) -> dict[str, Any]:
        """Return the session from memcached, else from the database."""
        data: dict[str, Any] | None = self._cache.get(self.cache_key)
        if data is None:
            data = self._cache.fill(self.cache_key, self._from_database)
        return {} if data is None else data

    def _from_database(self) -> tuple[dict[str, Any], int] | None:
        found = self._get_session_from_db()
        if found is None:
            return None
        return self.decode(found.session_data), self.get_expiry_age(expiry=found.expire_date)

    def delete_cached(self, session_key: str) -> None:
        """Remove what memcached has of a session; the database keeps it."""
        self._cache.delete(self.cache_key_prefix + session_key)
