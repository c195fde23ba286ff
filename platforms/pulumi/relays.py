"""Ways from here to sockets where a cluster runs, all of them over one program there: to begin one takes its time."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import threading
from typing import TYPE_CHECKING

from platforms.pulumi.relay import CHUNK, Sockets

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from cluster.endpoints import Endpoint


#: Seconds for which one who does not take what comes for it may keep the others waiting.
LATEST = 2

#: As the kernel has a time: seconds and microseconds.
TIME = struct.Struct("ll")


class Relays:
    """Sockets here that lead to sockets where a cluster runs.

    start: begins the program there, platforms/docker/relays.pl, which says what it is told and tells. It begins
    with the first connection.
    """

    def __init__(self, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        self._start = start
        self._process: subprocess.Popen[bytes] | None = None
        self._connections: dict[int, socket.socket] = {}
        self._numbers = itertools.count()
        self._closed = False
        # Two: to tell something may wait until what the program tells is taken.
        self._lock, self._telling = threading.Lock(), threading.Lock()
        self._sockets = Sockets(self._connect)

    def to(self, path: str) -> Endpoint:
        """Return a socket here that leads to the one at `path` there."""
        return self._sockets.to(path)

    def _connect(self, connection: socket.socket, path: str) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, TIME.pack(LATEST, 0))
        with self._lock:
            if self._closed:
                connection.close()
                return
            if self._process is None:
                self._process = self._start()
                threading.Thread(target=self._take, args=(self._process,), daemon=True).start()
            process, number = self._process, next(self._numbers)
            self._connections[number] = connection
        self._tell(process, f"open {number} {path}\n".encode())
        threading.Thread(target=self._pump, args=(process, connection, number), daemon=True).start()

    def _tell(self, process: subprocess.Popen[bytes], told: bytes) -> None:
        """Tell the program something; one that has ended needs to be told nothing."""
        assert process.stdin is not None  # noqa: S101 - a pipe was asked for
        with self._telling, contextlib.suppress(OSError):
            process.stdin.write(told)
            process.stdin.flush()

    def _pump(self, process: subprocess.Popen[bytes], connection: socket.socket, number: int) -> None:
        """Pass on what a connection sends."""
        with contextlib.suppress(OSError):
            while data := connection.recv(CHUNK):
                self._tell(process, b"data %d %d\n%b" % (number, len(data), data))
        self._tell(process, b"shut %d\n" % number)

    def _take(self, process: subprocess.Popen[bytes]) -> None:
        """Pass on what the program tells until it ends: then its connections do, and the next one begins another."""
        try:
            self._pass_on(process)
        except ValueError:  # the engine says so in the program's place where that can't begin
            process.kill()
        with self._lock:
            self._process, numbers = None, list(self._connections)
        for number in numbers:
            self._shut(number)
        process.wait()

    def _pass_on(self, process: subprocess.Popen[bytes]) -> None:
        """Pass on what the program tells; ValueError where that is none of it."""
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        while line := process.stdout.readline():
            what, number, *length = line.split()
            if what == b"shut":
                self._shut(int(number))
                continue
            data = process.stdout.read(int(b"".join(length)))
            with self._lock:
                connection = self._connections.get(int(number))
            if connection is not None:
                try:
                    connection.sendall(data)
                except OSError:  # nobody waits for it any more, or takes it
                    self._shut(int(number))
                    # Not from here: to be told, the program may first have to get rid of what it tells.
                    drop = b"drop %d\n" % int(number)
                    threading.Thread(target=self._tell, args=(process, drop), daemon=True).start()

    def _shut(self, number: int) -> None:
        with self._lock:
            connection = self._connections.pop(number, None)
        if connection is not None:
            with contextlib.suppress(OSError):  # while somebody waits for what it sends, closing it alone tells nobody
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def close(self) -> None:
        """Close all ways."""
        self._sockets.close()
        with self._lock:
            process, self._closed = self._process, True
        if process is not None:
            process.kill()
            process.wait()
