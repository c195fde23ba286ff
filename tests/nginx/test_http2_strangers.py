"""What a stranger says by HTTP/2 of himself, of the host and of the path: nothing of it is believed."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, ResponseReceived, StreamEnded, StreamReset

from tests.h2_client import Client
from tests.nginx.running import PATIENCE, Running
from tests.nginx.test_proxies import forgery
from tests.nginx.test_tls import ROOT, https_port, secure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.nginx_versions import Nginx

FORGED = 1500

#: What says who a client is, as an instance is told.
TOLD = (
    "host",
    "x-forwarded-for",
    "x-real-ip",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-host",
    "forwarded",
)


@pytest.fixture(scope="module")
def site(nginx: Nginx) -> Iterator[Running]:
    with Running(nginx, secure(1)) as running:
        yield running


def truth(running: Running) -> dict[str, list[str]]:
    here = f"cluster:{https_port(running)}"
    host = {"host": [here], "x-forwarded-host": [here]}
    client = {"x-forwarded-for": ["127.0.0.1"], "x-real-ip": ["127.0.0.1"]}
    way = {"x-forwarded-proto": ["https"], "x-forwarded-port": [str(https_port(running))]}
    return {**host, **client, **way, "forwarded": []}


def told(body: bytes) -> dict[str, list[str]]:
    headers = json.loads(body)["headers"]
    return {name: [value for key, value in headers if key.lower() == name] for name in TOLD}


def test_no_forgery_is_believed(site: Running) -> None:
    chance, believed = random.Random(9113), 0
    with contextlib.closing(Client(("127.0.0.1", https_port(site)), "cluster", ROOT, PATIENCE)) as client:
        for _ in range(FORGED):
            headers = {name.lower(): value.strip() for name, value in forgery(chance).items()}
            answer = client.ask_with("GET", "/x", None, headers)
            assert answer.status == 200
            believed += told(answer.body) != truth(site)
    print(f"{site.nginx}: {believed} of {FORGED:,} forgeries by HTTP/2 were believed")
    assert believed == 0


def head(
    running: Running, *more: tuple[str, str], authority: str | None = None, path: str = "/", scheme: str = "https"
) -> list[tuple[str, str]]:
    where = authority or f"cluster:{https_port(running)}"
    return [(":method", "GET"), (":scheme", scheme), (":authority", where), (":path", path), *more]


def asked(running: Running, headers: list[tuple[str, str]]) -> tuple[int | None, bytes]:
    """Ask on a connection of its own, with headers that no client would send; the status is None where none came."""
    context = ssl.create_default_context(cadata=ROOT)
    context.set_alpn_protocols(["h2"])
    h2 = H2Connection(H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False))
    status: int | None = None
    body = b""
    with (
        socket.create_connection(("127.0.0.1", https_port(running)), PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname="cluster") as connection,
    ):
        h2.initiate_connection()
        h2.send_headers(1, headers, end_stream=True)
        connection.sendall(h2.data_to_send())
        while data := connection.recv(65536):
            for event in h2.receive_data(data):
                if isinstance(event, ResponseReceived):
                    status = int(dict(event.headers)[b":status"])
                body += getattr(event, "data", None) or b""
                if isinstance(event, StreamReset | ConnectionTerminated | StreamEnded):
                    return status, body
    return status, body


#: More than one host, a host that is another's, and what is no host: by the kind of lie.
LIES: dict[str, dict[str, Any]] = {
    "another host beside it": {"more": [("host", "evil.example")]},
    "another name": {"authority": "evil.example"},
    "another port": {"authority": "cluster:1"},
    "a user": {"authority": "evil@cluster"},
    "two names": {"authority": "cluster evil.example"},
    "two authorities": {"more": [(":authority", "evil.example")]},
    "another scheme": {"scheme": "https://evil.example/"},
    "an address as path": {"path": "https://cluster/-/health"},
    "a path without its beginning": {"path": "-/health"},
    "the runtime's path": {"path": "/%2d/health"},
    "a line in a header": {"more": [("a", "b\r\nX-Forwarded-For: 9.9.9.9")]},
    "a line in a path": {"path": "/ HTTP/1.1\r\nHost: evil.example\r\n\r\n"},
    "two lengths": {"more": [("content-length", "0"), ("content-length", "5")]},
}


@pytest.mark.parametrize("lie", LIES)
def test_what_is_no_request_of_the_sites_reaches_no_instance(site: Running, lie: str) -> None:
    before = len(site.requests)
    kinds = dict(LIES[lie])
    status, _body = asked(site, head(site, *kinds.pop("more", ()), **kinds))
    assert status in (None, 400, 404)
    assert len(site.requests) == before


@pytest.mark.parametrize(
    "more",
    [
        [("x_forwarded_for", "9.9.9.9"), ("x_forwarded_host", "evil.example")],
        [("connection", "x-forwarded-for, x-real-ip")],
        [("transfer-encoding", "chunked")],
        [("early-data", "1"), ("x-accel-redirect", "/-/health"), ("x-accel-internal", "1")],
    ],
)
def test_what_means_something_elsewhere_changes_nothing(site: Running, more: list[tuple[str, str]]) -> None:
    status, body = asked(site, head(site, *more))
    assert status in (200, 400)
    if status == 200:
        assert told(body) == truth(site)


def test_a_host_without_an_authority_is_the_host(site: Running) -> None:
    """RFC 9113, 8.3.1; the saboteur of the others: what is right is answered."""
    fields = [one for one in head(site) if one[0] != ":authority"]
    status, body = asked(site, [*fields, ("host", f"cluster:{https_port(site)}")])
    assert (status, told(body)) == (200, truth(site))
