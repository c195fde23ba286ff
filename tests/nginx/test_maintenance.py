"""Maintenance with the real nginx: who gets the page and how, who does not, and what turning it on and off costs."""

from __future__ import annotations

import http.client
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cluster.maintenance import LONGEST_MESSAGE, MOST_NETWORKS, Maintenance, asked_for
from cluster.render.maintenance import SUFFIX, digest_of, page, render_maintenance
from cluster.render.versions import KEEPALIVE_MIN_TIMEOUT_SINCE
from tests.clients import Clients
from tests.nginx.running import PATIENCE, Reply, Running, ask, free_ports, read_reply, stack
from tests.nginx.test_reload import add_static_file, is_old

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.nginx_versions import Nginx

#: Where an allowed client comes from: another address of this machine's own network.
ALLOWED = "127.7.0.9"

NASTY = '</p><script>alert("$host")</script> it\'s ${remote_addr} \\ \\n {a;} # $1 & "é" \u00a0 日本 \U0001f600\nsecond'

ASKED = asked_for(NASTY, "10m", ["127.7.0.0/20", "2001:db8::/33"])

CLIENTS = 12
TURNS = 4

#: Without the care that a reload takes, so many must be enough to see what the care is for.
TURNS_WITHOUT_CARE = 40


def file_of(running: Running) -> Path:
    return Path(f"{running.paths.maintenance}{SUFFIX}")


def turn(running: Running, wanted: Maintenance | None, *, politely: bool | None = None) -> None:
    """Turn maintenance on or off, as the platforms do: the file, and one reload."""
    if wanted is None:
        file_of(running).unlink()
    else:
        file_of(running).write_text(render_maintenance(wanted).text)
    running.reload(running.values, politely=politely)
    deadline = time.monotonic() + PATIENCE
    while running.internal("/-/maintenance").body.decode() != digest_of(wanted):
        assert time.monotonic() < deadline, running.error_log
        time.sleep(0.01)


@pytest.fixture(scope="module")
def maintained(nginx: Nginx) -> Iterator[Running]:
    with Running(nginx, stack(2, client_max_body_size="1m", instance_ports=free_ports(2))) as running:
        add_static_file(running)
        turn(running, ASKED)
        time.sleep(0.3)  # the old workers end
        yield running


def from_address(running: Running, address: str, path: str = "/") -> Reply:
    with running.open(address=address) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: cluster\r\n\r\n".encode())
        reply = read_reply(connection)
    assert reply is not None
    return reply


def assert_page(reply: Reply, *, body: bool = True) -> None:
    assert reply.status == 503
    assert reply.body.decode("ascii") == (page(NASTY) if body else "")
    headers = {name: reply.headers[name] for name in ("Retry-After", "Cache-Control", "Content-Type")}
    assert headers == {"Retry-After": "600", "Cache-Control": "no-store", "Content-Type": "text/html; charset=utf-8"}
    assert int(reply.headers["Content-Length"]) == len(page(NASTY))


PATHS = ("/", "/admin/?next=%2F", "/static/a.css", "/static/none.css", "/a.png", "/-", "/x/-/probe", "/%c3%a9", "//x")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_every_path_and_method_gets_the_page_and_no_instance_is_asked(
    maintained: Running, path: str, method: str
) -> None:
    before = len(maintained.requests)
    body = b"x" * 1000 if method in ("POST", "PUT", "PATCH") else None
    reply = maintained.request(path, method=method, body=body)
    assert_page(reply, body=method != "HEAD")
    assert reply.kept, "a client need not connect again for each"
    assert len(maintained.requests) == before


def test_a_body_larger_than_the_site_takes_gets_the_page_too(maintained: Running) -> None:
    assert_page(maintained.request("/upload", method="POST", body=b"x" * 3_000_000))
    with maintained.open() as connection:
        lines = "POST /upload HTTP/1.1\r\nHost: cluster\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(lines.encode())
        assert connection.recv(10, 2).startswith(b"HTTP/1.1 ")
        connection.sendall(b"123456789")


def test_a_websocket_gets_the_page(maintained: Running) -> None:
    with maintained.open() as client:
        client.sendall(b"GET /ws HTTP/1.1\r\nHost: cluster\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        reply = read_reply(client)
        assert reply is not None
        assert_page(reply)


@pytest.mark.parametrize(
    "path", ["/-/health", "/-/probe", "/-/maintenance", "/-/x", "//-/probe", "/%2d/probe", "/static/../-/probe"]
)
def test_what_is_the_runtimes_stays_nobodys(maintained: Running, path: str) -> None:
    for address in ("127.0.0.1", ALLOWED):
        reply = from_address(maintained, address, path)
        assert reply.status == 404
        assert b"<p>" not in reply.body


def test_a_name_that_is_not_the_sites_gets_no_answer(maintained: Running) -> None:
    assert maintained.raw(b"GET / HTTP/1.1\r\nHost: elsewhere\r\n\r\n") is None


def test_an_allowed_network_gets_the_site_as_usual_and_its_neighbours_do_not(maintained: Running) -> None:
    for address, allowed in {
        "127.7.0.0": True,
        ALLOWED: True,
        "127.7.15.255": True,
        "127.6.255.255": False,
        "127.7.16.0": False,
        "127.0.0.1": False,
    }.items():
        reply = from_address(maintained, address)
        assert reply.status == (200 if allowed else 503), address
        assert from_address(maintained, address, "/static/a.css").status == (200 if allowed else 503), address


def test_nobody_is_let_in_by_what_he_says_of_himself(maintained: Running) -> None:
    said: dict[str, Any] = {
        "X_Forwarded_For": ALLOWED,
        "X_Real_IP": ALLOWED,
        "X_Probe_Address": ALLOWED,
        "Forwarded": f"for={ALLOWED}",
    }
    assert_page(maintained.request("/", **said))


def test_an_instances_own_port_and_the_internal_socket_answer_as_usual(maintained: Running) -> None:
    port = maintained.values["site"]["instance_ports"]
    assert maintained.request("/", port=port, host="localhost").seen["instance"] == "app1"
    assert maintained.request("/static/a.css", port=port, host="localhost").status == 200
    assert maintained.internal("/-/probe").seen["path"] == "/-/probe"
    assert maintained.live_digest() == maintained.config.digest


def test_the_digest_and_the_text_of_the_configuration_are_what_they_were(maintained: Running, nginx: Nginx) -> None:
    assert maintained.internal("/-/maintenance").body.decode() == digest_of(ASKED)
    with Running(nginx, stack(2)) as plain:
        assert plain.internal("/-/maintenance").body == b""
        before = plain.put(plain.values)
        turn(plain, ASKED)
        assert plain.put(plain.values) == before


def test_before_a_reload_an_old_nginx_closes_the_connections_of_those_who_are_kept_out(maintained: Running) -> None:
    closing = Path(maintained.paths.closing)
    closing.touch()
    try:
        for method in ("GET", "POST"):
            reply = maintained.request("/x.css", method=method, body=b"x" * 100_000 if method == "POST" else None)
            assert_page(reply)
            assert reply.kept is not is_old(maintained.nginx)
        assert from_address(maintained, ALLOWED).status == 200
        assert maintained.request("/-/health").status == 404
    finally:
        closing.unlink()


@pytest.mark.parametrize("letter", ['"', "'", "\U0001f600", "\u00a0\u200b", "\\", "$"])
def test_the_longest_message_and_the_most_networks_are_read(nginx: Nginx, letter: str) -> None:
    message = (f"x{letter * LONGEST_MESSAGE}")[: LONGEST_MESSAGE - 1] + "x"
    asked = asked_for(message, "36500d", [f"2001:db8:{n:x}::/127" for n in range(MOST_NETWORKS)])
    with Running(nginx, stack(2)) as running:
        turn(running, asked)
        time.sleep(0.3)
        reply = running.request("/")
        assert (reply.status, reply.body.decode("ascii")) == (503, page(message))
        assert reply.headers["Retry-After"] == str(36500 * 86400)


# --- what turning it on and off costs


class Visitors(Clients):
    """Clients that keep their connections; the last one comes from an allowed network. Nothing is ever sent again."""

    def __init__(self, running: Running) -> None:
        super().__init__(CLIENTS, 2 * PATIENCE)
        self.running = running
        self.answers: Counter[str] = Counter()

    def __str__(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.answers.items()))
        total = self.answers.total() + len(self.failed)
        return f"{len(self.failed)} of {total:,} requests failed ({kinds})"

    def wait_for(self, count: int, *kinds: str) -> None:
        """Return once there were so many answers of each of these kinds, or a request has failed."""
        self.wait_until(lambda: all(self.answers[kind] >= count for kind in kinds))

    def client(self, number: int) -> None:
        allowed = number == CLIENTS - 1
        connection = self.connect(number, (ALLOWED, 0) if allowed else None)
        count = number
        while not self.stopped.is_set():
            count += 1
            found = self.one(connection, count, slow=number == 0)
            with self.lock:
                if found in ("200", "503") and not (allowed and found == "503"):
                    self.answers[f"{found} to the allowed client" if allowed else found] += 1
                else:
                    self.failed.append(found)
            self.rest()
        connection.close()

    def connect(self, _number: int, source: tuple[str, int] | None) -> http.client.HTTPConnection:
        """Return the connection of a client; source: where it comes from."""
        return http.client.HTTPConnection("127.0.0.1", self.running.port, PATIENCE, source_address=source)

    def one(self, connection: http.client.HTTPConnection, count: int, *, slow: bool) -> str:
        kind = "slow" if slow else ("GET", "POST", "static")[count % 3]
        path = {"slow": "/slow?seconds=1", "static": "/static/a.css"}.get(kind, "/")
        body = b"x" * 5000 if kind == "POST" else None
        try:
            reply = ask(connection, path, method="POST" if body else "GET", body=body)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return f"{time.strftime('%H:%M:%S')} {kind}: {type(error).__name__}: {error}"
        if reply.status == 503 and (reply.headers["Retry-After"], reply.body) != ("600", page(NASTY).encode()):
            return f"{kind}: 503 without the page"
        return str(reply.status)


def test_on_and_off_lose_no_request(nginx: Nginx) -> None:
    with Running(nginx, stack(4)) as running:
        add_static_file(running)
        with Visitors(running) as visitors:
            for number in range(1, TURNS + 1):
                time.sleep(0.3)
                turn(running, ASKED)
                visitors.wait_for(number * (300 // TURNS + 1), "503")
                turn(running, None)
            visitors.wait_for(301, "200", "200 to the allowed client")
    print(f"{nginx}: {TURNS} times on and off, {visitors}")
    assert visitors.failed == []
    assert min(visitors.answers.values()) > 300
    assert set(visitors.answers) == {"200", "503", "200 to the allowed client"}


def turn_without_care(running: Running, visitors: Visitors) -> int:
    """Turn it on and off until somebody loses a request; return how often."""
    turns = 0
    while not visitors.failed and turns < TURNS_WITHOUT_CARE:
        turns += 1
        turn(running, None if file_of(running).exists() else ASKED, politely=False)
        time.sleep(0.1)
    return turns


def test_without_care_on_and_off_lose_requests_of_an_old_nginx(nginx: Nginx) -> None:
    if nginx.version >= KEEPALIVE_MIN_TIMEOUT_SINCE:
        pytest.skip("keepalive_min_timeout is in its configuration: tests/nginx/test_reload.py leaves it out")
    with Running(nginx, stack(4)) as running:
        add_static_file(running)
        with Visitors(running) as visitors:
            turns = turn_without_care(running, visitors)
    print(f"{nginx}: {turns} times on or off without care, {visitors}")
    assert visitors.failed
