"""Which workers are taken for silent, by the beats that arrive; and that standing still is nobody's silence."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from cluster_runtime import heartbeats
from cluster_runtime.checks import Unhealthy
from cluster_runtime.config import Health
from cluster_runtime.heartbeats import LAST_BEATS, Heartbeats

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: A worker may be silent for 2.5 s.
HEALTH, PATIENCE = Health(interval=0.2, timeout=0.5, retries=10, start_timeout=5.0), 2.5


class Watched:
    """A worker, its beats, and a clock that goes on only where a test lets it."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(heartbeats, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.worker = subprocess.Popen(["sleep", "600"])
        self.log: list[str] = []
        self.beats = Heartbeats(path, HEALTH, 1.0, self.log.append)
        self.beats.gunicorn = os.getpid()

    def beat(self, **said: object) -> None:
        told = {"pid": self.worker.pid, "requests": 1, "threads": 1, "progress": self.now, **said}
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(json.dumps(told).encode(), str(self.beats.path))

    def look(self) -> None:
        self.beats.read()
        self.beats.kill_silent_workers()
        self.beats.end_boots()

    def go_on(self, seconds: float) -> None:
        """Look again and again for so long, as time goes by."""
        for _ in range(round(10 * seconds)):
            self.now += 0.1
            self.look()

    @property
    def killed(self) -> bool:
        return bool(self.log)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    found = Watched(tmp_path / "beats", monkeypatch)
    with found.beats.received():
        yield found
    found.worker.kill()
    found.worker.wait()


def test_a_worker_that_beats_no_more_is_killed_once_that_has_lasted(watched: Watched) -> None:
    watched.beat()
    watched.look()
    watched.go_on(PATIENCE - 0.2)
    assert not watched.killed
    watched.go_on(0.5)
    assert watched.killed
    assert watched.worker.wait(60) < 0


@pytest.mark.parametrize("told", [True, False], ids=["told", "in the middle of something"])
def test_where_all_stood_still_a_worker_has_time_to_beat(watched: Watched, told: bool) -> None:
    watched.beat()
    watched.look()
    watched.now += 60
    if told:
        watched.beats.stood_still(60)
    watched.look()
    watched.go_on(LAST_BEATS - 0.2)
    assert not watched.killed
    watched.beat()
    watched.go_on(PATIENCE - 0.2)
    assert not watched.killed
    watched.go_on(LAST_BEATS + 0.5)
    assert watched.killed, "it is silent again, and nobody stood still"


def test_a_worker_that_was_nearly_killed_and_beats_is_not_suspected_any_more(watched: Watched) -> None:
    for _ in range(5):
        watched.beat()
        watched.go_on(PATIENCE - 0.2)
    assert not watched.killed


def test_a_worker_that_loads_the_project_has_its_time_though_all_stood_still(watched: Watched) -> None:
    watched.beat(booting=True)
    watched.look()
    watched.go_on(3)
    watched.now += 60
    watched.beats.stood_still(60)
    watched.go_on(1.5)
    assert not watched.killed
    with pytest.raises(Unhealthy):
        watched.go_on(1)


def test_requests_do_not_stand_still_while_all_do(watched: Watched) -> None:
    moved = watched.now
    watched.beat(progress=moved)
    watched.look()
    assert watched.beats.all_are_busy()
    watched.now += 5
    watched.now += 60
    watched.beats.stood_still(60)
    watched.beat(progress=moved)
    watched.look()
    assert watched.beats.stuck_for() == pytest.approx(5)
    watched.beat(progress=watched.now)
    watched.look()
    watched.now += 7
    assert watched.beats.stuck_for() == pytest.approx(7)
