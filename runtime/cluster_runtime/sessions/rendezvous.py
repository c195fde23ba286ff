"""Which nodes hold a key, by rendezvous hashing: each key has its nodes in an order of its own.

Where a node is added or removed, only the keys that it gets, or had, are held elsewhere than before.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Rendezvous:
    """The order of the nodes at `paths`, for each key. copies: how many of them hold it."""

    def __init__(self, paths: Sequence[str], copies: int) -> None:
        self.paths = paths
        self.copies = copies
        self._begun = {path: hashlib.blake2b(f"{path}\0".encode()) for path in paths}

    def holders(self, key: str) -> list[str]:
        """Return the paths of the nodes that hold a key, the first first."""
        text = key.encode()

        def rank(path: str) -> bytes:
            begun = self._begun[path].copy()
            begun.update(text)
            return begun.digest()

        if self.copies == 1:
            return [max(self.paths, key=rank)]
        return sorted(self.paths, key=rank, reverse=True)[: self.copies]
