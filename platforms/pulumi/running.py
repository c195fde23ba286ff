"""One run of Pulumi's engine as a process: how it starts, what it says meanwhile, how it ends."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster_runtime.supervision import die_with_parent
from platforms.pulumi.plain import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: Seconds between two looks at what the engine says.
TICK = 0.03

#: Seconds that Pulumi has to end by itself after an interrupt.
INTERRUPT_SECONDS = 60.0

Event = dict[str, Any]


class Run:
    """A run. directory: of its own. beside: what it needs as long as it is there."""

    def __init__(self) -> None:
        self.beside = contextlib.ExitStack()
        self.directory = Path(self.beside.enter_context(tempfile.TemporaryDirectory()))
        self._log, self._output = self.directory / "events", self.directory / "output"
        self._log.touch()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, words: Sequence[str], root: Path, environment: Mapping[str, str]) -> None:
        """Start it in `root`. words: its command line."""
        with self._output.open("wb") as sink:
            self._process = subprocess.Popen(
                [*words, "--event-log", str(self._log)],
                cwd=root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # an interrupt is passed on once: a second one would leave its lock
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - no threads here
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The engine, once it is started."""
        assert self._process is not None  # noqa: S101 - for mypy
        return self._process

    def events(self) -> Iterator[Event]:
        """Yield the engine's events as they are written, until it has ended."""
        rest = ""
        with self._log.open(encoding="utf-8") as file:
            while True:
                ended = self.process.poll() is not None
                rest += file.read()
                *lines, rest = rest.split("\n")
                for line in lines:
                    if line:
                        yield json.loads(line)
                if ended:
                    return
                time.sleep(TICK)

    def printed(self) -> str:
        """Return what it has printed."""
        return plain(self._output.read_text(encoding="utf-8", errors="replace"))

    def interrupt(self) -> None:
        """Let the engine end what it is doing; one that does not is killed."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(INTERRUPT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill the engine, where it is there: for one that changes nothing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Remove what it needed; the engine, where it still runs, ends by itself."""
        self.beside.close()


def _end_with_parent() -> None:
    """Let the kernel interrupt Pulumi when the one that started it is killed: it ends cleanly, and unlocks."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which a shell's background jobs ignore
    die_with_parent(signal.SIGINT)
