"""One request can't take all instances: real instances behind the real nginx, and every request of others counted."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.nginx.running import Running, free_ports, stack
from tests.nginx_versions import installed_nginx
from tests.runtime.standing import SETTINGS, Stand, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.runtime.standing import Running as Instance

NAMES = ("app1", "app2", "app3", "app4")

#: Clients that send a GET and a POST in turn, and the seconds between two requests of one.
CLIENTS, EVERY = 12, 0.05

#: Seconds between two requests that kill, and how many there are in a measurement.
PAUSE, POISONS = 1.0, 8

#: A project that takes its time to load, as real ones do: that is what a worker costs others that was not forked of it.
PROJECT = {"mini/settings.py": f"import time\ntime.sleep(0.5)\n{SETTINGS}"}


@dataclass
class Innocents:
    """Clients at a steady rate, as a context manager: how many of their requests were answered, and how slowly."""

    port: int
    address: str = "127.0.0.1"
    path: str = "/sleep?for=0.01"
    requests: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __enter__(self) -> Innocents:
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self.client, args=(n,), daemon=True) for n in range(CLIENTS)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(90)
        assert not any(thread.is_alive() for thread in self.threads), "a client hangs"

    def __str__(self) -> str:
        waits = sorted(self.seconds) or [0.0]
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.requests.items()))
        failed = Counter(line.split(" ")[0] for line in self.failed)
        return (
            f"{len(self.failed)} of {self.requests.total():,} requests of others failed ({kinds}; failed: "
            f"{failed['GET']} GET, {failed['POST']} POST), 99 of 100 within {waits[len(waits) * 99 // 100]:.2f} s, "
            f"all within {waits[-1]:.2f} s"
        )

    def client(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=70, source_address=(self.address, 0))
        turn = number
        while not self.stopped.is_set():
            turn += 1
            method = ("GET", "POST")[turn % 2]
            began = time.monotonic()
            failure = self.one(connection, method)
            took = time.monotonic() - began
            self.requests[method] += 1
            self.seconds.append(took)
            if failure:
                self.failed.append(f"{method} {failure}")
            self.stopped.wait(max(0.0, EVERY - took))
        connection.close()

    def one(self, connection: http.client.HTTPConnection, method: str) -> str | None:
        try:
            connection.request(method, self.path, b"x" if method == "POST" else None, {"Host": "cluster"})
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return f"{type(error).__name__}: {error}"
        return None if response.status == 200 else str(response.status)


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with contextlib.closing(Stand(PROJECT)) as made:
        yield made


@pytest.fixture(scope="module")
def instances(stand: Stand) -> Stand:
    """Four instances, which serve."""
    for running in [stand.start(instance=name) for name in NAMES]:
        running.wait_for("serving")
    return stand


@contextlib.contextmanager
def in_front_of(stand: Stand, edit: Callable[[str], str] = str, **site: Any) -> Iterator[Running]:
    nginx = installed_nginx()
    if nginx is None:
        pytest.skip("nginx is not installed")
    servers = [{"name": name} for name in NAMES]
    with Running(nginx, stack(servers, listen=free_ports(), **site), edit=edit, sockets=stand.sockets) as running:
        yield running


def without_mark(text: str) -> str:
    return text.replace("proxy_set_header X-Cluster-Request $request_id;", "")


def wait_for_workers(stand: Stand) -> None:
    """Wait until every instance answers at its own socket, in a worker of its own."""
    for running in stand.running:
        wait_until(partial(answers, running), "a worker", running)


def answers(running: Instance) -> bool:
    try:
        return bool(running.workers) and running.get("/-/health")[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


# 3 and 4 are gunicorn's own words for a worker that can't boot.
@pytest.mark.parametrize("how", ["segfault", "exit", "exit-3", "exit-4", "sys.exit", "sys.exit-3", "kill"])
def test_a_request_that_ends_its_worker_ends_one_other(instances: Stand, how: str) -> None:
    died = instances.root / f"died-{how}"
    before = [running.gunicorn for running in instances.running]
    with in_front_of(instances) as nginx:
        reply = nginx.request(f"/die?how={how}&log={died}")
        assert nginx.request("/sleep?for=0").status == 200
    wait_for_workers(instances)
    assert len(lines(died)) == 2, "of four"
    assert reply.status == 502
    logs = [running.log for running in instances.running]
    assert sum("GET '/die' ended two workers" in log for log in logs) >= 1, "nobody says which request it was"
    assert [running.gunicorn for running in instances.running] == before, "their workers are not all"


def test_without_the_mark_it_ends_the_workers_of_all(instances: Stand) -> None:
    died = instances.root / "died-all"
    with in_front_of(instances, without_mark) as nginx:
        nginx.request(f"/die?how=kill&log={died}")
    wait_for_workers(instances)
    assert len(set(lines(died))) == len(NAMES)


def poisoned(stand: Stand, edit: Callable[[str], str] = str, poisons: int = POISONS) -> tuple[Innocents, int]:
    """Measure what others get while requests kill, one every PAUSE seconds; how many workers have ended."""
    died = stand.root / f"died-{time.monotonic()}"
    with in_front_of(stand, edit) as nginx, Innocents(nginx.port) as innocents:
        for _ in range(POISONS):
            if poisons:
                killer = threading.Thread(target=kill, args=(nginx.port, died), daemon=True)
                killer.start()
            time.sleep(PAUSE)
    return innocents, len(lines(died))


def kill(port: int, died: Path) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=70)
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", f"/die?how=segfault&log={died}", headers={"Host": "cluster"})
        connection.getresponse().read()
    connection.close()


def test_others_are_answered_while_requests_kill(instances: Stand) -> None:
    normal, _ = poisoned(instances, poisons=0)
    innocents, ended = poisoned(instances)
    wait_for_workers(instances)
    print(f"normal: {normal}\n{POISONS} requests that kill, which ended {ended} workers: {innocents}")
    assert normal.failed == []
    assert POISONS <= ended <= 2 * POISONS
    # Of others' requests those fail that a killed worker already had, of which a GET is begun again: at most as many as
    # a worker has threads, and with a GET only if both workers had it.
    assert len(innocents.failed) <= 4 * ended
    assert sum(line.startswith("GET") for line in innocents.failed) <= POISONS
    assert innocents.requests.total() > normal.requests.total() / 2


def test_without_preloading_others_wait_for_workers() -> None:
    with contextlib.closing(Stand(PROJECT)) as stand:
        for running in [stand.start(instance=name, preload=False) for name in NAMES]:
            running.wait_for("serving")
        normal, _ = poisoned(stand, poisons=0)
        innocents, ended = poisoned(stand, without_mark)
    print(f"normal: {normal}\nunprotected, {ended} workers ended: {innocents}")
    assert innocents.requests.total() < normal.requests.total() / 2, "nobody would notice"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_that_takes_too_long_is_begun_once(instances: Stand, method: str) -> None:
    begun = instances.root / f"begun-{method}"
    with in_front_of(instances, proxy_read_timeout="1s") as nginx:
        reply = nginx.request(f"/slowly?for=2.5&log={begun}", method=method, body=b"x" if method == "POST" else None)
        time.sleep(3)
    assert reply.status == 504
    assert len(lines(begun)) == 1


def test_with_timeouts_tried_elsewhere_it_is_begun_again(instances: Stand) -> None:
    begun = instances.root / "begun-again"

    def sabotage(text: str) -> str:
        return text.replace("proxy_next_upstream error;", "proxy_next_upstream error timeout;")

    with in_front_of(instances, sabotage, proxy_read_timeout="1s") as nginx:
        nginx.request(f"/slowly?for=2.5&log={begun}")
    assert len(lines(begun)) > 1, "nobody would notice"
