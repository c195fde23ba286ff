"""A site on this machine that listens by IPv6 too: on and off under load, and a port that somebody else has."""

from __future__ import annotations

import contextlib
import http.client
import socket
from typing import TYPE_CHECKING

import pytest

from cluster.machine.ports import is_free
from tests.conformance import AROUND, assert_nothing_lost, assert_up, wait_until
from tests.load import SPARSE, Load
from tests.local.stand import Stand
from tests.nginx.test_ipv6 import has_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not has_loopback(), reason="this machine has no ::1")


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with contextlib.closing(Stand()) as found:
        assert_up(found)
        yield found


def status(stand: Stand) -> int:
    with contextlib.closing(http.client.HTTPConnection("::1", stand.port, timeout=30)) as connection:
        connection.request("GET", "/whoami", headers={"Host": "cluster"})
        return connection.getresponse().status


@pytest.mark.wide
def test_it_comes_and_goes_without_a_request_lost_and_not_where_somebody_else_has_the_port(stand: Stand) -> None:
    before = stand.nginx_digest()
    load = Load(stand.address, pause=SPARSE)
    with load:
        load.wait_for(AROUND)
        stand.edit_stack(lambda stack: stack["site"].update(ipv6=True))
        with socket.socket(socket.AF_INET6) as other:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            other.bind(("::", stand.port))
            other.listen()
            result = stand.up()
            assert result.status != 0
            assert f"site.listen: port {stand.port} is in use by another program" in result.output
            assert stand.nginx_digest() == before
        assert_up(stand)
        assert status(stand) == 200
        result = stand.verify()
        assert result.status == 0, result.output
        assert "the site answers by IPv6" in result.output
        stand.edit_stack(lambda stack: stack["site"].pop("ipv6"))
        assert_up(stand)
        wait_until(lambda: is_free("::", stand.port), "nginx listens by IPv6 no more")
        load.wait_for(AROUND)
    print(f"IPv6 on and off: {load.counts}")
    assert_nothing_lost(load.counts)
    assert stand.nginx_digest() == before
