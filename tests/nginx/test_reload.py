"""Reloads of the real nginx under counted load, and what an nginx before 1.27.4 does while `closing` exists."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster.render.versions import KEEPALIVE_MIN_TIMEOUT_SINCE
from tests.clients import Clients
from tests.nginx.running import PATIENCE, Reply, Running, Values, ask, free_ports, read_reply, stack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.nginx_versions import Nginx

CLIENTS = 12
RELOADS = 7

#: Without the care that a reload takes, so many must be enough to see what the care is for.
RELOADS_WITHOUT_CARE = 40

BODIES = {"nothing": b"", "a kilobyte": b"k" * 1024, "a megabyte": b"m" * 1024 * 1024}


def is_old(nginx: Nginx) -> bool:
    return nginx.version < KEEPALIVE_MIN_TIMEOUT_SINCE


class Load(Clients):
    """Clients that keep their connections and ask by turns with GET and POST; nothing is ever sent again."""

    def __init__(self, running: Running) -> None:
        super().__init__(CLIENTS, 2 * PATIENCE)
        self.running = running
        self.requests: Counter[str] = Counter()

    def __str__(self) -> str:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.requests.items()))
        return f"{len(self.failed)} of {self.requests.total():,} requests failed ({kinds})"

    def client(self, number: int) -> None:
        connection = self.connect()
        turn = number
        while not self.stopped.is_set():
            turn += 1
            kind = "slow" if number == 0 else ("GET", "POST", "static")[turn % 3]
            failure = self.one(connection, kind, turn)
            with self.lock:
                self.requests[kind] += 1
                if failure:
                    self.failed.append(f"{time.strftime('%H:%M:%S')} {kind}: {failure}")
            self.rest()
        connection.close()

    def connect(self) -> http.client.HTTPConnection:
        return self.running.connect()

    def one(self, connection: http.client.HTTPConnection, kind: str, turn: int) -> str | None:
        body = f"{turn}".encode() * 50 if kind == "POST" else None
        path = {"slow": "/slow?seconds=1", "static": "/static/a.css"}.get(kind, "/")
        try:
            reply = ask(connection, path, method="POST" if body else "GET", body=body)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return f"{type(error).__name__}: {error}"
        if reply.status != 200:
            return f"{reply.status}"
        if body and reply.seen["sha256"] != hashlib.sha256(body).hexdigest():
            return "another body arrived"
        return None


def weighted(port: int, turn: int) -> Values:
    servers = [{"name": f"app{number}", "weight": 1 + (number + turn) % 5} for number in range(1, 5)]
    return stack(servers, listen=port)


def add_static_file(running: Running) -> None:
    directory = Path(running.paths.static) / "r1" / "static"
    directory.mkdir(parents=True)
    (directory / "a.css").write_text("0123456789")
    (Path(running.paths.static) / "current").symlink_to("r1")


@pytest.fixture
def loaded(nginx: Nginx) -> Iterator[Running]:
    with Running(nginx, weighted(free_ports(), 0)) as running:
        add_static_file(running)
        yield running


# `make test` has it over TLS, into maintenance and out of it, and by `cluster up`.
@pytest.mark.quick
def test_no_request_is_lost_by_reloads(loaded: Running) -> None:
    with Load(loaded) as load:
        for turn in range(1, RELOADS + 1):
            time.sleep(0.3)
            loaded.reload(weighted(loaded.port, turn))
        load.wait_until(lambda: load.requests.total() > 1000)
    print(f"{loaded.nginx}: {RELOADS} reloads, {load}")
    assert load.failed == []
    assert load.requests.total() > 1000


def test_an_old_nginx_loses_requests_when_it_is_just_reloaded(loaded: Running) -> None:
    if not is_old(loaded.nginx):
        pytest.skip("keepalive_min_timeout cannot be left out of a reload: see the next test for what it is for")
    with Load(loaded) as load:
        for turn in range(1, RELOADS_WITHOUT_CARE + 1):
            loaded.reload(weighted(loaded.port, turn), politely=False)
            time.sleep(0.1)
            if load.failed:
                break
    print(f"{loaded.nginx}: {turn} reloads without care, {load}")
    assert load.failed


def test_a_new_nginx_loses_requests_without_keepalive_min_timeout(nginx: Nginx) -> None:
    if is_old(nginx):
        pytest.skip("it has no keepalive_min_timeout")

    def sabotage(text: str) -> str:
        return text.replace("keepalive_min_timeout 5s;", "")

    with Running(nginx, weighted(free_ports(), 0), edit=sabotage) as running:
        add_static_file(running)
        with Load(running) as load:
            for turn in range(1, RELOADS_WITHOUT_CARE + 1):
                running.reload(weighted(running.port, turn))
                time.sleep(0.1)
                if load.failed:
                    break
    print(f"{nginx}: {turn} reloads without keepalive_min_timeout, {load}")
    assert load.failed


def test_a_request_in_flight_is_not_cut_and_a_websocket_lives_on(loaded: Running) -> None:
    with ThreadPoolExecutor(8) as pool, loaded.open() as websocket:
        websocket.sendall(b"GET /ws HTTP/1.1\r\nHost: cluster\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        assert websocket.recv(4096).startswith(b"HTTP/1.1 101 ")
        slow = [
            pool.submit(loaded.request, "/slow?seconds=5", method=method, body=body)
            for method, body in [("GET", None), ("POST", b"x" * 300_000)] * 4
        ]
        time.sleep(0.3)
        loaded.reload(weighted(loaded.port, 1), politely=False)
        assert not any(answer.done() for answer in slow), "the reload was over before they were"
        assert [answer.result(PATIENCE).status for answer in slow] == [200] * 8
        websocket.sendall(b"still there")
        assert websocket.recv(4096) == b"still there"


# While `closing` exists


@pytest.fixture(scope="module")
def closing(nginx: Nginx) -> Iterator[Running]:
    """An nginx that is about to be reloaded; a new one takes no notice."""
    values = stack(2, client_max_body_size="2m", instance_ports=free_ports(2))
    with Running(nginx, values) as running:
        add_static_file(running)
        Path(running.paths.closing).touch()
        yield running


def assert_told(running: Running, reply: Reply) -> None:
    """An old nginx says that it closes the connection, a new one keeps it."""
    assert reply.kept is not is_old(running.nginx)
    assert (reply.headers["Connection"] or "").lower() == ("close" if is_old(running.nginx) else "keep-alive")


def chunked(body: bytes) -> bytes:
    parts = [body[start : start + 7000] for start in range(0, len(body), 7000)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize("expect", [False, True], ids=["at once", "100-continue"])
@pytest.mark.parametrize("framing", ["Content-Length", "chunked"])
@pytest.mark.parametrize("size", sorted(BODIES))
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_body_arrives_whole(closing: Running, method: str, size: str, framing: str, expect: bool) -> None:
    body = BODIES[size]
    length = "Transfer-Encoding: chunked" if framing == "chunked" else f"Content-Length: {len(body)}"
    lines = [f"{method} /a?b=c HTTP/1.1", "Host: cluster", length, *(["Expect: 100-continue"] if expect else [])]
    with closing.open() as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        if expect and body:
            assert connection.recv(len(b"HTTP/1.1 100 Continue\r\n\r\n")) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(chunked(body) if framing == "chunked" else body)
        reply = read_reply(connection)
        assert reply is not None
        assert (reply.status, reply.seen["method"], reply.seen["path"]) == (200, method, "/a?b=c")
        assert reply.seen["length"] == len(body)
        assert reply.seen["sha256"] == hashlib.sha256(body).hexdigest()
        assert_told(closing, reply)
        if is_old(closing.nginx):
            assert connection.recv(1) == b"", "closed indeed"


@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("target", ["/", "/a%2Fb/./c/../d//e?x=%20&y=/-/", "/%c3%a9?"])
def test_an_instance_gets_what_it_always_gets(closing: Running, method: str, target: str) -> None:
    reply = closing.request(target, method=method, X_Forwarded_Proto="https", X_Forwarded_For="6.6.6.6")
    marker = Path(closing.paths.closing)
    marker.unlink()
    before = closing.request(target, method=method, X_Forwarded_Proto="https", X_Forwarded_For="6.6.6.6")
    marker.touch()
    assert before.kept
    assert_told(closing, reply)
    for name in ("method", "path", "length"):
        assert reply.seen[name] == before.seen[name], name
    # Each request has a name of its own; all else is the same.
    told, told_before = ([h for h in one.seen["headers"] if h[0] != "X-Cluster-Request"] for one in (reply, before))
    assert told == told_before
    assert reply.sent("X-Cluster-Request") != before.sent("X-Cluster-Request")


def test_a_head_is_answered_with_headers_alone(closing: Running) -> None:
    for path in ("/", "/static/a.css"):
        reply = closing.request(path, method="HEAD")
        assert (reply.status, reply.body) == (200, b"")
        assert int(reply.headers["Content-Length"]) > 0
        assert_told(closing, reply)


@pytest.mark.parametrize("status", [201, 301, 403, 404, 418, 500, 502, 503])
def test_an_instances_status_stays_its_own(closing: Running, status: int) -> None:
    for method in ("GET", "POST"):
        reply = closing.request(f"/?status={status}", method=method, body=b"x" if method == "POST" else None)
        assert (reply.status, reply.seen["method"]) == (status, method)
        assert_told(closing, reply)


def test_static_files_are_served(closing: Running) -> None:
    reply = closing.request("/static/a.css")
    assert (reply.status, reply.body, reply.headers["Cache-Control"]) == (200, b"0123456789", "public, max-age=60")
    assert_told(closing, reply)
    part = closing.request("/static/a.css", Range="bytes=2-4")
    assert (part.status, part.body) == (206, b"234")
    assert_told(closing, part)
    unchanged = closing.request("/static/a.css", If_None_Match=reply.headers["ETag"])
    assert unchanged.status == 304
    assert_told(closing, unchanged)
    missing = closing.request("/static/none.css")
    assert missing.status == 404
    assert_told(closing, missing)
    assert closing.request("/static/a.css", method="POST", body=b"x").status == 405


def test_a_body_over_the_limit_is_refused(closing: Running) -> None:
    refused = closing.request("/", method="POST", body=b"x" * (2 * 1024 * 1024 + 1))
    assert refused.status == 413


def test_a_websocket_can_be_opened(closing: Running) -> None:
    with closing.open() as client:
        client.sendall(b"GET /ws HTTP/1.1\r\nHost: cluster\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 101 ")
        client.sendall(b"hello")
        assert client.recv(4096) == b"hello"


def test_http_1_0_is_answered(closing: Running) -> None:
    reply = closing.raw(b"GET / HTTP/1.0\r\nHost: cluster\r\nConnection: keep-alive\r\n\r\n")
    assert reply is not None
    assert reply.status == 200
    assert_told(closing, reply)


def test_an_instances_own_port_closes_its_connections_too(closing: Running) -> None:
    assert_told(closing, closing.request("/", host="localhost", port=closing.values["site"]["instance_ports"]))
    static = closing.request("/static/a.css", host="localhost", port=closing.values["site"]["instance_ports"])
    assert_told(closing, static)


def test_the_connections_to_instances_are_kept(closing: Running) -> None:
    with contextlib.closing(closing.connect()) as connection:
        used = {(seen["instance"], seen["connection"]) for seen in (ask(connection, "/").seen for _ in range(40))}
    # Each worker may serve some of the clients' connections, and has its own to the instances.
    assert len(used) <= 2 * 8


def test_connections_are_kept_again_when_closing_is_gone(closing: Running) -> None:
    marker = Path(closing.paths.closing)
    marker.unlink()
    try:
        assert closing.request("/").kept
    finally:
        marker.touch()
