"""What the runtime answers and counts around an ASGI project, under gunicorn with a real uvicorn worker."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from tests.runtime.memcached import Memcached
from tests.runtime.standing import Running, Stand, ask, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("uvicorn_worker", reason="uvicorn-worker is not installed")

SETTINGS = """
SECRET_KEY = "x"
ROOT_URLCONF = "mini.urls"
INSTALLED_APPS = ["django.contrib.sessions"]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware"]
ASGI_APPLICATION = "mini.asgi.application"
"""

ASGI = """
from django.core.asgi import get_asgi_application

django = get_asgi_application()


async def application(scope, receive, send):
    if scope["type"] != "websocket":
        await django(scope, receive, send)
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": f"{scope['scheme']} {scope['client'][0]} {message['text']}"})
"""

#: Drives the runtime's application as a server would.
SOCKET = """
import asyncio, json, sys
from cluster_runtime.asgi import application

async def main():
    incoming = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hello"},
                {"type": "websocket.disconnect", "code": 1000}]
    sent, counts = [], []

    async def receive():
        counts.append(application.activity.requests)
        return incoming.pop(0)

    async def send(message):
        sent.append(message)

    headers = [(b"x-real-ip", b"192.0.2.1"), (b"x-forwarded-proto", b"https"), (b"x-forwarded-for", b"192.0.2.1")]
    scope = {"type": "websocket", "path": sys.argv[1], "scheme": "ws", "client": None, "headers": headers}
    await application(scope, receive, send)
    print(json.dumps({"sent": sent, "during": counts, "after": application.activity.requests}))

asyncio.run(main())
"""

FILES = {"mini/settings.py": SETTINGS, "mini/asgi.py": ASGI}


def values(stand: Stand) -> dict[str, Any]:
    sessions = stand.root / "sessions"
    sessions.mkdir(exist_ok=True)
    return {
        "interface": "asgi",
        "environment": {"TEST_INTERFACE": "asgi"},
        "sessions": {"engine": "file", "path": str(sessions)},
        "database": {"engine": "sqlite", "path": str(stand.root / "db.sqlite3")},
    }


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with closing(Stand(FILES)) as stand:
        yield stand.serving(**values(stand))


def all_counted_out(running: Running) -> None:
    wait_until(lambda: running.json("/requests") == {"requests": 0}, "counted out", running)


def test_it_serves_without_a_word_about_lifespan(running: Running) -> None:
    assert running.json("/")["pid"] in running.workers
    assert "lifespan" not in running.log.lower()


def test_health_is_shallow_and_deep(running: Running) -> None:
    assert running.json("/-/health")["instance"] == "app1"
    assert running.json("/-/health?deep")["problems"] == []
    assert running.get("/-/nothing")[0] == 404


def test_the_probe_makes_reads_counts_and_removes_a_session(running: Running) -> None:
    key = running.json("/-/probe/session?create")["session"]
    assert running.json(f"/-/probe/session?write={key}")["counter"] == 2
    assert running.json(f"/-/probe/session?delete={key}")["counter"] == 2
    assert running.get(f"/-/probe/session?read={key}")[0] == 404


@pytest.mark.parametrize("path", ["/-/health", "/-/health?deep", "/-/probe", "/-/probe/session?create"])
def test_what_came_through_nginx_gets_the_projects_own_answer(running: Running, path: str) -> None:
    status, body = running.get(path, X_Forwarded_For="192.0.2.1")
    assert status == 404
    assert "<title>Not Found</title>" in body


def test_the_project_sees_what_nginx_saw(running: Running) -> None:
    found = running.json("/", X_Real_IP="192.0.2.1", X_Forwarded_For="6.6.6.6, 192.0.2.1", X_Forwarded_Proto="https")
    assert (found["address"], found["secure"]) == ("192.0.2.1", True)


@pytest.mark.parametrize("url", ["/", "/stream?parts=3&every=0", "/nothing", "/boom"])
def test_a_request_that_ended_is_counted_out(running: Running, url: str) -> None:
    for _number in range(3):
        running.get(url)
    all_counted_out(running)


def test_a_client_that_goes_away_is_counted_out(running: Running) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(running.name.socket("one")))
        client.sendall(b"GET /stream?parts=300&every=0.01&size=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(100)
    all_counted_out(running)


def test_requests_in_flight_do_not_keep_the_health_check_from_its_answer(running: Running) -> None:
    """Django runs one sync view at a time in a worker; the shallow check needs none."""
    asked = ask(running, "/sleep?for=1.5", 3)
    started = time.monotonic()
    running.json("/-/health")
    assert time.monotonic() - started < 1.4
    assert {one.wait() for one in asked} == {(200, "slept")}
    all_counted_out(running)


@pytest.mark.parametrize("path", ["/chat", "/-/health"])
def test_a_websocket_is_the_projects(stand: Stand, path: str) -> None:
    stand.write(FILES)
    config = stand.config(**values(stand))
    done = subprocess.run(
        [sys.executable, "-c", SOCKET, path],
        env=stand.environment(config),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["sent"] == [
        {"type": "websocket.accept"},
        {"type": "websocket.send", "text": "wss 192.0.2.1 hello"},
    ]
    assert (found["during"], found["after"]) == ([1, 1, 1], 0)


def test_a_stop_lets_what_runs_end(stand: Stand) -> None:
    stand.write(FILES)
    running = stand.serving(**values(stand))
    begun = stand.root / "begun"
    asked = ask(running, f"/slowly?for=1.5&log={begun}", 1)[0]
    wait_until(begun.exists, "begun", running)
    running.process.terminate()
    assert asked.wait() == (200, "slept")
    assert running.ended() == 0
    assert {path.suffix for path in running.name.directory.iterdir()} == {".lock"}


def test_a_worker_whose_event_loop_hangs_costs_the_instance_its_life(stand: Stand) -> None:
    stand.write({**FILES, "mini/asgi.py": ASGI.replace("    await receive()\n", "", 1) + HANGING})
    running = stand.serving(**values(stand), health={"interval": 0.3, "timeout": 0.5, "retries": 2})
    ask(running, "/hang", 1)
    assert running.ended() == 1
    assert "2 checks in a row failed" in running.log


LIFESPAN = """

served = application


async def application(scope, receive, send):
    if scope["type"] != "lifespan":
        if scope["type"] == "http" and scope["path"] == "/started":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": scope["state"]["greeting"].encode()})
            return
        await served(scope, receive, send)
        return
    assert (await receive())["type"] == "lifespan.startup"
    START
    scope["state"]["greeting"] = "hello"
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    print("the project stops", flush=True)
    await send({"type": "lifespan.shutdown.complete"})
"""


def test_the_lifespan_of_the_project_runs(stand: Stand) -> None:
    stand.write({**FILES, "mini/asgi.py": ASGI + LIFESPAN.replace("START", "pass")})
    running = stand.serving(**values(stand))
    assert running.get("/started") == (200, "hello")
    running.process.terminate()
    assert running.ended() == 0
    assert "the project stops" in running.log


@pytest.mark.parametrize(
    "failure",
    [
        'raise OSError("no broker")',
        pytest.param('await send({"type": "lifespan.startup.failed", "message": "no broker"})', marks=pytest.mark.wide),
    ],
)
def test_a_project_whose_lifespan_fails_is_never_healthy(stand: Stand, failure: str) -> None:
    lifespan = LIFESPAN.replace("START", f"{failure}\n    return")
    stand.write({**FILES, "mini/asgi.py": ASGI + lifespan})
    running = stand.start(**values(stand), health={"interval": 0.2, "start_timeout": 8})
    assert running.ended() == 1
    assert "no broker" in running.log
    assert running.name.holder() is None


@pytest.mark.parametrize(
    "unknown", ['raise ValueError("no application for lifespan")', "return", "assert scope['type'] == 'http'"]
)
def test_a_project_that_knows_no_lifespan_serves(stand: Stand, unknown: str) -> None:
    own = f"""

served = application


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        {unknown}
    await served(scope, receive, send)
"""
    stand.write({**FILES, "mini/asgi.py": ASGI + own})
    assert stand.serving(**values(stand)).json("/")["pid"]


HANGING = """

served = application


async def application(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/hang":
        import threading
        threading.Event().wait()
    await served(scope, receive, send)
"""


def test_sessions_in_memcached_cost_no_connection_for_each_request(stand: Stand) -> None:
    """Under ASGI Django makes its caches anew in each request; their connections must not add up."""
    stand.write(FILES)
    with closing(Closing(Memcached(stand.root / "m"))):
        running = stand.serving(
            **{**values(stand), "sessions": {"engine": "cache", "memcached": [str(stand.root / "m")]}}
        )
        for _number in range(200):
            assert running.json("/visits") == {"visits": 1}
        descriptors = running.json("/descriptors")["descriptors"]
        assert descriptors < 100, "the garbage collector keeps it at some twenty or forty"


class Closing:
    """A node, killed when it is closed."""

    def __init__(self, node: Memcached) -> None:
        self.close = node.kill
