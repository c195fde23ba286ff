"""Files in a directory that another user can write: no link is followed, nothing waits, and no more is read than fits.

Whoever can write a directory can put anything there at any moment: a link to a file of somebody else, a pipe that
nobody writes to, a file without end. What is asked of a path before it is opened says nothing of what is opened then,
so only the descriptor is asked. The directory itself must lie where that user can't replace it.
"""

from __future__ import annotations

import errno
import os
import stat
import time
import unicodedata
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: What a small file holds at most, bytes: a status, a name, a project's facts.
SMALL = 256 * 1024


class NotAFileError(OSError):
    """Something else stands where a plain file was expected; the text names it."""

    def __init__(self, path: Path, found: str) -> None:
        super().__init__(errno.EINVAL, f"not what belongs there: {found}", str(path))


def read(path: Path, limit: int = SMALL) -> bytes:
    """Return what a file holds; NotAFileError where it is a link, no plain file, or longer than `limit`."""
    with open(_open(path, os.O_RDONLY), "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise NotAFileError(path, f"more than {limit} bytes")
    return content


def replace(path: Path, content: bytes, mode: int = 0o644, *, durable: bool = False) -> None:
    """Put a file in place by one rename, so that a reader never sees half of it; what stood there is gone.

    durable: it is there after a power cut too, once this has returned.
    """
    new = path.with_name(f"{path.name}.new")
    _make_way(path, new)
    descriptor = _made(new, mode)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        new.rename(path)
        if durable:
            sync_directory(path.parent)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise


def sync_directory(directory: Path) -> None:
    """Let the names in a directory be on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def overwrite(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Write a small file over what is there, at once: a reader finds the one or the other. It needs no new block.

    durable: as `replace` has it.
    """
    descriptor = _open(path, os.O_WRONLY)
    try:
        os.pwrite(descriptor, content.ljust(os.fstat(descriptor).st_size), 0)
        os.ftruncate(descriptor, len(content))
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link(path: Path, target: str) -> None:
    """Put a symbolic link in place by one rename."""
    new = path.with_name(f"{path.name}.new")
    _make_way(path, new)
    with suppress(FileNotFoundError):
        new.unlink()
    new.symlink_to(target)
    new.rename(path)


def open_lock(path: Path, mode: int = 0o660) -> int:
    """Return a descriptor of a file to lock, made where it is not there yet.

    One that is there can be locked on a disk that became read-only, too.
    """
    _make_way(path)
    try:
        return _open(path, os.O_RDWR | os.O_CREAT, mode)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return _open(path, os.O_RDONLY)


def printable(text: str) -> str:
    """Return a text without what a terminal would take for a command; line ends and tabs stay."""
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cf", "Cs") else "\N{REPLACEMENT CHARACTER}"
        for char in text
    )


def _make_way(*paths: Path) -> None:
    """Move aside a directory that stands where a file or a link belongs: nothing else replaces it."""
    for path in paths:
        with suppress(FileNotFoundError):
            if stat.S_ISDIR(path.lstat().st_mode):
                path.rename(path.with_name(f".{path.name}.hurt-{time.time_ns():x}"))


def _open(path: Path, flags: int, mode: int = 0) -> int:
    try:
        # A pipe that nobody writes to would be waited for.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise NotAFileError(path, error.strerror or "") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotAFileError(path, "no plain file")
    return descriptor


def _made(path: Path, mode: int) -> int:
    """Make a file that was not there, whatever else stood in its place."""
    for _attempt in range(100):
        with suppress(FileNotFoundError):
            path.unlink()
        with suppress(FileExistsError):
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    raise NotAFileError(path, "somebody puts something there again and again")
