"""Reads what nobody vouches for: within it this process reads certain directories alone, and runs and asks nothing.

A requirements file may name any path of the machine, a stack file too, and a variable of the environment: what of it
would be shown in a pull request is anybody's. So the interpreter itself is asked before a file is opened (PEP 578):
what lies elsewhere is not there.
"""

from __future__ import annotations

import errno
import os
import sys
import sysconfig
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What would begin a program, or reach another machine.
REFUSED = frozenset(
    (
        *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty"),
        *("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "ctypes.dlopen"),
        *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink"),
        *("os.truncate", "shutil.rmtree", "os.putenv"),
    )
)

LISTED = frozenset({"os.listdir", "os.scandir"})

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class ElsewhereError(FileNotFoundError):
    """What is asked for lies outside of what may be read, or would be run."""


class _Bounds:
    """What may be read now; None: all of it."""

    def __init__(self) -> None:
        self.inside: tuple[str, ...] | None = None


_bounds = _Bounds()


@contextmanager
def confined(*directories: Path) -> Iterator[None]:
    """Let this process read these directories alone, and Python's own; whatever else is asked for is not there."""
    _installed()
    kept = dict(os.environ)
    os.environ.clear()
    os.environ.update({"PATH": "/nonexistent", "HOME": "/nonexistent"})
    _bounds.inside = (*(os.path.realpath(one) for one in directories), *_of_python())
    try:
        yield
    finally:
        _bounds.inside = None
        os.environ.clear()
        os.environ.update(kept)


@cache
def _installed() -> None:
    """Begin to look; the interpreter lets nobody end it."""
    sys.addaudithook(_look)


@cache
def _of_python() -> tuple[str, ...]:
    """Return where modules of the interpreter's and of this program lie, which may be imported only now."""
    ours = Path(__file__).resolve().parents[1]
    places = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    runtime = sys.modules["cluster_runtime"].__file__ if "cluster_runtime" in sys.modules else None
    return tuple({os.path.realpath(one) for one in (*places, ours, *([Path(runtime).parent] if runtime else ()))})


def _look(event: str, arguments: tuple[Any, ...]) -> None:
    if _bounds.inside is None:
        return
    if event in REFUSED:
        raise ElsewhereError(errno.ENOENT, "nothing is run or changed while this is read", event)
    if event == "open":
        path, _mode, flags = arguments
        if isinstance(path, int):
            return
        if isinstance(flags, int) and flags & WRITING:
            raise ElsewhereError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        _check(path)
    elif event in LISTED and arguments[0] is not None and not isinstance(arguments[0], int):
        _check(arguments[0])


def _check(path: Any) -> None:
    real = os.path.realpath(os.fsdecode(path))
    inside = _bounds.inside or ()
    if not any(real == one or real.startswith(f"{one}/") for one in inside):
        raise ElsewhereError(errno.ENOENT, os.strerror(errno.ENOENT), os.fsdecode(path))
