"""Archives of what is made here for hosts."""

from __future__ import annotations

import gzip
import tarfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PRIVATE = 0o600


def archive(path: Path, made: Path) -> None:
    """Write a directory as an archive, whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    # What is short is the processor's time, and not the network's.
    with gzip.open(new, "wb", compresslevel=1) as packed, tarfile.open(fileobj=packed, mode="w|") as archived:
        archived.add(made, arcname=".", filter=lambda member: None if "__pycache__" in member.name else member)
    new.chmod(PRIVATE)
    new.replace(path)
