"""A preview that starts before it is known what its program is to be told.

The engine takes a fifth of a second until it asks for the program, and then waits: meanwhile the state is read, the
stack file is judged and what the program needs is imported. The engine reads the state itself after that.
"""

from __future__ import annotations

import re
import time
import weakref
from typing import TYPE_CHECKING

from platforms.pulumi.running import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import ExitStack
    from pathlib import Path

#: Seconds after which it is given up: Pulumi itself (gRPC) waits twice 20 for what does not answer.
FRESH = 10.0

#: Lines of a stack file without which Pulumi, or a command, writes into it first: what its secrets are encrypted with,
#: and the one that each stack needs.
WRITTEN = (
    re.compile(r"^encrypt(ionsalt|edkey): \S", re.MULTILINE),
    re.compile(r"^ +cluster:secret_key:", re.MULTILINE),
)


class Ahead:
    """The preview. Until its program is served it holds no lock and changes nothing: who does not need it kills it.

    root: where it runs. environment, files: what it goes by, as it is now. words: returns its command line; what has to
    be there for that is entered into the stack. OSError where it can't start.
    """

    def __init__(
        self,
        root: Path,
        environment: Mapping[str, str],
        files: Iterable[Path],
        words: Callable[[ExitStack], list[str]],
    ) -> None:
        self.began = time.monotonic()
        self.environment = dict(environment)
        self.files = {file: _content(file) for file in files}
        self.run = Run()
        self.close = weakref.finalize(self, _end, self.run)
        self.run.start(words(self.run.beside), root, environment)

    def served(self) -> Run:
        """Return the run once its program is served: it ends by itself from then on, and whoever takes it closes it."""
        self.close.detach()
        return self.run

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Tell whether it waits, and is what would start now."""
        return (
            time.monotonic() - self.began < FRESH
            and self.run.process.poll() is None
            and self.environment == environment
            and all(_content(file) == content for file, content in self.files.items())
        )


def may_start(file: Path, backend: str) -> bool:
    """Tell whether a preview can start for a stack of this file, and be killed, without a trace.

    backend: where the states are. Pulumi's cloud keeps which previews there are; and what a stack file lacks is written
    into it by the first that needs it.
    """
    if backend.startswith(("https:", "http:")):
        return False
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return all(line.search(text) for line in WRITTEN)


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except OSError:
        return None


def _end(run: Run) -> None:
    run.kill()
    run.close()
