"""Which release's static files nginx looks in first."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from cluster_runtime.instance_link import GENERATION

if TYPE_CHECKING:
    from pathlib import Path

#: nginx looks here first, and then in the former release's files.
CURRENT, PREVIOUS = "current", "previous"


def show(static: Path, release: str, generation: int) -> None:
    """Let `current` in `static` lead to the release's files and `previous` to the former one's; forget all others.

    generation: how often this was done, which is written down; by it whoever releases tells its own from another's.
    """
    current, previous = static / CURRENT, static / PREVIOUS
    former = str(current.readlink()) if current.is_symlink() else None
    if former != release:
        for link, where in ((previous, former), (current, release)):
            if where is not None:
                new = link.with_name(f"{link.name}.new")
                new.unlink(missing_ok=True)
                new.symlink_to(where)
                new.rename(link)
    new = static / f"{GENERATION}.new"
    new.write_text(str(generation), encoding="ascii")
    new.rename(static / GENERATION)
    kept = {str(link.readlink()) for link in (current, previous) if link.is_symlink()}
    for directory in static.iterdir():
        if directory.is_dir() and not directory.is_symlink() and directory.name not in kept:
            shutil.rmtree(directory)
