"""What is before nginx: whose word on a client is taken, whose is not, and which ports a client may name."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.nginx.running import PATIENCE, Reply, Running, free_ports, read_reply, stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.nginx_versions import Nginx

#: Proxies that are trusted, and where a client of its own comes from: all are this machine.
TRUSTED = ["127.0.0.2", "127.1.0.0/16", "fd00::/8"]
PROXY, STRANGER = "127.0.0.2", "127.0.0.1"

#: Requests that are forged, of each kind of site.
FORGED = 3000


@pytest.fixture(scope="module")
def site(nginx: Nginx) -> Iterator[Running]:
    with Running(nginx, stack(1, trusted_proxies=TRUSTED, connections_per_address=3)) as running:
        yield running


@pytest.fixture(scope="module")
def by_protocol(nginx: Nginx) -> Iterator[Running]:
    with Running(nginx, stack(1, trusted_proxies=TRUSTED, proxy_protocol=True)) as running:
        yield running


def asked(
    running: Running, source: str, headers: dict[str, str], *, first: bytes = b"", host: str = "cluster"
) -> Reply | None:
    """Ask from an address of this machine; None where no answer came."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    text = f"GET /x HTTP/1.1\r\nHost: {host}\r\n{lines}Connection: close\r\n\r\n"
    with contextlib.closing(socket.socket()) as connection:
        connection.settimeout(PATIENCE)
        connection.bind((source, 0))
        connection.connect(("127.0.0.1", running.port))
        connection.sendall(first + text.encode())
        return read_reply(connection)


def told(reply: Reply | None) -> dict[str, Any]:
    assert reply is not None
    assert reply.status == 200
    names = ("X-Forwarded-For", "X-Real-IP", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Host", "Forwarded")
    return {name: reply.sent(name) for name in names}


def truth(running: Running, client: str, scheme: str = "http", port: int | None = None) -> dict[str, Any]:
    return {
        "X-Forwarded-For": [client],
        "X-Real-IP": [client],
        "X-Forwarded-Proto": [scheme],
        "X-Forwarded-Port": [str(port or running.port)],
        "X-Forwarded-Host": ["cluster"],
        "Forwarded": [],
    }


@pytest.mark.parametrize(
    ("headers", "client", "scheme", "port"),
    [
        ({}, PROXY, "http", None),
        ({"X-Forwarded-For": "203.0.113.7"}, "203.0.113.7", "http", None),
        ({"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}, "203.0.113.7", "https", 443),
        ({"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "http"}, "203.0.113.7", "http", 80),
        ({"X-Forwarded-Proto": "https", "X-Forwarded-Port": "8443"}, PROXY, "https", 8443),
        # What stands before the last that is no proxy's is the client's own word.
        ({"X-Forwarded-For": "10.0.0.1, 203.0.113.7"}, "203.0.113.7", "http", None),
        ({"X-Forwarded-For": "10.0.0.1, 203.0.113.7, 127.1.2.3"}, "203.0.113.7", "http", None),
        ({"X-Forwarded-For": "2001:db8::1, fd00::2"}, "2001:db8::1", "http", None),
        # No scheme, and no port.
        ({"X-Forwarded-Proto": "https, http"}, PROXY, "http", None),
        ({"X-Forwarded-Proto": "ftp", "X-Forwarded-Port": "8443;"}, PROXY, "http", None),
        ({"X-Forwarded-Host": "evil", "Forwarded": "for=1.2.3.4"}, PROXY, "http", None),
    ],
)
def test_a_trusted_proxy_is_believed(
    site: Running, headers: dict[str, str], client: str, scheme: str, port: int | None
) -> None:
    expected = truth(site, client, scheme, port)
    if port is None:
        # Without a word on the scheme the connection's own counts.
        expected["X-Forwarded-Port"] = [told(asked(site, PROXY, headers))["X-Forwarded-Port"][0]]
        assert expected["X-Forwarded-Port"][0] in {str(site.port), "80"}
    assert told(asked(site, PROXY, headers)) == expected


def forgery(chance: random.Random) -> dict[str, str]:
    """Return headers with which a client claims to be another, by https, elsewhere."""
    address = chance.choice(["10.0.0.1", "203.0.113.9", PROXY, "127.1.1.1", "fd00::1", "unknown", "[::1]:80", '"_x"'])
    kinds = {
        "X-Forwarded-For": ", ".join([address] * chance.randint(1, 4)),
        "X-Forwarded-Proto": chance.choice(["https", "HTTPS", "wss", "https,https", " https"]),
        "X-Forwarded-Host": chance.choice(["evil.example", "cluster:81", "localhost"]),
        "X-Forwarded-Port": chance.choice(["443", "1", "99999"]),
        "X-Real-IP": address,
        "Forwarded": f"for={address};proto=https;host=evil",
        "X-Forwarded-Ssl": "on",
        "X-Probe-Address": address,
        "X-Forwarded-Protocol": "https",
        "True-Client-IP": address,
        "CF-Connecting-IP": address,
    }
    return {name: kinds[name] for name in chance.sample(sorted(kinds), chance.randint(1, len(kinds)))}


def test_no_forgery_of_a_stranger_is_believed(site: Running) -> None:
    chance = random.Random(20261127)
    expected, believed = truth(site, STRANGER), 0
    for _ in range(FORGED):
        believed += told(asked(site, STRANGER, forgery(chance))) != expected
    print(f"{site.nginx}: {believed} of {FORGED:,} forgeries were believed")
    assert believed == 0


def test_believed_by_all_they_would_be(nginx: Nginx) -> None:
    chance, believed = random.Random(20261127), 0
    with Running(nginx, stack(1, trusted_proxies=["0.0.0.0/0"])) as running:
        expected = truth(running, STRANGER)
        for _ in range(300):
            believed += told(asked(running, STRANGER, forgery(chance))) != expected
    print(f"{nginx}: {believed} of 300 forgeries were believed where everybody is trusted")
    assert believed > 100


def test_the_limit_is_of_the_client_and_not_of_the_proxy(site: Running) -> None:
    slow = (
        b"GET /slow?seconds=4 HTTP/1.1\r\nHost: cluster\r\nX-Forwarded-For: 203.0.113.%d\r\nConnection: close\r\n\r\n"
    )
    with contextlib.ExitStack() as stack_:
        connections = []
        for number in range(8):
            connection = stack_.enter_context(socket.socket())
            connection.settimeout(PATIENCE)
            connection.bind((PROXY, 0))
            connection.connect(("127.0.0.1", site.port))
            # Four of one client, and four clients with one each.
            connection.sendall(slow % (1 if number < 4 else number))
            connections.append(connection)
        statuses = sorted(reply.status for reply in map(read_reply, connections) if reply)
    assert statuses == [200] * 7 + [429]


def test_the_log_has_the_client(site: Running) -> None:
    asked(site, PROXY, {"X-Forwarded-For": "203.0.113.77"})
    asked(site, STRANGER, {"X-Forwarded-For": "203.0.113.78"})

    def logged() -> str:
        return (site.directory / "logs" / "access.log").read_text()

    for _ in range(100):
        if "203.0.113.77 - - " in logged():
            break
        time.sleep(0.1)
    assert "203.0.113.77 - - " in logged()
    assert "203.0.113.78" not in logged()


# --- the PROXY protocol


def line(address: str) -> bytes:
    return f"PROXY TCP4 {address} 127.0.0.1 5555 80\r\n".encode()


def test_by_the_proxy_protocol_the_client_is_what_a_trusted_proxy_says(by_protocol: Running) -> None:
    reply = asked(by_protocol, PROXY, {"X-Forwarded-Proto": "https"}, first=line("203.0.113.7"))
    assert told(reply) == truth(by_protocol, "203.0.113.7")


def test_a_strangers_line_is_not_believed_and_without_one_nobody_is_served(by_protocol: Running) -> None:
    believed = 0
    for number in range(200):
        reply = asked(by_protocol, STRANGER, {}, first=line(f"203.0.113.{number}"))
        believed += told(reply) != truth(by_protocol, STRANGER)
    print(f"{by_protocol.nginx}: {believed} of 200 strangers' PROXY lines were believed")
    assert believed == 0
    assert asked(by_protocol, STRANGER, {}) is None
    assert asked(by_protocol, PROXY, {"X-Forwarded-For": "203.0.113.7"}) is None


# --- ports


@pytest.mark.parametrize(
    ("source", "host", "status"),
    [
        (STRANGER, "cluster", 200),
        (STRANGER, "cluster:{port}", 200),
        (STRANGER, "CLUSTER:{port}", 200),
        (STRANGER, "cluster:1", 400),
        (STRANGER, "cluster:{port}0", 400),
        (STRANGER, "cluster:0{port}", 400),
        (STRANGER, "cluster:443", 400),
        (STRANGER, "cluster:81", 200),
        (PROXY, "cluster:1", 200),
    ],
)
def test_a_port_that_is_none_of_the_sites_is_refused_but_for_a_trusted_proxy(
    nginx: Nginx, source: str, host: str, status: int
) -> None:
    values = stack(1, trusted_proxies=TRUSTED, forwarded_ports=[81])
    with Running(nginx, values) as running:
        reply = asked(running, source, {}, host=host.format(port=running.port))
        assert reply is not None
        assert reply.status == status
        assert len(running.requests) == (status == 200)


@pytest.mark.parametrize("names", [["cluster", "localhost"], ["_"]], ids=["names", "anybody"])
def test_on_a_plain_site_too(nginx: Nginx, names: list[str]) -> None:
    port = free_ports()
    with Running(nginx, stack(1, listen=port, server_names=names)) as running:
        found = {}
        for host in ("cluster", f"cluster:{port}", "cluster:1", f"cluster:{port + 1}"):
            reply = asked(running, STRANGER, {}, host=host)
            found[host] = reply.status if reply else None
        assert list(found.values()) == [200, 200, 400, 400]
