"""What turning maintenance on and off costs by https: clients of HTTP/1.1 and of HTTP/2 that keep their connections."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

import pytest

from cluster.render.versions import KEEPALIVE_MIN_TIMEOUT_SINCE
from tests.h2_client import Client, Connection
from tests.nginx.running import PATIENCE, Running
from tests.nginx.test_maintenance import ASKED, TURNS, Visitors, turn, turn_without_care
from tests.nginx.test_reload import add_static_file
from tests.nginx.test_tls import ROOT, https_port, secure
from tests.secure_load import Secure

if TYPE_CHECKING:
    import http.client

    from tests.nginx_versions import Nginx


class SecureVisitors(Visitors):
    """As those of plain http; every other one speaks HTTP/2, the allowed one HTTP/1.1."""

    over_http2: list[Client]

    def connect(self, number: int, source: tuple[str, int] | None) -> http.client.HTTPConnection:
        address = ("127.0.0.1", https_port(self.running))
        if number % 2 or source is not None:
            found = Secure(address, "cluster", ROOT, PATIENCE)
            vars(found)["source_address"] = source
            return found
        client = Client(address, "cluster", ROOT, PATIENCE)
        self.over_http2 = [*getattr(self, "over_http2", []), client]
        return cast("http.client.HTTPConnection", Connection(client))

    @property
    def again(self) -> int:
        """How many requests were asked again, as a connection of HTTP/2 that goes says which it has not begun."""
        return sum(client.again for client in self.over_http2)


@pytest.mark.wide
def test_on_and_off_lose_no_request_by_https(nginx: Nginx) -> None:
    with Running(nginx, secure(4)) as running:
        add_static_file(running)
        with SecureVisitors(running) as visitors:
            for number in range(1, TURNS + 1):
                time.sleep(0.3)
                turn(running, ASKED)
                visitors.wait_for(number * (100 // TURNS + 1), "503")
                turn(running, None)
            visitors.wait_for(101, "200", "200 to the allowed client")
    print(f"{nginx}: {TURNS} times on and off over TLS, {visitors}, {visitors.again} asked again")
    assert visitors.failed == []
    assert set(visitors.answers) == {"200", "503", "200 to the allowed client"}
    assert min(visitors.answers.values()) > 100


def test_without_care_on_and_off_lose_requests_of_an_old_nginx_by_https(nginx: Nginx) -> None:
    if nginx.version >= KEEPALIVE_MIN_TIMEOUT_SINCE:
        pytest.skip("keepalive_min_timeout is in its configuration: tests/nginx/test_reload.py leaves it out")
    with Running(nginx, secure(4)) as running:
        add_static_file(running)
        with SecureVisitors(running) as visitors:
            turns = turn_without_care(running, visitors)
    print(f"{nginx}: {turns} times on or off over TLS without care, {visitors}")
    assert visitors.failed
