"""What an instance process does for sessions: it agrees with all others on their engine and the memcached nodes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from cluster_runtime.sessions import nodes
from cluster_runtime.sessions.stage import Stages, living

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster_runtime.config import Sessions
    from cluster_runtime.instance_link import InstanceLink

#: Seconds between two looks at how far the others are with a change of the session engine.
STAGE_INTERVAL = 0.5

#: Seconds between two looks at whether each memcached node has the sessions that it should.
REFILL_INTERVAL = 2.0


class Coordination:
    """The sessions of one instance process beside those of all others. process: what it calls its files."""

    def __init__(self, name: InstanceLink, process: str, sessions: Sessions, log: Callable[[str], None]) -> None:
        self.name = name
        self.process = process
        self.sessions = sessions
        self.log = log
        self.stages = Stages(name, process, sessions.engine, sessions.previous) if sessions.previous else None
        self.agreed = True
        self.next_look = 0.0
        self._next_refill = 0.0

    def said(self) -> dict[str, Any]:
        """Return what the status says of sessions."""
        return {
            "engine": self.sessions.engine,
            "previous": self.sessions.previous,
            "stage": self.stages.declared if self.stages else "",
            "memcached": list(self.sessions.memcached),
        }

    def look(self) -> bool:
        """Go on with a change of the session engine, or of the memcached nodes, as far as all others can follow.

        Tell whether `said` has changed by it.
        """
        if time.monotonic() < self.next_look:
            return False
        self.next_look = time.monotonic() + STAGE_INTERVAL
        if self.sessions.memcached and self._uses("cached_db"):
            others = [one.get("memcached", []) for one in living(self.name, self.process) if one]
            agreed = nodes.agree(self.sessions.memcached, others)
            if agreed != self.agreed:
                self.log(f"memcached nodes: {'the same everywhere' if agreed else 'others use other ones'}")
            self.agreed = agreed
        if self.stages is None or not self.stages.look():
            return False
        self.log(f"sessions: {self.stages.declared} ({self.stages.previous} to {self.stages.engine})")
        return True

    def distrust_former(self) -> None:
        """Let memcached have nothing from before sessions come to cached_db: they were written elsewhere since.

        An instance that is started again meanwhile costs some reads of the database.
        """
        if self.sessions.engine == "cached_db" and self.sessions.previous not in {"", "db"}:
            for path in self.sessions.memcached:
                nodes.distrust(path)

    def is_refill_look_due(self) -> bool:
        """Tell whether to look, now, that sessions in memcached alone are on two nodes; true once in a while."""
        if not self._uses("cache") or len(self.sessions.memcached) < 2:  # noqa: PLR2004 - copies
            return False
        if time.monotonic() < self._next_refill:
            return False
        self._next_refill = time.monotonic() + REFILL_INTERVAL
        return True

    def _uses(self, engine: str) -> bool:
        return engine in (self.sessions.engine, self.sessions.previous)
