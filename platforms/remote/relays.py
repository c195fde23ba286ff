"""Ways from here to the sockets of a host's instances: all by one program there, each connection in frames of it."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

from platforms.pulumi.relay import Sockets
from platforms.remote.host.frames import LONGEST, WITHIN, Frame, framed, read_frame

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from cluster.endpoints import Endpoint

#: Seconds in which the program says what it says by itself.
SAID_WITHIN = 20.0


class Relays:
    """Sockets here that lead to sockets on a host.

    start: begins the program there, whose standard input and output have the connections by frames; OSError where it
    can't be. It is begun once, with the first connection at the latest; where it has ended, each connection ends too.
    """

    def __init__(self, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        self._start = start
        self._sockets = Sockets(self._connect)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: threading.Thread | None = None
        self.has_ended = False
        self._ways: dict[str, Endpoint] = {}
        self._open: dict[int, socket.socket] = {}
        self._given = 0

    def to(self, there: str) -> Endpoint:
        """Return a socket here that leads to the one at a path there, or to a port; the same one each time."""
        if there not in self._ways:
            self._ways[there] = self._sockets.to(there)
        return self._ways[there]

    def begin(self) -> None:
        """Begin the program, so that the first connection need not wait for it; what keeps it from that is theirs."""
        with contextlib.suppress(OSError), self._lock:
            self._started()

    def said(self, what: str) -> str:
        """Return what the program says by itself; empty where it says nothing in time, or has ended."""
        with socket.socket(socket.AF_UNIX) as asking, contextlib.suppress(OSError):
            asking.settimeout(SAID_WITHIN)
            asking.connect(str(self.to(what).path))
            return b"".join(iter(lambda: asking.recv(LONGEST), b"")).decode()
        return ""

    def _started(self) -> None:
        """Begin the program where it was not; to be called with the lock."""
        if self._process is None:
            self._process = self._start()
            self._answers = threading.Thread(target=self._take_answers, args=(self._process,), daemon=True)
            self._answers.start()

    def _connect(self, connection: socket.socket, there: str) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, WITHIN)
        with self._lock:
            self._given += 1
            number = self._given
            self._open[number] = connection
            try:
                self._started()
            except OSError:  # the host does not take it
                self.has_ended = True
        self._say(number, Frame.OPEN, there.encode())
        threading.Thread(target=self._ask, args=(number, connection), daemon=True).start()

    def _ask(self, number: int, connection: socket.socket) -> None:
        """Pass on what is asked, until no more is."""
        with contextlib.suppress(OSError):
            while data := connection.recv(LONGEST):
                self._say(number, Frame.DATA, data)
        self._say(number, Frame.DATA)

    def _say(self, number: int, kind: Frame, data: bytes = b"") -> None:
        try:
            with self._lock:
                if self.has_ended:
                    raise BrokenPipeError
                assert self._process is not None  # noqa: S101 - begun with the first connection
                assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
                self._process.stdin.write(framed(number, kind, data))
                self._process.stdin.flush()
        except OSError:  # it has ended
            self._end(number)

    def _take_answers(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        while (frame := read_frame(process.stdout)) is not None:
            number, kind, data = frame
            connection = self._open.get(number)
            if connection is None:
                continue
            try:
                if kind is not Frame.DATA:
                    raise ConnectionAbortedError
                connection.sendall(data)
            except OSError:
                self._end(number)
        with self._lock:
            self.has_ended = True
        for number in [*self._open]:
            self._end(number)

    def _end(self, number: int) -> None:
        """End a connection: whoever waits for an answer is to know that there is none."""
        connection = self._open.pop(number, None)
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def close(self) -> None:
        """Close all ways."""
        self._sockets.close()
        if self._process is not None and self._answers is not None:
            self._process.kill()
            self._process.wait()
            for number in [*self._open]:  # whoever takes no answer keeps its thread waiting
                self._end(number)
            self._answers.join()
            for pipe in filter(None, (self._process.stdin, self._process.stdout)):
                with contextlib.suppress(OSError):  # what was not sent any more
                    pipe.close()
