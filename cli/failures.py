"""Which failures are the user's to mend, and how they are told."""

from __future__ import annotations

import errno

from cluster.errors import NO_ROOM, ClusterError, tells_of_no_room
from cluster.stack.paths import STATE

FREE_ROOM = "free some room and run it again"


def explain(error: BaseException) -> str | None:
    """Return what to tell the user of a failure; None for one that is this program's own mistake."""
    if isinstance(error, ClusterError):
        text = str(error)
        return f"{text}\nThe disk is full; {FREE_ROOM}. What served still serves." if tells_of_no_room(text) else text
    if isinstance(error, OSError) and error.errno in (*NO_ROOM, errno.EACCES, errno.EROFS):
        hint = FREE_ROOM if error.errno in NO_ROOM else "check its owner"
        return f"{error.filename or 'the disk'}: {error.strerror}; {hint}. What served still serves."
    if isinstance(error, OSError) and f"/{STATE}/" in str(error.filename):
        return f"{error.filename}: {error.strerror}: it is not as it was left; move it away, and run it again"
    return None
