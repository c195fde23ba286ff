"""Who may ask a relay, whom a host with visitors believes, and what lies beside both on the same nginx."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import TYPE_CHECKING

import pytest

from cluster.tls.certificates import RELAY
from cluster.tls.hosts import certificate_of_host
from cluster.tls.hosts_keys import HostsKeys
from platforms.remote.host.paths import HostPaths
from tests.certificates import authority
from tests.nginx.relayed import ADDRESSES, OTHER_SECRET, SECRET, Host, Hosts, on, values_of
from tests.nginx.running import PATIENCE, free_ports, versions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.nginx_versions import Nginx


@pytest.fixture(params=versions())
def nginx(request: pytest.FixtureRequest) -> Nginx:
    found: Nginx = request.param
    return found


@pytest.fixture(scope="module", params=versions())
def hosts(request: pytest.FixtureRequest) -> Iterator[Hosts]:
    with Hosts(request.param, values_of(["both", "web2"], on("both", "web2"))) as found:
        yield found


#: By what strangers try to get in.
STRANGERS = ["nothing", "another stack's", "another authority's", "plain http", "old TLS"]


def doors(hosts: Hosts) -> list[tuple[str, int] | str]:
    """Return all that a relay listens on."""
    first = hosts.values["upstream"]["relay_port"]
    found: list[tuple[str, int] | str] = [(ADDRESSES["both"], first), (ADDRESSES["web2"], first)]
    found += [(ADDRESSES["both"], first + 1), (ADDRESSES["web2"], first + 2)]
    return [*found, str(hosts.each["both"].places.relay_socket("app1"))]


def answered(door: tuple[str, int] | str, who: str, directory: Path, text: bytes) -> bytes:
    """Return what a relay answers somebody; empty where it hangs up."""
    plain = socket.create_connection(door, PATIENCE) if isinstance(door, tuple) else socket.socket(socket.AF_UNIX)
    with contextlib.closing(plain):
        if isinstance(door, str):
            plain.connect(door)
        plain.settimeout(PATIENCE)
        found = b""
        try:
            secured = (
                plain if who == "plain http" else context(who, directory).wrap_socket(plain, server_hostname=RELAY)
            )
            with contextlib.closing(secured):
                secured.sendall(text)
                while data := secured.recv(65536):
                    found += data
        except OSError:
            return found
        return found


def context(who: str, directory: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    if who == "old TLS":
        made.maximum_version = ssl.TLSVersion.TLSv1_2
    own = {
        "host": certificate_of_host(SECRET, "shop", "edge"),
        "old TLS": certificate_of_host(SECRET, "shop", "edge"),
        "another stack's": certificate_of_host(OTHER_SECRET, "shop", "edge"),
    }.get(who)
    path = directory / "own.pem"
    if own is not None:
        path.write_text(own.certificate + own.key)
    elif who == "another authority's":
        path.write_text(authority("shop"))
    if path.exists():
        made.load_cert_chain(path)
    return made


TEXT = b"GET /secret HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("who", STRANGERS)
def test_a_stranger_reaches_no_instance(hosts: Hosts, tmp_path: Path, who: str) -> None:
    hosts.forget()
    tried = 0
    for door in doors(hosts):
        for text in (TEXT, TEXT.replace(b"GET /secret", b"GET /-/health"), TEXT.replace(b"GET", b"POST")):
            answer = answered(door, who, tmp_path, text)
            assert not answer or answer.startswith(b"HTTP/1.1 400 "), answer
            assert b"nginx/" not in answer
            tried += 1
    assert hosts.seen == []
    print(f"{hosts.nginx}: {who}: 0 of {tried} reached an instance")


def test_a_host_does(hosts: Hosts, tmp_path: Path) -> None:
    """What the test above would see."""
    hosts.forget()
    for door in doors(hosts):
        assert answered(door, "host", tmp_path, TEXT).startswith(b"HTTP/1.1 200 ")
    assert len(hosts.seen) == 5


def test_without_verification_a_stranger_gets_in(nginx: Nginx, tmp_path: Path) -> None:
    def edit(_path: str, text: str) -> str:
        return text.replace("ssl_verify_client on;", "ssl_verify_client off;")

    with Hosts(nginx, values_of(["both", "web2"], on("both", "web2")), edit=edit) as hosts:
        assert answered((ADDRESSES["web2"], hosts.relays["app2"]), "nothing", tmp_path, TEXT).startswith(
            b"HTTP/1.1 200 "
        )


@pytest.mark.parametrize("verified", [True, False])
def test_a_relay_that_shows_another_stack_s_certificate_is_told_nothing(nginx: Nginx, verified: bool) -> None:
    def edit(_path: str, text: str) -> str:
        if not verified:
            text = text.replace("proxy_ssl_verify on;", "proxy_ssl_verify off;")
        # The false relay takes whoever comes.
        return text.replace("ssl_verify_client on;", "ssl_verify_client off;")

    keys = {"web2": HostsKeys(key=OTHER_SECRET)}
    with Hosts(nginx, values_of(["web1", "web2", "edge"], on("web1", "web2")), edit=edit, keys=keys) as hosts:
        assert {hosts.status("/x", method) for method in ("GET", "GET", "POST", "POST") * 10} == {200}
        assert {one.instance for one in hosts.seen} == ({"app1"} if verified else {"app1", "app2"})
        # Nor is it by another relay.
        hosts.instances["app1"].die()
        hosts.forget()
        assert hosts.status("/x") == (502 if verified else 200)
        assert [one.instance for one in hosts.seen] == ([] if verified else ["app2"])


def test_a_visitor_s_host_header_leads_nowhere_else(hosts: Hosts) -> None:
    hosts.forget()
    for name in (b"relay", b"relay_internal", b"relay_peers", b"internal", b"localhost", b"127.0.0.12"):
        assert hosts.raw(b"GET /-/config HTTP/1.1\r\nHost: " + name + b"\r\nConnection: close\r\n\r\n") == b""
    for path in (b"/-/config", b"/-/probe", b"/%2d/health", b"//-/health"):
        reply = hosts.raw(b"GET " + path + b" HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n")
        assert reply.startswith(b"HTTP/1.1 404 ")
    assert hosts.seen == []


def test_two_stacks_lie_beside_each_other(nginx: Nginx) -> None:
    """Also where one's name goes on where the other's ends, and instances are called as parts of a relay are."""
    names = ["local", "peers", "relay_app1", "internal", "files"]
    servers = [{"name": name, "host": ("both", "web2")[number % 2]} for number, name in enumerate(names)]
    with Hosts(nginx, values_of(["both", "web2"], servers)) as one:
        for stack in ("shop-relay", "shop-nginx-x", "sho", "shop-app1"):
            other = Hosts(nginx, values_of(["both", "web2"], on("both", "web2")), stack=stack)
            other.values["site"]["server_names"] = ["other.test"]
            other.directory, other.instances = one.directory, {}
            other.each = {name: Host(name, HostPaths(stack, one.directory / name), nginx) for name in ("both", "web2")}
            other.deliver(other.values)
            for host in other.each.values():
                checked = host.check()
                assert checked.returncode == 0, checked.stderr
                assert "conflicting" not in checked.stderr
        for name in ("both", "web2"):
            one.reload(name, politely=False)
        assert {one.status() for _ in range(20)} == {200}
        assert {seen.instance for seen in one.seen} == set(names)


@pytest.mark.parametrize("stack", ["shop", "shop-relay"])
def test_other_sites_of_a_host_with_instances_stay_what_they_are(nginx: Nginx, stack: str) -> None:
    foreign = (
        "server {{ listen {address}:{port} default_server; server_name plain.test;"
        " location / {{ proxy_pass http://unix:{socket}; }} }}\n"
    )
    values = values_of(["web1", "edge"], on("web1"))
    with Hosts(nginx, values, stack=stack) as hosts:
        web1, port = hosts.each["web1"], free_ports()
        text = foreign.format(address=ADDRESSES["web1"], port=port, socket=hosts.instances["app1"].link)
        site = web1.places.relay_site
        (web1.places.nginx / "sites-enabled" / "plain").write_text(text)
        told = []
        for there in (True, False):
            if not there:
                (web1.places.nginx / "sites-enabled" / site.name).unlink()
            hosts.reload("web1", politely=False)
            hosts.forget()
            with contextlib.closing(socket.create_connection((ADDRESSES["web1"], port), PATIENCE)) as connection:
                connection.sendall(
                    b"GET /a%2fb HTTP/1.1\r\nHost: plain.test\r\nA_b: 1\r\nX-B: 2\r\nConnection: close\r\n\r\n"
                )
                reply = hosts.rest(connection)
            told.append((hosts.seen[0].head, [line for line in reply.split(b"\r\n") if not line.startswith(b"Date: ")]))
        assert told[0] == told[1]
