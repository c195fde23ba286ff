"""What the runtime answers and counts around a WSGI project."""

from __future__ import annotations

import http.client
import json
import os
import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.runtime.memcached import Memcached
from tests.runtime.standing import Running, Stand, ask, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS = """
SECRET_KEY = "x"
ROOT_URLCONF = "mini.urls"
INSTALLED_APPS = ["django.contrib.sessions"]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware"]
"""


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with closing(Stand({"mini/settings.py": SETTINGS})) as stand:
        sessions = stand.root / "sessions"
        sessions.mkdir()
        yield stand.serving(
            sessions={"engine": "file", "path": str(sessions)},
            database={"engine": "sqlite", "path": str(stand.root / "db.sqlite3")},
        )


def all_counted_out(running: Running) -> None:
    wait_until(lambda: running.json("/requests") == {"requests": 0}, "counted out", running)


def test_health_says_who_answers(running: Running) -> None:
    found = running.json("/-/health")
    assert (found["instance"], found["release"]) == ("app1", "one")
    assert {found["pid"]} == running.workers
    assert running.json("/-/probe") == found


def test_deep_health_goes_through_everything(running: Running) -> None:
    assert running.json("/-/health?deep")["problems"] == []
    assert running.json("/-/health?deep=yes")["problems"] == []


def test_the_probe_makes_reads_counts_and_removes_a_session(running: Running) -> None:
    made = running.json("/-/probe/session?create")
    key = made["session"]
    assert made["counter"] == 1
    assert running.json(f"/-/probe/session?write={key}")["counter"] == 2
    assert running.json(f"/-/probe/session?read={key}")["counter"] == 2
    assert running.json(f"/-/probe/session?delete={key}")["counter"] == 2
    assert running.get(f"/-/probe/session?read={key}")[0] == 404


@pytest.mark.parametrize("query", ["", "read=", "read=unknownunknownunknown", "write=short", "delete=../../etc/passwd"])
def test_the_probe_knows_no_session_that_it_did_not_make(running: Running, query: str) -> None:
    status, body = running.get(f"/-/probe/session?{query}")
    assert (status, json.loads(body)["error"]) == (404, "no such session")


def test_a_visitors_session_is_none_of_the_probes_business(running: Running) -> None:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    with closing(connection):
        connection.sock.connect(str(running.name.socket("one")))
        connection.request("GET", "/visits")
        cookie = connection.getresponse().getheader("Set-Cookie") or ""
    key = cookie.partition("sessionid=")[2].partition(";")[0]
    assert key
    for what in ("read", "write", "delete"):
        assert running.get(f"/-/probe/session?{what}={key}")[0] == 404
    assert running.json("/visits", Cookie=f"sessionid={key}") == {"visits": 2}


@pytest.mark.parametrize("path", ["/-/health", "/-/health?deep", "/-/probe", "/-/probe/session?create", "/-/none"])
@pytest.mark.parametrize("address", ["192.0.2.1", ""])
def test_what_came_through_nginx_gets_the_projects_own_answer(running: Running, path: str, address: str) -> None:
    status, body = running.get(path, X_Forwarded_For=address)
    assert status == 404
    assert "<title>Not Found</title>" in body


def test_an_unknown_page_of_the_runtimes_is_said_to_be_one(running: Running) -> None:
    status, body = running.get("/-/nothing")
    assert status == 404
    assert "the runtime answers" in json.loads(body)["error"]


def test_the_project_sees_the_address_that_nginx_saw(running: Running) -> None:
    assert running.json("/", X_Real_IP="192.0.2.1", X_Forwarded_For="6.6.6.6, 192.0.2.1")["address"] == "192.0.2.1"
    assert running.json("/", X_Real_IP="2001:db8::1")["address"] == "2001:db8::1"
    assert running.json("/")["address"] == ""


def test_requests_are_counted_while_they_run(running: Running) -> None:
    asked = ask(running, "/sleep?for=4", 2)
    wait_until(lambda: running.json("/requests") == {"requests": 2}, "counted in", running)
    assert [one.wait() for one in asked] == [(200, "slept")] * 2
    all_counted_out(running)


@pytest.mark.parametrize("url", ["/", "/stream?parts=3&every=0", "/nothing", "/boom", "/-/health?deep"])
def test_a_request_that_ended_is_counted_out(running: Running, url: str) -> None:
    for _number in range(3):
        running.get(url)
    all_counted_out(running)


def test_a_response_that_breaks_in_the_middle_is_counted_out(running: Running) -> None:
    with pytest.raises(http.client.IncompleteRead):
        running.get("/broken_stream")
    all_counted_out(running)


def test_a_file_arrives_whole_and_is_counted_out(running: Running) -> None:
    path = running.log_file.with_name("file.txt")
    path.write_text("contents\n" * 100_000)
    assert running.get(f"/file?path={path}") == (200, path.read_text())
    all_counted_out(running)


@pytest.mark.parametrize("url", ["/stream?parts=100000&every=0.001&size=1000", "/file?path={path}"])
def test_a_client_that_goes_away_is_counted_out(running: Running, url: str) -> None:
    path = running.log_file.with_name("large")
    path.write_bytes(os.urandom(1 << 23))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(running.name.socket("one")))
        client.sendall(f"GET {url.format(path=path)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert client.recv(100)
        assert running.json("/requests") == {"requests": 1}
    all_counted_out(running)


def test_a_head_request_is_answered_and_counted_out(running: Running) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(running.name.socket("one")))
        client.sendall(b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200")
    all_counted_out(running)


def test_a_project_without_sessions_has_nothing_to_probe(stand: Stand) -> None:
    running = stand.serving()
    status, body = running.get("/-/probe/session?create")
    assert (status, json.loads(body)["error"]) == (501, "the project uses no sessions")


def test_a_store_that_is_away_is_said_by_the_probe() -> None:
    """A server takes what is raised by a connection of the store's for its client's, and closes that without a word."""
    with closing(Stand({"mini/settings.py": SETTINGS})) as stand:
        node = Memcached(stand.root / "m.sock")
        running = stand.serving(sessions={"engine": "cache", "memcached": [str(node.path)]})
        node.kill()
        for path in ("session?create", "session?read=unknownunknownunknown"):
            status, body = running.get(f"/-/probe/{path}")
            assert status == 503, (path, body)
            assert "Connection" in json.loads(body)["error"]
