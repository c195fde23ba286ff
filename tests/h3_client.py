"""A client of HTTP/3 that asks for one thing after another on one connection, and knows what the protocol promises.

A server that goes away says which requests it has not begun, and those alone are asked again (RFC 9114, 5.2). Anything
else that is not an answer is a lost request.
"""

from __future__ import annotations

import http.client
import socket
import time
from dataclasses import dataclass, field

from aioquic.buffer import Buffer, BufferReadError  # type: ignore[attr-defined] # it does not say that it hands them on
from aioquic.h3.connection import H3_ALPN, ErrorCode, FrameType, H3Connection, StreamType
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, StreamDataReceived, StreamReset

#: How often one request may be told that it was not begun.
ATTEMPTS = 3

#: What the numbers of streams of a server's, of one direction, leave when they are divided by 4 (RFC 9000, 2.1).
OF_SERVER = 3

#: Bytes of one datagram at most.
DATAGRAM = 65_536


class Lost(http.client.HTTPException):
    """No answer came, and nobody knows what became of the request."""


class Refused(Lost):
    """No connection came."""


class NotBegun(Exception):  # noqa: N818 - what it is
    """The server goes away, and has not begun this request: it may be asked again."""


class Control:
    """What a server says on its control stream, of which aioquic drops when it goes (RFC 9114, 6.2.1).

    going: the first stream that it has not begun; None: it stays.
    """

    def __init__(self) -> None:
        self.going: int | None = None
        self.streams: dict[int, bytes] = {}

    def take(self, event: StreamDataReceived) -> None:
        """Take what came on a stream."""
        if event.stream_id % 4 != OF_SERVER:
            return
        self.streams[event.stream_id] = self.streams.get(event.stream_id, b"") + event.data
        read = Buffer(data=self.streams[event.stream_id])
        try:
            if read.pull_uint_var() != StreamType.CONTROL:
                return
            while not read.eof():
                kind, length = read.pull_uint_var(), read.pull_uint_var()
                told = read.pull_bytes(length)
                if kind == FrameType.GOAWAY:
                    self.going = Buffer(data=told).pull_uint_var()
        except BufferReadError:
            return  # the rest is on its way


@dataclass
class Answer:
    """What came so far."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    whole: bool = False

    def of(self, name: str) -> list[str]:
        """Return the values of a header."""
        return [value for key, value in self.headers if key == name]


class Client:
    """Asks one server by UDP.

    timeout: seconds for a connection, and for an answer. again: how many requests were not begun and were asked again.
    """

    def __init__(self, port: int, name: str, authority: str, timeout: float, host: str = "127.0.0.1") -> None:
        self.address, self.name, self.timeout = (host, port), name, timeout
        self.authority = authority.encode()
        self.socket: socket.socket | None = None
        self.again = 0
        self.control = Control()

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self.socket is not None:
            self.quic.close(ErrorCode.H3_NO_ERROR)
            self._send()
            self.socket.close()
            self.socket = None

    def ask(
        self, path: str, body: bytes | None = None, *, host: str | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """Return a whole answer; Lost where none comes. host: what is asked for, in place of the site's name."""
        for _attempt in range(ATTEMPTS):
            try:
                return self._once(path, body, host, headers or {})
            except NotBegun:
                self.again += 1
                self.close()
        raise Lost(f"not begun {ATTEMPTS} times")

    def _once(self, path: str, body: bytes | None, host: str | None, headers: dict[str, str]) -> Answer:
        answer = Answer()
        self._connect()
        try:
            stream = self.quic.get_next_available_stream_id()
            fields = [
                (":method", "GET" if body is None else "POST"),
                (":scheme", "https"),
                (":authority", host or f"{self.name}:{self.address[1]}"),
                (":path", path),
                *headers.items(),
                *([] if body is None else [("content-length", str(len(body)))]),
            ]
            self.http.send_headers(stream, [(k.encode(), v.encode()) for k, v in fields], end_stream=body is None)
            if body is not None:
                self.http.send_data(stream, body, end_stream=True)
            end = time.monotonic() + self.timeout
            while not answer.whole:
                self._turn(end, stream, answer)
        except Lost:
            self.close()
            if self.control.going is not None and stream >= self.control.going:
                raise NotBegun from None
            raise
        return answer

    def _connect(self) -> None:
        if self.socket is not None:
            self._turn(0, -1, Answer())  # what it was told between two requests
        if self.socket is not None and self.control.going is None:
            return
        self.close()
        wanted = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=self.name, cadata=self.authority)
        self.quic = QuicConnection(configuration=wanted)
        self.shaken = False
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.quic.connect(self.address, now=time.monotonic())
        self.http = H3Connection(self.quic)
        self.control = Control()
        end = time.monotonic() + self.timeout
        while not self.shaken:
            try:
                self._turn(end, -1, Answer())
            except Lost as error:
                self.close()
                raise Refused(str(error)) from None

    def _send(self) -> None:
        assert self.socket is not None
        for data, _address in self.quic.datagrams_to_send(now=time.monotonic()):
            self.socket.sendto(data, self.address)

    def _turn(self, end: float, stream: int, answer: Answer) -> None:
        """Send what is to be sent, and take what comes next; with an `end` of 0 what is there already."""
        assert self.socket is not None
        self._send()
        now, timer = time.monotonic(), self.quic.get_timer()
        if end and now >= end:
            raise Lost("nothing came in time")
        wait = min(end - now, timer - now if timer is not None else self.timeout) if end else 0.0
        self.socket.settimeout(max(wait, 0.0001))
        try:
            self.quic.receive_datagram(self.socket.recv(DATAGRAM), self.address, now=time.monotonic())
        except TimeoutError:
            if timer is not None and time.monotonic() >= timer:
                self.quic.handle_timer(now=time.monotonic())
        self._events(stream, answer)
        self._send()

    def _events(self, stream: int, answer: Answer) -> None:
        while (event := self.quic.next_event()) is not None:
            if isinstance(event, HandshakeCompleted):
                self.shaken = True
            elif isinstance(event, ConnectionTerminated):
                assert self.socket is not None
                self.socket.close()
                self.socket = None
                if stream >= 0 or not self.shaken:
                    raise Lost(f"the connection ended: {event.error_code} {event.reason_phrase}".strip())
                return
            elif isinstance(event, StreamReset) and event.stream_id == stream:
                raise Lost(f"stream {stream} was reset: {event.error_code}")
            elif isinstance(event, StreamDataReceived):
                self.control.take(event)
            for found in self.http.handle_event(event):
                if not isinstance(found, HeadersReceived | DataReceived) or found.stream_id != stream:
                    continue
                if isinstance(found, HeadersReceived):
                    answer.headers += [(name.decode(), value.decode()) for name, value in found.headers]
                    answer.status = int(dict(found.headers).get(b":status", answer.status))
                else:
                    answer.body += found.data
                answer.whole = answer.whole or found.stream_ended
