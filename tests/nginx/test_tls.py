"""https by the real nginx: who gets a handshake, where plain http leads, and reloads under counted load."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any

import pytest

from cluster.config import parse_config
from cluster.render.headers import STRICT
from cluster.tls.authority import root_of
from cluster.tls.verify import Https
from cluster.topology import build_topology
from tests.h2_client import Client
from tests.nginx.running import AUTHORITY, PATIENCE, Running, ask, free_ports, stack
from tests.nginx.test_reload import RELOADS, Load, add_static_file, is_old
from tests.secure_load import Secure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.nginx.running import Values
    from tests.nginx_versions import Nginx

ROOT = root_of(AUTHORITY)


def secure(servers: Any = 2, names: tuple[str, ...] = ("cluster", "localhost"), **tls: Any) -> Values:
    port = free_ports(2)
    values = stack(servers, listen=port, forwarded_ports=[81], tls={"listen": port + 1, "self_signed": True, **tls})
    values["site"]["server_names"] = list(names)
    return values


def https_port(running: Running) -> int:
    port: int = running.values["site"]["tls"]["listen"]
    return port


def connected(running: Running, name: str = "cluster") -> Secure:
    """Return a connection by a name of the site's, and by the authority that signs it."""
    return Secure(("127.0.0.1", https_port(running)), name, ROOT, PATIENCE)


@pytest.fixture(scope="module")
def running(nginx: Nginx) -> Iterator[Running]:
    with Running(nginx, secure()) as found:
        add_static_file(found)
        yield found


def get(running: Running, path: str = "/", host: str | None = None, name: str = "cluster", **headers: str) -> Any:
    with contextlib.closing(connected(running, name)) as connection:
        where = host or f"{name}:{https_port(running)}"
        return ask(connection, path, method="GET", body=None, host=where, **headers)


def test_an_instance_is_told_that_it_was_https_and_on_which_port(running: Running) -> None:
    port = https_port(running)
    reply = get(running, X_Forwarded_Proto="http", X_Forwarded_Port="1")
    assert (reply.status, reply.sent("X-Forwarded-Proto"), reply.sent("X-Forwarded-Port")) == (
        200,
        ["https"],
        [str(port)],
    )
    assert reply.sent("Host") == reply.sent("X-Forwarded-Host") == [f"cluster:{port}"]


def test_over_http2_it_is_told_the_same(running: Running) -> None:
    with contextlib.closing(Client(("127.0.0.1", https_port(running)), "cluster", ROOT, PATIENCE)) as client:
        status, body = client.ask("/")
        seen = {name.lower(): value for name, value in json.loads(body)["headers"]}
        assert status == 200
        assert seen["host"] == seen["x-forwarded-host"] == f"cluster:{https_port(running)}"
        assert (seen["x-forwarded-proto"], seen["x-forwarded-port"]) == ("https", str(https_port(running)))
        posted = json.loads(client.ask("/", b"x" * 3000)[1])
        assert posted["sha256"] == hashlib.sha256(b"x" * 3000).hexdigest()
        assert client.ask("/static/a.css") == (200, b"0123456789")
        assert client.ask("/-/health")[0] == 404


def test_without_http2_a_client_is_told_so(nginx: Nginx) -> None:
    with Running(nginx, secure(http2=False)) as found, pytest.raises(ssl.SSLError, match="no application protocol"):
        Client(("127.0.0.1", https_port(found)), "cluster", ROOT, PATIENCE).ask("/")


@pytest.mark.parametrize("path", ["/", "/a?b=c", "/-/health", "/static/a.css", "/%0d%0aX:y", "//other/"])
@pytest.mark.parametrize("host", ["cluster", "LOCALHOST", "localhost:81"])
def test_plain_http_leads_to_https_whatever_is_asked_for_and_reaches_no_instance(
    running: Running, path: str, host: str
) -> None:
    before = len(running.requests)
    for method, body in (("GET", None), ("POST", b"x" * 100)):
        reply = running.request(path, method=method, body=body, host=host)
        name = host.partition(":")[0].lower()
        assert reply.status == 308
        assert reply.headers.get_all("Location") == [f"https://{name}:{https_port(running)}{path}"]
        assert reply.headers["Set-Cookie"] is None
    assert len(running.requests) == before


def test_what_is_too_large_for_the_site_is_led_to_https_all_the_same(nginx: Nginx) -> None:
    values = secure()
    values["site"] |= {"redirects": {"www.cluster.example": "cluster"}, "client_max_body_size": "10m"}
    values["site"]["snippets"] = {"server": "error_page 413 @big;\nlocation @big { return 413; }\n"}
    with Running(nginx, values) as found:
        for host in ("cluster", "www.cluster.example"):
            assert found.request("/", method="POST", body=b"x" * 2_000_000, host=host).status == 308


def test_443_is_left_out_of_where_it_leads(nginx: Nginx) -> None:
    values = secure()

    def elsewhere(text: str) -> str:
        return text.replace("listen 127.0.0.1:443 ", f"listen 127.0.0.1:{free} ")

    free = values["site"]["tls"]["listen"]
    values["site"]["tls"]["listen"] = 443
    with Running(nginx, values, edit=elsewhere) as found:
        assert found.request("/a").headers["Location"] == "https://cluster/a"


@pytest.mark.parametrize("name", ["other.example", "cluster.example"])
def test_a_name_that_is_not_the_sites_gets_no_handshake(running: Running, name: str) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError)):
        get(running, name=name)


def test_another_host_than_the_handshakes_gets_no_answer(running: Running) -> None:
    before = len(running.requests)
    for host in ("other.example", "other.example:443"):
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            get(running, host=host)
    assert len(running.requests) == before


def test_a_site_whose_name_is_an_address_answers_clients_that_name_none(nginx: Nginx) -> None:
    with Running(nginx, secure(names=("127.0.0.1",))) as found:
        assert get(found, name="127.0.0.1").status == 200
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            get(found, name="127.0.0.1", host="other")


def test_all_that_verify_checks_is_so(running: Running) -> None:
    topology = build_topology(parse_config(running.values))
    tls = topology.config.site.tls
    assert tls is not None
    checks = list(Https(topology=topology, tls=tls, host="127.0.0.1", authority=ROOT).checks())
    assert len(checks) == 8
    assert [check for check in checks if check.ok is not True] == []


def test_verify_sees_whether_browsers_are_told_to_keep_to_https_and_by_https_alone(nginx: Nginx) -> None:
    hsts, said = {"max_age": "7d", "include_subdomains": True}, "max-age=604800; includeSubDomains"

    def plain_too(text: str) -> str:
        return text.replace("add_header Cache-Control max-age=3600 always;", f'add_header {STRICT} "{said}" always;')

    def shorter(text: str) -> str:
        return text.replace("max-age=604800", "max-age=60")

    for edit, expected in ((str, True), (plain_too, False), (shorter, False)):
        with Running(nginx, secure(hsts=hsts), edit=edit) as found:
            topology = build_topology(parse_config(found.values))
            tls = topology.config.site.tls
            assert tls is not None
            *_, check = Https(topology=topology, tls=tls, host="127.0.0.1", authority=ROOT).checks()
            assert (check.name, check.ok, check.expected) == (f"{STRICT} is said by https alone", expected, said)


#: What a hand could change in the configuration, and what verify says of it.
HURT = {
    "ssl_protocols TLSv1.2 TLSv1.3": ("ssl_protocols TLSv1.2", "TLSv1.3 is spoken"),
    "ssl_reject_handshake on;": ("", "another site's name gets no answer"),
    "return 308 https://$host": ("return 302 http://$host", "http leads / to https"),
}


@pytest.mark.parametrize("what", HURT)
def test_what_somebody_changed_by_hand_is_seen(nginx: Nginx, what: str) -> None:
    to, name = HURT[what]

    def edit(text: str) -> str:
        changed = text.replace(what, to)
        return changed.replace("return 444;", "return 200 x;") if not to else changed

    with Running(nginx, secure(), edit=edit) as found:
        topology = build_topology(parse_config(found.values))
        tls = topology.config.site.tls
        assert tls is not None
        https = Https(topology=topology, tls=tls, host="127.0.0.1", authority=ROOT)
        if name == "TLSv1.3 is spoken":
            with pytest.raises(ssl.SSLError):
                list(https.checks())
        else:
            assert name in [check.name for check in https.checks() if check.ok is False]


# --- sessions


VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


class Resuming:
    """A client that keeps its session of TLS, as browsers do, and begins each connection with it."""

    def __init__(self, version: str) -> None:
        self.context = ssl.create_default_context(cadata=ROOT)
        self.context.minimum_version = self.context.maximum_version = VERSIONS[version]
        self.session: ssl.SSLSession | None = None

    def resumes(self, running: Running) -> bool:
        """Ask for a page on a new connection; tell whether that took up the session."""
        plain = socket.create_connection(("127.0.0.1", https_port(running)), PATIENCE)
        with self.context.wrap_socket(plain, server_hostname="cluster", session=self.session) as connection:
            request = f"GET / HTTP/1.1\r\nHost: cluster:{https_port(running)}\r\nConnection: close\r\n\r\n"
            connection.sendall(request.encode())
            answer = b""
            while read := connection.recv(65536):
                answer += read
            assert answer.startswith(b"HTTP/1.1 200 "), answer[:200]
            # Of TLS 1.3 it comes with the answer.
            self.session = connection.session
            return bool(connection.session_reused)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_is_taken_up_again_by_whichever_worker_and_after_a_reload(running: Running, version: str) -> None:
    client = Resuming(version)
    assert not client.resumes(running)
    assert [client.resumes(running) for _ in range(20)] == [True] * 20
    running.reload(running.values)
    assert [client.resumes(running) for _ in range(20)] == [True] * 20


@pytest.mark.parametrize("version", VERSIONS)
def test_without_the_memory_that_workers_share_it_would_not_be(nginx: Nginx, version: str) -> None:
    edit = lambda text: text.replace("shared:cluster_tls:10m", "none")  # noqa: E731
    with Running(nginx, secure(), edit=edit) as found:
        client = Resuming(version)
        assert [client.resumes(found) for _ in range(5)] == [False] * 5


@pytest.mark.parametrize("version", VERSIONS)
def test_another_nginx_and_one_that_was_started_again_shake_hands_anew_and_answer(nginx: Nginx, version: str) -> None:
    """As with several hosts of one site: what another one remembers is in no ticket that a client could bring."""
    client = Resuming(version)
    values = secure()
    for _host in range(2):
        with Running(nginx, values) as found:
            assert not client.resumes(found)
            assert client.resumes(found)


def test_no_ticket_is_given_out_so_that_no_key_of_tickets_has_to_be_kept_or_changed(running: Running) -> None:
    client = Resuming("TLSv1.2")
    client.resumes(running)
    assert client.session is not None
    assert not client.session.has_ticket
    edit = lambda text: text.replace("ssl_session_tickets off", "ssl_session_tickets on")  # noqa: E731
    with Running(running.nginx, secure(), edit=edit) as found:
        other = Resuming("TLSv1.2")
        other.resumes(found)
        assert other.session is not None
        assert other.session.has_ticket


@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_of_another_certificate_is_not_taken_up(nginx: Nginx, version: str) -> None:
    values = secure()
    with Running(nginx, values) as found:
        client = Resuming(version)
        client.resumes(found)
        assert client.resumes(found)
        site = {**values["site"], "server_names": ["cluster", "renewed"]}
        found.reload({**values, "site": site})
        assert not client.resumes(found)
        assert client.resumes(found)


# --- what else the site says


def test_names_that_lead_to_another_do_so_from_http_and_from_https_and_the_certificate_is_for_them(
    nginx: Nginx,
) -> None:
    values = secure()
    values["site"]["redirects"] = {"www.cluster.example": "cluster", "/old/": "/new/"}
    with Running(nginx, values) as found:
        there = f"https://cluster:{https_port(found)}"
        assert found.request("/a?b", host="www.cluster.example").headers["Location"] == f"{there}/a?b"
        assert get(found, "/a?b", name="www.cluster.example").headers["Location"] == f"{there}/a?b"
        assert get(found, "/old/a?b").headers["Location"] == "/new/a?b"


@pytest.mark.parametrize(
    ("hsts", "said"),
    [
        ({"max_age": "5m"}, "max-age=300"),
        (
            {"max_age": "730d", "include_subdomains": True, "preload": True},
            "max-age=63072000; includeSubDomains; preload",
        ),
    ],
)
def test_strict_transport_security_is_said_once_by_https_alone_on_every_answer(
    nginx: Nginx, hsts: dict[str, Any], said: str
) -> None:
    values = secure(hsts=hsts)
    values["site"]["headers"] = {"X-One": "1", f"X-{'Long' * 24}": "2"}
    with Running(nginx, values) as found:
        add_static_file(found)
        for path, status in (("/", 200), ("/static/a.css", 200), ("/-/health", 404), ("/static/none", 404)):
            reply = get(found, path)
            assert (reply.status, reply.headers.get_all("Strict-Transport-Security")) == (status, [said]), path
            assert reply.headers.get_all("X-One") == ["1"], path
            assert reply.headers.get_all(f"X-{'Long' * 24}") == ["2"], path
        theirs = get(found, "/x?header=Strict-Transport-Security:+max-age=7")
        assert theirs.headers.get_all("Strict-Transport-Security") == [said]
        assert found.request("/").headers["Strict-Transport-Security"] is None


def test_a_name_that_leads_to_another_says_it_by_https_too_and_the_way_there_is_not_kept_for_good(nginx: Nginx) -> None:
    values = secure(hsts={"max_age": "5m"})
    values["site"]["redirects"] = {"www.cluster.example": "cluster"}
    with Running(nginx, values) as found:
        led = get(found, name="www.cluster.example")
        assert (led.status, led.headers["Strict-Transport-Security"]) == (308, "max-age=300")
        assert found.request("/").headers["Cache-Control"] == "max-age=3600"


def test_plain_http_leads_to_the_port_by_which_clients_reach_https(nginx: Nginx) -> None:
    for values, there in (
        ({**secure()["site"], "forwarded_ports": [443]}, "https://cluster/a"),
        ({**secure(public_port=4443)["site"]}, "https://cluster:4443/a"),
    ):
        with Running(nginx, {**stack(), "site": values}) as found:
            assert found.request("/a").headers["Location"] == there
            port = there.removeprefix("https://cluster").removesuffix("/a")
            assert get(found, "/a", host=f"cluster{port}").status == 200


@pytest.mark.parametrize(
    "names",
    [
        tuple(f"tenant-{number:04}.example.org" for number in range(300)),
        ("default", "include", "hostnames", "volatile", "cluster"),
        ("Cluster.Example", "cluster"),
    ],
    ids=["many", "words of maps", "capitals"],
)
def test_names_of_all_kinds_are_served(nginx: Nginx, names: tuple[str, ...]) -> None:
    with Running(nginx, secure(names=names)) as found:
        for name in (names[0].lower(), names[-1]):
            assert get(found, name=name).status == 200
            assert found.request("/", host=name).headers["Location"] == f"https://{name}:{https_port(found)}/"
        topology = build_topology(parse_config(found.values))
        tls = topology.config.site.tls
        assert tls is not None
        checks = Https(topology=topology, tls=tls, host="127.0.0.1", authority=ROOT).checks()
        assert [check for check in checks if check.ok is False] == []


def test_without_it_the_projects_own_is_passed_on(running: Running) -> None:
    reply = get(running, "/x?header=Strict-Transport-Security:+max-age=7")
    assert len(reply.headers.get_all("Strict-Transport-Security") or []) == 1


# --- reloads


class SecureLoad(Load):
    """Half of the clients by HTTP/1.1, half by HTTP/2, all with TLS; each keeps its connection."""

    again = 0

    def client(self, number: int) -> None:
        if number % 2:
            super().client(number)
            return
        client = Client(("127.0.0.1", https_port(self.running)), "cluster", ROOT, PATIENCE)
        turn = number
        while not self.stopped.is_set():
            turn += 1
            kind = "slow h2" if number == 0 else ("GET h2", "POST h2", "static h2")[turn % 3]
            failure = self.one_h2(client, kind, turn)
            with self.lock:
                self.requests[kind] += 1
                if failure:
                    self.failed.append(f"{time.strftime('%H:%M:%S')} {kind}: {failure}")
            self.rest()
        with self.lock:
            self.again += client.again
        client.close()

    def connect(self) -> http.client.HTTPConnection:
        return connected(self.running)

    def one_h2(self, client: Client, kind: str, turn: int) -> str | None:
        body = f"{turn}".encode() * 50 if kind == "POST h2" else None
        path = {"slow h2": "/slow?seconds=1", "static h2": "/static/a.css"}.get(kind, "/")
        try:
            status, said = client.ask(path, body)
        except (OSError, http.client.HTTPException) as error:
            return f"{type(error).__name__}: {error}"
        if status != 200:
            return f"{status}"
        if body and json.loads(said)["sha256"] != hashlib.sha256(body).hexdigest():
            return "another body arrived"
        return None


def weighted(values: Values, turn: int) -> Values:
    servers = [{"name": f"app{number}", "weight": 1 + (number + turn) % 5} for number in range(1, 5)]
    return {**values, "upstream": {"servers": servers}}


def test_no_request_is_lost_by_reloads_and_another_certificate(nginx: Nginx) -> None:
    values = weighted(secure(4), 0)
    with Running(nginx, values) as found:
        add_static_file(found)
        load = SecureLoad(found)
        with load:
            for turn in range(1, RELOADS + 1):
                time.sleep(0.3)
                # Every other time with another certificate.
                names = ["cluster", "localhost", *(["renewed"] if turn % 2 else [])]
                site = {**values["site"], "server_names": names}
                found.reload(weighted({**values, "site": site}, turn))
            load.wait_until(lambda: load.requests.total() > 1000 and load.requests["GET h2"] > 100)
        print(f"{nginx}: {RELOADS} reloads over TLS, {load}, {load.again} asked again as HTTP/2 says")
    assert load.failed == []
    assert load.requests.total() > 1000
    assert load.requests["GET h2"] > 100


def test_an_old_nginx_loses_requests_over_tls_when_it_is_just_reloaded(nginx: Nginx) -> None:
    if not is_old(nginx):
        pytest.skip("keepalive_min_timeout cannot be left out of a reload: see test_reload.py for what it is for")
    values = weighted(secure(4), 0)
    with Running(nginx, values) as found:
        add_static_file(found)
        with SecureLoad(found) as load:
            for turn in range(1, 41):
                found.reload(weighted(values, turn), politely=False)
                time.sleep(0.1)
                if load.failed:
                    break
        print(f"{nginx}: {turn} reloads over TLS without care, {load}")
    assert load.failed
