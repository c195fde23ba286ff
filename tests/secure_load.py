"""A load over TLS: half of its clients by HTTP/1.1, half by HTTP/2; each believes one authority alone."""

from __future__ import annotations

import http.client
import ssl
from typing import TYPE_CHECKING, cast

from tests.h2_client import Client, Connection
from tests.load import TIMEOUT, Load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Secure(http.client.HTTPConnection):
    """https by a name of the site, at whatever address."""

    def __init__(self, address: tuple[str, int], name: str, authority: str, timeout: float) -> None:
        super().__init__(*address, timeout=timeout)
        self.name, self.context = name, ssl.create_default_context(cadata=authority)

    def connect(self) -> None:
        """Connect, and shake hands."""
        super().connect()
        self.sock = self.context.wrap_socket(self.sock, server_hostname=self.name)


class SecureLoad(Load):
    """Clients of https at a port; `authority` is the file of what signs the site's certificate.

    flags: OpenSSL's of how a certificate is looked at, beside the usual ones. at: the site's addresses, of which each
    is asked by both protocols.
    """

    def __init__(
        self, port: int, authority: Path, *, flags: int = 0, at: Sequence[str] = ("127.0.0.1",), **options: float
    ) -> None:
        super().__init__((at[0], port), host=f"cluster:{port}", **options)  # type: ignore[arg-type]
        self.at = at
        self.headers = {"Referer": f"https://cluster:{port}/form"}
        self.authority, self.flags = authority.read_text(), ssl.VerifyFlags(flags)
        self.over_http2: list[Client] = []

    @property
    def again(self) -> int:
        """How many requests were not begun by a connection of HTTP/2 that went, and were asked again."""
        return sum(client.again for client in self.over_http2)

    def connect(self, number: int) -> http.client.HTTPConnection:
        """Return the connection of a client: every other one speaks HTTP/2."""
        address = (self.at[number // 2 % len(self.at)], self.address[1])
        if number % 2:
            connection = Secure(address, "cluster", self.authority, TIMEOUT)
            connection.context.verify_flags |= self.flags
            return connection
        client = Client(address, "cluster", self.authority, TIMEOUT)
        client.context.verify_flags |= self.flags
        self.over_http2.append(client)
        return cast("http.client.HTTPConnection", Connection(client))
