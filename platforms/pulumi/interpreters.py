"""Forks of a process that has imported much, each in place of a Python that the engine starts (starter.py).

The engine starts the policy pack so: a Python that sees whether a module is there, and one that imports all of the
pack's SDK; together 0.7 s of processor time for each plan.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import os
import runpy
import shlex
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

STARTER = Path(__file__).with_name("starter.py")

#: How many streams a fork is given, and how many bytes say how long the rest is.
STREAMS, HEAD = 3, 4

#: What a fork says first; who hears nothing becomes Python itself.
BEGUN = b"+"


def write(directory: Path, path: Path, python: str = sys.executable) -> Path:
    """Write what the engine takes for a virtual environment, whose Python asks at the socket `path`; return it.

    Where nothing may be executed below `directory` it is no environment: see `works`.
    """
    command = directory / "bin" / "python"
    command.parent.mkdir(parents=True)
    words = shlex.join([python, "-IS", str(STARTER), str(path), python])
    command.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
    command.chmod(0o700)
    return directory


def works(directory: Path) -> bool:
    """Tell whether what was written there can be executed: a temporary directory may be mounted `noexec`."""
    return os.access(directory / "bin" / "python", os.X_OK)


def lend(listener: socket.socket, prepare: Callable[[], object]) -> int | None:
    """Fork for one that asks; return the fork's process, None where nobody asks any more.

    prepare: called by the fork before anything else.
    """
    try:
        connection, _address = listener.accept()
    except OSError:
        return None
    with connection:
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            prepare()
            connection.send(BEGUN)
            status = _be(connection)
        except BaseException:  # noqa: BLE001 - a fork never goes back into what it was forked from
            traceback.print_exc()
        finally:
            threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - as Python does where it ends
            atexit._run_exitfuncs()  # noqa: SLF001
            _flush()
            with contextlib.suppress(OSError):  # who asked may have been killed
                connection.send(bytes([status]))
            os._exit(status)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def _be(connection: socket.socket) -> int:
    """Take what the one that asks has: its streams, directory and environment; do what it was started for."""
    head, streams, _flags, _from = socket.recv_fds(connection, HEAD, STREAMS)
    with connection.makefile("rb") as file:
        order = json.loads(file.read(int.from_bytes(head, "big")))
    for there, stream in enumerate(streams):
        os.dup2(stream, there)
        os.close(stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - as long as the process
    sys.stdout, sys.stderr = _unbuffered(1, "strict"), _unbuffered(2, "backslashreplace")
    threading.Thread(target=_end_with, args=(connection,), daemon=True).start()
    os.chdir(order["directory"])
    os.environ.clear()
    os.environ.update(order["environment"])
    try:
        _run(order["words"])
    except SystemExit as error:
        if isinstance(error.code, str):
            sys.stderr.write(f"{error.code}\n")
            return 1
        return int(error.code or 0) & 0xFF
    return 0


def _unbuffered(stream: int, errors: str) -> TextIO:
    """Return a stream as `python -u` has it: what is written to its buffer is passed on at once too."""
    raw = io.FileIO(stream, "w", closefd=False)
    return io.TextIOWrapper(raw, errors=errors, write_through=True)


def _end_with(connection: socket.socket) -> None:
    """End as soon as the one that asked does."""
    with contextlib.suppress(OSError):
        connection.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


def _run(words: list[str]) -> None:
    """Do what Python does with these words, which the starter knows: `-c CODE …` or `-u -m MODULE …`."""
    sys.path.insert(0, str(Path.cwd()))
    match words:
        case ["-c", code, *rest]:
            sys.argv = ["-c", *rest]
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - as `python -c`
        case ["-u", "-m", module, *rest]:
            sys.argv = [module, *rest]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case _:
            raise ValueError(f"neither -c nor -u -m: {shlex.join(words)}")
