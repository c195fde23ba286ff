"""What lies below a directory in which processes write and remove files meanwhile."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path


def below(directory: Path, *without: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield a directory and each path below it with what lstat says of it, links not followed.

    What goes away meanwhile is left out: a stack's processes remove files whenever they like (nginx's and those of
    memory caches, a program's new file before it is renamed). What may not be read is an error all the same.

    Args:
        directory: where to begin.
        without: directories that are not entered.

    Raises:
        OSError: for whatever else prevents a look.
    """
    if directory in without:
        return
    try:
        found = directory.lstat()
    except FileNotFoundError:
        return
    yield directory, found
    if not stat.S_ISDIR(found.st_mode):
        return
    try:
        inside = sorted(directory.iterdir())
    except FileNotFoundError:
        return
    for path in inside:
        yield from below(path, *without)


def files_with(directory: Path, *values: str | bytes, links: bool = False) -> list[Path]:
    """Return the files below a directory that hold one of these values. links: those too that links lead to.

    Raises:
        AssertionError: nothing was read, or a value is empty: then the search could find nothing, or only everything.
        OSError: a file can't be read.
    """
    wanted = [value.encode() if isinstance(value, str) else value for value in values]
    assert all(wanted)
    assert wanted
    read, holding = 0, []
    for path, found in below(directory):
        if stat.S_ISREG(found.st_mode) or (links and path.is_file()):
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            read += 1
            if any(value in content for value in wanted):
                holding.append(path)
    assert read, f"{directory}: there is no file in it"
    return holding
