"""The engine db: Django's, but that what can't be a key is asked of no database."""

from __future__ import annotations

from django.contrib.sessions.backends.db import SessionStore as DBStore

from cluster_runtime.sessions.asynchronous import Asynchronous
from cluster_runtime.sessions.keys import Keyed


class SessionStore(Asynchronous, Keyed, DBStore):
    """Sessions in the database."""
