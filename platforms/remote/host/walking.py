"""Looks through directories that are another user's, which may be anything."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Directories in which a file is looked for.
MOST_WALKED = 1000


def holds_files(top: Path) -> bool:
    """Tell whether there is a file below a directory, but in those of a release's own, which begin with a dot."""

    def found() -> bool:
        below = (Path(where) / name for where, names in _walked(top) for name in names)
        return any(True for _one in islice(below, 1))

    return bool(unless_kept(found))


def _walked(top: Path) -> Iterator[tuple[str, list[str]]]:
    """Return directories below one with their files; links lead nowhere, and there are so many at most."""
    for where, directories, names in islice(os.walk(top), MOST_WALKED):
        if Path(where) == top:
            directories[:] = [name for name in directories if not name.startswith(".")]
            names[:] = [name for name in names if not name.startswith(".")]
        yield where, names


def unless_kept(read: Callable[[], Any]) -> Any:
    """Return what is read; None where it can't be: whose it is may make anything of it."""
    try:
        return read()
    except OSError:
        return None
