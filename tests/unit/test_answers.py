"""Answers of instances are the project's: they may be anything, without end."""

from __future__ import annotations

import gzip
import shutil
import socket
import tempfile
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from cluster.answers import MOST, BoundedTransport
from cluster.endpoints import Endpoint
from cluster_runtime.untrusted_json import object_in

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def answering(head: bytes, chunk: bytes, chunks: int) -> Iterator[httpx.Client]:
    """Let whoever connects be sent an answer."""
    directory = tempfile.mkdtemp(prefix="an")
    path = str(Path(directory) / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(8)

        def serve() -> None:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + head + b"\r\n")
                    for _number in range(chunks):
                        connection.sendall(chunk)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with httpx.Client(transport=BoundedTransport(Endpoint(path=path)), timeout=30, trust_env=False) as client:
            yield client
    thread.join(30)
    shutil.rmtree(directory)


def test_an_endpoint_of_a_port_is_asked_whatever_host_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(4096))
                connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhere")

        asked: list[bytes] = []
        threading.Thread(target=serve, daemon=True).start()
        there = BoundedTransport(Endpoint(host="127.0.0.1", port=listener.getsockname()[1]))
        with httpx.Client(transport=there, timeout=30, trust_env=False) as client:
            assert client.get("http://example.org/").text == "here"
        assert b"Host: example.org\r\n" in asked[0]


@contextmanager
def ending(answers: int, unanswered: int = 99) -> Iterator[tuple[httpx.Client, list[bytes]]]:
    """Give the first requests an answer, the next ones none, and those after it one again; return what was asked.

    A request without an answer ends its connection.
    """
    asked: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    while told := connection.recv(4096):
                        asked.append(told)
                        if answers < len(asked) <= unanswered:
                            break
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nhere")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        there = BoundedTransport(Endpoint(host="127.0.0.1", port=listener.getsockname()[1]))
        with httpx.Client(transport=there, timeout=30, trust_env=False) as client:
            yield client, asked


def test_a_kept_connection_that_ends_when_it_is_used_again_is_none() -> None:
    with ending(1, 2) as (client, asked):
        assert [client.get(f"http://localhost/{number}").text for number in (1, 2)] == ["here", "here"]
    assert [line.split()[1] for line in asked] == [b"/1", b"/2", b"/2"]


@pytest.mark.parametrize(("kept", "method", "times"), [(False, "GET", 1), (True, "POST", 1), (True, "GET", 2)])
def test_nothing_but_a_get_on_a_kept_connection_is_asked_twice(kept: bool, method: str, times: int) -> None:
    with ending(int(kept)) as (client, asked):
        if kept:
            client.get("http://localhost/")
        with pytest.raises(httpx.RemoteProtocolError):
            client.request(method, "http://localhost/once")
    assert len([one for one in asked if b"/once" in one]) == times


def test_an_answer_without_end_is_an_error_and_not_all_of_the_memory() -> None:
    with answering(b"", b"x" * 65536, 10 * MOST // 65536) as client, pytest.raises(httpx.ReadError, match="more than"):
        client.get("http://localhost/")


def test_what_was_packed_is_not_unpacked() -> None:
    packed = gzip.compress(b"0" * 50_000_000)
    with answering(b"Content-Encoding: gzip\r\n", packed, 1) as client:
        assert client.get("http://localhost/").content == packed


@pytest.mark.parametrize("text", [b"[1]", b"nothing", b"[" * 100_000, b"\xff"])
def test_what_is_no_object_is_none(text: bytes) -> None:
    assert object_in(text) is None
    assert object_in(b'{"a": 1}') == {"a": 1}
