"""The small files that this tool keeps for itself, and the marks that say that a directory is whole.

They are written so that a power cut leaves the former or the new one, never an empty one, and read so that a hurt file
is told from one that is not there. A mark vouches for all that is below its directory: that is on the disk before it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import stat
import time
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from cluster.errors import ClusterError
from cluster_runtime import unfollowed
from cluster_runtime.unfollowed import sync_directory

T = TypeVar("T")

#: Files that no program changes where it runs. Of others a mark vouches only that they are there and not empty.
CODE_SUFFIXES = (".py",)

#: Of one file, bytes: a mark names each file of an environment.
LONGEST = 32 * 1024 * 1024

#: Seconds for which whoever is still writing into a directory that is removed may go on.
PATIENCE = 10.0

#: The mark of a release and of an environment, written last: one without it was left by an `up` that was killed.
COMPLETE = "complete"

#: In the names of what was moved aside; they begin with a dot, which instances pass over in the run directory.
HURT = ".hurt-"

SIZES: TypeAdapter[dict[str, int]] = TypeAdapter(dict[str, int])


class HurtFile(ClusterError):  # noqa: N818 - what it is
    """A file that this tool keeps is not as it was written; the text names it, and what was found."""

    def __init__(self, path: Path, found: str) -> None:
        super().__init__(f"{path}: {found}")
        self.path = path
        self.found = found


def read_kept(path: Path, kind: TypeAdapter[T]) -> T | None:
    """Return what a file holds, None where there is none; HurtFile where it is not what was written."""
    try:
        text = unfollowed.read(path, LONGEST).decode("utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HurtFile(path, f"can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise HurtFile(path, "is not text") from error
    if not text.strip():
        raise HurtFile(path, "is empty")
    try:
        return kind.validate_python(json.loads(text))
    except (ValueError, RecursionError) as error:
        found = "holds something else" if isinstance(error, ValidationError) else "is not JSON"
        raise HurtFile(path, found) from error


def write_kept(path: Path, value: object) -> None:
    """Write a file as JSON; it is the former or the new one, whenever the power goes."""
    write_durably(path, json.dumps(value))


def write_durably(path: Path, text: str, mode: int = 0o600) -> None:
    """Put a file in place by a rename, its content on the disk first; what is no file there is moved aside."""
    make_way(path, stat.S_IFREG)
    new = path.with_name(f".{path.name}.new")
    make_way(new, stat.S_IFREG)
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    sync_directory(path.parent)


def make_way(path: Path, kind: int) -> Path | None:
    """Move aside what stands at `path` and is not of `kind` (stat.S_IFREG, S_IFDIR, S_IFLNK); return where it is."""
    try:
        found = stat.S_IFMT(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if found == kind or (kind == stat.S_IFREG and found == stat.S_IFLNK):
        return None
    aside = path.with_name(f".{path.name}{HURT}{time.time_ns():x}")
    path.rename(aside)
    return aside


def point_at(link: Path, target: str) -> None:
    """Let a link lead to `target`, at once for whoever uses it."""
    if link.is_symlink() and str(link.readlink()) == target:
        return
    make_way(link, stat.S_IFLNK)
    new = link.with_name(f".{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.rename(link)


def remove_tree(path: Path) -> None:
    """Remove whatever is at `path`; what was killed with the one who made it may write there for a moment more."""
    if not os.path.lexists(path):
        return
    if not stat.S_ISDIR(path.lstat().st_mode):
        path.unlink(missing_ok=True)
        return
    deadline = time.monotonic() + PATIENCE
    while path.is_dir():
        try:
            shutil.rmtree(path)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or time.monotonic() > deadline:
                raise


def sync_tree(directory: Path) -> None:
    """Let all that was written on the filesystem of `directory` be on the disk, by one call whatever it holds."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
    finally:
        os.close(descriptor)


def vouch(directory: Path, mark: str, *parts: str) -> None:
    """Write the mark that `parts` of a directory are whole, and how large each file of them is."""
    sizes = {}
    for part in parts:
        for path in _files(directory / part):
            sizes[str(path.relative_to(directory))] = path.stat().st_size
    sync_tree(directory)
    write_kept(directory / mark, sizes)


def hurt(directory: Path, mark: str) -> list[str] | None:
    """Return what is not as the mark vouches for, by its path in the directory; None where there is no mark at all.

    A file that is gone, or empty and was not, or something else is hurt; one of code also where its size is another.
    Others may have changed since: projects write where they are.
    """
    try:
        sizes = read_kept(directory / mark, SIZES)
    except HurtFile:
        return [mark]
    if sizes is None:
        return None
    top = f"{directory}{os.sep}"  # thousands of them, at each command
    return [path for path, size in sizes.items() if is_hurt(top + path, size)]


def is_hurt(path: str, size: int) -> bool:
    """Tell whether a file that was `size` bytes long is not what it was; of links, what they lead to."""
    try:
        found = os.stat(path)  # noqa: PTH116 - see there
    except OSError:
        return True
    return is_hurt_status(found, path, size)


def is_hurt_status(found: os.stat_result, name: str, size: int) -> bool:
    """Tell the same by what was found of the file."""
    if not stat.S_ISREG(found.st_mode) or (size and not found.st_size):
        return True
    return name.endswith(CODE_SUFFIXES) and found.st_size != size


def _files(path: Path) -> list[Path]:
    """Return the files at and below `path`, without bytecode; what its links lead to is not of it."""
    if not path.is_dir():
        return [path] if path.is_file() else []
    found = []
    for directory, directories, names in os.walk(path):
        if "__pycache__" in directories:
            directories.remove("__pycache__")  # where it is gone, or cut short, Python compiles again
        for name in names:
            file = Path(directory, name)
            if not file.is_symlink() and file.is_file():
                found.append(file)
    return found


__all__ = [
    "HURT",
    "HurtFile",
    "hurt",
    "is_hurt",
    "is_hurt_status",
    "make_way",
    "point_at",
    "read_kept",
    "remove_tree",
    "sync_directory",
    "sync_tree",
    "vouch",
    "write_durably",
    "write_kept",
]
