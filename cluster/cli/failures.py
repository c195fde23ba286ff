"""Which failures are the user's to mend, and how they are told."""

from __future__ import annotations

import errno
import os

from cluster.errors import ClusterError
from cluster.stack.paths import STATE

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
FREE_ROOM = "free some room and run it again"


def tells_of_no_room(text: str) -> bool:
    """Tell whether a program that was run says that the disk is full; some break their lines within that."""
    words = " ".join(text.split()).lower()
    return any(os.strerror(code).lower() in words for code in NO_ROOM)


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
