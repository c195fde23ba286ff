"""The engine file: each session a file of its own, mode 0600, replaced as a whole. The format is Django's own."""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import logging
import os
import tempfile
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.contrib.sessions.backends.base import CreateError, SessionBase, UpdateError
from django.core import signing

from cluster_runtime.sessions.asynchronous import Asynchronous
from cluster_runtime.sessions.keys import Keyed, is_key

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger("cluster.sessions")

#: What a file is called while it is written; beside the others, so that it can be renamed.
UNFINISHED = ".new-"

#: Seconds after which an unfinished file was left by a process that was killed.
ABANDONED = 3600.0


#: Files by which a session is written or deleted by one at a time, and how many there are.
LOCK, LOCKS = ".lock-", 64


class SessionStore(Asynchronous, Keyed, SessionBase):
    """Sessions in files of a directory that all instances share. OSError where one can't be read or stored."""

    def __init__(self, session_key: str | None = None) -> None:
        super().__init__(session_key)
        self.directory = Path(settings.SESSION_FILE_PATH)

    def _path(self, session_key: str) -> Path:
        return self.directory / f"{settings.SESSION_COOKIE_NAME}{session_key}"

    @contextlib.contextmanager
    def _locked(self, session_key: str) -> Iterator[None]:
        """Let nobody else write or delete this session meanwhile."""
        number = zlib.crc32(session_key.encode()) % LOCKS
        descriptor = os.open(self.directory / f"{LOCK}{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def load(self) -> dict[str, Any]:
        """Return the session; what is damaged, forged or over is none."""
        data = self.read(self.session_key) if is_key(self.session_key) else None
        if data is None:
            self._session_key = None
            return {}
        return data

    def read(self, session_key: str | None) -> dict[str, Any] | None:
        """Return the session of a key; None where there is none, it does not verify, or is over."""
        path = self._path(str(session_key))
        try:
            with path.open("rb") as file:
                text, changed = file.read(), os.fstat(file.fileno()).st_mtime
        except (FileNotFoundError, IsADirectoryError):
            return None
        try:
            data = signing.loads(text.decode("ascii"), salt=self.key_salt, serializer=self.serializer)
        except Exception as error:  # noqa: BLE001 - a project's own serializer may raise anything
            logger.warning("%s does not hold a session: %s", path, error)
            return None
        if not isinstance(data, dict) or self._is_over(data.get("_session_expiry"), changed):
            return None
        return data

    def _is_over(self, expiry: object, changed: float) -> bool:
        """Tell whether a session ends before now: `expiry` is what it says, in Django's forms of set_expiry()."""
        if isinstance(expiry, (str, dt.datetime)):
            return self.get_expiry_age(expiry=expiry) <= 0
        return changed + self.get_expiry_age(expiry=expiry) <= time.time()

    def create(self) -> None:
        """Store the session under a new key."""
        while True:
            self._session_key = self._get_new_session_key()
            try:
                self.save(must_create=True)
            except CreateError:
                continue
            self.modified = True
            return

    def save(self, must_create: bool = False) -> None:
        """Put the session in place as a whole; UpdateError where it was deleted meanwhile."""
        if self.session_key is None:
            return self.create()
        data = self._get_session(no_load=must_create)
        path = self._path(self.session_key)
        descriptor, name = tempfile.mkstemp(prefix=UNFINISHED, dir=self.directory)  # mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(self.encode(data).encode("ascii"))
            if must_create:
                os.link(name, path)  # fails where there is one
                return None
            with self._locked(self.session_key):
                if not path.exists():
                    raise UpdateError
                os.rename(name, path)  # noqa: PTH104 - as link() above
        except FileExistsError:
            raise CreateError from None
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)  # noqa: PTH108 - as link() above
        return None

    def exists(self, session_key: str | None) -> bool:
        """Tell whether there is such a session."""
        return is_key(session_key) and self._path(str(session_key)).exists()

    def delete(self, session_key: str | None = None) -> None:
        """Remove the session, or another."""
        key = self.session_key if session_key is None else session_key
        if key is not None and is_key(key):
            with self._locked(key):
                self._path(key).unlink(missing_ok=True)

    @classmethod
    def clear_expired(cls) -> None:
        """Remove sessions that are over, and what killed processes left unfinished."""
        directory, prefix = Path(settings.SESSION_FILE_PATH), settings.SESSION_COOKIE_NAME
        for path in directory.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.name.startswith(UNFINISHED):
                    if path.stat().st_mtime < time.time() - ABANDONED:
                        path.unlink()
                elif path.name.startswith(prefix):
                    changed = path.stat().st_mtime_ns
                    if cls().read(path.name.removeprefix(prefix)) is None and path.stat().st_mtime_ns == changed:
                        path.unlink()
