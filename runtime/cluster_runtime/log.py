"""The log of an instance: what its processes write to standard error."""

from __future__ import annotations

import contextlib
import sys
import time


def say(message: str) -> None:
    """Write a line to the log. A log that can't be written (a full disk) is no reason to end."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()


def tell(process: str, release: str, message: str) -> None:
    """Write to the log what a process of a release does, and when."""
    say(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {process} {release}: {message}")
