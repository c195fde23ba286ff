"""A client of HTTP/2 that asks for one thing after another on one connection, and knows what the protocol promises.

A server that goes away says which requests it has not begun, and those alone are asked again (RFC 9113, 6.8). Anything
else that is not an answer is a lost request.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset

#: Bytes that are read at a time.
CHUNK = 65_536

#: Bytes before the payload of a frame, and the type of the one that says that a connection goes (RFC 9113, 4.1, 6.8).
HEAD, GOAWAY = 9, 7

#: How often one request may be told that it was not begun.
ATTEMPTS = 3


class NotBegun(Exception):  # noqa: N818 - what it is
    """The server goes away, and has not begun this request: it may be asked again."""


class Lost(http.client.HTTPException):
    """No answer came, and nobody knows what became of the request."""


class Answer:
    """What http.client's answer is, of what the load looks at."""

    will_close = False

    def __init__(self, status: int, headers: http.client.HTTPMessage, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def read(self) -> bytes:
        """Return the body."""
        return self.body


class Connection:
    """Asks as http.client's connection does, over HTTP/2."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def request(self, method: str, path: str, body: str | bytes | None, headers: dict[str, str]) -> None:
        """Ask; `getresponse` has the answer."""
        sent = {name.lower(): value for name, value in headers.items() if name.lower() != "host"}
        self.answer = self.client.ask_with(method, path, body.encode() if isinstance(body, str) else body, sent)

    def getresponse(self) -> Answer:
        """Return the answer to the last request."""
        return self.answer

    def close(self) -> None:
        """Close the connection."""
        self.client.close()


class Client:
    """Asks one server; `again` counts the requests that it had to ask a second time, on another connection."""

    def __init__(self, address: tuple[str, int], name: str, authority: str, timeout: float) -> None:
        self.address, self.name, self.timeout = address, name, timeout
        self.context = ssl.create_default_context(cadata=authority)
        self.context.set_alpn_protocols(["h2"])
        self.socket: ssl.SSLSocket | None = None
        self.again = 0
        self.buffer = b""
        self.last: int | None = None

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def ask(self, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Return the status and the body of an answer; OSError, or Lost, where none came."""
        answer = self.ask_with("GET" if body is None else "POST", path, body, {})
        return answer.status, answer.body

    def ask_with(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        """Return the answer to a request with headers; as above."""
        for _attempt in range(ATTEMPTS):
            try:
                return self._once(method, path, body, headers)
            except NotBegun:
                self.again += 1
                self.close()
            except BaseException:
                self.close()
                raise
        raise Lost(f"not begun {ATTEMPTS} times")

    def _connect(self) -> ssl.SSLSocket:
        plain = socket.create_connection(self.address, timeout=self.timeout)
        found = self.context.wrap_socket(plain, server_hostname=self.name)
        assert found.selected_alpn_protocol() == "h2", "no HTTP/2"
        self.h2 = H2Connection(H2Configuration(client_side=True))
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(2**24)
        self.buffer, self.last = b"", None
        return found

    def _once(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        if self.socket is None or self.last is not None:
            self.close()  # it was told to go, between two requests
            self.socket = self._connect()
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(
            stream,
            [
                (":method", method),
                (":scheme", "https"),
                (":authority", f"{self.name}:{self.address[1]}"),
                (":path", path),
                *headers.items(),
                *([] if body is None else [("content-length", str(len(body)))]),
            ],
            end_stream=body is None,
        )
        if body is not None:
            self.h2.send_data(stream, body, end_stream=True)
        with contextlib.suppress(OSError):  # what it said before it went is still to be read
            self.socket.sendall(self.h2.data_to_send())
        return self._answer(stream)

    def _answer(self, stream: int) -> Answer:
        answer = Answer(0, http.client.HTTPMessage(), b"")
        try:
            while not self._is_whole(answer, stream):
                pass
        except (Lost, OSError):
            if answer.status:
                raise http.client.IncompleteRead(answer.body) from None  # as one by HTTP/1.1 that is cut
            raise
        return answer

    def _is_whole(self, answer: Answer, stream: int) -> bool:
        """Read on, and tell whether all of an answer is there."""
        whole = False
        for event in self.h2.receive_data(self._read(stream)):
            if isinstance(event, StreamReset) and event.stream_id == stream:
                if event.error_code == ErrorCodes.REFUSED_STREAM:
                    raise NotBegun  # RFC 9113, 8.7
                raise Lost(f"stream {stream} was reset: {event.error_code}")
            if isinstance(event, ResponseReceived) and event.stream_id == stream:
                answer.status = int(dict(event.headers)[b":status"])
                for name, value in event.headers:
                    answer.headers[name.decode()] = value.decode()
            if isinstance(event, DataReceived):
                answer.body += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            whole = whole or (isinstance(event, StreamEnded) and event.stream_id == stream)
        self._reply()
        return whole

    def _read(self, stream: int) -> bytes:
        """Read whole frames, and take GOAWAY out of them: with it h2 would read no answer any more.

        A connection that goes still answers what it has begun (RFC 9113, 6.8).
        """
        assert self.socket is not None
        data = self.socket.recv(CHUNK)
        if not data:
            raise Lost(f"the connection ended in stream {stream}")
        self.buffer += data
        whole = b""
        while len(self.buffer) >= HEAD and len(self.buffer) >= (end := HEAD + int.from_bytes(self.buffer[:3], "big")):
            frame, self.buffer = self.buffer[:end], self.buffer[end:]
            if frame[3] == GOAWAY:
                self.last = int.from_bytes(frame[HEAD : HEAD + 4], "big") & 0x7FFFFFFF
            else:
                whole += frame
        if self.last is not None and self.last < stream:
            raise NotBegun
        return whole

    def _reply(self) -> None:
        assert self.socket is not None
        said = self.h2.data_to_send()
        if said:
            with contextlib.suppress(OSError):  # it goes, and has said all
                self.socket.sendall(said)
