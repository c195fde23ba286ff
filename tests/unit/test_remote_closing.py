"""How long responses end their connections around a reload of a host's nginx, and who waits for it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from cluster.plan.planned import Planned, Resource
from platforms.remote.closing import Closing, will_reload
from platforms.remote.host import site
from platforms.remote.platform import RemotePlatform
from platforms.remote.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 60.0


class HostPaths:
    """Of a host's paths the one that lets responses end their connections."""

    def __init__(self, root: Path) -> None:
        self.closing = root / "closing"


@pytest.fixture
def places(tmp_path: Path) -> Any:
    return HostPaths(tmp_path)


def gone(path: Path) -> bool:
    deadline = time.monotonic() + PATIENCE
    while path.exists() and time.monotonic() < deadline:
        subprocess.run(["sleep", "0.02"], check=True)
    return not path.exists()


class Clock:
    """Stands for the time since boot: it goes on while somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.slept = 0.0
        self.meanwhile: Callable[[], object] = bool
        monkeypatch.setattr("platforms.remote.host.site.time.sleep", self.sleep)
        monkeypatch.setattr(site, "_now", lambda: self.now)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds
        self.meanwhile()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize(
    ("said", "waited"),
    [
        (None, 2.0),
        ("999.5 a", 1.5),
        ("998.1 a", 0.1),
        ("20.0 a", 0.0),
        ("5000.0 from another boot", 2.0),
        ("", 2.0),
        ("touched by hand", 2.0),
    ],
)
def test_a_reload_waits_for_what_is_left_of_the_time(
    places: Any, clock: Clock, said: str | None, waited: float
) -> None:
    if said is not None:
        places.closing.write_text(said)
    with site._closing(places):
        assert clock.slept == pytest.approx(waited)
        assert places.closing.read_text() != said, "it is the reload's own from now on"
    assert gone(places.closing)


def test_the_time_begins_anew_where_somebody_has_let_connections_be_kept_meanwhile(places: Any, clock: Clock) -> None:
    def take_away() -> None:
        if clock.now >= 1001.5:
            clock.meanwhile = bool
            places.closing.unlink()

    clock.meanwhile = take_away
    with site._closing(places):
        assert clock.slept == pytest.approx(1.5 + 2.0, abs=0.11)
        assert places.closing.exists()


def test_what_another_wants_to_end_does_not_end_for_a_reload(places: Any, clock: Clock) -> None:
    """Two at once: the one that finds the stack locked ends first, while the other's reload still waits."""
    waits: list[bool] = []

    def other() -> None:
        clock.meanwhile = bool
        site.hold_closing(places, lambda _seconds: waits.append(True))

    clock.meanwhile = other
    with site._closing(places):
        assert clock.slept == pytest.approx(2.0)
        assert places.closing.exists()
    assert waits == [], "there is nothing to be done"


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
    os.kill(settling, signal.SIGTERM)  # as systemd does with all that a unit has started
    os.kill(settling, signal.SIGHUP)
    subprocess.run(["sleep", "0.2"], check=True)
    assert (os.waitpid(settling, os.WNOHANG), places.closing.exists()) == ((0, 0), True)
    os.kill(settling, signal.SIGKILL)
    os.waitpid(settling, 0)


def test_what_settles_does_not_end_by_a_signal_that_comes_as_it_begins(
    places: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a unit ends at once: that is told to all that it has started."""
    monkeypatch.setattr(site, "CLOSING", 0.0)
    monkeypatch.setattr(site, "SETTLING", 0.3)
    fork, begun = os.fork, list[int]()

    def told_at_once() -> int:
        child = fork()
        if child:
            os.kill(child, signal.SIGTERM)
            os.kill(child, signal.SIGHUP)
            begun.append(child)
        return child

    monkeypatch.setattr("platforms.remote.host.site.os.fork", told_at_once)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    for _ in range(5):
        with site._closing(places):
            pass
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask, "whoever reloads hears signals as before"
        _, status = os.waitpid(begun[-1], 0)
        assert (status, places.closing.exists()) == (0, False)


def children() -> set[int]:
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))


def test_where_no_process_can_be_had_it_settles_itself(
    places: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> int:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr("platforms.remote.host.site.os.fork", none)
    with site._closing(places):
        pass
    assert not places.closing.exists()
    assert clock.slept == pytest.approx(3.0)


def test_a_reload_that_fails_lets_connections_be_kept_again(places: Any, clock: Clock) -> None:
    with pytest.raises(ValueError, match="refused"), site._closing(places):
        raise ValueError("refused")
    assert not places.closing.exists()
    assert clock.slept == pytest.approx(2.0)


def test_what_nobody_needs_any_more_ends(places: Any) -> None:
    def ended(seconds: float) -> None:
        assert places.closing.exists()
        assert seconds == site.LONGEST_CLOSING

    site.hold_closing(places, ended)
    assert not places.closing.exists()


def test_what_a_reload_has_taken_over_is_left_to_it(places: Any, clock: Clock) -> None:
    def ended(_seconds: float) -> None:
        clock.now += 1.5
        reload.enter_context(site._closing(places))
        assert clock.slept == pytest.approx(0.5)

    with contextlib.ExitStack() as reload:
        site.hold_closing(places, ended)
        assert places.closing.exists()
    site.hold_closing(places, lambda _seconds: places.closing.unlink(missing_ok=True))
    assert gone(places.closing)


#: A host's command that lets responses end their connections, to which a signal comes at a step of its own.
HOLDS = """
import os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from platforms.remote.host import __main__, site

places, step, number = SimpleNamespace(closing=Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])

def told(before, after):
    def signalled(*words):
        if before:
            os.kill(os.getpid(), number)
        done = real(*words)
        if after:
            os.kill(os.getpid(), number)
        return done
    return signalled

if step == "it is seen":
    real = os.link
    os.link = told(False, True)
elif step == "it ends":
    real = site._stop_closing
    site._stop_closing = told(True, False)
__main__._closing(places, [])
"""


@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("step", ["it is seen", "it goes on", "it ends"])
def test_who_is_ended_lets_connections_be_kept_again(places: Any, step: str, ended_by: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(places.closing), step, str(int(ended_by))], stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    try:
        if step == "it goes on":
            deadline = time.monotonic() + PATIENCE
            while not places.closing.exists():
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(ended_by)
        elif step == "it ends":
            process.stdin.close()
        assert process.wait(PATIENCE) == 0
        assert list(places.closing.parent.iterdir()) == []
    finally:
        process.kill()
        process.stdin.close()


def test_what_it_says_is_seen_at_once_or_not_at_all(places: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads it half would wait for longer, and whoever wrote it would not know it for his."""
    seen: list[str] = []
    link = os.link

    def linked(new: Path, place: Path) -> None:
        link(new, place)
        seen.append(place.read_text())

    monkeypatch.setattr("platforms.remote.host.site.os.link", linked)
    site.hold_closing(places, lambda _seconds: seen.append(places.closing.read_text()))
    assert len(seen) == 2
    assert len(set(seen)) == 1
    assert float(seen[0].split()[0]) <= site._now()


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
        (["edge2-nginx-config"], []),
        (["edge3-nginx-config"], ["edge3"]),
        (["web1-serve", "edge1-nginx-config"], []),
        ([], []),
    ],
)
def test_responses_end_their_connections_early_only_where_the_reload_is_all_that_is_done(
    names: list[str], begun: list[str]
) -> None:
    processes: list[subprocess.Popen[bytes]] = []
    asked: list[tuple[str, str]] = []

    def start(host: str, what: str) -> subprocess.Popen[bytes]:
        asked.append((host, what))
        processes.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return processes[-1]

    where: Any = Site(Edge("edge1", polite=True), Edge("edge2", polite=False), Edge("edge3", polite=True))
    with contextlib.suppress(KeyboardInterrupt), contextlib.closing(Closing(start)) as closing:
        closing.go_on(where, planned(*names))
        assert asked == [(host, "closing") for host in begun]
        assert [process.poll() for process in processes] == [None] * len(begun)
        raise KeyboardInterrupt
    assert len(asked) == len(begun)
    assert [process.poll() for process in processes] == [0] * len(begun)


def test_what_was_begun_before_the_preview_goes_on_only_where_the_reload_is_all_that_is_done() -> None:
    processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(host: str, _what: str) -> subprocess.Popen[bytes]:
        assert host not in processes, "it was begun already"
        processes[host] = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return processes[host]

    def living() -> list[str]:
        return sorted(host for host, process in processes.items() if process.poll() is None)

    edges = [Edge(name, polite=True) for name in ("edge1", "edge2", "edge3")]
    where: Any = Site(*edges)
    for names, go_on in (
        (("edge1-nginx-config", "edge2-nginx-config"), ["edge1", "edge2"]),
        (("edge2-nginx-config", "edge3-nginx-config"), ["edge2", "edge3"]),
        (("web1-serve", "edge1-nginx-config"), []),
        ((), []),
    ):
        processes.clear()
        with contextlib.closing(Closing(start)) as closing:
            begun: Any = edges[:2]
            closing.begin(begun)
            assert living() == ["edge1", "edge2"]
            closing.go_on(where, planned(*names))
            for name in processes.keys() - {*go_on}:
                processes[name].wait(PATIENCE)  # it was told to end
            assert living() == go_on
        assert living() == []


def test_what_has_ended_by_itself_is_begun_anew() -> None:
    """A preview may take longer than a host goes on."""
    asked: list[str] = []
    processes: list[subprocess.Popen[bytes]] = []

    def start(host: str, _what: str) -> subprocess.Popen[bytes]:
        asked.append(host)
        processes.append(subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return processes[-1]

    edges: Any = [Edge("edge1", polite=True)]
    with contextlib.closing(Closing(start)) as closing:
        closing.begin(edges)
        closing.begin(edges)
        assert asked == ["edge1"]
        processes[0].kill()
        processes[0].wait(PATIENCE)
        closing.begin(edges)
        assert asked == ["edge1", "edge1"]
    assert [process.poll() for process in processes] == [-signal.SIGKILL, 0]


def test_it_is_known_before_a_preview_which_nginx_is_to_have_another_configuration() -> None:
    def hosted(host: str, runs: str | None, wanted: str | None) -> SimpleNamespace:
        looked = SimpleNamespace(host=host, live=SimpleNamespace(nginx=runs))
        return SimpleNamespace(looked=looked, rendered=None if wanted is None else SimpleNamespace(digest=wanted))

    hosts: Any = [
        hosted("other", "a", "b"),
        hosted("same", "a", "a"),
        hosted("silent", None, "b"),
        hosted("no visitors", "a", None),
    ]
    assert [looked.host for looked in will_reload(hosts)] == ["other"]


def test_a_host_that_does_not_take_it_is_left_to_its_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    class AwaySsh:
        """A host that refuses, before it has taken what is sent."""

        def command(self, *_words: str) -> list[str]:
            return ["sh", "-c", "exec <&-; exit 255"]

        def agent(self) -> bytes:
            return b"x" * 4_000_000

    platform = RemotePlatform.__new__(RemotePlatform)
    platform.ssh = AwaySsh()  # type: ignore[assignment]
    where: Any = Site(Edge("edge1", polite=True))
    done = False
    with contextlib.closing(Closing(platform._start)) as closing:
        closing.go_on(where, planned("edge1-nginx-config"))
        done = True
    assert done


def step(operation: str, name: str) -> dict[str, Any]:
    component = "urn:pulumi:t::django-cluster::cluster:index:NginxSite::nginx"
    urn = f"urn:pulumi:t::django-cluster::cluster:index:NginxSite$command:local:Command::nginx-{name}"
    return {"resourcePreEvent": {"metadata": {"op": operation, "urn": urn, "new": {"parent": component}}}}


@pytest.mark.parametrize(
    ("events", "again"),
    [
        ([], False),
        ([step("same", "web1-start1"), step("update", "edge1-nginx-config")], False),
        ([step("update", "edge1-nginx-config"), step("replace", "edge2-nginx-config")], False),
        ([step("update", "edge1-nginx-config"), step("update", "web1-relays")], True),
        ([step("delete", "web2-nginx-config")], True),
        ([step("create", "web1-start1")], True),
    ],
    ids=["nothing", "one nginx", "two of them", "a relay", "a host less", "a release"],
)
def test_hosts_are_looked_at_again_where_anything_but_a_reload_was_begun(
    events: list[dict[str, Any]], again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = RemotePlatform.__new__(RemotePlatform)
    monkeypatch.setattr(platform, "observe", lambda: "looked again")
    monkeypatch.setattr(platform, "_observed", lambda seen: seen)
    progress = Progress(lambda _line: None, lambda _host, _line: None)
    for event in events:
        progress.take(event)
    site: Any = Site(Edge("edge1", polite=True), Edge("edge2", polite=False))
    assert platform._afterwards(site, progress.begun) == ("looked again" if again else site.seen)
