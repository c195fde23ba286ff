"""Ways from here to sockets on another machine, or in a container: each connection is a program of its own."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.endpoints import Endpoint

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

CHUNK = 65536


class Relay:
    """Sockets here that lead to sockets where a cluster runs.

    start: begins a program whose standard input and output lead to the socket at a path there; each connection is one.
    """

    def __init__(self, start: Callable[[str], subprocess.Popen[bytes]]) -> None:
        self.start = start
        self.directory = Path(tempfile.mkdtemp(prefix="cluster-"))
        self.listeners: list[socket.socket] = []
        self.processes: list[subprocess.Popen[bytes]] = []

    def to(self, path: str) -> Endpoint:
        """Return a socket here that leads to the one at `path` there."""
        here = self.directory / f"{len(self.listeners)}.sock"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(here))
        listener.listen()
        self.listeners.append(listener)
        threading.Thread(target=self._accept, args=(listener, path), daemon=True).start()
        return Endpoint(path=str(here))

    def _accept(self, listener: socket.socket, path: str) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = listener.accept()
                process = self.start(path)
                self.processes.append(process)
                threading.Thread(target=_pump_out, args=(connection, process), daemon=True).start()
                threading.Thread(target=_pump_in, args=(connection, process), daemon=True).start()

    def close(self) -> None:
        """Close all ways."""
        for listener in self.listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for process in self.processes:
            process.kill()
            process.wait()
        for path in self.directory.iterdir():
            path.unlink()
        self.directory.rmdir()


def _pump_out(connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None  # noqa: S101 - a pipe was asked for
    with contextlib.suppress(OSError):
        while data := connection.recv(CHUNK):
            process.stdin.write(data)
            process.stdin.flush()
    with contextlib.suppress(OSError):
        process.stdin.close()


def _pump_in(connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    with contextlib.suppress(OSError):
        while data := os.read(process.stdout.fileno(), CHUNK):
            connection.sendall(data)
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)  # while somebody waits for what it sends, closing it alone tells nobody
    connection.close()
