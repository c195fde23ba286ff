"""Asks nginx on its internal socket."""

from __future__ import annotations

import re
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: Seconds that an answer may take, and bytes that it may have: an instance may be what answers.
SECONDS, LONGEST = 10.0, 64 * 1024

#: How an answer begins that has what was asked for, and the line of its head that says how long the rest is.
OK, LENGTH = re.compile(rb"HTTP/1\.[01] 200 "), re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)


def ask(internal: Path, url: str) -> str | None:
    """Return what nginx answers on its internal socket; None where it does not, or with anything but 200.

    In HTTP/1.0, whose answer ends with the connection, without http.client: that takes as long to import as all the
    rest of a look, and each look at a host begins with a new Python.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(SECONDS)
        try:
            connection.connect(str(internal))
            connection.sendall(f"GET {url} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            head, _, body = _read(connection).partition(b"\r\n\r\n")
        except OSError:
            return None
    told = LENGTH.search(head)
    if not OK.match(head) or (told and int(told[1]) != len(body)):
        return None
    return body.decode("utf-8", "replace")


def _read(connection: socket.socket) -> bytes:
    """Return an answer; TimeoutError where it does not end in time or is too long, however it drips."""
    deadline, found = time.monotonic() + SECONDS, b""
    while data := connection.recv(LONGEST):
        found += data
        if time.monotonic() > deadline or len(found) > LONGEST:
            raise TimeoutError
    return found
