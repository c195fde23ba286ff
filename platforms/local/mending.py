"""Puts hurt files of a release back where they belong, while instances serve from it.

The release is its instances' user's, who may put a link anywhere in it at any moment: root goes down by descriptors of
directories that are no links, and writes only what it has just made.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from typing import TYPE_CHECKING

from cluster.kept import HURT, is_hurt_status
from cluster.machine.owner import open_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path, PurePath

    from cluster.machine.owner import Owner
    from cluster.source import Entry

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def put_back(entry: Entry, inside: PurePath, directory: Path, owner: Owner) -> bool:
    """Put an entry of a release's tree at `inside` below `directory` where what is there is hurt; tell whether it was.

    directory: lies where only who runs this writes. What is not hurt is left alone: instances may have written to it.
    """
    if entry.link is None and entry.source is None:
        with _below(directory, inside, owner):
            return False
    with _below(directory, inside.parent, owner) as above:
        name = inside.name
        if _is_whole(entry, name, above):
            return False
        _move_aside(name, above)
        new = f".{name}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new, dir_fd=above)
        if entry.link is not None:
            os.symlink(entry.link, new, dir_fd=above)
            owner.own_entry(new, above)
        elif entry.source is not None:
            _write(new, above, entry.source.read_bytes(), stat.S_IMODE(entry.source.stat().st_mode), owner)
        os.rename(new, name, src_dir_fd=above, dst_dir_fd=above)
        return True


def write_below(text: str, inside: PurePath, directory: Path, owner: Owner, mode: int) -> None:
    """Write a file at `inside` below `directory`, whatever is there."""
    with _below(directory, inside.parent, owner) as above:
        _move_aside(inside.name, above)
        new = f".{inside.name}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new, dir_fd=above)
        _write(new, above, text.encode(), mode, owner)
        os.rename(new, inside.name, src_dir_fd=above, dst_dir_fd=above)


def _write(name: str, above: int, content: bytes, mode: int, owner: Owner) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name, flags, 0o600, dir_fd=above), "wb") as file:  # noqa: PTH123 - a descriptor
        file.write(content)
        if owner.changed:
            os.fchown(file.fileno(), owner.uid, owner.gid)
        os.fchmod(file.fileno(), mode)


def _is_whole(entry: Entry, name: str, above: int) -> bool:
    try:
        found = os.stat(name, dir_fd=above, follow_symlinks=False)
        if entry.source is None or entry.link is not None:
            return os.readlink(name, dir_fd=above) == entry.link
        return not is_hurt_status(found, name, entry.source.stat().st_size)
    except OSError:
        return False


def _move_aside(name: str, above: int) -> None:
    """Let nothing but a file or a link stand at `name`: a rename can't replace a directory by them."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
            os.rename(name, f".{name}{HURT}{time.time_ns():x}", src_dir_fd=above, dst_dir_fd=above)


@contextlib.contextmanager
def _below(directory: Path, inside: PurePath, owner: Owner) -> Iterator[int]:
    """Yield a descriptor of the directory `inside` of another, made where it is not there."""
    with open_directory(directory) as top:
        here = os.dup(top)
        try:
            for name in inside.parts:
                below = _step(name, here, owner)
                os.close(here)
                here = below
            yield here
        finally:
            os.close(here)


def _step(name: str, above: int, owner: Owner) -> int:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
            os.rename(name, f".{name}{HURT}{time.time_ns():x}", src_dir_fd=above, dst_dir_fd=above)
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=above)
        descriptor = os.open(name, DIRECTORY, dir_fd=above)
        if owner.changed and os.fstat(descriptor).st_uid == os.geteuid():
            os.fchown(descriptor, owner.uid, owner.gid)
        return descriptor
    return os.open(name, DIRECTORY, dir_fd=above)
