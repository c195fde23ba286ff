"""What instances tell each other of memcached nodes, by files beside the nodes' sockets; no Django is needed for it.

`<socket>.state` holds numbers of a node, `nodes.state` those of all nodes together. Each process maps them: a look
costs no system call, during which Python would let another thread go first.

- GENERATION begins the keys of a node that has a database behind it. Another one makes all that the node holds a miss,
  for every instance.
- DOUBT: when a node without a database behind it missed a write (nanoseconds since 1970), else 0. What it holds is
  compared with the other copy until it has been filled from there.
- TOO_LARGE counts sessions that were larger than a node takes.
- SPLIT: instances beside each other use other nodes (`sessions.memcached.nodes` is being changed). Until they agree
  none reads or stores what has a database behind it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Places of the numbers in a node's file, and in that of all nodes.
GENERATION, DOUBT, TOO_LARGE = range(3)
SPLIT = 0

#: Bytes of a number, and of a file.
NUMBER, SIZE = 8, 64

MODE = 0o660

#: The endings of the files beside a node's socket, and the name of that of all nodes.
NODE_STATE, NODE_RESTORE, NODES_STATE = ".state", ".restore", "nodes.state"


class State:
    """Some numbers that all processes share."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
        with self._locked():
            size = os.fstat(self.descriptor).st_size
            if size < SIZE:  # written, not just claimed: a file system that is full says so here, and not by a signal
                os.pwrite(self.descriptor, bytes(SIZE - size), size)
        self._numbers = memoryview(mmap.mmap(self.descriptor, SIZE)).cast("Q")

    def get(self, number: int) -> int:
        """Return a number."""
        return self._numbers[number]

    @contextmanager
    def changing(self) -> Iterator[memoryview]:
        """Give the numbers to be changed; nobody else changes them meanwhile."""
        with self._locked():
            yield self._numbers

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # Not by the descriptor itself: threads of one process would share its lock.
        descriptor = os.open(f"/proc/self/fd/{self.descriptor}", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


@cache
def state(path: str) -> State:
    """Return what is shared of the node at `path`."""
    found = State(path + NODE_STATE)
    with found.changing() as numbers:  # a node may outlive its file
        numbers[GENERATION] = numbers[GENERATION] or time.time_ns()
    return found


@cache
def state_of_all(directory: str) -> State:
    """Return what is shared of all nodes in a directory."""
    return State(os.path.join(directory, NODES_STATE))  # noqa: PTH118 - paths are text here


def of_all(paths: Sequence[str]) -> State:
    """Return what is shared of these nodes together."""
    return state_of_all(os.path.dirname(paths[0]))  # noqa: PTH120 - as above


def distrust(path: str) -> None:
    """Begin a new generation: what the node holds is a miss from now on, for every instance."""
    with state(path).changing() as numbers:
        numbers[GENERATION] = max(time.time_ns(), numbers[GENERATION] + 1)


def doubt(path: str) -> None:
    """Say that a node has missed a write."""
    with state(path).changing() as numbers:
        numbers[DOUBT] = max(time.time_ns(), numbers[DOUBT] + 1)


def end_doubt(path: str, since: int) -> bool:
    """Say that a node has all that it missed until `since`; False where it has missed another write after that."""
    with state(path).changing() as numbers:
        if numbers[DOUBT] not in (0, since):
            return False
        numbers[DOUBT] = 0
        return True


def note_too_large(path: str) -> None:
    """Count a session that was larger than a node takes."""
    with state(path).changing() as numbers:
        numbers[TOO_LARGE] += 1


def agree(paths: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """Compare this instance's nodes with those of the others that live; tell whether they are the same."""
    same = not any(list(other) != list(paths) for other in others if other)
    everybody = of_all(paths)
    if same != bool(everybody.get(SPLIT)):
        return same
    if same:
        for path in paths:  # what was stored for the former nodes must never be found again
            distrust(path)
    with everybody.changing() as numbers:
        numbers[SPLIT] = int(not same)
    return same
