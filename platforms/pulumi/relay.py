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


class Sockets:
    """Sockets here, each of which leads somewhere. take: is given each connection, and where it leads."""

    def __init__(self, take: Callable[[socket.socket, str], None]) -> None:
        self._take = take
        self._directory = Path(tempfile.mkdtemp(prefix="cluster-"))
        self._listeners: list[socket.socket] = []

    def to(self, there: str) -> Endpoint:
        """Return a socket here that leads there."""
        here = self._directory / f"{len(self._listeners)}.sock"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(here))
        listener.listen()
        self._listeners.append(listener)
        threading.Thread(target=self._accept, args=(listener, there), daemon=True).start()
        return Endpoint(path=str(here))

    def _accept(self, listener: socket.socket, there: str) -> None:
        with listener, contextlib.suppress(OSError):  # closed, or no more can be had: whoever waits is told
            while True:
                connection, _ = listener.accept()
                self._take(connection, there)

    def close(self) -> None:
        """Take no connection any more."""
        for listener in self._listeners:
            with contextlib.suppress(OSError):  # it is closed
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for path in self._directory.iterdir():
            path.unlink()
        self._directory.rmdir()


class Relay:
    """Sockets here that lead to sockets where a cluster runs.

    start: begins a program whose standard input and output lead to the socket at a path there; each connection is one.
    """

    def __init__(self, start: Callable[[str], subprocess.Popen[bytes]]) -> None:
        self.start = start
        self.processes: list[subprocess.Popen[bytes]] = []
        self._sockets = Sockets(self._connect)

    def to(self, path: str) -> Endpoint:
        """Return a socket here that leads to the one at `path` there."""
        return self._sockets.to(path)

    def _connect(self, connection: socket.socket, path: str) -> None:
        process = self.start(path)
        self.processes.append(process)
        threading.Thread(target=_pump_out, args=(connection, process), daemon=True).start()
        threading.Thread(target=_pump_in, args=(connection, process), daemon=True).start()

    def close(self) -> None:
        """Close all ways."""
        self._sockets.close()
        for process in self.processes:
            process.kill()
            process.wait()


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
