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

from cluster_runtime.sessions import COOKIES, ENGINES, LEFT_SECONDS, share_rows
from cluster_runtime.sessions.asynchronous import Asynchronous
from cluster_runtime.sessions.ended import is_ended, note_ended
from cluster_runtime.sessions.keys import is_key
from cluster_runtime.sessions.stage import BOTH, FOLLOW, MOVE, current

logger = logging.getLogger("cluster.sessions")

#: What a session that was moved into a cookie carries where it was before: how long it was to live there.
MOVED = "_cluster_moved"

#: Where Django keeps what set_expiry() was told.
EXPIRY = "_session_expiry"

#: Django's signer puts it between a value and its signature; no other engine's keys have it.
SIGNATURE = ":"


def is_cookie(session_key: str | None) -> bool:
    """Tell whether a session's key is a session in itself."""
    return SIGNATURE in (session_key or "")


def _class(engine: str) -> Any:
    return import_module(ENGINES[engine].store).SessionStore


def _read(engine: str, session_key: str) -> dict[str, Any] | None:
    """Return a session, or None where the engine has none of that key."""
    store = _class(engine)(session_key)
    data: dict[str, Any] = store.load()
    if engine == COOKIES:
        return None if store.modified else data  # so it says that a cookie does not verify
    return None if store.session_key is None else data


def _create(engine: str, session_key: str, data: dict[str, Any]) -> bool:
    """Store a session under a key that the engine does not have; False where it has it."""
    store = _class(engine)(session_key)
    store._session_cache = data  # noqa: SLF001 - Django has no other way in
    try:
        store.save(must_create=True)
    except CreateError:
        return False
    return True


def _update(engine: str, session_key: str, data: dict[str, Any]) -> bool:
    """Store a session that the engine has; False where it has none of that key, or it is ended meanwhile."""
    store = _class(engine)(session_key)
    store._session_cache = data  # noqa: SLF001 - as above
    try:
        store.save()
    except UpdateError:
        return False
    return True


def _exists(engine: str, session_key: str) -> bool:
    return bool(_class(engine)().exists(session_key))


def _as_it_was(data: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a session without what `_leave` has put into it."""
    if data is None or MOVED not in data:
        return data
    expiry = {} if data[MOVED] is None else {EXPIRY: data[MOVED]}
    return {name: value for name, value in data.items() if name not in (MOVED, EXPIRY)} | expiry


class SessionStore(Asynchronous, SessionBase):
    """Sessions of the engine `CLUSTER_SESSION_ENGINES[0]`, and of the former one, `[1]`."""

    def __init__(self, session_key: str | None = None) -> None:
        super().__init__(session_key)
        self.engine: str
        self.previous: str
        self.engine, self.previous = settings.CLUSTER_SESSION_ENGINES
        self.stage = current()

    def _validate_session_key(self, key: str | None) -> bool:
        return is_key(key) or (COOKIES in settings.CLUSTER_SESSION_ENGINES and is_cookie(key))

    # --- which engine

    def _reads(self) -> tuple[str, ...]:
        """Return where a session is looked for: one that is moved between the first two looks is found by the third."""
        return (self.previous,) if self.stage == FOLLOW else (self.engine, self.previous, self.engine)

    def _target(self) -> str:
        """Return the engine that decides where a session is."""
        return self.previous if self.stage == FOLLOW else self.engine

    def _keyed(self) -> str:
        """Return the engine of the two that has keys, where the other one is signed_cookies."""
        return self.previous if self.engine == COOKIES else self.engine

    def _drop(self, engine: str, session_key: str) -> None:
        """Remove what one engine has of a session that the other one has."""
        if not share_rows(self.engine, self.previous):
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
            return _as_it_was(_read(COOKIES if is_cookie(key) else self._keyed(), key))
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
        if self.stage == FOLLOW:
            self._drop(self.engine, key)  # once before: what is left if this process is killed must not be older
        # Both engines at once are one, where they keep sessions in the same rows.
        both = self.stage == BOTH and not share_rows(self.engine, self.previous)
        target = "cached_db" if self.stage == BOTH and not both else self._target()
        if must_create:
            if not _create(target, key, data):
                raise CreateError
        elif not _update(target, key, data):
            self._bring_over(key, data)
        if self.stage == FOLLOW:
            self._drop(self.engine, key)  # and once after: an instance that is further on may have stored it meanwhile
        elif both:
            self._store_beside(key, data)
        elif self.stage == MOVE:
            self._forget(key)

    def _bring_over(self, key: str, data: dict[str, Any]) -> None:
        """Store a session that only the former engine has; UpdateError where it was ended by another request."""
        if self.stage == FOLLOW:
            raise UpdateError
        if _exists(self.previous, key) and _create(self.engine, key, data):
            if not is_ended(key):
                return
            _class(self.engine)().delete(key)  # it was ended after it was found
            raise UpdateError
        if not _update(self.engine, key, data):  # somebody else has brought it over, unless it is ended
            raise UpdateError

    def _store_beside(self, key: str, data: dict[str, Any]) -> None:
        """Store in the former engine too what the new one has just got."""
        while not _update(self.previous, key, data) and not _create(self.previous, key, data):
            pass  # it was ended, or begun, in between
        # Not by a look at the new engine: an instance in FOLLOW may just have left nothing there.
        if is_ended(key):
            for engine in (self.previous, self.engine):
                _class(engine)().delete(key)
            raise UpdateError

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
            if key is not None and not is_cookie(key):
                self._leave(key)
            self._session_key = store.session_key
            self.modified = True
        elif key is None or is_cookie(key):
            self.create()
        elif must_create:
            if not _create(self._keyed(), key, data):
                raise CreateError
        elif not _update(self._keyed(), key, data):
            raise UpdateError

    def _leave(self, key: str) -> None:
        """Let what the former engine has of a session that is in a cookie now end soon."""
        keyed = self._keyed()
        try:
            data = _read(keyed, key)
            if data is None or MOVED in data:
                return
            store = _class(keyed)(key)
            store._session_cache = data  # noqa: SLF001 - as above
            if store.get_expiry_age() > LEFT_SECONDS:
                store._session_cache = {**data, MOVED: data.get(EXPIRY), EXPIRY: LEFT_SECONDS}  # noqa: SLF001 - as above
                store.save()
            note_ended(key)  # it is not counted where it was
        except UpdateError:
            return  # it has just ended
        except Exception as error:  # noqa: BLE001 - as in _forget
            logger.warning("sessions.previous: %s: %s: %s", keyed, type(error).__name__, error)

    def exists(self, session_key: str) -> bool:
        """Tell whether any engine that is read has such a session."""
        if COOKIES in (self.engine, self.previous):
            return not is_cookie(session_key) and _exists(self._keyed(), session_key)
        return any(_exists(engine, session_key) for engine in self._reads())

    def delete(self, session_key: str | None = None) -> None:
        """Remove the session, or another, from both engines."""
        key = self.session_key if session_key is None else session_key
        if key is None:
            return
        if COOKIES not in (self.engine, self.previous):
            # The tombstone first: who is just storing it in one or both sees it, or what was stored is removed here.
            note_ended(key)
            # The former one first and last: who only reads may be between the two.
            for engine in (self.previous, self.engine, self.previous):
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
