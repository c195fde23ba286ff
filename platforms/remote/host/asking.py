"""Asks nginx on its internal socket."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: Seconds that an answer may take, and bytes that it may have: an instance may be what answers.
SECONDS, LONGEST = 10.0, 64 * 1024


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=SECONDS)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        self.sock.connect(str(self.path))


def ask(internal: Path, url: str) -> str | None:
    """Return what nginx answers on its internal socket; None where it does not, or with anything but 200."""
    with contextlib.closing(_Connection(internal)) as connection:
        try:
            connection.request("GET", url)
            response = connection.getresponse()
            body = _read(response)
        except (OSError, http.client.HTTPException):
            return None
    return body.decode("utf-8", "replace") if response.status == http.client.OK else None


def _read(response: http.client.HTTPResponse) -> bytes:
    """Return a body; TimeoutError where it does not end in time or is too long, however it drips."""
    deadline, body = time.monotonic() + SECONDS, b""
    while data := response.read1(LONGEST):
        body += data
        if time.monotonic() > deadline or len(body) > LONGEST:
            raise TimeoutError
    if response.length:
        raise http.client.IncompleteRead(body, response.length)
    return body
