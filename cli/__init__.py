"""The `cluster` command."""

from __future__ import annotations

import io
import sys
from typing import TextIO

from cli.app import app
from cli.failures import explain
from cluster.console import interrupts
from cluster_runtime.unfollowed import printable


def take_any_name(stream: TextIO) -> None:
    """Let a stream print whatever a file is called: a name need not be text, nor text that the terminal knows."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def main() -> None:
    """Run the command line; a failure is told in plain words, and the exit status is 1."""
    interrupts.watch()
    take_any_name(sys.stdout)
    try:
        app()
    except KeyboardInterrupt:
        print("interrupted; what served still serves, and the next `cluster up` goes on from here", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    except Exception as error:
        words = explain(error)
        if words is None:
            raise
        print(printable(words), file=sys.stderr)  # noqa: T201
        sys.exit(1)
