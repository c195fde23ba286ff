"""Giving a memcached node again what it should hold, from the other copies of each session.

`<socket>.restore` holds in which of its lives a node was refilled last. Who refills a node has that file locked: each
process notices for itself that a node has begun with nothing, and one alone need do something about it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from typing import TYPE_CHECKING

from cluster_runtime.sessions import compare_and_swap
from cluster_runtime.sessions import nodes as files
from cluster_runtime.sessions.connection import FAILURES

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_runtime.sessions.connection import Node
    from cluster_runtime.sessions.rendezvous import Rendezvous

logger = logging.getLogger("cluster.sessions")

#: How often a node's keys are listed to fill another one.
PASSES = 4


class Refill:
    """Fills nodes from the others that hold the same keys. node: makes one from its path."""

    def __init__(self, rendezvous: Rendezvous, node: Callable[[str], Node]) -> None:
        self._rendezvous = rendezvous
        self._node = node

    def begin_all(self) -> bool:
        """Begin to fill each node that may lack what it should hold; tell whether none does."""
        lacking = [path for path in self._rendezvous.paths if not self._is_whole(path)]
        for path in lacking:
            self.begin(path)
        return not lacking

    def begin(self, path: str) -> None:
        """Begin to fill the node at `path`."""
        threading.Thread(target=self._fill, args=(path,), name="cluster-sessions-refill", daemon=True).start()

    def _is_whole(self, path: str) -> bool:
        """Tell whether a node holds all that it should, as far as anybody knows."""
        try:
            life = self._node(path).life()
        except FAILURES:
            return False
        return _filled_life(path) == life and not files.state(path).get(files.DOUBT)

    def _fill(self, path: str) -> None:
        """Give a node what it should hold from the others, unless another process is at it."""
        descriptor = os.open(path + files.NODE_RESTORE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, files.MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            nodes = {one: self._node(one) for one in self._rendezvous.paths}
            mine = nodes.pop(path)
            life, since = mine.life(), mine.state.get(files.DOUBT)
            if _filled_life(path) == life and not since:
                return  # each process notices for itself
            count = sum(self._take_over(other, mine) for other in nodes.values())
            os.pwrite(descriptor, life, 0)
            files.end_doubt(path, since)
        except BlockingIOError:
            return
        except FAILURES as error:
            logger.warning("memcached %s: not all sessions are on two nodes again: %s", path, error)
        else:
            logger.warning("memcached %s: %d sessions are on two nodes again", path, count)
        finally:
            os.close(descriptor)

    def _take_over(self, source: Node, target: Node) -> int:
        """Give a node what another one holds of what it should hold too; return how much that was.

        A list of keys lacks some that were used while it was made: it is made again until it tells nothing new.
        """
        count = 0
        for _pass in range(PASSES):
            keys = (key for key in source.held() if target.path in self._rendezvous.holders(key))
            new = sum(compare_and_swap.copy(key, source, target) for key in keys)
            count += new
            if not new:
                break
        return count


def _filled_life(path: str) -> bytes:
    """Return in which of its lives a node was filled last."""
    try:
        with open(path + files.NODE_RESTORE, "rb") as file:  # noqa: PTH123 - as in nodes
            return file.read()
    except FileNotFoundError:
        return b""
