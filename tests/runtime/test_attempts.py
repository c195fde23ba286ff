"""A request that has ended two workers is not begun a third time, and nobody else is refused."""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from typing import TYPE_CHECKING

import pytest

from cluster_runtime.attempts import FILE, ROW, ROWS, Attempts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], tuple[Attempts, socket.socket]]]:
    """Make the table as a worker of a living instance sees it, and the socket by which that lives."""
    monkeypatch.chdir(tmp_path)  # a short path
    with contextlib.ExitStack() as sockets:

        def make(name: str) -> tuple[Attempts, socket.socket]:
            (tmp_path / name).mkdir()
            beat = sockets.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            beat.bind(f"{name}/one.beat")
            return Attempts(FILE, f"{name}/one.beat"), beat

        yield make


def test_the_third_beginning_is_refused_while_both_instances_live(
    instance: Callable[[str], tuple[Attempts, socket.socket]],
) -> None:
    attempts = [instance(name)[0] for name in ("app1", "app2", "app3", "app4")]
    request = uuid.uuid4().hex
    assert [one.begin(request) for one in attempts] == [True, True, False, False]
    assert attempts[2].begin(uuid.uuid4().hex)


def test_an_instance_that_was_killed_as_a_whole_does_not_count(
    instance: Callable[[str], tuple[Attempts, socket.socket]],
) -> None:
    (first, beat), (second, _), (third, _), (fourth, _) = (instance(f"app{number}") for number in range(1, 5))
    request = uuid.uuid4().hex
    assert first.begin(request)
    assert second.begin(request)
    beat.close()
    assert third.begin(request), "a killed instance costs no GET"
    assert not fourth.begin(request)


def test_ten_thousand_requests_that_are_begun_once_or_twice_are_not_refused(
    instance: Callable[[str], tuple[Attempts, socket.socket]],
) -> None:
    first, second = instance("app1")[0], instance("app2")[0]
    for _ in range(10_000):
        request = uuid.uuid4().hex
        assert first.begin(request)
        assert second.begin(request)
    assert os.stat(FILE).st_size <= ROW * ROWS  # noqa: PTH116 - a relative path


@pytest.mark.parametrize("request_id", [None, "", "not hexadecimal"])
def test_what_nginx_did_not_name_is_let_through(
    instance: Callable[[str], tuple[Attempts, socket.socket]], request_id: str | None
) -> None:
    attempts, _ = instance("app1")
    assert all(attempts.begin(request_id) for _ in range(5))


def test_without_a_table_nothing_is_refused_and_it_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    attempts = Attempts("/nonexistent/.begun", "/nonexistent/one.beat")
    request = uuid.uuid4().hex
    assert all(attempts.begin(request) for _ in range(5))
    assert capsys.readouterr().err.count("No such file or directory") == 1
