"""Two engines at once, while `sessions.previous` is set: nobody is logged out by a change of the engine.

Which engine is read and written when is told in `stage`. A session keeps its key, and so its cookie, between engines
that have one; to and from signed_cookies the cookie changes with the next thing that is stored.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.sessions.backends.base import CreateError, SessionBase, UpdateError

from cluster_runtime.sessions import ENGINES
from cluster_runtime.sessions.asynchronous import Asynchronous
from cluster_runtime.sessions.stage import BOTH, FOLLOW, MOVE, current

logger = logging.getLogger("cluster.sessions")

COOKIES = "signed_cookies"

#: Two engines whose sessions are rows of one table.
ONE_TABLE = {"db", "cached_db"}

#: Django's signer puts it between a value and its signature; no other engine's keys have it.
SIGNATURE = ":"


def is_cookie(session_key: str | None) -> bool:
    """Tell whether a session's key is a session in itself."""
    return SIGNATURE in (session_key or "")


def _class(engine: str) -> Any:
    return import_module(ENGINES[engine]).SessionStore


def _read(engine: str, session_key: str) -> dict[str, Any] | None:
    """Return a session, or None where the engine has none of that key."""
    store = _class(engine)(session_key)
    data: dict[str, Any] = store.load()
    if engine == COOKIES:
        return None if store.modified else data  # so it says that a cookie does not verify
    return None if store.session_key is None else data


def _put(engine: str, session_key: str, data: dict[str, Any], *, new: bool = False) -> None:
    """Store a session, whether there was one or not. `new`: CreateError where there was."""
    store = _class(engine)(session_key)
    store._session_cache = data  # noqa: SLF001 - Django has no other way in
    if new:
        store.save(must_create=True)
        return
    try:
        store.save()
    except UpdateError:
        try:
            store.save(must_create=True)
        except CreateError:  # somebody was faster
            store.save()


class SessionStore(Asynchronous, SessionBase):
    """Sessions of the engine `CLUSTER_SESSION_ENGINES[0]`, and of the former one, `[1]`."""

    def __init__(self, session_key: str | None = None) -> None:
        super().__init__(session_key)
        self.engine: str
        self.previous: str
        self.engine, self.previous = settings.CLUSTER_SESSION_ENGINES
        self.stage = current()

    # --- which engine

    def _reads(self) -> tuple[str, ...]:
        return (self.previous,) if self.stage == FOLLOW else (self.engine, self.previous)

    def _target(self) -> str:
        """Return the engine that decides where a session is."""
        return self.previous if self.stage == FOLLOW else self.engine

    def _keyed(self) -> str:
        """Return the engine of the two that has keys, where the other one is signed_cookies."""
        return self.previous if self.engine == COOKIES else self.engine

    def _drop(self, engine: str, session_key: str) -> None:
        """Remove what one engine has of a session that the other one has."""
        if {self.engine, self.previous} != ONE_TABLE:
            _class(engine)().delete(session_key)
        elif engine == "cached_db":
            store = _class(engine)()
            store.delete_cached(session_key)

    # --- Django's methods

    def load(self) -> dict[str, Any]:
        """Return the session of the first engine that has it."""
        self.stage = current()
        key = self.session_key
        data = None if key is None else self._load(key)
        if data is None:
            self._session_key = None
            return {}
        return data

    def _load(self, key: str) -> dict[str, Any] | None:
        if COOKIES in (self.engine, self.previous):
            return _read(COOKIES if is_cookie(key) else self._keyed(), key)
        found = (_read(engine, key) for engine in self._reads())
        return next((data for data in found if data is not None), None)

    def create(self) -> None:
        """Begin a session under a new key."""
        self.stage = current()
        self.modified = True
        if self._target() == COOKIES:
            return
        while True:
            self._session_key = self._get_new_session_key()
            try:
                self.save(must_create=True)
            except CreateError:
                continue
            return

    def save(self, must_create: bool = False) -> None:
        """Store the session as the stage says."""
        self.stage = current()
        if COOKIES in (self.engine, self.previous):
            self._save_beside_cookies(must_create=must_create)
            return
        if self.session_key is None:
            self.create()
            return
        key, data = self.session_key, self._get_session(no_load=must_create)
        if must_create:
            _put(self._target(), key, data, new=True)
        elif not any(_class(engine)().exists(key) for engine in self._reads()):
            raise UpdateError  # it was ended by another request
        if self.stage == FOLLOW:
            self._drop(self.engine, key)
            _put(self.previous, key, data)
            return
        if self.stage == BOTH and {self.engine, self.previous} == ONE_TABLE:
            _put("cached_db", key, data)
            return
        _put(self.engine, key, data)
        if self.stage == MOVE:
            self._forget(key)
        else:
            _put(self.previous, key, data)

    def _forget(self, key: str) -> None:
        """Remove what the former engine has; where it is gone already, so is this."""
        try:
            self._drop(self.previous, key)
        except Exception as error:  # noqa: BLE001 - a store of the former engine's may fail in any way, it is not needed
            logger.warning("sessions.previous: %s: %s: %s", self.previous, type(error).__name__, error)

    def _save_beside_cookies(self, *, must_create: bool) -> None:
        key, data = self.session_key, self._get_session(no_load=must_create)
        if self._target() == COOKIES:
            store = _class(COOKIES)(key)
            store._session_cache = data  # noqa: SLF001 - as above
            store.save()
            # What the other engine has stays: requests that began with the former cookie are still on their way.
            self._session_key = store.session_key
            self.modified = True
        elif key is None or is_cookie(key):
            self.create()
        elif must_create:
            _put(self._keyed(), key, data, new=True)
        elif _class(self._keyed())().exists(key):
            _put(self._keyed(), key, data)
        else:
            raise UpdateError

    def exists(self, session_key: str) -> bool:
        """Tell whether any engine that is read has such a session."""
        if COOKIES in (self.engine, self.previous):
            return not is_cookie(session_key) and bool(_class(self._keyed())().exists(session_key))
        return any(_class(engine)().exists(session_key) for engine in self._reads())

    def delete(self, session_key: str | None = None) -> None:
        """Remove the session, or another, from both engines."""
        key = self.session_key if session_key is None else session_key
        if key is None:
            return
        if COOKIES not in (self.engine, self.previous):
            for engine in (self.engine, self.previous):
                _class(engine)().delete(key)
        elif not is_cookie(key):
            _class(self._keyed())().delete(key)
        elif session_key is None:
            self._session_key = ""
            self._session_cache = {}
            self.modified = True

    def cycle_key(self) -> None:
        """Give the session another key; the former one is nobody's any more."""
        if self._target() != COOKIES:
            super().cycle_key()
            return
        former = self.session_key
        self.save()
        if former and not is_cookie(former):
            _class(self._keyed())().delete(former)

    @classmethod
    def clear_expired(cls) -> None:
        """Remove what is over from both engines."""
        for engine in settings.CLUSTER_SESSION_ENGINES:
            _class(engine).clear_expired()
