"""A stack with workers, what happens to it while jobs are enqueued, and what became of each of them.

The platform is a parameter: a stand says where what its project shares is, and which process keeps a service.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from tests.jobs import (
    LOOK,
    Account,
    Customer,
    Customers,
    Journal,
    Kill,
    Kind,
    Order,
    all_that_live,
    called,
    children,
    until,
)
from tests.processes import lives

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

#: Seconds that anything may take which takes a few: the machine may be busy with something else.
PATIENCE = 300.0

#: Seconds that a job must be at work still when its process is killed: the kill finds it there.
AT_WORK = 0.5

SHORT, LONG, HELD, ENDLESS = 0.003, 2.0, 3.0, 3600.0

#: The processes of the projects of tests/cases whose jobs are counted.
WORKERS = ("work1", "work2")


class Result(Protocol):
    """How a command of the tool ended."""

    @property
    def status(self) -> int: ...
    @property
    def output(self) -> str: ...


class WithWorkers(Protocol):
    """A stack with workers, in ways that every platform has."""

    name: str
    address: tuple[str, int]
    source: Path
    stack: dict[str, Any]

    @property
    def keeper(self) -> str:
        """What it is that keeps a worker, and ends with its first process."""

    @property
    def shared(self) -> Path:
        """Where the paths of app.shared are, as they are seen from here."""

    def process_of(self, service: str) -> int:
        """Return the first process of a service, by its id here; 0 while there is none."""

    def up(self) -> Result: ...
    def rollback(self) -> Result: ...
    def run(self, *arguments: str) -> Result: ...
    def release(self) -> str: ...
    def status(self) -> dict[str, Any]: ...
    def edit_code(self, path: str, text: str) -> None: ...
    def edit_stack(self, change: Callable[[dict[str, Any]], object]) -> None: ...
    def restart_database(self) -> None: ...
    def kill_database(self) -> None: ...
    def sabotaged(self, how: str) -> AbstractContextManager[None]: ...


class Process(NamedTuple):
    """A process that does jobs: its id here, and what the journal calls it."""

    pid: int
    name: str


class Queue:
    """The stack's queue, with all that was enqueued since it was last counted."""

    def __init__(self, stand: WithWorkers) -> None:
        self.stand = stand
        self.journal = Journal(stand.shared / "journal" / "jobs.log")
        self.orders: list[Order] = []
        self.kills: list[Kill] = []
        self.releases = 0
        self.held = 0
        self.first = 0

    def forget(self) -> None:
        """Begin anew: what was counted is over."""
        self.orders, self.kills = [], []
        self.journal.skip()

    @contextlib.contextmanager
    def customers(self, kinds: Sequence[Kind], *, clients: int = 6, pause: float = 0.1) -> Iterator[Customers]:
        """Let clients enqueue jobs of these kinds in turn, all the time."""
        customers = Customers(self.stand.address, kinds, clients=clients, pause=pause, first=self.first)
        try:
            with customers:
                yield customers
        finally:
            self.orders += customers.orders
            self.first += len(customers.orders)

    # --- what happens

    def up(self) -> None:
        result = self.stand.up()
        assert result.status == 0, result.output

    def release(self) -> None:
        """Bring up new code."""
        self.releases += 1
        view = next(self.stand.source.glob("*/views.py")).relative_to(self.stand.source)
        self.stand.edit_code(str(view), f"\n# release {self.releases}\n")
        before = self.stand.release()
        self.up()
        assert self.stand.release() != before

    def roll_back(self) -> None:
        """Go back to the release before."""
        result = self.stand.rollback()
        assert result.status == 0, result.output

    def kill_at_work(self, what: str, pid: int, hit: Sequence[Process], kind: Kind, *, since: float = 0.0) -> None:
        """Kill a process as soon as all that do jobs for it are at one of this kind; return when all is well again.

        They hold all that they may then, and take nothing from the queue: a job that is just being handed over is in
        nobody's books (docs/workers.md).
        """
        self.hold(hit, kind, since=since)
        with self.hits(what, hit):
            os.kill(pid, signal.SIGKILL)
            gone = {pid, *(one.pid for one in hit)}
            until(lambda: not any(lives(one) for one in gone), PATIENCE, lambda: f"{what}: {gone} live still")

    def kill_keeper(self, worker: str, kind: Kind) -> None:
        """Kill what keeps a worker."""
        pid = self.parent(worker)
        self.kill_at_work(f"{worker}'s {self.stand.keeper}", pid, self.processes(worker), kind)
        until(lambda: self.stand.process_of(worker) not in {0, pid}, PATIENCE, self.stand.status)

    @contextlib.contextmanager
    def hits(self, what: str, hit: Sequence[Process]) -> Iterator[None]:
        """Count what is done in it as a kill that hit these; end when all is well again."""
        at = time.monotonic()
        yield
        self.kills.append(Kill(what, at, time.monotonic(), frozenset(one.name for one in hit)))
        self.wait_well()

    def hold(self, processes: Sequence[Process], kind: Kind, *, since: float = 0.0) -> None:
        """Enqueue jobs that take long until each of these processes is at one, since so many seconds."""
        next_batch = 0.0
        deadline = time.monotonic() + PATIENCE
        wanted = {one.name for one in processes}
        while (busy := self.journal.busy(wanted, since=since, left=AT_WORK)) != wanted:
            assert time.monotonic() < deadline, f"only {busy} of {wanted} are at work"
            if time.monotonic() >= next_batch:
                self.enqueue(4, kind)
                next_batch = time.monotonic() + 1.0
            time.sleep(0.02)

    @contextlib.contextmanager
    def without_graceful_timeout(self) -> Iterator[None]:
        """Let workers be killed as soon as they are told to stop, from the next `up` on."""
        worker = self.stand.stack["workers"][0]
        allowed = worker["graceful_timeout"]
        self.stand.edit_stack(lambda _stack: worker.update(graceful_timeout="0"))
        self.up()
        try:
            yield
        finally:
            self.stand.edit_stack(lambda _stack: worker.update(graceful_timeout=allowed))

    @contextlib.contextmanager
    def enough(self) -> Iterator[None]:
        """Let jobs end at once, however long they were to take."""
        path = self.journal.path.with_name("enough")
        path.touch()
        try:
            yield
        finally:
            path.unlink()

    def enqueue(self, number: int, kind: Kind) -> None:
        """Enqueue so many jobs."""
        customer = Customer(Customers(self.stand.address, [], clients=0), 0)
        for _one in range(number):
            self.held += 1
            self.orders.append(customer.order(f"{kind.name}-more-{self.held}", kind))

    def wait_well(self) -> None:
        """Return when the status is well again."""
        until(lambda: self.stand.status()["ok"], PATIENCE, self.stand.status, pause=LOOK)

    # --- processes

    def parent(self, worker: str) -> int:
        """Return the process of the runtime that keeps a worker."""
        until(lambda: self.stand.process_of(worker), PATIENCE, lambda: f"{worker} does not run")
        return self.stand.process_of(worker)

    def program(self, worker: str) -> int:
        """Return the process of a worker's command."""
        until(lambda: children(self.parent(worker)), PATIENCE, lambda: f"{worker} runs no command")
        return children(self.parent(worker))[0]

    def processes(self, *workers: str) -> list[Process]:
        """Return the processes that do the jobs of workers."""
        return [Process(pid, called(pid, worker)) for worker in workers for pid in self.at_jobs(worker)]

    def at_jobs(self, worker: str) -> list[int]:
        """Return the processes that do a worker's jobs, once all are there: its command."""
        return [self.program(worker)]

    # --- what became of it

    def account(self) -> Account:
        own = {order.job for order in self.orders}
        runs = {job: runs for job, runs in self.journal.runs().items() if job in own}
        return Account(list(self.orders), runs, list(self.kills))

    def drained(self, timeout: float = 600.0, *, again: bool = True) -> Account:
        """Return what became of all jobs once each that was acknowledged has ended, or after so many seconds.

        again: whether those that were cut off are begun again, and so waited for.
        """
        with contextlib.suppress(AssertionError):
            until(lambda: not set(self.account().lost) - (set() if again else self._cut_off()), timeout, pause=LOOK)
        return self.account()

    def _cut_off(self) -> set[str]:
        alive = {name.partition(":")[2] for name in all_that_live()}
        runs = self.account().runs.items()
        return {job for job, runs in runs if not any(run.process.partition(":")[2] in alive for run in runs)}
