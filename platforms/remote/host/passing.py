"""Passes connections on to a host's sockets: one to one of them, or several by frames."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from platforms.remote.host import broker
from platforms.remote.host.frames import LONGEST, WITHIN, Frame, framed, read_frame
from platforms.remote.host.running import become

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Mapping
    from typing import IO

    from platforms.remote.host.paths import HostPaths

#: Asks for the ports on which the instances' user listens, as a JSON list.
LISTENING = "listening"


def relay(path: str) -> None:
    """Pass standard input to a socket, and what comes from it to standard output."""
    with socket.socket(socket.AF_UNIX) as there:
        there.connect(path)
        threading.Thread(target=_pass_on, args=(there,), daemon=True).start()
        while data := there.recv(LONGEST):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
    os._exit(0)  # at once: who waits for an answer is to know that there is none, and a thread holds standard input


def _pass_on(there: socket.socket) -> None:
    told = cast("io.BufferedReader", sys.stdin.buffer)
    while data := told.read1(LONGEST):
        there.sendall(data)
    there.shutdown(socket.SHUT_WR)


def relay_all(places: HostPaths) -> None:
    """Pass connections on, which standard input and output have by frames, until there is no input any more.

    As the instances' user, who says where a name leads. It says itself on which ports that user listens.
    """
    try:
        asked: int | None = broker.port(places)
    except (OSError, ValueError, KeyError):  # `listening` says why
        asked = None
    become(places)
    said = {} if asked is None else {LISTENING: partial(_listening, places, asked)}
    Passing(sys.stdin.buffer, sys.stdout.buffer, said).run()
    os._exit(0)  # threads wait for sockets


def _listening(places: HostPaths, asked: int) -> str:
    from platforms.remote.host.look import listening  # noqa: PLC0415 - imports much, and not all ask

    return json.dumps(listening(places, asked))


class Passing:
    """Connections to sockets, asked for by frames. said: what is answered by itself, by what is asked for."""

    def __init__(
        self, told: IO[bytes], answers: IO[bytes], said: Mapping[str, Callable[[], str]] = MappingProxyType({})
    ) -> None:
        self._told = told
        self._answers = answers
        self._said = said
        self._lock = threading.Lock()
        self._open: dict[int, socket.socket] = {}

    def run(self) -> None:
        """Do what is told until nothing is."""
        while (frame := read_frame(self._told)) is not None:
            number, kind, data = frame
            if kind is Frame.OPEN:
                self._connect(number, data.decode())
            elif (there := self._open.get(number)) is not None:
                _send(there, data)

    def _connect(self, number: int, to: str) -> None:
        """Connect to a path, or to a port of this host; or say what is asked for."""
        if to in self._said:
            threading.Thread(target=self._say_itself, args=(number, self._said[to]), daemon=True).start()
            return
        there = socket.socket(socket.AF_UNIX if to.startswith("/") else socket.AF_INET)
        there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, WITHIN)
        try:
            there.connect(to if to.startswith("/") else ("127.0.0.1", int(to)))
        except OSError:  # who asks is told that there is none
            there.close()
            self._say(framed(number, Frame.CLOSED))
            return
        self._open[number] = there
        threading.Thread(target=self._answer, args=(number, there), daemon=True).start()

    def _say_itself(self, number: int, what: Callable[[], str]) -> None:
        """Say it at once, or nothing where that fails, which whoever asks takes for no answer."""
        try:
            told = what().encode()
            for begin in range(0, len(told), LONGEST):
                self._say(framed(number, Frame.DATA, told[begin : begin + LONGEST]))
        finally:
            self._say(framed(number, Frame.CLOSED))

    def _answer(self, number: int, there: socket.socket) -> None:
        """Pass on what a socket answers, until it ends."""
        with contextlib.suppress(OSError):
            while data := there.recv(LONGEST):
                self._say(framed(number, Frame.DATA, data))
        self._open.pop(number, None)
        there.close()
        self._say(framed(number, Frame.CLOSED))

    def _say(self, frame: bytes) -> None:
        with self._lock:
            self._answers.write(frame)
            self._answers.flush()


def _send(there: socket.socket, data: bytes) -> None:
    """Send what is told on; nothing where no more will be. A connection that takes it no more ends."""
    with contextlib.suppress(OSError):
        try:
            there.sendall(data) if data else there.shutdown(socket.SHUT_WR)
        except OSError:
            there.shutdown(socket.SHUT_RDWR)  # which its thread tells


__all__ = ["Passing", "relay", "relay_all"]
