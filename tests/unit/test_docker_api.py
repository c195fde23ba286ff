"""What an engine is asked at its own socket, and when the `docker` command is asked in its place."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from platforms.docker.api import SOCKET, Asked, socket_of
from platforms.docker.engine import Engine, EngineError
from tests.unit.engine_socket import EngineHandler, EngineServer, listening

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STACK = "p/dev"
CONTAINERS = [{"Id": "b" * 64}, {"Id": "a" * 64}]
IMAGES = [
    {"Id": "sha256:1", "RepoTags": ["django-cluster/p-dev/app:r1", "django-cluster/p-dev/served:000001-r1", "own:1"]},
    {"Id": "sha256:2", "RepoTags": ["django-cluster/p-dev/app:r2"]},
    {"Id": "sha256:3", "RepoTags": None},
]


class Server(EngineServer):
    """An engine. asked: what it was asked. runs: what programs print, by their words: a status and frames."""

    def __init__(self, path: str) -> None:
        self.asked: list[tuple[str, str, dict[str, list[str]], Any]] = []
        self.runs: dict[str, tuple[int, bytes]] = {}
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.begun: list[str] = []
        super().__init__(path, Handler)


class Handler(EngineHandler):
    server: Server

    def _asked(self) -> str:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, url.path, parse_qs(url.query), json.loads(body) if body else None))
        return unquote(url.path)

    def do_GET(self) -> None:  # noqa: N802 - as the server calls it
        path = self._asked()
        if path in self.server.answers:
            self.answer(*self.server.answers[path])
        elif path.startswith("/exec/"):
            words = self.server.begun[int(path.split("/")[2])]
            self.answer(200, json.dumps({"Running": False, "ExitCode": self.server.runs[words][0]}).encode())
        else:
            self.answer(404, b'{"message": "no such thing"}')

    def do_POST(self) -> None:  # noqa: N802 - as the server calls it
        path = self._asked()
        if path.startswith("/containers/"):
            words = " ".join(self.server.asked[-1][3]["Cmd"])
            if words not in self.server.runs:
                self.answer(409, b'{"message": "it is not running"}')
                return
            self.server.begun.append(words)
            self.answer(201, json.dumps({"Id": str(len(self.server.begun) - 1)}).encode())
            return
        # As the engine: no length, and the end is the end of the connection.
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.docker.raw-stream")
        self.end_headers()
        self.wfile.write(self.server.runs[self.server.begun[int(path.split("/")[2])]][1])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(str(tmp_path / "s"))
    with listening(found):
        yield found


@pytest.fixture
def engine(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine at that socket, on a machine on which the `docker` command says that it was asked."""
    command(tmp_path, monkeypatch, 'echo "asked: $*" >&2; exit 1')
    return Engine(f"unix://{server.server_address}")


def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")


def frame(stream: int, text: str) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(text.encode()).to_bytes(4, "big") + text.encode()


@pytest.mark.parametrize(
    ("host", "environment", "config", "found"),
    [
        ("", {}, None, SOCKET),
        ("", {}, "{}", SOCKET),
        ("", {}, '{"auths": {}, "currentContext": "default"}', SOCKET),
        ("", {}, '{"currentContext": "far"}', None),
        ("", {}, "not JSON", None),
        ("", {}, "[]", None),
        ("", {"DOCKER_CONTEXT": "far"}, None, None),
        ("", {"DOCKER_CONTEXT": "default"}, '{"currentContext": "far"}', SOCKET),
        ("", {"DOCKER_HOST": "unix:///run/own.sock"}, '{"currentContext": "far"}', "/run/own.sock"),
        ("", {"DOCKER_HOST": "tcp://10.0.0.5:2376"}, None, None),
        ("unix:///run/other.sock", {"DOCKER_HOST": "tcp://10.0.0.5:2376"}, None, "/run/other.sock"),
        ("ssh://deploy@10.0.0.5", {}, None, None),
        ("unix://relative.sock", {}, None, None),
        ("", {}, '{"CurrentContext": "far"}', None),
        ("", {}, '{"currentContext": "default", "CurrentContext": "far"}', None),
        # What the command would refuse, it is to say.
        ("unix:///run/other.sock", {"DOCKER_API_VERSION": "1.99"}, None, None),
        ("", {"DOCKER_TLS_VERIFY": "1"}, None, None),
        ("", {"DOCKER_TLS": "1"}, None, None),
        ("", {"DOCKER_TLS_VERIFY": ""}, None, SOCKET),
    ],
)  # fmt: skip
def test_the_socket_is_the_one_that_the_command_would_ask(
    host: str, environment: dict[str, str], config: str | None, found: str | None, tmp_path: Path
) -> None:
    (tmp_path / ".docker").mkdir()
    if config is not None:
        (tmp_path / ".docker" / "config.json").write_text(config)
    assert socket_of(host, {"HOME": str(tmp_path), **environment}) == found
    (tmp_path / ".docker").rename(tmp_path / "elsewhere")
    assert socket_of(host, {"DOCKER_CONFIG": str(tmp_path / "elsewhere"), **environment}) == found


def test_whose_home_is_not_known_the_command_knows_by_other_ways() -> None:
    assert socket_of("", {}) is None
    assert socket_of("", {"HOME": ""}) is None
    assert socket_of("", {"DOCKER_CONTEXT": "default"}) == SOCKET


def test_containers_are_found_by_their_labels(engine: Engine, server: Server) -> None:
    server.answers["/containers/json"] = 200, json.dumps(CONTAINERS).encode()
    assert engine.containers(STACK, "nginx") == ["b" * 64, "a" * 64]
    assert engine.containers(STACK, stopped=True) == ["b" * 64, "a" * 64]
    (_, _, some, _), (_, _, every, _) = server.asked
    assert json.loads(some["filters"][0]) == {"label": [f"django-cluster.stack={STACK}", "django-cluster.role=nginx"]}
    assert (some["all"], every["all"]) == (["0"], ["1"])
    assert json.loads(every["filters"][0]) == {"label": [f"django-cluster.stack={STACK}"]}


def test_a_container_that_has_gone_is_left_out(engine: Engine, server: Server) -> None:
    server.answers["/containers/a/json"] = 200, b'{"Id": "a"}'
    assert engine.inspect(["b", "a"]) == [{"Id": "a"}]
    assert engine.inspect(["b"]) == []
    assert engine.inspect([]) == []


def test_images_are_those_of_the_name_that_is_asked_for(engine: Engine, server: Server) -> None:
    server.answers["/images/json"] = 200, json.dumps(IMAGES).encode()
    assert engine.images_of(STACK) == {
        "django-cluster/p-dev/app:r1": "sha256:1",
        "django-cluster/p-dev/served:000001-r1": "sha256:1",
        "django-cluster/p-dev/app:r2": "sha256:2",
    }
    assert json.loads(server.asked[-1][2]["filters"][0]) == {"reference": ["django-cluster/p-dev/*"]}
    assert engine.tags("django-cluster/p-dev/app") == ["r1", "r2"]
    assert engine.image("django-cluster/p-dev/app:r2") == "sha256:2"
    server.answers["/images/json"] = 200, b"[]"
    assert engine.image("django-cluster/p-dev/app:r2") is None
    assert engine.tags("django-cluster/p-dev/app") == []


def test_when_an_image_was_made_is_known_where_the_engine_has_it(engine: Engine, server: Server) -> None:
    server.answers["/images/registry.example:5000/a:1/json"] = 200, b'{"Created": "2026-01-02T03:04:05Z"}'
    server.answers["/images/b@sha256:1/json"] = 200, b"{}"
    asked = ["registry.example:5000/a:1", "b@sha256:1", "c:1"]
    assert engine.creation_times(asked, 5.0) == {"registry.example:5000/a:1": "2026-01-02T03:04:05Z", "b@sha256:1": ""}


def test_a_program_in_a_container_prints_what_it_prints(engine: Engine, server: Server) -> None:
    server.runs["/say 1"] = 0, frame(1, "one ") + frame(2, "not that") + frame(1, "dös")
    assert engine.execute("a", "/say", "1") == "one dös"
    assert server.asked[0][:2] == ("POST", "/containers/a/exec")
    assert server.asked[0][3]["Cmd"] == ["/say", "1"]


@pytest.mark.parametrize(
    ("status", "printed", "words"),
    [
        (1, frame(1, "some\n") + frame(2, "it is hurt\n"), "docker: it is hurt"),
        (126, frame(1, "OCI runtime exec failed: no such file or directory\r\n"), "no such file or directory"),
        # Not what the engine would say of who may ask it.
        (
            126,
            frame(1, "OCI runtime exec failed: permission denied\r\n"),
            "docker: OCI runtime exec failed: permission",
        ),
        (13, frame(2, "/data: Permission denied\n"), "docker: /data: Permission denied"),
        # What it printed is none of its errors.
        (1, frame(1, "a page: no such file"), "docker: "),
    ],
)
def test_a_program_that_fails_is_an_error_with_its_words(
    status: int, printed: bytes, words: str, engine: Engine, server: Server
) -> None:
    server.runs["/say"] = status, printed
    with pytest.raises(EngineError, match=re.escape(words)) as error:
        engine.execute("a", "/say")
    assert len(server.begun) == 1
    assert "a page" not in str(error.value)


@pytest.mark.parametrize(
    ("printed", "status", "words"),
    [
        (frame(1, "done")[:-1], b'{"Running": false, "ExitCode": 0}', "what it printed ended too early"),
        (frame(1, "done")[:5], b'{"Running": false, "ExitCode": 0}', "what it printed ended too early"),
        (frame(1, "done"), b'{"Running": false, "ExitCode": null}', "does not say how it ended"),
        (frame(1, "done"), b'"ended"', "no answer of an engine's"),
    ],
)
def test_what_ran_and_is_not_known_to_have_ended_well_is_an_error(
    printed: bytes, status: bytes, words: str, engine: Engine, server: Server
) -> None:
    server.runs["/say"] = 0, printed
    server.answers["/exec/0/json"] = 200, status
    with pytest.raises(EngineError, match=f"docker: .*{words}"):
        engine.execute("a", "/say")


def test_many_frames_take_no_longer_than_few(engine: Engine, server: Server) -> None:
    """Were the rest copied for each, they would take as long as the time that there is."""
    server.runs["/say"] = 0, frame(1, "a line\n" * 8) * 100_000
    assert len(engine.execute("a", "/say", timeout=60.0)) == len("a line\n") * 800_000


def test_what_has_run_is_not_run_again_by_the_command(engine: Engine, server: Server) -> None:
    server.runs["/say"] = 0, b""
    server.answers["/exec/0/json"] = 500, b'{"message": "lost"}'
    with pytest.raises(EngineError, match="docker: lost"):
        engine.execute("a", "/say")


def test_a_program_whose_status_comes_late_is_waited_for(
    engine: Engine, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.runs["/say"] = 0, frame(1, "done")
    server.answers["/exec/0/json"] = 200, b'{"Running": true, "ExitCode": null}'
    monkeypatch.setattr("time.sleep", lambda _seconds: server.answers.clear())
    assert engine.execute("a", "/say") == "done"


ASKED: dict[str, tuple[Callable[[Engine], Any], str]] = {
    "containers": (lambda engine: engine.containers(STACK), "ps --quiet"),
    "images": (lambda engine: engine.images_of(STACK), "images --no-trunc"),
    "an image": (lambda engine: engine.image("a:1"), "images --quiet"),
    "tags": (lambda engine: engine.tags("a"), "images --format"),
    "a program": (lambda engine: engine.execute("a", "/say"), "exec a /say"),
    "whether it is there": (lambda engine: engine.check(), "version"),
}


@pytest.mark.parametrize("what", ASKED)
@pytest.mark.parametrize("how", ["refuses", "is no engine", "is another server", "is away"])
def test_the_command_says_why_an_engine_does_not_answer(
    how: str, what: str, engine: Engine, server: Server, tmp_path: Path
) -> None:
    status, body = {"refuses": (500, b'{"message": "no"}'), "is another server": (200, b'"hello"')}.get(
        how, (200, b"<html>")
    )
    server.answers = dict.fromkeys(("/containers/json", "/images/json", "/version"), (status, body))
    asked = Engine(f"unix://{tmp_path}/nowhere") if how == "is away" else engine
    ask, words = ASKED[what]
    with pytest.raises(EngineError, match=f"docker: asked: {words}"):
        ask(asked)


def test_an_engine_that_is_there_needs_no_command_to_say_so_but_one_to_be_there(
    engine: Engine, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/version"] = 200, b"{}"
    engine.check()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(EngineError, match="the docker command is missing"):
        engine.check()


def test_an_engine_that_never_ends_its_answer_is_given_up(
    engine: Engine, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each read would be in time."""
    sent = threading.Event()

    def endless(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not sent.is_set():
            try:
                handler.wfile.write(b" ")
            except OSError:
                return
            sent.wait(0.02)

    monkeypatch.setattr(Handler, "do_GET", endless)
    assert engine.creation_times(["a:1"], 0.5) == {}
    sent.set()


@pytest.mark.parametrize("what", ["containers", "a program", "whether it is there", "images"])
def test_an_engine_that_is_silent_is_not_waited_for_twice(
    what: str, engine: Engine, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    for method in ("do_GET", "do_POST"):
        monkeypatch.setattr(Handler, method, lambda _handler: over.wait(120))
    monkeypatch.setattr("platforms.docker.engine.Asked", lambda socket, _timeout: Asked(socket, 0.2))
    ask, _words = ASKED[what]
    with pytest.raises(EngineError, match="does not answer within 20 s"):
        ask(engine)
    over.set()


def test_an_engine_that_takes_its_time_has_all_of_it_for_each_of_some_questions(
    engine: Engine, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one question left of its connection's time would not do for the next."""
    server.answers |= {f"/containers/{one}/json": (200, b"{}") for one in "abc"}
    waits: list[float | None] = []
    settimeout = socket.socket.settimeout

    def noted(sock: socket.socket, seconds: float | None) -> None:
        waits.append(seconds)
        settimeout(sock, seconds)

    monkeypatch.setattr(socket.socket, "settimeout", noted)
    assert len(engine.inspect(["a", "b", "c"])) == 3
    assert min(wait for wait in waits if wait is not None) > 15.0


def test_an_answer_after_which_the_engine_closes_is_one(
    engine: Engine, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its last byte Python closes the connection, from 3.12.2 on."""

    def last(handler: Any) -> None:
        body = json.dumps(CONTAINERS).encode()
        handler.close_connection = True
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(body)

    monkeypatch.setattr(Handler, "do_GET", last)
    assert len(engine.containers(STACK)) == 2


def test_an_answer_that_ends_too_early_is_none(engine: Engine, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(handler: Any) -> None:
        handler.close_connection = True
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"[]")

    monkeypatch.setattr(Handler, "do_GET", cut)
    with pytest.raises(EngineError, match="docker: asked: ps --quiet"):
        engine.containers(STACK)


def test_no_test_asks_the_engine_of_the_machine() -> None:
    assert "DOCKER_HOST" in os.environ
    assert socket_of("", os.environ) is None
