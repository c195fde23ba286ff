"""A stack with workers on this machine, what happens to it while jobs are enqueued, and what became of each of them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from tests.jobs import Account, Customer, Customers, Journal, Kill, Kind, Order, children, lives, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.local.stand import Stand

#: Seconds that anything may take which takes a few: the machine may be busy with something else.
PATIENCE = 300.0

#: Seconds that a job must be at work still when its process is killed: the kill finds it there.
AT_WORK = 0.5


class Queue:
    """The stack's queue, with all that was enqueued since it was last counted."""

    def __init__(self, stand: Stand) -> None:
        self.stand = stand
        self.journal = Journal(stand.paths.shared / "journal" / "jobs.log")
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

    def release(self) -> None:
        """Bring up new code."""
        self.releases += 1
        view = next(self.stand.source.glob("*/views.py")).relative_to(self.stand.source)
        self.stand.edit_code(str(view), f"\n# release {self.releases}\n")
        before = self.stand.release()
        result = self.stand.up()
        assert result.status == 0, result.output
        assert self.stand.release() != before

    def roll_back(self) -> None:
        """Go back to the release before."""
        result = self.stand.rollback()
        assert result.status == 0, result.output

    def kill_at_work(self, what: str, pid: int, hit: Sequence[int], kind: Kind, *, since: float = 0.0) -> None:
        """Kill a process as soon as all that do jobs for it are at one of this kind; return when all is well again.

        They hold all that they may then, and take nothing from the queue: a job that is just being handed over is in
        nobody's books (docs/workers.md).
        """
        self.hold(hit, kind, since=since)
        at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        gone = {pid, *hit}
        until(lambda: not any(lives(one) for one in gone), PATIENCE, lambda: f"{what}: {gone} live still")
        self.kills.append(Kill(what, at, time.monotonic(), frozenset(hit)))
        self.wait_well()

    def hold(self, pids: Sequence[int], kind: Kind, *, since: float = 0.0) -> None:
        """Enqueue jobs that take long until each of these processes is at one, since so many seconds."""
        next_batch = 0.0
        deadline = time.monotonic() + PATIENCE
        while (busy := self.journal.busy(pids, since=since, left=AT_WORK)) != set(pids):
            assert time.monotonic() < deadline, f"only {busy} of {pids} are at work"
            if time.monotonic() >= next_batch:
                self.enqueue(4, kind)
                next_batch = time.monotonic() + 1.0
            time.sleep(0.02)

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
        until(lambda: self.stand.status()["ok"], PATIENCE, self.stand.status)

    # --- processes

    def parent(self, worker: str) -> int:
        """Return the process of the runtime that keeps a worker."""
        processes = self.stand.supervisor().processes()
        return next(one.pid for name, one in processes.items() if name.partition("@")[0] == worker and one.pid)

    def program(self, worker: str) -> int:
        """Return the process of a worker's command."""
        until(lambda: children(self.parent(worker)), PATIENCE, lambda: f"{worker} runs no command")
        return children(self.parent(worker))[0]

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
            until(lambda: not set(self.account().lost) - (set() if again else self._cut_off()), timeout)
        return self.account()

    def _cut_off(self) -> set[str]:
        return {job for job, runs in self.account().runs.items() if not any(lives(run.pid) for run in runs)}
