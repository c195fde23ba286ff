"""Looks at the hosts in a process of its own, while the engine begins, for the program that changes them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import tempfile
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cluster_runtime.supervision import die_with_parent
from platforms.remote.looked import handed
from platforms.remote.ssh import HostError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from platforms.remote.looked import Seen

#: Where an `up` that a command has begun finds what is being looked at: a path, locked until all is there.
LOOKING_VARIABLE = "CLUSTER_LOOKING"


@contextmanager
def looking(look: Callable[[], Seen]) -> Iterator[dict[str, str]]:
    """Look in a process of its own; yield the variables by which the program finds what that sees.

    Nothing else runs here meanwhile: it is a fork.
    """
    with tempfile.TemporaryDirectory() as aside:
        path = Path(aside) / "looked"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # the fork's too, until it ends
        pid = os.fork()
        if pid == 0:
            _be(descriptor, look)
        os.close(descriptor)
        try:
            yield {LOOKING_VARIABLE: str(path)}
        finally:
            os.kill(pid, signal.SIGKILL)  # whoever would wait for it has ended
            os.waitpid(pid, 0)


def _be(descriptor: int, look: Callable[[], Seen]) -> None:
    """Look, write it down, and end; a host that is away is told by whoever looks again."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupt is told to all; whoever asked says so
        die_with_parent()
        with contextlib.suppress(HostError), os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(handed(look()))
            status = 0
    except BaseException:  # noqa: BLE001 - a fork never goes back into what it was forked from
        traceback.print_exc()
    finally:
        os._exit(status)


def seen_by_another() -> str | None:
    """Return what the command has seen that began this `up`, once it has; None where there is none, or it could not."""
    path = os.environ.get(LOOKING_VARIABLE)
    if path is None:
        return None
    try:
        with Path(path).open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            return file.read() or None
    except OSError:
        return None


__all__ = ["LOOKING_VARIABLE", "looking", "seen_by_another"]
