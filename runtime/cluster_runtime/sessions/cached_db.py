"""The engine cached_db: Django's, but that what memcached has is never older than what the database has."""

from __future__ import annotations

from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.backends.cached_db import SessionStore as CachedDBStore
from django.contrib.sessions.backends.db import SessionStore as DBStore
from django.core.cache import caches
from django.db import router, transaction
from django.utils import timezone

from cluster_runtime.sessions import CACHE_ALIAS
from cluster_runtime.sessions.asynchronous import Asynchronous
from cluster_runtime.sessions.keys import Keyed


class SessionStore(Asynchronous, Keyed, CachedDBStore):
    """Sessions in the database, read from memcached."""

    def __init__(self, session_key: str | None = None) -> None:
        super().__init__(session_key)
        self._cache: Any = caches[CACHE_ALIAS]
        self._token: Any = None

    def load(self) -> dict[str, Any]:
        """Return the session from memcached, else from the database."""
        if self.session_key is None:
            return {}
        data: dict[str, Any] | None
        data, self._token = self._cache.read(self.cache_key)
        if data is None:
            data = self._cache.fill(self.cache_key, self._from_database)
        return {} if data is None else data

    def _from_database(self) -> tuple[dict[str, Any], int] | None:
        found = self._get_session_from_db()
        if found is None:
            return None
        return self.decode(found.session_data), self.get_expiry_age(expiry=found.expire_date)

    def save(self, must_create: bool = False) -> None:
        """Store the session in the database, and then in memcached unless somebody else has written it meanwhile."""
        if self.session_key is None:
            self.create()
            return
        key = self.cache_key
        data = dict(self._get_session(no_load=must_create))
        token, self._token = self._token, None  # good for one save: what it stores has another
        lease = self._cache.begin(key) if token is None else None
        try:
            DBStore.save(self, must_create)
        except UpdateError:
            # The database does not know it any more, as one that was set back or left behind: else memcached would
            # give it out again, and each request of its user be refused, until it is over there.
            self._cache.delete(key)
            raise
        age = self.get_expiry_age()
        # Nobody may read what a transaction has not committed.
        transaction.on_commit(
            lambda: self._cache.finish(key, data, age, lease=lease, token=token),
            using=router.db_for_write(self.model),
        )

    @classmethod
    def clear_expired(cls) -> None:
        """Remove the rows of sessions that are over; memcached forgets them by itself, and need not be told of each."""
        model = cls.get_model_class()
        over = model.objects.using(router.db_for_write(model)).filter(expire_date__lt=timezone.now())
        over._raw_delete(over.db)  # noqa: SLF001 - Django has no other way without signals

    @classmethod
    async def aclear_expired(cls) -> None:
        """As clear_expired."""
        await sync_to_async(cls.clear_expired)()

    def delete_cached(self, session_key: str) -> None:
        """Remove what memcached has of a session; the database keeps it."""
        self._cache.delete(self.cache_key_prefix + session_key)
