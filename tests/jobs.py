"""Counted jobs: enqueued by requests to the site, and accounted for by the journal that the project's jobs write.

A job counts from the moment its request was answered with 2xx. It is lost when the journal never says that it ended. It
was repeated when it began more than once: each such job must be explained by a kill that found it under way, or by a
rule of the queue.
"""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import threading
import time
import urllib.parse
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from tests.processes import lives, stat

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

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

    def __init__(self, customers: Customers, number: int, first: int = 0) -> None:
        super().__init__(name=f"customer-{number}", daemon=True)
        self.first = first
        self.customers = customers
        self.number = number
        self.connection: http.client.HTTPConnection | None = None

    def run(self) -> None:
        for count, kind in enumerate(cycle(self.customers.kinds), self.first):
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

    def __init__(
        self, address: tuple[str, int], kinds: Sequence[Kind], *, clients: int = 6, pause: float = 0.1, first: int = 0
    ) -> None:
        """Make the clients. pause: seconds between two requests of one; first: a number that no job has so far."""
        self.address = address
        self.kinds = kinds
        self.pause = pause
        self.orders: list[Order] = []
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self.clients = [Customer(self, number, first) for number in range(clients)]

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
    """One time that a job was begun.

    process: as the journal calls it. ended: None where the journal does not say so; words: what else it says.
    """

    job: str
    process: str
    began: float
    seconds: float
    words: list[str]
    ended: float | None = None


class Journal:
    """The file in which jobs say that they start and end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.skipped = 0

    def skip(self) -> None:
        """Leave out what it says so far."""
        self.skipped = len(list(self._lines())) + self.skipped

    def runs(self) -> dict[str, list[Run]]:
        """Return every time that each job was begun, in order; an end whose start is left out is too."""
        found: defaultdict[str, list[Run]] = defaultdict(list)
        for what, job, process, at, seconds, *words in self._lines():
            if what == "start":
                found[job].append(Run(job, process, float(at), float(seconds), words))
            else:
                own = [run for run in found[job] if run.process == process and run.ended is None]
                assert own or self.skipped, f"{job} ended in {process} without a start"
                if own:
                    own[-1].ended = float(at)
        return dict(found)

    def ended(self) -> set[str]:
        return {words[1] for words in self._lines() if words[0] == "end"}

    def busy(self, processes: Iterable[str], *, since: float, left: float) -> set[str]:
        """Return which of these processes are at a job since so many seconds, and for so many more."""
        own, now = set(processes), time.monotonic()
        runs = [run for runs in self.runs().values() for run in runs if run.process in own and run.ended is None]
        return {run.process for run in runs if run.began <= now - since and run.began + run.seconds >= now + left}

    def _lines(self) -> Iterator[list[str]]:
        text = self.path.read_text() if self.path.exists() else ""
        for line in text.split("\n")[self.skipped : -1]:  # not the last one: it is being written
            yield line.split()


@dataclass(frozen=True)
class Kill:
    """Processes that were killed. until: when all were gone, or there again; processes: those whose jobs it hit."""

    what: str
    at: float
    until: float
    processes: frozenset[str]

    def found(self, run: Run) -> bool:
        """Return whether this kill found a run under way.

        A child that outlives its parent, or a worker that lost its broker, may still begin what it had been given.
        """
        return run.process in self.processes and run.began <= self.until and (run.ended is None or run.ended >= self.at)


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
    def lost(self) -> list[str]:
        """The jobs that were acknowledged, and never ended."""
        return [order.job for order in self.enqueued if all(run.ended is None for run in self.runs.get(order.job, ()))]

    @property
    def cut_off(self) -> list[str]:
        """The jobs that were begun and did not end, at least once."""
        return [job for job, runs in self.runs.items() if any(run.ended is None for run in runs)]

    @property
    def repeated(self) -> dict[str, list[Run]]:
        return {job: runs for job, runs in self.runs.items() if len(runs) > 1}

    def killed(self, job: str) -> bool:
        """Return whether a kill found a job under way."""
        return any(kill.found(run) for kill in self.kills for run in self.runs.get(job, ()))

    def unexplained(self, *rules: Rule) -> dict[str, list[Run]]:
        """Return the repeated jobs that neither a kill nor one of the rules explains."""
        left = {job: runs for job, runs in self.repeated.items() if not self.killed(job)}
        return {job: runs for job, runs in left.items() if not any(rule(self, runs) for rule in rules)}

    def told(self, **rules: Rule) -> str:
        """Return the counts in words; rules: by what they are called."""
        kinds = Counter(order.kind for order in self.enqueued)
        told = ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))
        twice = sum(sum(run.ended is not None for run in runs) > 1 for runs in self.runs.values())
        parts = [f"{len(self.lost)} of {len(self.enqueued):,} jobs lost ({told})"]
        parts.append(f"{len(self.repeated)} begun twice, {twice} of them ended twice")
        for kill in self.kills:
            hit = [job for job, runs in self.runs.items() if any(kill.found(run) for run in runs)]
            parts.append(f"{kill.what}: {len(hit)} under way, {sum(job in self.repeated for job in hit)} begun again")
        others = {job: runs for job, runs in self.repeated.items() if not self.killed(job)}
        for name, rule in rules.items():
            parts.append(f"{name.replace('_', ' ')}: {sum(rule(self, runs) for runs in others.values())}")
        parts.append(f"{len(self.orders) - len(self.enqueued)} requests not acknowledged")
        return "; ".join(parts)


#: What may explain that a job was begun again: it is asked with all its runs.
Rule = Callable[[Account, list[Run]], bool]


def last_of_its_process(account: Account, runs: list[Run]) -> bool:
    """Tell whether a job ended, and was the last that its process did: that it had ended was heard by nobody."""
    first = runs[0]
    later = (run for others in account.runs.values() for run in others if run.process == first.process)
    return first.ended is not None and all(run.began <= first.began for run in later)


def late_by(seconds: float) -> Rule:
    """Return the rule that a queue gives a job to another worker when it is not acknowledged within so many seconds."""

    def rule(_account: Account, runs: list[Run]) -> bool:
        return runs[0].ended is not None and runs[1].began - runs[0].began >= seconds

    return rule


def asked_during(*kinds: str) -> Rule:
    """Return the rule that a request which a kill met may have enqueued its job twice, trying again."""

    def rule(account: Account, runs: list[Run]) -> bool:
        orders = [order for order in account.orders if order.job == runs[0].job]
        kills = [kill for kill in account.kills if kill.what in kinds]
        return any(order.began <= kill.until and order.ended >= kill.at for order in orders for kill in kills)

    return rule


#: Seconds between two looks at what takes long to look at: a status (a tenth of a second of processor time), a journal.
LOOK = 0.5


def until(done: Callable[[], object], timeout: float, told: Callable[[], object] = str, *, pause: float = 0.05) -> None:
    """Return when something is so. pause: seconds between two looks."""
    deadline = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {told()}"
        time.sleep(pause)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that still run."""
    assert pid, "no process, of which the kernel's own would be the children"
    done = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return sorted(int(word) for word in done.stdout.split())


def called(pid: int, service: str = "") -> str:
    """Return what the journal calls a process, here or in a container, by its id here.

    That is the service's name, its id where it is, and when it began: neither of the last two is one process's alone.

    Raises:
        OSError: it is no more.

    """
    status = Path(f"/proc/{pid}/status").read_text()
    inside = next(line.split()[-1] for line in status.splitlines() if line.startswith("NSpid:"))
    return f"{service}:{inside}:{stat(pid)[19]}"


def all_that_live() -> set[str]:
    """Return what the journal calls all processes that run, without the names of their services."""
    found = set()
    for pid in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()):
        with contextlib.suppress(OSError):
            if lives(pid):
                found.add(called(pid))
    return found
