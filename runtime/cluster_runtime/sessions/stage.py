"""How far a change of the session engine is, as the processes that live beside each other may act.

A release that changes the engine from A to B runs beside the former one for a while, and nobody may write where
another would not look. So each instance process says in its status which engines it reads, and goes on only when all
others can follow:

- FOLLOW: somebody lives who knows A alone. Read and write A, and leave nothing in B that could be older.
- BOTH: all know both, but somebody may still read A. Write both; read B, then A.
- MOVE: all read B first. Write B and remove what A has; what was not used since is still read from A.

Each stage agrees with the one before and the one after: what is in B is never older than what is in A. An instance that
finds a former one beside it goes back.
What is in force stands in a file that the instance process writes and its workers read.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

from cluster_runtime.instance_link import InstanceLink, put

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FOLLOW, BOTH, MOVE = "follow", "both", "move"

#: The environment variable that names the file of the stage that is in force, to a worker.
STAGE_VARIABLE = "CLUSTER_SESSION_STAGE"

#: Seconds for which a worker believes what it has read; and after which all workers of a process surely know.
FRESH, SETTLED = 0.1, 1.0


def wanted(engine: str, previous: str, others: Iterable[dict[str, Any] | None]) -> str:
    """Return the stage in which a process may act that keeps sessions in `engine` and reads `previous`.

    others: what each other living process says of its sessions: {"engine", "previous", "stage"}; None where it says
    nothing.
    """
    others = list(others)
    if any(one is None or engine not in (one["engine"], one["previous"]) for one in others):
        return FOLLOW
    if any(one and one["engine"] != engine for one in others):
        return BOTH
    if any(one and one["previous"] == previous and one["stage"] == FOLLOW for one in others):
        return BOTH
    return MOVE


class Stages:
    """The stage of one instance process: decided among all that live, told to its workers first and then to others."""

    def __init__(self, name: InstanceLink, process: str, engine: str, previous: str) -> None:
        self.name, self.process = name, process
        self.engine, self.previous = engine, previous
        self.path = name.stage_file(process)
        self.stage = self.declared = FOLLOW
        self._since = 0.0

    def look(self) -> bool:
        """Look at the others and act; tell whether what is said of this process has changed."""
        stage = wanted(self.engine, self.previous, living(self.name, self.process))
        now = time.monotonic()
        if stage != self.stage or not self.path.exists():
            put(self.path, stage)
            self.stage, self._since = stage, now
        if self.declared != self.stage and (self.stage == FOLLOW or now >= self._since + SETTLED):
            self.declared = self.stage
            return True
        return False


def living(name: InstanceLink, process: str) -> Iterator[dict[str, Any] | None]:
    """Yield what the living processes of all instances say of their sessions, `process` of `name` excepted."""
    root = name.directory.parent
    for directory in root.iterdir():
        if directory.name.startswith("."):
            continue
        other = InstanceLink(root, directory.name)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # an instance that has just been removed
            for one in other.living():
                status = None if (directory.name, one) == (name.directory.name, process) else other.status(one)
                if status is not None:  # else it has just begun, and will say so before it serves
                    yield status.get("sessions")


class _Known:
    """What a worker has read last, and until when (time.monotonic) it believes that."""

    stage = BOTH
    until = 0.0


def current() -> str:
    """Return the stage in force, in a worker. A process that no instance process has started acts as in BOTH."""
    now = time.monotonic()
    if now >= _Known.until:
        path = os.environ.get(STAGE_VARIABLE)
        if path:
            with contextlib.suppress(FileNotFoundError), open(path, encoding="ascii") as file:  # noqa: PTH123 - often
                _Known.stage = file.read() or BOTH
        _Known.until = now + FRESH
    return _Known.stage
