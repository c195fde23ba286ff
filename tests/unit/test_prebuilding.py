"""The image of a release, built while the engine still previews: by an engine that only listens."""

from __future__ import annotations

import io
import json
import os
import tarfile
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from platforms.docker.engine import Engine
from platforms.docker.prebuilding import ordered, prebuilding
from tests.jobs import until
from tests.unit.engine_socket import EngineHandler, EngineServer, listening

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Seconds that anything may take.
PATIENCE = 120.0

NAME, BASE = "django-cluster/p-dev/app:r2", "debian:trixie-slim"


class Server(EngineServer):
    """An engine. images: those that it has. built: of what, and what it was told with that."""

    def __init__(self, path: str) -> None:
        self.images = {BASE}
        self.asked: list[str] = []
        self.built: list[tuple[dict[str, str], bytes]] = []
        self.ends = threading.Event()
        self.gone = threading.Event()
        super().__init__(path, Handler)


class Handler(EngineHandler):
    server: Server

    def do_GET(self) -> None:  # noqa: N802 - as the server calls it
        image = unquote(self.path).removeprefix("/images/").removesuffix("/json")
        self.server.asked.append(image)
        self.answer(*((200, b"{}") if image in self.server.images else (404, b'{"message": "no such image"}')))

    def do_POST(self) -> None:  # noqa: N802 - as the server calls it
        url = urlsplit(self.path)
        assert url.path == "/build"
        body = bytearray()
        while length := int(self.rfile.readline(), 16):
            body += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        told = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.server.built.append((told, bytes(body)))
        while not self.server.ends.wait(0.02):
            self.connection.settimeout(0.01)
            try:
                if not self.connection.recv(1):
                    self.server.gone.set()
                    return
            except TimeoutError:
                continue
        self.answer(200, b"{}")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(str(tmp_path / "s"))
    with listening(found):
        yield found
        found.ends.set()


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A build context, of which one file is a program and one a link."""
    found = tmp_path / "root" / "images" / "r2"
    (found / "tree").mkdir(parents=True)
    (found / "Dockerfile").write_text("FROM scratch\n")
    (found / "tree" / "manage.py").write_text("program\n")
    (found / "tree" / "manage.py").chmod(0o755)
    (found / "tree" / "settings.py").write_text("x" * 200_000)
    (found / "tree" / "settings.py").chmod(0o644)
    (found / "tree" / "link").symlink_to("manage.py")
    return found


def event(operation: str = "replace", name: str = "app-app-image", kind: str = "docker:index/image:Image") -> Any:
    parent = "urn:pulumi:dev::p::pulumi:pulumi:Stack$cluster:index:AppHosts::app"
    made = {"context": "images/r2", "args": {"BASE": BASE, "PROJECT": "/srv/tree"}, "platform": "linux/amd64"}
    new = {"inputs": {"imageName": NAME, "build": made}, "parent": parent}
    metadata = {"op": operation, "urn": f"{parent}${kind}::{name}", "type": kind, "new": new, "old": new}
    return {"resourcePreEvent": {"metadata": metadata}}


def told(server: Server, root: Path, *events: Any) -> None:
    """Tell these, and wait until what was begun by them, where something was, has ended."""
    engine = Engine(f"unix://{server.server_address}")
    server.ends.set()
    with prebuilding(engine, root) as tell:
        for one in events:
            tell(one)
        building = server.images == {BASE}
        until(lambda: bool(server.built) if building else len(server.asked) == 2, PATIENCE)


def test_the_image_of_the_release_is_built_as_the_provider_will(server: Server, context: Path) -> None:
    same, other = event("same"), event(name="site-nginx-image")
    told(server, context.parents[1], {"summaryEvent": {}}, same, other, event("update"), event("create-replacement"))
    ((query, body),) = server.built
    arguments = json.loads(query.pop("buildargs"))
    assert arguments == {"BASE": BASE, "PROJECT": "/srv/tree"}
    # No image, and no name: whoever ends last would say what a release is.
    assert json.loads(query.pop("outputs")) == [{"Type": "cacheonly"}]
    assert query == {"version": "2", "dockerfile": "Dockerfile", "platform": "linux/amd64"}
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        found = {entry.name: entry for entry in archive.getmembers()}
        file = archive.extractfile("./tree/settings.py")
        assert file is not None
        assert file.read() == b"x" * 200_000
    assert found.keys() == {
        ".",
        "./Dockerfile",
        "./tree",
        *(f"./tree/{one}" for one in ("link", "manage.py", "settings.py")),
    }
    assert {(entry.uid, entry.gid, entry.uname, entry.gname) for entry in found.values()} == {(0, 0, "", "")}
    assert (found["./tree/manage.py"].mode, found["./tree/settings.py"].mode) == (0o755, 0o644)
    assert found["./tree/link"].linkname == "manage.py"
    # BuildKit tells an archive from another file by its first blocks alone: no other head may be before the first one.
    assert body[257:265] == b"ustar  \0"


@pytest.mark.parametrize(("images", "asked"), [({BASE, NAME}, "it is there"), (set(), "its base is not there")])
def test_what_is_there_or_whose_base_is_not_is_not_built(
    images: set[str], asked: str, server: Server, context: Path
) -> None:
    server.images = images
    told(server, context.parents[1], event())
    assert server.asked == [NAME, BASE], asked
    assert not server.built


def test_nothing_is_built_where_nothing_is_to_be(server: Server, context: Path) -> None:
    engine = Engine(f"unix://{server.server_address}")
    with prebuilding(engine, context.parents[1]) as tell:
        for operation in ("same", "delete", "delete-replaced", "refresh", "read"):
            tell(event(operation))
        tell(event(kind="docker:index/container:Container"))
        tell(event(kind="docker-build:index:Image"))
        tell({})
    assert (server.asked, server.built) == ([], [])


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"imageName": NAME},
        {"imageName": NAME, "build": "."},
        {"imageName": NAME, "build": ["[secret]"]},
        {"imageName": NAME, "build": {"args": {}}},
        {"imageName": NAME, "build": {"context": "images/r2", "args": {"PROJECT": "/srv/tree"}}},
        {"imageName": NAME, "build": {"context": None, "args": {"BASE": BASE}}},
        None,
    ],
)
def test_an_image_of_a_program_s_own_is_left_to_the_provider(inputs: Any, tmp_path: Path) -> None:
    found = event()
    found["resourcePreEvent"]["metadata"]["new"]["inputs"] = inputs
    assert ordered(found, tmp_path) is None
    found["resourcePreEvent"]["metadata"]["new"] = None
    assert ordered(found, tmp_path) is None


def test_however_much_is_told_nobody_waits(server: Server, context: Path) -> None:
    """A pipe that nobody reads takes 64 KiB."""
    engine = Engine(f"unix://{server.server_address}")
    large = event()
    large["resourcePreEvent"]["metadata"]["new"]["inputs"]["build"]["args"]["PROJECT"] = "x" * 3000
    with prebuilding(engine, context.parents[1]) as tell:
        for _ in range(40):
            tell(large)
        until(lambda: bool(server.built), PATIENCE)
    assert len(server.built) == 1


def test_what_is_refused_after_all_is_given_up(server: Server, context: Path) -> None:
    engine = Engine(f"unix://{server.server_address}")
    with prebuilding(engine, context.parents[1]) as tell:
        tell(event())
        until(lambda: bool(server.built), PATIENCE)
        assert not server.gone.is_set()
    assert server.gone.wait(PATIENCE)


def test_what_goes_wrong_is_left_to_who_builds_it_in_its_turn(
    server: Server, context: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The directory is gone, and then the engine."""
    engine = Engine(f"unix://{server.server_address}")
    with prebuilding(engine, context) as tell:
        tell(event())
        until(lambda: len(server.asked) == 2, PATIENCE)
    with prebuilding(Engine("unix:///nowhere/at/all.sock"), context.parents[1]) as tell:
        tell(event())
    assert not server.built
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err


def test_an_engine_elsewhere_is_told_nothing(monkeypatch: pytest.MonkeyPatch, context: Path) -> None:
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("it would have nothing to do"))
    with prebuilding(Engine("ssh://deploy@10.0.0.5"), context.parents[1]) as tell:
        tell(event())
