"""Runs the project's code on this machine: in a release, as the instances' user."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from functools import partial
from typing import IO, TYPE_CHECKING

from cluster.machine.confined import confine
from cluster_runtime.prepare import mask
from cluster_runtime.progress import read_telling
from cluster_runtime.unfollowed import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.machine.owner import Owner
    from platforms.local.release import Release

#: Lines of a failed program's output that a message repeats.
LAST_LINES = 15

#: What is kept of what a program of the project prints, bytes; and how long its end is waited for where something that
#: it started has its output still open, seconds.
MOST_PRINTED, READING_SECONDS = 256 * 1024, 5.0


class ProjectCode:
    """Runs the project's code in a release."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner

    def shown(self, release: Release, text: str) -> str:
        """Return the last lines of what a program of the project printed, without any secret's value."""
        return last_lines(printable(mask(text, release.secrets())))

    def manage(self, release: Release, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a management command in the release, as the instances' user, and return what it printed."""
        return self.run(release, "cluster_runtime.manage", *arguments)

    def run(
        self, release: Release, module: str, *arguments: str, say: Callable[[str], None] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a module of the runtime in the release, as the instances' user; return the end of what it printed.

        It is the project's code: it gets none of this program's descriptors, groups or rights, and no terminal, into
        which it could type. With `say` its progress is told as it goes, and all that it prints is its stdout.
        """
        options = self.owner.subprocess_options()
        with subprocess.Popen(
            [release.python, "-P", "-m", module, *arguments],
            cwd=release.directory,
            env=release.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if say is None else subprocess.STDOUT,
            umask=0o027,
            start_new_session=bool(options),
            preexec_fn=partial(confine, release.project),  # noqa: PLW1509 - no thread of this program holds what it needs
            **options,
        ) as process:
            assert process.stdout is not None  # noqa: S101 - they were asked for
            printed = [_End(process.stdout, say), *([_End(process.stderr)] if process.stderr else [])]
            try:
                status = process.wait()
            except BaseException:
                process.kill()
                raise
            return subprocess.CompletedProcess(
                process.args, status, *(end.text() for end in printed), *([""] if say else [])
            )


class _End:
    """The end of what a program prints; all of it may be more than there is memory for. `say` is told its progress."""

    def __init__(self, stream: IO[bytes], say: Callable[[str], None] | None = None) -> None:
        self._kept = b""
        self._say = say
        self._reader = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(ValueError, OSError):  # closed, since who has it open would never end
            read_telling(stream.fileno(), self._keep, self._say or (lambda _message: None))

    def _keep(self, chunk: bytes) -> None:
        self._kept = (self._kept + chunk)[-MOST_PRINTED:]

    def text(self) -> str:
        self._reader.join(timeout=READING_SECONDS)
        return self._kept.decode("utf-8", "replace")


def last_lines(text: str) -> str:
    """Return the last lines of what a program printed."""
    return "\n".join(text.strip().splitlines()[-LAST_LINES:])
