"""HTTP/3 by the real nginx: what an instance is told of it, who is refused, and what reloads lose, counted."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import re
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from cluster.config import parse_config
from cluster.machine.ports import has_ipv6
from cluster.render.headers import STRICT
from cluster.render.shared import Place, render_shared
from cluster.render.versions import HTTP3_SINCE, REQUEST_PORT_SINCE
from cluster.tls import quic
from cluster.tls.certificates import certificate_of
from cluster.tls.verify import Https
from cluster.topology import build_topology
from tests.h3_client import Client, Lost, Refused
from tests.nginx.running import AUTHORITY, PATIENCE, Running, free_ports, paths_in, render, stack, versions, write
from tests.nginx.test_combinations import LOOKS
from tests.nginx.test_reload import add_static_file
from tests.nginx.test_rendered import gixy_findings
from tests.nginx.test_shared import Shared
from tests.nginx.test_tls import ROOT, SecureLoad, get, https_port, secure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.render.nginx import NginxConfig
    from tests.nginx_versions import Nginx

#: What a stack says that wants HTTP/3.
HTTP3: dict[str, Any] = {"http3": True, "discard_http3_requests": True}

#: Clients of HTTP/3 beside those of HTTP/1.1 and HTTP/2, and reloads.
CLIENTS, RELOADS = 8, 7

#: Seconds after which such a client gives an answer up.
GIVES_UP = 5.0


def speaks(nginx: Nginx | None) -> bool:
    return nginx is not None and nginx.version >= HTTP3_SINCE


@pytest.fixture(scope="module", params=versions())
def nginx(request: pytest.FixtureRequest) -> Nginx:
    found: Nginx = request.param
    if not speaks(found):
        pytest.skip(f"{found} speaks no HTTP/3")
    return found


@pytest.fixture(scope="module")
def running(nginx: Nginx) -> Iterator[Running]:
    with Running(nginx, secure(hsts={"max_age": "5m"}, **HTTP3)) as found:
        add_static_file(found)
        yield found


@pytest.fixture
def client(running: Running) -> Iterator[Client]:
    with contextlib.closing(Client(https_port(running), "cluster", ROOT, PATIENCE)) as found:
        yield found


def test_an_instance_is_told_the_same_as_by_https(running: Running, client: Client) -> None:
    port = https_port(running)
    answer = client.ask("/", headers={"x-forwarded-proto": "http", "x-forwarded-port": "1"})
    seen = {name.lower(): value for name, value in json.loads(answer.body)["headers"]}
    assert answer.status == 200
    assert seen["host"] == seen["x-forwarded-host"] == f"cluster:{port}"
    assert (seen["x-forwarded-proto"], seen["x-forwarded-port"]) == ("https", str(port))
    assert (seen["x-forwarded-for"], seen["x-real-ip"]) == ("127.0.0.1", "127.0.0.1")
    posted = json.loads(client.ask("/", b"x" * 300_000).body)
    assert posted["sha256"] == hashlib.sha256(b"x" * 300_000).hexdigest()
    assert client.ask("/static/a.css").body == b"0123456789"


def test_what_is_the_runtimes_stays_closed(running: Running, client: Client) -> None:
    before = len(running.requests)
    for path in ("/-/health", "/-/probe", "/%2d/health", "/-/../-/health"):
        assert client.ask(path).status in {400, 404}
    assert len(running.requests) == before


def test_another_name_gets_no_handshake_and_another_host_no_answer(running: Running, client: Client) -> None:
    before = len(running.requests)
    with pytest.raises(Refused):
        Client(https_port(running), "other.example", ROOT, PATIENCE).ask("/")
    with pytest.raises(Lost):
        client.ask("/", host="other.example")
    assert len(running.requests) == before


def test_a_port_that_the_site_has_not_is_never_believed(running: Running, client: Client) -> None:
    answer = client.ask("/", host="cluster:1")
    if running.nginx.version >= REQUEST_PORT_SINCE:
        assert answer.status == 400
    else:  # which has no word for the port that a client of HTTP/3 wrote
        seen = {name.lower(): value for name, value in json.loads(answer.body)["headers"]}
        assert seen["host"] == f"cluster:{https_port(running)}"


@pytest.mark.parametrize("path", ["/", "/static/a.css", "/-/health", "/x?header=Alt-Svc:+h2=x", "/x?status=500"])
def test_clients_are_told_where_it_answers_by_every_protocol_and_once(
    running: Running, client: Client, path: str
) -> None:
    told = [f'h3=":{https_port(running)}"; ma=3600']
    assert client.ask(path).of("alt-svc") == told
    assert get(running, path).headers.get_all("Alt-Svc") == told
    assert client.ask(path).of(STRICT.lower()) == ["max-age=300"]


def test_plain_http_does_not_tell_of_it(running: Running) -> None:
    assert running.request("/").headers.get_all("Alt-Svc") is None


def test_where_443_is_forwarded_clients_are_told_of_that(nginx: Nginx) -> None:
    values = secure(**HTTP3)
    values["site"]["forwarded_ports"] = [443]
    with Running(nginx, values) as found, contextlib.closing(Client(https_port(found), "cluster", ROOT, 5)) as client:
        answer = client.ask("/", host="cluster")
        seen = {name.lower(): value for name, value in json.loads(answer.body)["headers"]}
        assert (answer.of("alt-svc"), seen["host"]) == (['h3=":443"; ma=3600'], "cluster")


def test_any_name_is_served_where_the_stack_says_so(nginx: Nginx) -> None:
    values = secure(names=("_", "cluster"), **HTTP3)
    with Running(nginx, values) as found, contextlib.closing(Client(https_port(found), "cluster", ROOT, 5)) as client:
        assert client.ask("/").status == 200


# --- what verify says


def checks(running: Running) -> dict[str, bool | None]:
    topology = build_topology(parse_config(running.values))
    tls = topology.config.site.tls
    assert tls is not None
    https = Https(topology=topology, tls=tls, host="127.0.0.1", authority=ROOT)
    return {check.name: check.ok for check in https.checks()}


def test_verify_sees_that_it_answers(running: Running) -> None:
    found = checks(running)
    assert found["HTTP/3 answers by UDP"] is True
    assert [name for name, ok in found.items() if ok is not True] == []
    assert quic.VERSION in quic.versions("127.0.0.1", https_port(running), PATIENCE)


def test_verify_sees_that_nobody_answers(nginx: Nginx) -> None:
    def without(text: str) -> str:
        return "\n".join(line for line in text.split("\n") if " quic" not in line and "http3 on" not in line)

    with Running(nginx, secure(**HTTP3), edit=without) as found:
        assert checks(found)["HTTP/3 answers by UDP"] is False


# --- reloads


class Http3Load(SecureLoad):
    """Clients of HTTP/3 beside those of HTTP/1.1 and HTTP/2; each keeps its connection.

    lost: requests of theirs of which no answer came, with why. asked: all of theirs. not_begun: those of them that the
    server said it had not begun, which are asked again.
    """

    def __init__(self, running: Running) -> None:
        super().__init__(running)
        self.lost: list[str] = []
        self.asked = self.not_begun = 0
        self.over_http3 = [threading.Thread(target=self.ask_on, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> Http3Load:
        super().__enter__()
        for thread in self.over_http3:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        for thread in self.over_http3:
            thread.join(2 * PATIENCE)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {why}" for why, count in Counter(self.lost).most_common())
        return (
            f"of HTTP/3 {len(self.lost)} of {self.asked:,} lost ({kinds}), {self.not_begun} not begun and asked again; "
            f"of the others {super().__str__()}"
        )

    def ask_on(self, number: int) -> None:
        client = Client(https_port(self.running), "cluster", ROOT, GIVES_UP)
        turn = number
        while not self.stopped.is_set():
            turn += 1
            why = None
            try:
                answer = client.ask(("/", "/static/a.css")[turn % 2], b"x" * 100 if turn % 4 == 0 else None)
                why = None if answer.status == 200 else f"status {answer.status}"
            except Lost as error:
                why = f"{error}"
            with self.lock:
                self.asked += 1
                if why is not None:
                    self.lost.append(why)
        with self.lock:
            self.not_begun += client.again
        client.close()


def reloaded(running: Running) -> Http3Load:
    """Return a load over reloads."""
    with Http3Load(running) as load:
        for turn in range(RELOADS):
            time.sleep(1)
            running.values["upstream"]["servers"] = [
                {"name": f"app{number}", "weight": 1 + (number + turn) % 5} for number in range(1, 5)
            ]
            running.reload(running.values)
        time.sleep(1)
    print(f"{running.nginx}: {RELOADS} reloads, {load}")
    return load


def test_reloads_lose_requests_of_http3_alone(nginx: Nginx) -> None:
    with Running(nginx, secure(4, **HTTP3)) as found:
        add_static_file(found)
        load = reloaded(found)
    assert load.failed == []
    assert load.requests.total() > 300
    # As HTTP/3 clients that keep to the protocol: few are lost, and all others answered or told to ask again.
    assert load.asked > 100
    assert load.not_begun + len(load.lost) > 0, "no connection was open at a reload"
    assert len(load.lost) <= RELOADS * CLIENTS * 2


# --- beside other sites


class Secured(Shared):
    """An nginx with other sites, beside which ours have certificates."""

    def render(self, name: str, values: dict[str, Any]) -> NginxConfig:
        """Return a stack's site, with a certificate."""
        config = parse_config(values)
        certificate = certificate_of(config, self.directory, AUTHORITY, dt.datetime.now(dt.UTC))
        place = Place(name=name, directory=str(self.directory / "conf" / name))
        paths = paths_in(self.directory / name)
        return render_shared(build_topology(config), paths, self.nginx.version, place, certificate)


@pytest.fixture
def shared(nginx: Nginx) -> Iterator[Secured]:
    found = Secured(nginx)
    try:
        yield found
    finally:
        found.close()


def test_beside_other_sites_it_answers_and_these_are_what_they_were(shared: Secured) -> None:
    before, values = shared.foreign(), secure(**HTTP3)
    shared.put("cluster-shop", values)
    port = values["site"]["tls"]["listen"]
    with contextlib.closing(Client(port, "cluster", ROOT, PATIENCE)) as client:
        answer = client.ask("/")
        seen = {name.lower(): value for name, value in json.loads(answer.body)["headers"]}
        assert (answer.status, answer.of("alt-svc"), seen["host"]) == (
            200,
            [f'h3=":{port}"; ma=3600'],
            f"cluster:{port}",
        )
    assert shared.foreign() == before


def test_beside_another_site_that_has_sockets_of_each_worker_nginx_refuses_it(shared: Secured) -> None:
    """Before anything is changed: what serves goes on."""
    first, second = secure(**HTTP3), secure(names=("other.test",), **HTTP3)
    shared.put("cluster-shop", first)
    second["site"]["tls"]["listen"] = first["site"]["tls"]["listen"]
    write(shared.render("cluster-other", second), shared.directory / "conf")
    assert "duplicate listen options" in shared.check().stderr
    # By another port they lie beside each other.
    second["site"]["tls"]["listen"] = free_ports()
    shared.put("cluster-other", second)
    with contextlib.closing(Client(second["site"]["tls"]["listen"], "other.test", ROOT, PATIENCE)) as client:
        assert client.ask("/").status == 200


# --- what nginx takes


def said(values: dict[str, Any], nginx: Nginx, tmp_path: Path) -> str:
    from tests.nginx.test_site import said_of  # noqa: PLC0415 - it renders all its cases when it is read

    return said_of(nginx, values, tmp_path / "made")


@pytest.mark.parametrize("ipv6", [False, True])
@pytest.mark.parametrize("names", [("cluster", "localhost"), ("_",)])
@pytest.mark.parametrize("before", [{}, {"trusted_proxies": ["10.0.0.0/8"]}])
def test_nginx_takes_it_without_a_warning(
    nginx: Nginx, ipv6: bool, names: tuple[str, ...], before: dict[str, Any], tmp_path: Path
) -> None:
    if ipv6 and not has_ipv6():
        pytest.skip("no IPv6 here")
    values = secure(names=names, hsts={"max_age": "7d"}, **HTTP3)
    values["site"] |= {"ipv6": ipv6, "headers": {"X-Frame-Options": "DENY"}, "robots": "none", **before}
    if names[0] != "_":
        values["site"]["redirects"] = {"www.cluster.example": "cluster", "/old": "/new"}
    assert said(values, nginx, tmp_path) == ""


def test_a_linter_of_configurations_finds_nothing_more(nginx: Nginx, tmp_path: Path) -> None:
    known = {one[0] for one in gixy_findings(nginx, secure(), tmp_path / "without")}
    for number in range(LOOKS):  # it draws lots
        found = {one[0] for one in gixy_findings(nginx, secure(**HTTP3), tmp_path / f"{number}")} - known
        if not found:
            break
    assert found == set()


@pytest.mark.parametrize("nginx", versions(), scope="module")
def test_an_nginx_without_it_says_so(nginx: Nginx, tmp_path: Path) -> None:
    if speaks(nginx):
        pytest.skip(f"{nginx} speaks HTTP/3")
    assert 'invalid parameter "quic"' in said(secure(**HTTP3), nginx, tmp_path)


@pytest.mark.parametrize("version", [(1, 22, 1), (1, 26, 3), (1, 30, 6)])
@pytest.mark.parametrize("tls", [False, True])
def test_a_site_without_it_has_nothing_of_it(version: tuple[int, int, int], tls: bool, tmp_path: Path) -> None:
    of_it = re.compile(r"quic\b|http3|h3|reuseport|Alt-Svc|cluster_asked")
    plain, wanted = (
        "\n".join(render(values, paths_in(tmp_path), version).files.values())
        for values in (secure() if tls else stack(2, listen=8080), secure(**HTTP3))
    )
    assert of_it.findall(plain) == []
    assert {"quic", "http3", "h3", "reuseport", "Alt-Svc", "cluster_asked"} == {*of_it.findall(wanted)}
