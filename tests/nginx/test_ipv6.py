"""A site that listens by IPv6 too, by the real nginx: who is which client, and how many addresses one has."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cluster.config import parse_config
from cluster.endpoints import Endpoint
from cluster.maintenance import asked_for
from cluster.render.maintenance import SUFFIX, render_maintenance
from cluster.tls.authority import root_of
from cluster.topology import build_topology
from cluster.verify import by_ipv6
from cluster_runtime.gate import Site
from tests.conformance import wait_until
from tests.nginx.running import AUTHORITY, PATIENCE, Reply, Running, ask, free_ports, stack
from tests.secure_load import Secure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.nginx_versions import Nginx


def has_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as trial:
            trial.bind(("::1", 0))
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(not has_loopback(), reason="this machine has no ::1")

BOTH = ("127.0.0.1", "::1")


@pytest.fixture(scope="module")
def running(nginx: Nginx) -> Iterator[Running]:
    with Running(nginx, stack(2, ipv6=True)) as found:
        yield found


def get(running: Running, address: str, host: str = "cluster", **headers: Any) -> Reply:
    connection = http.client.HTTPConnection(address, running.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        return ask(connection, "/", host=host, **headers)


@pytest.mark.parametrize("address", BOTH)
def test_it_answers_by_both_and_the_project_is_told_the_clients_own_address(running: Running, address: str) -> None:
    reply = get(running, address)
    assert reply.status == 200
    assert reply.sent("X-Forwarded-For") == reply.sent("X-Real-IP") == [address], "none is a mapped one"


def test_a_strangers_name_gets_no_answer_by_either(running: Running) -> None:
    for address in BOTH:
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            get(running, address, host="other.example")


def test_without_the_key_nothing_listens_there(nginx: Nginx) -> None:
    with Running(nginx, stack(1)) as found, pytest.raises(ConnectionRefusedError):
        get(found, "::1")


def test_https_is_there_by_both_and_plain_http_leads_to_it(nginx: Nginx) -> None:
    port = free_ports(2)
    values = stack(1, ipv6=True, listen=port, tls={"listen": port + 1, "self_signed": True})
    with Running(nginx, values) as found:
        for address in BOTH:
            assert get(found, address).headers["Location"] == f"https://cluster:{port + 1}/"
            with contextlib.closing(Secure((address, port + 1), "cluster", root_of(AUTHORITY), PATIENCE)) as secure:
                assert ask(secure, "/", host=f"cluster:{port + 1}").status == 200


def test_a_trusted_proxy_by_ipv6_is_believed_and_nobody_else(nginx: Nginx) -> None:
    with Running(nginx, stack(1, ipv6=True, trusted_proxies=["::1"])) as found:
        told = {"X_Forwarded_For": "2001:db8::7", "X_Forwarded_Proto": "https"}
        for address, client, scheme in (("::1", "2001:db8::7", "https"), ("127.0.0.1", "127.0.0.1", "http")):
            reply = get(found, address, **told)
            assert (reply.sent("X-Forwarded-For"), reply.sent("X-Forwarded-Proto")) == ([client], [scheme])


def maintained(running: Running, *allow: str) -> None:
    wanted = render_maintenance(asked_for("Back soon", "10m", allow))
    Path(f"{running.paths.maintenance}{SUFFIX}").write_text(wanted.text)
    running.reload(running.values)
    wait_until(lambda: running.internal("/-/maintenance").body.decode() == wanted.digest, "nginx has read it")


def test_who_is_let_in_during_maintenance_is_the_client_whichever_way_it_comes(nginx: Nginx) -> None:
    with Running(nginx, stack(1, ipv6=True, trusted_proxies=["127.0.0.1"])) as found:

        def status(client: str) -> int:
            return get(found, "127.0.0.1", X_Forwarded_For=client).status

        maintained(found, "192.0.2.0/24", "2001:db8::/32")
        let_in = ["192.0.2.9", "::ffff:192.0.2.9", "2001:db8::9"]
        kept_out = ["198.51.100.9", "::ffff:198.51.100.9", "2001:db9::9", "::c000:209", "::1"]
        assert [status(client) for client in let_in] == [200] * len(let_in)
        assert [status(client) for client in kept_out] == [503] * len(kept_out)
        assert get(found, "::1").status == 503
        maintained(found, "::1")
        assert get(found, "::1").status == 200
        assert status("192.0.2.9") == 503


#: Each a client that asks three times, by addresses of its own; after two, it is too many.
CLIENTS = {
    "one address": ["192.0.2.1"] * 3,
    "one of IPv6": ["2001:db8::1"] * 3,
    "a network of its own": ["2001:db8:1:1::1", "2001:db8:1:1:ffff::", "2001:db8:1:1::a00"],
    "an address and its mapped one": ["192.0.2.7", "::ffff:192.0.2.7", "::ffff:c000:207"],
}


def too_many(nginx: Nginx, clients: dict[str, list[str]], edit: Any = str) -> list[list[int]]:
    values = stack(1, ipv6=True, trusted_proxies=["127.0.0.1"], limit="1r/m", burst=1)
    with Running(nginx, values, edit=edit) as found:
        return [
            [get(found, "127.0.0.1", X_Forwarded_For=address).status for address in addresses]
            for addresses in clients.values()
        ]


def test_all_addresses_of_a_clients_network_count_as_one(nginx: Nginx) -> None:
    assert too_many(nginx, CLIENTS) == [[200, 200, 429]] * len(CLIENTS)


def test_counted_one_by_one_they_would_not(nginx: Nginx) -> None:
    def edit(text: str) -> str:
        return text.replace("limit_req_zone $cluster_client_network", "limit_req_zone $binary_remote_addr")

    one = {"a network of its own": CLIENTS["a network of its own"]}
    assert too_many(nginx, one, edit) == [[200, 200, 200]]


def test_clients_of_other_networks_do_not_count_together(nginx: Nginx) -> None:
    others = ["2001:db8:2:1::1", "2001:db8:2:2::1", "2001:db8:2:3::1", "::ffff:192.0.2.20", "::ffff:192.0.2.21"]
    assert too_many(nginx, {"others": others}) == [[200] * len(others)]


def test_verify_sees_whether_it_answers(running: Running, nginx: Nginx) -> None:
    def look(found: Running) -> bool | None:
        topology = build_topology(parse_config(found.values))
        site = Site(site=f"http://cluster:{found.port}", hosts=("cluster",))
        return by_ipv6(topology, site, Endpoint(host="127.0.0.1", port=found.port)).ok

    assert look(running)
    values = json.loads(json.dumps(running.values)) | {}
    values["site"].pop("listen")
    with Running(nginx, values, edit=lambda text: text.replace("[::1]:", "127.7.7.7:")) as found:
        assert look(found) is False


def test_it_is_turned_on_and_off_by_a_reload_with_limits_of_all_kinds(nginx: Nginx) -> None:
    values = stack(1, limit="100r/s", locations=[{"path": "/x/", "limit": "5r/s"}])
    with Running(nginx, values) as found:
        for ipv6 in (True, False, True):
            found.reload({**values, "site": {**values["site"], "ipv6": ipv6}})
            assert get(found, "127.0.0.1").status == 200
