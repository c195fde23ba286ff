"""What commands print, and how they are interrupted."""

from __future__ import annotations

import os
import sys

from cluster.console import interrupts
from cluster_runtime.unfollowed import printable


class Terminal:
    """The voice of the commands (platforms.base.Voice)."""

    def say(self, line: str) -> None:
        """Print a step as it is begun."""
        say(line)

    def warn(self, line: str) -> None:
        """Print a warning."""
        warn(f"warning: {line}")


def say(line: str) -> None:
    """Print a step as it is begun."""
    tell(f"  {line}")


def tell(line: str) -> None:
    """Print a result, without what a terminal obeys: names of files and words of the project's may be in it.

    Nobody reading it any more (`cluster up | head`) does not end what is being done.
    """
    interrupts.check()
    try:
        print(printable(line), flush=True)  # noqa: T201
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def warn(line: str) -> None:
    """Print what is not the result."""
    print(printable(line), file=sys.stderr, flush=True)  # noqa: T201


__all__ = ["Terminal", "say", "tell", "warn"]
