"""The engine cache: Django's, but that a store which does not answer is an error and not the end of a session."""

from __future__ import annotations

from typing import Any

from django.contrib.sessions.backends.base import CreateError, UpdateError
from django.contrib.sessions.backends.cache import SessionStore as CacheStore
from django.core.cache import caches

from cluster_runtime.sessions import ONLY_CACHE_ALIAS
from cluster_runtime.sessions.asynchronous import Asynchronous
from cluster_runtime.sessions.keys import Keyed


class SessionStore(Asynchronous, Keyed, CacheStore):
    """Sessions in memcached alone, each on two nodes."""

    def __init__(self, session_key: str | None = None) -> None:
        super().__init__(session_key)
        self._cache: Any = caches[ONLY_CACHE_ALIAS]
        self._token: Any = None

    def load(self) -> dict[str, Any]:
        """Return the session; OSError where no node that could have it answers."""
        data: dict[str, Any] | None = None
        if self.session_key is not None:
            data, self._token = self._cache.read(self.cache_key)
        if data is None:
            self._session_key = None
            return {}
        return data

    def save(self, must_create: bool = False) -> None:
        """Store the session; UpdateError where it was deleted meanwhile."""
        if self.session_key is None:
            self.create()
            return
        data = self._get_session(no_load=must_create)
        if must_create:
            if not self._cache.add(self.cache_key, data, self.get_expiry_age()):
                raise CreateError
        else:
            token, self._token = self._token, None  # good for one save: what it stores has another
            if not self._cache.replace(self.cache_key, data, self.get_expiry_age(), token=token):
                raise UpdateError
