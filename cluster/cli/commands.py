"""Commands that are the same on every platform: what they ask, and what they print."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import typer

from cluster.console import tell
from cluster.errors import CommandError

if TYPE_CHECKING:
    from cluster.stack.opened import Stack
    from platforms.base import Commands, LogSource


def down(stack: Stack, platform: Commands, *, delete_data: bool, yes: bool) -> None:
    """Stop everything; with `delete_data` ask, unless `yes`, and remove the data too."""
    data = platform.data(stack)
    if delete_data and not yes:
        if not sys.stdin.isatty():
            raise CommandError("--delete-data asks first; without a terminal say --yes as well")
        typer.confirm(f"Delete {data} of stack {stack.name}?", abort=True)
    if not platform.down(stack, delete_data=delete_data):
        tell(f"stack {stack.name} was never up")
        return
    left = "its data is deleted" if delete_data else f"what stays: {data}"
    tell(f"stack {stack.name} is down; {left}")


def logs(stack: Stack, platform: Commands, names: list[str], *, lines: int, follow: bool) -> None:
    """Print logs, each line after the name of whose it is."""
    found = platform.logs(stack, lines=lines, follow=follow)
    wanted = [source for source in found if not names or source.words.intersection(names)]
    if not wanted:
        raise CommandError("no such log" if names else f"stack {stack.name} has no logs yet")
    width = max(len(source.name) for source in wanted)
    threads = [threading.Thread(target=_print_log, args=(source, width), daemon=True) for source in wanted]
    for thread in threads:
        thread.start()
        if not follow:
            thread.join()
    for thread in threads:
        thread.join()


def _print_log(source: LogSource, width: int) -> None:
    with subprocess.Popen(
        source.command,
        env=source.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        for line in process.stdout or ():  # anybody's words: a client's, the project's
            tell(f"{source.name.ljust(width)} | {line.decode('utf-8', 'replace').rstrip()}")
