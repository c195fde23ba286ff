"""Asks nginx on its internal socket."""

from __future__ import annotations

import contextlib
import http.client
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: Seconds that an answer may take.
SECONDS = 10.0


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
            body = response.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            return None
    return body if response.status == http.client.OK else None
