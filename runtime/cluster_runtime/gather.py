"""Copies what a project has written to where it is kept from now on: `python gather.py FROM TO`.

Said once more when nothing writes there any more, it takes what was written meanwhile. What is newer in TO stays; what
is older there is kept beside the newer one (`name.1~`), so that nothing is lost. An sqlite database is copied by sqlite
itself, and only where TO has none: two that have both been written to can't be made one. Each of these is a line of
output.

It imports nothing but the standard library's: it runs as the instances' user, by any Python.
"""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import closing
from pathlib import Path
from sqlite3 import connect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What every sqlite database begins with, and what lies beside one while it is used.
MAGIC, JOURNALS = b"SQLite format 3\0", ("-wal", "-shm", "-journal")


def gather(old: Path, new: Path) -> list[str]:
    """Copy a file or all below a directory; return the databases that were not, since `new` has another one.

    Of links, `old` alone is followed.
    """
    old = old.resolve()
    if not old.is_dir():
        return [] if _take(old, new) else [str(old)]
    new.mkdir(exist_ok=True)
    left = []
    for path in _below(old):
        target = new / path.relative_to(old)
        if path.is_dir() and not path.is_symlink():
            if not os.path.lexists(target):
                target.mkdir()
                shutil.copystat(path, target)
        elif not _take(path, target):
            left.append(str(path))
    return left


def is_sqlite(path: Path) -> bool:
    """Tell whether a file is an sqlite database, by its first bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def back_up(database: Path, target: Path) -> None:
    """Copy a database by sqlite itself: what was not yet written back from its journal belongs to it."""
    with closing(connect(f"{database.as_uri()}?mode=ro", uri=True)) as old, closing(connect(target)) as new:
        old.backup(new)


def _below(top: Path) -> Iterator[Path]:
    """Yield all below a directory, each directory before what is in it; no link is followed."""
    for directory, directories, names in os.walk(top):
        yield from (Path(directory, name) for name in (*directories, *names))


def _take(path: Path, target: Path) -> bool:
    """Copy one file or link, where there is no newer one; False for a database where there is another."""
    if _is_journal(path) or not (path.is_file() or path.is_symlink()):
        return True
    if path.is_symlink():
        if not os.path.lexists(target):
            target.symlink_to(os.readlink(path))  # noqa: PTH115 - the text as it stands
        return True
    there, found = os.path.lexists(target), path.stat()
    if is_sqlite(path):
        if there:
            return target.stat().st_mtime >= found.st_mtime
        _put(path, target, database=True)
        return True
    if there:
        known = target.lstat()
        if known.st_mtime_ns >= found.st_mtime_ns:
            return True
        target.rename(_free_name(target))
    _put(path, target, database=False)
    return True


def _put(path: Path, target: Path, *, database: bool) -> None:
    """Put a copy in place by one rename: who reads there never sees half of it."""
    new = target.with_name(f".{target.name}.{os.getpid()}.new")
    new.unlink(missing_ok=True)
    if database:
        back_up(path, new)
        shutil.copystat(path, new)
    else:
        shutil.copy2(path, new)
    new.rename(target)


def _free_name(path: Path) -> Path:
    number = 1
    while os.path.lexists(path.with_name(f"{path.name}.{number}~")):
        number += 1
    return path.with_name(f"{path.name}.{number}~")


def _is_journal(path: Path) -> bool:
    ending = next((ending for ending in JOURNALS if path.name.endswith(ending)), "")
    return bool(ending) and is_sqlite(path.with_name(path.name.removesuffix(ending)))


if __name__ == "__main__":
    sys.stdout.writelines(f"{left}\n" for left in gather(Path(sys.argv[1]), Path(sys.argv[2])))
