"""Ways to several sockets of a host by one program there."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from platforms.remote.host.frames import LONGEST, Frame, framed
from platforms.remote.relays import Relays

if TYPE_CHECKING:
    from pathlib import Path

#: What a host runs, here as whoever runs the tests.
PROGRAM = (
    "import sys\nfrom platforms.remote.host.passing import Passing\nPassing(sys.stdin.buffer, sys.stdout.buffer).run()"
)


class Begun:
    """The program, begun as often as it was asked for."""

    def __init__(self, program: str = PROGRAM) -> None:
        self.program = program
        self.processes: list[subprocess.Popen[bytes]] = []

    def __call__(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", self.program]
        self.processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return self.processes[-1]


def relays(begun: Begun) -> contextlib.closing[Relays]:
    return contextlib.closing(Relays(begun))


def answering(path: Path) -> None:
    """Listen at a path: each connection gets back what it sent, once it sends no more, after the path's name."""

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(ConnectionError):  # whoever asked may be gone
            told = b"".join(iter(lambda: connection.recv(LONGEST), b""))
            connection.sendall(path.name.encode() + told)

    def serve(listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)
    threading.Thread(target=serve, args=(listener,), daemon=True).start()


def asked(path: str, told: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(path)
        client.sendall(told)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(LONGEST), b""))


def test_connections_to_several_sockets_at_once_are_one_program(tmp_path: Path) -> None:
    begun = Begun()
    with relays(begun) as ways, ThreadPoolExecutor(12) as pool:
        places = []
        for number in range(4):
            answering(tmp_path / f"app{number}")
            places.append(ways.to(str(tmp_path / f"app{number}")).path)
        bodies = [bytes([number]) * (number * 100_000) for number in range(12)]
        found = list(pool.map(lambda number: asked(places[number % 4], bodies[number]), range(12)))
    assert found == [b"app%d" % (number % 4) + bodies[number] for number in range(12)]
    assert len(begun.processes) == 1


def test_what_nobody_listens_at_is_no_connection_and_the_others_go_on(tmp_path: Path) -> None:
    answering(tmp_path / "app1")
    with relays(Begun()) as ways:
        nothing, there = ways.to(str(tmp_path / "nothing")).path, ways.to(str(tmp_path / "app1")).path
        assert asked_nothing(nothing) == b""
        assert asked(there, b" x") == b"app1 x"


def test_a_port_of_the_host_is_a_way_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, relays(Begun()) as ways:
        path = ways.to(str(listener.getsockname()[1])).path
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(asked, path, b"x")
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(1) == b"x"
                connection.sendall(b"y")
            assert found.result() == b"y"


def asked_nothing(path: str) -> bytes:
    """Ask, and send nothing: what was sent to a connection that is none may be an error, or an end."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(path)
        return client.recv(1)


def test_where_the_program_has_ended_no_connection_is_one(tmp_path: Path) -> None:
    """A request would wait for its answer until nobody wants it."""
    answering(tmp_path / "app1")
    begun = Begun()
    with relays(begun) as ways, socket.socket(socket.AF_UNIX) as client:
        path = ways.to(str(tmp_path / "app1")).path
        client.settimeout(60)
        client.connect(path)
        client.sendall(b"x")
        assert asked(path, b"") == b"app1"
        begun.processes[0].kill()
        assert client.recv(1) == b""
        assert asked_nothing(path) == b""
    assert len(begun.processes) == 1


@pytest.mark.parametrize(
    "said",
    [b"\0\0\0\1\7\0\0\0\0", b"\0\0\0\1\1\xff\xff\xff\xff", b"no frames at all"],
    ids=["kind", "length", "words"],
)
def test_what_is_no_frame_ends_all(said: bytes) -> None:
    program = f"import sys\nsys.stdout.buffer.write({said!r})\nsys.stdout.flush()\nsys.stdin.read()"
    with relays(Begun(program)) as ways:
        assert asked_nothing(ways.to("/there").path) == b""


def test_an_answer_that_is_cut_off_is_passed_on_to_nobody() -> None:
    program = f"import sys\nsys.stdout.buffer.write({framed(1, Frame.DATA, b'y' * 10)[:-1]!r})"
    with relays(Begun(program)) as ways:
        assert asked_nothing(ways.to("/there").path) == b""


SAYING = (
    "import sys\nfrom platforms.remote.host.passing import Passing\n"
    "def broken(): raise OSError\n"
    "said = {'ports': lambda: '[8000]', 'broken': broken, 'many': lambda: 'x' * 200_000}\n"
    "Passing(sys.stdin.buffer, sys.stdout.buffer, said).run()"
)


def test_the_program_says_something_itself_beside_its_connections(tmp_path: Path) -> None:
    answering(tmp_path / "app1")
    begun = Begun(SAYING)
    with relays(begun) as ways:
        ways.begin()
        assert len(begun.processes) == 1
        assert ways.said("ports") == "[8000]"
        assert len(ways.said("many")) == 200_000
        assert {ways.to("ports").path for _ in range(3)} == {ways.to("ports").path}
        assert asked(ways.to(str(tmp_path / "app1")).path, b" x") == b"app1 x"
    assert len(begun.processes) == 1


@pytest.mark.parametrize("what", ["broken", "unknown"])
def test_what_it_can_not_say_is_nothing(what: str) -> None:
    with relays(Begun(SAYING)) as ways:
        assert ways.said(what) == ""


def test_a_program_that_can_not_be_begun_says_nothing_and_has_no_connections(tmp_path: Path) -> None:
    def refused() -> subprocess.Popen[bytes]:
        raise BrokenPipeError

    with contextlib.closing(Relays(refused)) as ways:
        ways.begin()
        assert ways.said("ports") == ""
        assert asked_nothing(ways.to(str(tmp_path / "app1")).path) == b""
