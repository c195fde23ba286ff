"""Looks at what runs in a process of its own, while Pulumi's engine begins, for the program that the engine runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from cluster.errors import ClusterError
from platforms.pulumi.beside import beside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: Where a program that a command has begun finds what is being looked at: a path, locked until all is there.
LOOKING_VARIABLE = "CLUSTER_LOOKING"

#: Ends what was written whole, and is nowhere else in it.
WHOLE = "\n"


@contextmanager
def looking(look: Callable[[], str]) -> Iterator[dict[str, str]]:
    """Look in a process of its own; yield the variables by which the program finds what that returns.

    Nothing else runs here meanwhile: it is a fork. No variables where none may be had: the program looks itself.
    """
    with tempfile.TemporaryDirectory() as aside, contextlib.ExitStack() as stack:
        path = Path(aside) / "looked"
        variables = {}
        with contextlib.suppress(OSError):
            # The file is locked until the fork ends, whose it is too.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                stack.enter_context(beside(lambda: _write(file, look)))
                variables = {LOOKING_VARIABLE: str(path)}
        yield variables


def _write(file: TextIO, look: Callable[[], str]) -> None:
    """Look, and write it down; what is away is told by whoever looks again."""
    with contextlib.suppress(ClusterError, OSError):
        file.write(f"{look()}{WHOLE}")
        file.flush()


def seen_by_another(variables: Mapping[str, str] = os.environ) -> str | None:
    """Return what the command has seen that began this run, once it has; None where there is none, or it could not.

    variables: those that `looking` yields, in a program its environment.
    """
    path = variables.get(LOOKING_VARIABLE)
    if path is None:
        return None
    try:
        with Path(path).open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            found = file.read()
    except OSError:
        return None
    return found if found.endswith(WHOLE) else None


__all__ = ["LOOKING_VARIABLE", "looking", "seen_by_another"]
