"""The failures that a user can mend: each is told by its text alone, and anything else is a mistake of this program."""

from __future__ import annotations

import errno
import os

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class ClusterError(Exception):
    """Something can't be as the stack file or the command line says; the text says why, and what to do."""


class CommandError(ClusterError):
    """A command can't do what it was asked."""


def tells_of_no_room(text: str) -> bool:
    """Tell whether a program that was run says that the disk is full; some break their lines within that."""
    words = " ".join(text.split()).lower()
    return any(os.strerror(code).lower() in words for code in NO_ROOM)
