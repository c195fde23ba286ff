"""What instances tell each other of memcached nodes by files beside the nodes' sockets; no Django is needed for it.

- `<socket>.generation`: begins the keys of a node that has a database behind it, by its time of change. A new one makes
  all that the node holds a miss, for every instance.
- `<socket>.doubt`: a node without a database behind it missed a write. What it holds is compared with the other copy
  until it has been filled from there.
- `split`: instances beside each other use other nodes (`sessions.memcached.nodes` is being changed). Until they agree
  none reads or stores what has a database behind it.
- `too-large`: a byte for each session that was larger than a node takes.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MODE = 0o660


def generation(path: str) -> int:
    """Return the number that is part of every key of a node with a database behind it."""
    try:
        return os.stat(f"{path}.generation").st_mtime_ns  # noqa: PTH116 - on every access: a Path costs more
    except FileNotFoundError:
        return 0


def distrust(path: str) -> None:
    """Begin a new generation: what the node holds is a miss from now on, for every instance."""
    _touch(f"{path}.generation", generation(path))


def is_doubtful(path: str) -> bool:
    """Tell whether a node may lack what another one has."""
    return os.access(f"{path}.doubt", os.F_OK)


def doubted_at(path: str) -> int | None:
    """Return when a node missed a write last, nanoseconds; None where it has all."""
    try:
        return os.stat(f"{path}.doubt").st_mtime_ns  # noqa: PTH116 - as above
    except FileNotFoundError:
        return None


def doubt(path: str) -> None:
    """Say that a node has missed a write."""
    with _locked(path):
        _touch(f"{path}.doubt", doubted_at(path) or 0)


def end_doubt(path: str, since: int | None) -> bool:
    """Say that a node has all that it missed until `since`; False where it has missed another write after that."""
    with _locked(path):
        now = doubted_at(path)
        if now is not None and now == since:
            os.unlink(f"{path}.doubt")  # noqa: PTH108 - as above
        return now in (None, since)


def is_split(paths: Sequence[str]) -> bool:
    """Tell whether instances beside each other use other nodes."""
    return os.access(split_file(paths), os.F_OK)


def agree(paths: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """Compare this instance's nodes with those of the others that live; tell whether they are the same."""
    if any(list(other) != list(paths) for other in others if other):
        os.close(os.open(split_file(paths), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, MODE))
        return False
    if is_split(paths):
        for path in paths:  # what was stored for the former nodes must never be found again
            distrust(path)
        with suppress(FileNotFoundError):  # another instance was faster
            os.unlink(split_file(paths))  # noqa: PTH108 - as above
    return True


def note_too_large(path: str) -> None:
    """Count a session that was larger than a node takes."""
    descriptor = os.open(_too_large(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
    try:
        os.write(descriptor, b".")
    finally:
        os.close(descriptor)


def too_large(path: str) -> int:
    """Return how many sessions were too large."""
    try:
        return os.stat(_too_large(path)).st_size  # noqa: PTH116 - as above
    except FileNotFoundError:
        return 0


def split_file(paths: Sequence[str]) -> str:
    """Return the file that is there while instances beside each other use other nodes."""
    return os.path.join(os.path.dirname(paths[0]), "split")  # noqa: PTH118, PTH120 - as above


def _too_large(path: str) -> str:
    return os.path.join(os.path.dirname(path), "too-large")  # noqa: PTH118, PTH120 - as above


def _touch(path: str, former: int) -> None:
    now = max(time.time_ns(), former + 1)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, MODE)
    try:
        os.utime(descriptor, ns=(now, now))
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: str) -> Iterator[None]:
    descriptor = os.open(f"{path}.doubt.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
