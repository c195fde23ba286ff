"""How long responses end their connections around a reload of a host's nginx, and who waits for it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.plan.planned import Planned, Resource
from platforms.remote.host import site
from platforms.remote.platform import RemotePlatform

PATIENCE = 60.0


class Places:
    """Of a host's paths the one that lets responses end their connections."""

    def __init__(self, root: Path) -> None:
        self.closing = root / "closing"


@pytest.fixture
def places(tmp_path: Path) -> Any:
    return Places(tmp_path)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return for how long was waited, in this process; nobody waits."""
    found: list[float] = []
    monkeypatch.setattr("platforms.remote.host.site.time.sleep", found.append)
    return found


def gone(path: Path) -> bool:
    deadline = time.monotonic() + PATIENCE
    while path.exists() and time.monotonic() < deadline:
        subprocess.run(["sleep", "0.02"], check=True)
    return not path.exists()


@pytest.mark.parametrize(("ago", "waited"), [(None, 2.0), (0.5, 1.5), (1.9, 0.1), (20.0, 0.0), (-3600.0, 2.0)])
def test_a_reload_waits_for_what_is_left_of_the_time(
    places: Any, slept: list[float], ago: float | None, waited: float
) -> None:
    if ago is not None:
        places.closing.touch()
        os.utime(places.closing, (time.time() - ago,) * 2)
    with site._closing(places):
        assert slept == [pytest.approx(waited, abs=0.09)]
        assert places.closing.exists()
        assert time.time() - places.closing.stat().st_mtime < 10, "it is the reload's own from now on"
    assert gone(places.closing)


def test_nobody_waits_until_former_workers_are_told(
    places: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "CLOSING", 0.0)
    monkeypatch.setattr(site, "SETTLING", 3600.0)
    before = children()
    lock = (tmp_path / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    with site._closing(places):
        pass
    lock.close()
    assert places.closing.exists()
    deadline = time.monotonic() + PATIENCE
    with (tmp_path / "lock").open("w") as again:
        while True:
            try:
                fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < deadline, "what settles holds the lock"
                time.sleep(0.02)
    (settling,) = children() - before
    os.kill(settling, signal.SIGKILL)
    os.waitpid(settling, 0)


def children() -> set[int]:
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))


def test_a_reload_that_fails_lets_connections_be_kept_again(places: Any, slept: list[float]) -> None:
    with pytest.raises(ValueError, match="refused"), site._closing(places):
        raise ValueError("refused")
    assert not places.closing.exists()
    assert slept == [2.0]


def test_what_nobody_needs_any_more_ends(places: Any) -> None:
    def ended(seconds: float) -> None:
        assert places.closing.exists()
        assert seconds == site.LONGEST_CLOSING

    site.hold_closing(places, ended)
    assert not places.closing.exists()


def test_what_a_reload_has_taken_over_is_left_to_it(places: Any) -> None:
    def ended(_seconds: float) -> None:
        os.utime(places.closing, ns=(places.closing.stat().st_mtime_ns + 1,) * 2)

    site.hold_closing(places, ended)
    assert places.closing.exists()
    site.hold_closing(places, lambda _seconds: places.closing.unlink())
    assert not places.closing.exists()


class Edge:
    def __init__(self, host: str, *, polite: bool) -> None:
        self.host, self.polite = host, polite


class Site:
    def __init__(self, *edges: Edge) -> None:
        self.seen = self
        self.edges = edges


def planned(*names: str) -> Planned:
    changes = [Resource(operation="update", kind="Command", name=name, reasons=()) for name in names]
    return Planned(stack="t", changes=True, resources=tuple(changes))


@pytest.mark.parametrize(
    ("names", "begun"),
    [
        (["edge1-nginx-config"], ["edge1"]),
        (["edge1-nginx-config", "edge2-nginx-config"], ["edge1"]),
        (["web1-serve", "edge1-nginx-config"], []),
        ([], []),
    ],
)
def test_responses_end_their_connections_early_only_where_the_reload_is_all_that_is_done(
    names: list[str], begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = RemotePlatform.__new__(RemotePlatform)
    processes: list[subprocess.Popen[bytes]] = []
    asked: list[tuple[str, str]] = []

    def start(host: str, what: str) -> subprocess.Popen[bytes]:
        asked.append((host, what))
        processes.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return processes[-1]

    monkeypatch.setattr(platform, "_start", start)
    where: Any = Site(Edge("edge1", polite=True), Edge("edge2", polite=False))
    with contextlib.suppress(KeyboardInterrupt), platform._closing(where, planned(*names)):
        assert asked == [(host, "closing") for host in begun]
        assert [process.poll() for process in processes] == [None] * len(begun)
        raise KeyboardInterrupt
    assert len(asked) == len(begun)
    assert [process.poll() for process in processes] == [0] * len(begun)
