"""How the project's code is run on this machine: with nothing of the caller's, and what it says is bounded."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

from cluster_runtime.supervision import die_with_parent

if TYPE_CHECKING:
    from pathlib import Path

#: What is read of the facts that a process of the project writes, bytes.
MOST_FACTS = 1024 * 1024

PR_SET_NO_NEW_PRIVS = 38


def confine(directory: Path) -> None:
    """Let this process, another user's by now, end with the one that started it, and get no more rights than it has.

    It goes to its directory by itself: what leads there may be its user's to change.
    """
    die_with_parent()
    os.chdir(directory)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def clean_environment() -> dict[str, str]:
    """Return what processes of the cluster inherit: nothing that happens to be set in the caller's shell."""
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
