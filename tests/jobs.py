"""Counted jobs: enqueued by requests to the site, and accounted for by the journal that the project's jobs write.

A job counts from the moment its request was answered with 2xx. It is lost when the journal never says that it ended. It
was repeated when it began more than once: each such job must be explained by a kill that found it under way, or by a
rule of the queue.
"""

from __future__ import annotations

import http.client
import threading
import time
import urllib.parse
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

TIMEOUT = 60.0


@dataclass(frozen=True)
class Order:
    """A request that enqueues a job. ended: when it was answered; status: 0 where it was not."""

    job: str
    kind: str
    began: float
    ended: float
    status: int

    @property
    def acknowledged(self) -> bool:
        return 200 <= self.status < 300


@dataclass(frozen=True)
class Kind:
    """What a client enqueues in its turn."""

    name: str
    seconds: float


class Customer(threading.Thread):
    """One client, over one connection at a time, which it keeps."""

    def __init__(self, customers: Customers, number: int) -> None:
        super().__init__(name=f"customer-{number}", daemon=True)
        self.customers = customers
        self.number = number
        self.connection: http.client.HTTPConnection | None = None

    def run(self) -> None:
        for count, kind in enumerate(cycle(self.customers.kinds)):
            if self.customers.stopped.is_set():
                return
            self.customers.count(self.order(f"{kind.name}-{self.number}-{count}", kind))
            self.customers.stopped.wait(self.customers.pause)

    def order(self, job: str, kind: Kind) -> Order:
        body = urllib.parse.urlencode({"job": job, "kind": kind.name, "seconds": kind.seconds})
        headers = {"Host": "localhost", "Content-Type": "application/x-www-form-urlencoded"}
        began = time.monotonic()
        try:
            if self.connection is None:
                self.connection = http.client.HTTPConnection(*self.customers.address, timeout=TIMEOUT)
            self.connection.request("POST", "/jobs", body, headers)
            response = self.connection.getresponse()
            response.read()
            status = response.status
        except (OSError, http.client.HTTPException):
            if self.connection is not None:
                self.connection.close()
            self.connection, status = None, 0
        return Order(job, kind.name, began, time.monotonic(), status)


class Customers:
    """A number of clients that enqueue jobs, as a context manager; `orders` is final after it."""

    def __init__(self, address: tuple[str, int], kinds: Sequence[Kind], *, clients: int = 6, pause: float = 0.2) -> None:
        self.address = address
        self.kinds = kinds
        self.pause = pause
        self.orders: list[Order] = []
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self.clients = [Customer(self, number) for number in range(clients)]

    def __enter__(self) -> Customers:
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stopped.set()
        for client in self.clients:
            client.join(TIMEOUT + 10)
        assert not any(client.is_alive() for client in self.clients), "a client hangs"

    def count(self, order: Order) -> None:
        with self._lock:
            self.orders.append(order)

    @property
    def acknowledged(self) -> int:
        with self._lock:
            return sum(order.acknowledged for order in self.orders)

    def wait_for(self, jobs: int, timeout: float = 300.0) -> None:
        """Return after so many more were enqueued."""
        goal = self.acknowledged + jobs
        until(lambda: self.acknowledged >= goal, timeout, lambda: f"{self.acknowledged} of {goal} jobs enqueued")


@dataclass
class Run:
    """One time that a job was begun. ended: None where the journal does not say so; words: what else it says."""

    job: str
    pid: int
    began: float
    words: list[str]
    ended: float | None = None


class Journal:
    """The file in which jobs say that they start and end."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def runs(self) -> dict[str, list[Run]]:
        """Return every time that each job was begun, in order."""
        found: defaultdict[str, list[Run]] = defaultdict(list)
        for what, job, pid, at, *words in self._lines():
            if what == "start":
                found[job].append(Run(job, int(pid), float(at), words))
            else:
                own = [run for run in found[job] if run.pid == int(pid) and run.ended is None]
                assert own, f"{job} ended in {pid} without a start"
                own[-1].ended = float(at)
        return dict(found)

    def ended(self) -> set[str]:
        return {words[1] for words in self._lines() if words[0] == "end"}

    def under_way(self, pids: Iterable[int]) -> list[Run]:
        """Return what these processes work on now, by what they wrote."""
        own = set(pids)
        return [run for runs in self.runs().values() for run in runs if run.ended is None and run.pid in own]

    def _lines(self) -> Iterator[list[str]]:
        text = self.path.read_text() if self.path.exists() else ""
        for line in text.split("\n")[:-1]:  # the last one, while it is written
            yield line.split()


@dataclass(frozen=True)
class Kill:
    """Processes that were killed. until: when all was whole again; pids: those whose jobs it hit."""

    what: str
    at: float
    until: float
    pids: frozenset[int]

    def found(self, run: Run) -> bool:
        """Return whether this kill found a run under way.

        A child that outlives its parent, or a worker that lost its broker, may still begin what it had been given.
        """
        return run.pid in self.pids and run.began <= self.until and (run.ended is None or run.ended >= self.at)


@dataclass
class Account:
    """What became of all jobs."""

    orders: list[Order]
    runs: dict[str, list[Run]]
    kills: list[Kill] = field(default_factory=list)

    @property
    def enqueued(self) -> list[Order]:
        return [order for order in self.orders if order.acknowledged]

    @property
    def refused(self) -> list[Order]:
        return [order for order in self.orders if not order.acknowledged]

    @property
    def lost(self) -> list[str]:
        return [order.job for order in self.enqueued if not self._ended(order.job)]

    @property
    def repeated(self) -> dict[str, list[Run]]:
        return {job: runs for job, runs in self.runs.items() if len(runs) > 1}

    def _ended(self, job: str) -> bool:
        return any(run.ended is not None for run in self.runs.get(job, ()))

    def killed(self, job: str) -> list[str]:
        """Return the kills that found a job under way."""
        return [kill.what for kill in self.kills if any(kill.found(run) for run in self.runs.get(job, ()))]

    def interrupted(self) -> list[str]:
        """Return the jobs that any kill found under way."""
        return [job for job in self.runs if self.killed(job)]

    def unexplained(self, *rules: Callable[[list[Run]], str]) -> dict[str, list[Run]]:
        """Return the repeated jobs that neither a kill nor one of the rules explains."""
        return {
            job: runs
            for job, runs in self.repeated.items()
            if not self.killed(job) and not any(rule(runs) for rule in rules)
        }

    def __str__(self) -> str:
        kinds = Counter(order.kind for order in self.enqueued)
        told = ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))
        twice = sum(sum(run.ended is not None for run in runs) > 1 for runs in self.runs.values())
        parts = [f"{len(self.lost)} of {len(self.enqueued):,} jobs lost ({told})"]
        parts.append(f"{len(self.repeated)} begun twice, {twice} ended twice")
        for kill in self.kills:
            hit = [job for job in self.runs if any(kill.found(run) for run in self.runs[job])]
            again = sum(job in self.repeated for job in hit)
            parts.append(f"{kill.what}: {len(hit)} under way, {again} begun again")
        if self.refused:
            parts.append(f"{len(self.refused)} requests not acknowledged")
        return "; ".join(parts)


def until(done: Callable[[], object], timeout: float, told: Callable[[], object] = str) -> None:
    """Return when something is so."""
    deadline = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {told()}"
        time.sleep(0.05)
