"""What is read of an answer to a version of QUIC that nobody speaks, and what of one that is none."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from cluster.machine.nginx import has_http3
from cluster.tls.quic import LEAST, versions

if TYPE_CHECKING:
    from pathlib import Path

Sent = bytes


def answered(*answers: object) -> tuple[int, list[bytes], threading.Thread]:
    """Answer one datagram after another on a port; what is called is told the number of who asks."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    seen: list[bytes] = []

    def answer() -> None:
        with server:
            for one in answers:
                asked, who = server.recvfrom(4096)
                seen.append(asked)
                if callable(one):
                    server.sendto(one(asked[15:23]), who)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    return server.getsockname()[1], seen, thread


def negotiation(ours: bytes) -> bytes:
    return b"\x80" + bytes(4) + b"\x08" + ours + b"\x08" + b"t" * 8 + b"\0\0\0\x01" + b"\x6b\x33\x43\xcf"


def test_the_versions_are_those_that_the_server_lists_and_the_question_is_as_long_as_it_must_be() -> None:
    port, seen, _thread = answered(negotiation)
    assert versions("127.0.0.1", port, 30) == [1, 0x6B3343CF]
    assert [len(one) for one in seen] == [LEAST]


def test_a_datagram_that_is_lost_is_sent_again() -> None:
    port, seen, _thread = answered(None, negotiation)
    assert versions("127.0.0.1", port, 6) == [1, 0x6B3343CF]
    assert len(seen) == 2


@pytest.mark.parametrize(
    "answer",
    [
        lambda _ours: b"",
        lambda _ours: b"hello",
        lambda ours: negotiation(ours)[:5],
        lambda ours: b"\x40" + negotiation(ours)[1:],
        lambda ours: b"\x80\0\0\0\x01" + negotiation(ours)[5:],
        lambda _ours: negotiation(b"x" * 8),
    ],
    ids=["nothing", "a word", "cut", "short", "a version", "another's"],
)
def test_what_is_no_such_answer_is_none(answer: object) -> None:
    port, _seen, _thread = answered(answer)
    with pytest.raises(OSError, match="an answer"):
        versions("127.0.0.1", port, 30)


def test_a_list_that_is_cut_gives_what_is_whole() -> None:
    port, _seen, _thread = answered(lambda ours: negotiation(ours)[:-2])
    assert versions("127.0.0.1", port, 30) == [1]


def test_nobody_there_is_said_at_once() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(OSError, match="refused"):
        versions("127.0.0.1", port, 30)


@pytest.mark.parametrize("arguments", ["--with-http_v2_module --with-http_v3_module", "--with-http_v2_module", ""])
def test_an_nginx_tells_whether_it_was_built_with_http3(tmp_path: Path, arguments: str) -> None:
    program = tmp_path / "nginx"
    program.write_text(f"#!/bin/sh\necho 'configure arguments: {arguments} --with-debug' >&2\n")
    program.chmod(0o755)
    assert has_http3(str(program)) is ("v3" in arguments)
