"""Asks a broker as the instances of a release on this host do, and in ways that must not do."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from cluster_runtime.secret_files import BROKER_SECRET
from platforms.remote.host.running import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from platforms.remote.host.paths import HostPaths

#: Seconds that it has to answer.
PATIENCE = 5.0


def problems(places: HostPaths, release: str) -> list[str]:
    """Return what of the broker is not as it should be for a release's instances on this host, in words."""
    try:
        url = urlsplit((places.credentials / release / BROKER_SECRET).read_text(encoding="utf-8"))
    except OSError as error:
        raise HostError(f"{error.filename}: {error.strerror}") from error
    try:
        return list(_problems(str(url.hostname), int(url.port or 0), str(url.password), parse_qs(url.query)))
    except OSError as error:
        return [f"it does not answer: {error}"]


def _problems(address: str, port: int, password: str, options: dict[str, list[str]]) -> Iterator[str]:
    trusted = ssl.create_default_context(cafile=options["ssl_ca_certs"][0])
    with trusted.wrap_socket(_connected(address, port), server_hostname=address) as known:
        if _said(known, f"AUTH {password}\r\nPING") != ["+OK", "+PONG"]:
            yield "it does not take the instances' password"
    with trusted.wrap_socket(_connected(address, port), server_hostname=address) as unknown:
        if not _said(unknown, "PING")[0].startswith("-NOAUTH"):
            yield "it asks for no password"
    try:
        with _connected(address, port) as plain:
            if _said(plain, "PING")[0][:1] in "+-":
                yield "it answers without TLS"
    except ConnectionError:
        pass  # as it should


def _connected(address: str, port: int) -> socket.socket:
    return socket.create_connection((address, port), timeout=PATIENCE)


def _said(connection: socket.socket, question: str) -> list[str]:
    """Return the lines of an answer, one for each of a question's; ConnectionError where there is none."""
    connection.sendall(f"{question}\r\n".encode())
    said = b""
    while said.count(b"\r\n") <= question.count("\r\n"):
        more = connection.recv(1000)
        if not more:
            raise ConnectionError("it ends the connection")
        said += more
    return said.decode(errors="replace").splitlines()
