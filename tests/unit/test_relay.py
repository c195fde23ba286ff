"""A way to a socket elsewhere: what is told of one that has ended."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from platforms.docker.endpoints import RELAYS
from platforms.pulumi.relay import Relay
from platforms.pulumi.relays import Relays

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.endpoints import Endpoint


def test_a_connection_whose_program_has_ended_is_none_any_more() -> None:
    """A request on it would wait for its answer until nobody wants it: nginx closes connections when it is reloaded."""

    def start(_path: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sleep", "0.3"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    with contextlib.closing(Relay(start)) as relay, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(relay.to("/there").path)
        assert client.recv(1) == b""


# --- many over one program


class Echo:
    """A socket that answers with what it gets, twice, and ends a connection on `end`."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            while (data := connection.recv(65536)) and data != b"end":
                connection.sendall(data * 2)


class Many:
    """Ways by one program, of which it is known how often it has begun."""

    def __init__(self) -> None:
        self.begun: list[subprocess.Popen[bytes]] = []
        self.relays = Relays(self._start)

    def _start(self) -> subprocess.Popen[bytes]:
        words = ["perl", "-e", RELAYS.read_text(encoding="utf-8")]
        self.begun.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return self.begun[-1]


@pytest.fixture
def many() -> Iterator[Many]:
    made = Many()
    with contextlib.closing(made.relays):
        yield made


@contextlib.contextmanager
def connected(endpoint: Endpoint) -> Iterator[socket.socket]:
    with endpoint.connected(60) as client:
        yield client


def whole(client: socket.socket, length: int) -> bytes:
    """Return so many bytes, or less where it ends before."""
    found = b""
    while len(found) < length and (data := client.recv(65536)):
        found += data
    return found


def test_all_connections_are_one_program_and_none_gets_what_is_another_s(tmp_path: Path, many: Many) -> None:
    echoes = [Echo(tmp_path / f"{name}.sock") for name in "ab"]
    ways = [many.relays.to(echo.path) for echo in echoes]
    with contextlib.ExitStack() as open_:
        clients = [open_.enter_context(connected(way)) for way in (*ways, *ways)]
        for turn in range(20):
            # What looks as if the program told it is no more than bytes.
            said = [f"shut {number}\ndata {number} 3\n{turn}".encode() for number in range(len(clients))]
            for client, data in zip(clients, said, strict=True):
                client.sendall(data)
            assert [whole(client, 2 * len(data)) for client, data in zip(clients, said, strict=True)] == [
                data * 2 for data in said
            ]
    assert len(many.begun) == 1


def test_much_comes_whole_both_ways(tmp_path: Path, many: Many) -> None:
    data = os.urandom(1_000_000)
    with connected(many.relays.to(Echo(tmp_path / "a.sock").path)) as client:
        sending = threading.Thread(target=client.sendall, args=(data,))
        sending.start()
        assert len(whole(client, 2 * len(data))) == 2 * len(data)
        sending.join(60)


def test_one_that_ends_there_or_that_leads_nowhere_ends_here_and_the_others_go_on(tmp_path: Path, many: Many) -> None:
    echo = Echo(tmp_path / "a.sock")
    way = many.relays.to(echo.path)
    with connected(way) as ended, connected(way) as other, connected(many.relays.to(f"{tmp_path}/none")) as nowhere:
        assert nowhere.recv(1) == b""
        ended.sendall(b"end")
        assert ended.recv(1) == b""
        other.sendall(b"x")
        assert whole(other, 2) == b"xx"
    with connected(way) as shut:
        shut.sendall(b"y")
        shut.shutdown(socket.SHUT_WR)
        assert whole(shut, 3) == b"yy", "what is on its way comes before its end"
    assert len(many.begun) == 1


def answered(way: Endpoint) -> bool:
    """Tell whether an echo answers there."""
    with connected(way) as client:
        client.sendall(b"x")
        return whole(client, 2) == b"xx"


def test_one_whose_queue_is_full_keeps_no_other_waiting(tmp_path: Path, many: Many) -> None:
    """An instance that hangs under load takes no connection, and its queue is full in the end."""
    good = many.relays.to(Echo(tmp_path / "a.sock").path)
    with socket.socket(socket.AF_UNIX) as hung, contextlib.ExitStack() as queue:
        hung.bind(f"{tmp_path}/hung.sock")
        hung.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting = queue.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(f"{tmp_path}/hung.sock")
        with connected(many.relays.to(f"{tmp_path}/hung.sock")) as client:
            assert client.recv(1) == b""
            assert answered(good)


def test_one_that_takes_nothing_of_an_endless_answer_ends_and_so_does_the_answer(tmp_path: Path, many: Many) -> None:
    """An instance may answer without end, and nobody reads that to the end."""
    sent, ended = [0], threading.Event()

    def endless() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            while True:
                sent[0] += connection.send(b"x" * 65536)
        ended.set()

    good = many.relays.to(Echo(tmp_path / "a.sock").path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/endless.sock")
        listener.listen()
        threading.Thread(target=endless, daemon=True).start()
        with connected(many.relays.to(f"{tmp_path}/endless.sock")) as client:
            assert client.recv(1) == b"x"
            assert answered(good), "it waits for one that does not read"
        assert ended.wait(60), f"it is asked for more: {sent[0]} bytes"
    assert answered(good)


def test_an_endless_answer_ends_as_soon_as_nobody_wants_it(tmp_path: Path, many: Many) -> None:
    ended = threading.Event()

    def endless() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            while True:
                connection.sendall(b"x" * 65536)
        ended.set()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/endless.sock")
        listener.listen()
        threading.Thread(target=endless, daemon=True).start()
        with connected(many.relays.to(f"{tmp_path}/endless.sock")) as client:
            assert whole(client, 200_000)[:1] == b"x"
        assert ended.wait(60)


def test_with_the_program_all_connections_end_and_the_next_one_begins_another(tmp_path: Path, many: Many) -> None:
    """nginx's container may be replaced just then: who waits for an answer is told, and who asks again gets one."""
    way = many.relays.to(Echo(tmp_path / "a.sock").path)
    with connected(way) as one, connected(way) as two:
        for client in (one, two):
            client.sendall(b"x")
            assert whole(client, 2) == b"xx"
        many.begun[0].kill()
        assert (one.recv(1), two.recv(1)) == (b"", b"")
    with connected(way) as again:
        again.sendall(b"z")
        assert whole(again, 2) == b"zz"
    assert len(many.begun) == 2


def test_where_the_program_can_not_begin_a_connection_ends(tmp_path: Path) -> None:
    words = ["sh", "-c", "echo OCI runtime exec failed: no perl; sleep 60"]
    relays = Relays(lambda: subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    with contextlib.closing(relays), connected(relays.to(f"{tmp_path}/there")) as client:
        assert client.recv(1) == b""
