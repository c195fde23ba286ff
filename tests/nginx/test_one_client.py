"""One client can't take the site from others: half-sent headers, and too many requests at a time."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.nginx.running import Reply, Running, free_ports, read_reply, stack, versions
from tests.nginx.test_one_request import Innocents
from tests.nginx_versions import installed_nginx

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tests.nginx_versions import Nginx

#: Half-sent headers at a time, and for how many seconds others are counted meanwhile: beyond client_header_timeout.
FLOOD, SECONDS = 8_300, 14.0

FLOODER, OTHERS = "127.0.0.2", "127.0.0.3"


def flooded(edit: Callable[[str], str] = str, *, to_the_first: bool = False) -> Innocents:
    """Count what others get while one address holds as many half-sent headers as it can.

    to_the_first: only until one of them fails, and what was on its way then has ended.
    """
    nginx = installed_nginx()
    if nginx is None:
        pytest.skip("nginx is not installed")
    with Running(nginx, stack(4, listen=free_ports()), edit=edit) as running:
        command = [sys.executable, "-m", "tests.nginx.flood", str(running.port), str(FLOOD), FLOODER]
        flood = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert flood.stdin is not None
        assert flood.stdout is not None
        try:
            assert flood.stdout.readline() == "open\n"
            with Innocents(running.port, OTHERS, "/") as innocents:
                ends = time.monotonic() + SECONDS
                while time.monotonic() < ends and not (to_the_first and innocents.failed):
                    time.sleep(0.1)
        finally:
            flood.stdin.close()
            flood.wait()
    return innocents


def test_half_sent_headers_of_one_address_cost_others_nothing() -> None:
    innocents = flooded()
    print(f"{FLOOD:,} half-sent headers: {innocents}")
    assert innocents.failed == []
    assert innocents.requests.total() > 300


def test_with_fewer_connections_they_cost_requests() -> None:
    fewer = ("worker_connections 15360", "worker_connections 4096")
    innocents = flooded(lambda text: text.replace(*fewer), to_the_first=True)
    print(f"saboteur: {innocents}")
    assert innocents.failed, "nobody would notice"


@pytest.fixture(params=versions())
def nginx(request: pytest.FixtureRequest) -> Nginx:
    found: Nginx = request.param
    return found


def from_address(running: Running, address: str, *, port: int | None = None) -> Reply | None:
    connection: socket.socket
    with running.open(port, address) as connection:
        connection.sendall(b"GET /slow?seconds=4 HTTP/1.1\r\nHost: cluster\r\n\r\n")
        return read_reply(connection)


def statuses(running: Running, address: str, count: int, *, port: int | None = None) -> Counter[int]:
    """Send requests at the same time, from one address."""
    with ThreadPoolExecutor(count) as pool:
        replies = list(pool.map(lambda _: from_address(running, address, port=port), range(count)))
    return Counter(reply.status if reply else 0 for reply in replies)


def test_more_requests_of_one_address_than_it_may_have_are_answered_with_429(nginx: Nginx) -> None:
    values = stack(2, listen=free_ports(), instance_ports=free_ports(2), connections_per_address=3)
    with Running(nginx, values) as running, ThreadPoolExecutor(2) as pool:
        flood = pool.submit(statuses, running, FLOODER, 8)
        others = pool.submit(statuses, running, OTHERS, 3)
        assert flood.result() == {200: 3, 429: 5}
        assert others.result() == {200: 3}
        assert statuses(running, FLOODER, 5, port=values["site"]["instance_ports"]) == {200: 5}
        assert statuses(running, FLOODER, 3) == {200: 3}, "what has ended does not count"


def test_without_a_limit_none_is_refused(nginx: Nginx) -> None:
    with Running(nginx, stack(2, listen=free_ports(), connections_per_address=0)) as running:
        assert statuses(running, FLOODER, 8) == {200: 8}
