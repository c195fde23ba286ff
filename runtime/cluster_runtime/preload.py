"""Loads the project once, in gunicorn's own process, so that a worker is there in milliseconds after one has ended.

Workers are forks of gunicorn's process then. A fork copies neither threads nor whom a connection belongs to; a project
that has either after its import is loaded by each worker for itself, as without this.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from pathlib import Path

from cluster_runtime.log import say

#: The environment variable that says that workers load the project by themselves.
VARIABLE = "CLUSTER_PRELOAD"
NO = "no"

_APPEND = os.O_APPEND


def descriptors() -> dict[int, str]:
    """Return what this process has open: each descriptor, and where it leads."""
    found = {}
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names
        with contextlib.suppress(OSError):  # the directory's own
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115 - a text, not always a path
    return found


def load(module: str, before: dict[int, str]) -> str | None:
    """Load the application, and return why it can't be shared by forks; None where it can.

    before: what was open before. A failure to load is told by the workers, in their own way.
    """
    try:
        importlib.import_module(module)
        _load_urls()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the project does; the worker meets it again
        return f"{type(error).__name__} while loading"
    _close_connections()
    threads = os.listdir("/proc/self/task")  # noqa: PTH208 - names
    if len(threads) > 1:
        return f"the project starts {len(threads) - 1} threads when it is loaded"
    opened = sorted(
        what for fd, what in descriptors().items() if before.get(fd) != what and not _can_be_shared(fd, what)
    )
    return f"the project opens {', '.join(opened)} when it is loaded" if opened else None


def _load_urls() -> None:
    """Load the views too, which Django does at the first request; what fails here fails there."""
    from django.urls import get_resolver  # noqa: PLC0415 - after Django's set-up

    with contextlib.suppress(Exception):
        _ = get_resolver().url_patterns


def _close_connections() -> None:
    """Close what the import has opened by Django's own means: a worker opens its own."""
    from django.core.cache import caches  # noqa: PLC0415 - after Django's set-up
    from django.db import connections  # noqa: PLC0415

    connections.close_all()
    caches.close_all()


def _can_be_shared(descriptor: int, what: str) -> bool:
    """Tell whether it does no harm that several processes use it: a log that is only added to, or a device."""
    if what.startswith(("/dev/", f"/proc/{os.getpid()}/fd")):
        return True
    try:
        flags = Path(f"/proc/self/fdinfo/{descriptor}").read_text(encoding="ascii").split("flags:")[1].split()[0]
    except (OSError, IndexError):
        return True  # closed meanwhile
    return what.startswith("/") and bool(int(flags, 8) & _APPEND)


def start_again(environment: dict[str, str], reason: str) -> None:
    """Begin gunicorn's process anew, with nothing loaded; workers load the project by themselves then.

    environment: that of the beginning, without the secrets that a project's own environment holds.
    """
    say(f"each worker loads the project by itself: {reason}")
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**environment, VARIABLE: NO})  # noqa: S606
