"""Lets a session that is deleted from the database end: memcached, which is read first, forgets it too."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig, apps

from cluster_runtime.sessions import CACHE_ALIAS

#: How the overlay names the app, and the app whose rows it looks at.
APP, ROWS = "cluster_runtime.sessions.rows.Rows", "django.contrib.sessions"


class Rows(AppConfig):
    """An app without models, since Django has no other place for what listens in every process."""

    name = "cluster_runtime.sessions"
    label = "cluster_sessions"

    def ready(self) -> None:
        """Listen to deletions by the ORM: the admin's, a query's, a view that logs somebody out everywhere.

        What another program deletes by SQL of its own, nobody tells.
        """
        from django.db.models.signals import post_delete  # noqa: PLC0415 - after the settings

        if apps.is_installed(ROWS):
            post_delete.connect(_forget, sender=apps.get_model("sessions", "Session"), dispatch_uid=APP)


def _forget(instance: Any, using: str, **_kwargs: object) -> None:
    from django.core.cache import caches  # noqa: PLC0415 - after the settings
    from django.db import transaction  # noqa: PLC0415

    from cluster_runtime.sessions.cached_db import SessionStore  # noqa: PLC0415

    key = SessionStore.cache_key_prefix + instance.session_key
    # Before that the row is still there for everybody else, and would be read into memcached again.
    transaction.on_commit(lambda: caches[CACHE_ALIAS].delete(key), using=using)
