"""Tombstones of sessions that were ended while the session engine is changed, as files that all instances share.

A session may be on its way from one engine to the other when it is ended: whoever moves it looks here, and does not
begin it anew. One that was moved into a cookie has a tombstone too, and is not counted where it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: The directory of tombstones, beside the instances' own; and how long they are kept, seconds.
ENDED, ENDED_SECONDS = ".ended", 3600.0

#: The environment variable that names that directory to a worker.
MARKS_VARIABLE = "CLUSTER_SESSION_MARKS"


def note_ended(session_key: str) -> None:
    """Say that a session is about to be ended: whoever is just moving it must not begin it anew."""
    directory = _directory()
    if directory is not None:
        directory.mkdir(mode=0o770, exist_ok=True)
        _tombstone(directory, session_key).touch()


def is_ended(session_key: str) -> bool:
    """Tell whether a session has been ended a while ago at most."""
    directory = _directory()
    return directory is not None and _tombstone(directory, session_key).exists()


def not_ended(session_keys: Iterable[str]) -> Iterator[str]:
    """Yield the keys that have no tombstone: many at a time."""
    directory = _directory()
    ended = set(os.listdir(directory)) if directory is not None and directory.is_dir() else set()  # noqa: PTH208 - names
    return (key for key in session_keys if not ended or _digest(key) not in ended)


def forget_ended(directory: Path) -> None:
    """Remove the tombstones in `directory` that no request can need any more."""
    for path in directory.iterdir() if directory.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - ENDED_SECONDS:
                path.unlink()


def _directory() -> Path | None:
    path = os.environ.get(MARKS_VARIABLE)
    return Path(path) if path else None


def _tombstone(directory: Path, session_key: str) -> Path:
    return directory / _digest(session_key)


def _digest(session_key: str) -> str:
    return hashlib.sha256(session_key.encode()).hexdigest()[:32]
