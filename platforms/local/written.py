"""What a project wrote into a release that is to go: it is kept, whatever it is.

A release knows each file that it was made of (`files.json`: size and time of change). What is new or changed since
then, its project has written: the tree is moved aside instead of being removed, less the files that nobody has touched.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from typing import TYPE_CHECKING, Any

from cluster.kept import COMPLETE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = "files.json"

#: In a release's directory: it has served, changed when it did so last.
SERVED = "served"

#: Where the project lay in releases that were made before they had a tree.
FORMER_TREE = "project"

#: What Python and its tools write by themselves is nobody's data.
WORTHLESS = (".pyc", ".pyo")
WORTHLESS_DIRECTORIES = frozenset({"__pycache__"})


def _files(tree: Path) -> Iterator[tuple[str, os.stat_result, int, str]]:
    """Yield each file below `tree`, following no link: its path, its state, its directory's descriptor, its name."""
    for directory, directories, names, descriptor in os.fwalk(tree, follow_symlinks=False):
        directories[:] = [name for name in directories if name not in WORTHLESS_DIRECTORIES]
        for name in names:
            if not name.endswith(WORTHLESS):
                found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                if stat.S_ISREG(found.st_mode):
                    yield os.path.relpath(os.path.join(directory, name), tree), found, descriptor, name  # noqa: PTH118


def _state(found: os.stat_result) -> list[int]:
    return [found.st_size, found.st_mtime_ns]


def note_files(release: Path, tree: str) -> None:
    """Write down what the release is made of, as the last thing before it is whole."""
    known = {path: _state(found) for path, found, _directory, _name in _files(release / tree)}
    (release / FILES).write_text(json.dumps(known), encoding="utf-8")


def known_files(release: Path) -> dict[str, Any] | None:
    """Return what a release is made of, as it was noted; None where that is gone or hurt."""
    try:
        known = json.loads((release / FILES).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return known if isinstance(known, dict) else None


def retire(release: Path, tree: str, aside: Path) -> list[str]:
    """Remove a release; return the files that its project wrote, which are kept below `aside` then."""
    written: list[str] = []
    tree = tree if (release / tree).is_dir() else FORMER_TREE
    known = known_files(release)
    # Where nobody can say what is the project's, all of it is kept; but one that was never whole has never run.
    if known is None and (os.path.lexists(release / FILES) or any((release / m).exists() for m in (SERVED, COMPLETE))):
        known = {}
    if known is not None and (release / tree).is_dir():
        written = [
            path for path, found, _directory, _name in _files(release / tree) if known.get(path) != _state(found)
        ]
    if written:
        kept = aside / release.name
        number = 1
        while kept.exists():
            number += 1
            kept = aside / f"{release.name}.{number}"
        aside.mkdir(mode=0o700, parents=True, exist_ok=True)
        (release / tree).rename(kept)
        touched = set(written)
        for path, _found, directory, name in _files(kept):  # a directory's names are read before its first is told
            if path not in touched:
                os.unlink(name, dir_fd=directory)
        _remove_empty(kept)
    shutil.rmtree(release)
    return sorted(written)


def _remove_empty(top: Path) -> None:
    for _directory, directories, _names, descriptor in os.fwalk(top, topdown=False, follow_symlinks=False):
        for name in directories:
            try:
                os.rmdir(name, dir_fd=descriptor)
            except OSError:  # it holds something, or is a link
                continue
