"""What a process says of itself in its status file: its states, and what of it others believe.

The platforms, the container's health check and `cluster status` read it, of this release and of those before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster_runtime.unfollowed import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

#: States of an instance process, in the order it goes through them. `ready`: healthy, but another holds the name.
STARTING, READY, SERVING, DRAINING = "starting", "ready", "serving", "draining"

#: States of a service between `starting` and `draining`. `running`: its program does; of a schedule: a run is under
#: way. `waiting`: for the next run.
RUNNING, WAITING, CRASHED = "running", "waiting", "crashed"

#: Seconds after which a process looks whether its status is still there, or writes it again: whoever removed it sees it
#: again.
STATUS_INTERVAL = 1.0

#: The end of the year 9999, in seconds since the epoch: no date is beyond it.
LAST_MOMENT = 253402300799

#: The types of what a process says of itself; what else it says is its own matter.
SAID: dict[str, type | tuple[type, ...]] = {
    "instance": str,
    "release": str,
    "state": str,
    "message": str,
    "failure": str,
    "since": (int, float),
    "pid": int,
    "gunicorn": (int, type(None)),
    "sessions": dict,
    "well": bool,
}
SAID_OF_SESSIONS = {"engine": str, "previous": str, "stage": str, "memcached": list}


def believable(found: object) -> dict[str, Any] | None:
    """Return a status whose values are what they should be, with nothing in it that a terminal obeys; else None."""
    if not isinstance(found, dict) or not _typed(found, SAID):
        return None
    if not _typed(found.get("sessions", {}), SAID_OF_SESSIONS):
        return None
    if not 0 <= found.get("since", 0) < LAST_MOMENT:  # no number at all is in between neither
        return None
    return {str(name): printable(value) if isinstance(value, str) else value for name, value in found.items()}


def _typed(found: dict[str, Any], kinds: Mapping[str, type | tuple[type, ...]]) -> bool:
    return all(isinstance(found[name], kind) for name, kind in kinds.items() if name in found)
