"""Celery's jobs on this machine: enqueued by requests, through releases, a way back and kills, each of them counted.

`late` jobs are acknowledged when they have ended (acks_late, task_reject_on_worker_lost), `early` ones when they begin,
as Celery does by itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.jobs import Kill, Kind, asked_during, children, last_of_its_process, late_by, until
from tests.local.queues import PATIENCE, Queue
from tests.local.stand import Stand

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.jobs import Account

#: The project's visibility_timeout (tests/cases/shop): what a killed worker held is given to another one after it.
VISIBILITY_TIMEOUT = 20.0

SHORT, LONG, HELD, ENDLESS = 0.003, 2.0, 3.0, 3600.0

WORKERS = ("work1", "work2")


def mixed(*kinds: str, every: int) -> Sequence[Kind]:
    """Return jobs of milliseconds of these kinds in turn, one of `every` with seconds."""
    return [Kind(kinds[turn % len(kinds)], SHORT if turn else LONG) for turn in range(every)]


class Shop(Queue):
    """The project's queue: two workers of two processes each, and the broker."""

    def processes(self, *workers: str) -> list[int]:
        """Return the processes that do the jobs of workers."""
        programs = [self.program(worker) for worker in workers]
        until(lambda: all(len(children(pid)) == 2 for pid in programs), PATIENCE, lambda: f"{workers} are not whole")
        return [pid for program in programs for pid in children(program)]

    def kill_process(self, kind: str) -> None:
        """Kill one of the processes that a worker's command has forked."""
        one = self.processes("work1")[0]
        self.kill_at_work("a process of work1", one, [one], Kind(kind, HELD))

    def kill_command(self, kind: str, *, since: float = 0.0) -> None:
        """Kill a worker's command itself, which holds what its processes do."""
        hit = self.processes("work1")
        self.kill_at_work("work1's command", self.program("work1"), hit, Kind(kind, HELD), since=since)

    def kill_parent(self, kind: str) -> None:
        """Kill the process that keeps a worker."""
        hit = self.processes("work2")
        self.kill_at_work("work2's parent", self.parent("work2"), hit, Kind(kind, HELD))

    def kill_broker(self, kind: str, *, waiting: int = 0) -> None:
        """Kill the broker while all processes are at a job, and so many more wait."""
        hit = self.processes(*WORKERS)
        self.hold(hit, Kind(kind, HELD))
        self.enqueue(waiting, Kind(kind, SHORT))
        broker, at = self.stand.supervisor().processes()["broker"].pid, time.monotonic()
        os.kill(broker, signal.SIGKILL)
        until(lambda: self._is_new("broker", broker), PATIENCE, self.stand.status)
        self.kills.append(Kill("the broker", at, time.monotonic(), frozenset(hit)))
        self.wait_well()

    def _is_new(self, program: str, former: int) -> bool:
        process = self.stand.supervisor().processes()[program]
        return process.state == "RUNNING" and process.pid not in (0, former)


#: What Celery does by its own rules, where no kill has found a job under way.
RULES = {
    # It hears nothing of a job that ends just as its worker stops, and gives it back.
    "ended as their worker stopped": last_of_its_process,
    "not acknowledged within visibility_timeout": late_by(VISIBILITY_TIMEOUT),
    "enqueued while the broker was away": asked_during("the broker"),
}


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with contextlib.closing(Stand(case="shop")) as stand:
        result = stand.up()
        assert result.status == 0, result.output
        yield Shop(stand)


@pytest.fixture
def queue(shop: Shop) -> Shop:
    """Return the queue with nothing in it."""
    shop.forget()
    return shop


def assert_nothing_lost(name: str, account: Account) -> None:
    print(f"{name}: {account.told(**RULES)}")
    assert account.lost == []
    assert [job for job in account.cut_off if not account.killed(job)] == [], "cut off, and by no kill"
    assert account.unexplained(*RULES.values()) == {}


def test_no_job_is_lost_by_a_release_and_a_killed_worker(queue: Shop) -> None:
    with queue.customers(mixed("late", every=40)) as customers:
        queue.kill_command("late")
        queue.release()
        customers.wait_for(50)
    assert_nothing_lost("a killed worker and a release", queue.drained())


@pytest.mark.wide
def test_no_job_is_lost_by_three_releases_a_way_back_and_all_that_is_killed(queue: Shop) -> None:
    """Jobs that are acknowledged when they begin are among those of the releases, and not where something is killed."""
    with queue.customers(mixed("late", "early", every=40)) as customers:
        for change in (queue.release, queue.release, queue.roll_back, queue.release):
            change()
            customers.wait_for(250)
    assert_nothing_lost("three releases and a way back", queue.drained())
    with queue.customers(mixed("late", every=40)) as customers:
        for kill in (queue.kill_process, queue.kill_command, queue.kill_parent, queue.kill_broker):
            kill("late")
            customers.wait_for(250)
        customers.wait_for(max(0, 3_000 - len(queue.orders) - customers.acknowledged))
    account = queue.drained()
    assert_nothing_lost("that, and all that was killed", account)
    assert len(account.enqueued) >= 3_000
    assert {
        kill.what for kill in account.kills if any(kill.found(run) for runs in account.runs.values() for run in runs)
    }


def test_jobs_that_are_acknowledged_when_they_begin_are_lost_with_their_worker(queue: Shop) -> None:
    """The saboteur of the kills: Celery's own way."""
    queue.kill_command("early", since=0.5)
    account = queue.drained(again=False)
    print(f"acknowledged early: {account.told(**RULES)}")
    assert account.lost
    assert all(account.killed(job) for job in account.lost)


def test_workers_that_are_not_given_their_time_lose_what_was_acknowledged(queue: Shop) -> None:
    """The saboteur of the releases: they are killed as soon as they are told to stop."""
    worker = queue.stand.stack["workers"][0]
    allowed = worker["graceful_timeout"]
    queue.stand.edit_stack(lambda _stack: worker.update(graceful_timeout="0"))
    assert queue.stand.up().status == 0
    queue.hold(queue.processes(*WORKERS), Kind("early", ENDLESS), since=0.5)
    queue.release()
    with queue.enough():
        account = queue.drained(again=False)
    print(f"with graceful_timeout 0: {account.told(**RULES)}")
    queue.stand.edit_stack(lambda _stack: worker.update(graceful_timeout=allowed))  # for the next `up`
    assert account.lost
    assert set(account.lost) <= set(account.cut_off)


def test_a_broker_that_keeps_nothing_on_disk_loses_what_waits(queue: Shop) -> None:
    """The saboteur of the broker's kill."""
    stand = queue.stand
    with stand.sabotaged("no_appendonly"):
        stand.edit_stack(lambda stack: stack["broker"].update(memory="65m"))
        result = stand.up()
        assert result.status == 0, result.output
    queue.kill_broker("late", waiting=20)
    queue.enqueue(1, Kind("late", SHORT))  # what waited before it would be begun before it
    until(lambda: queue.orders[-1].job in queue.journal.ended(), PATIENCE)
    account = queue.drained(2 * HELD)
    print(f"without appendonly: {account.told(**RULES)}")
    stand.edit_stack(lambda stack: stack["broker"].update(memory="64m"))  # for the next `up`
    assert [job for job in account.lost if job not in account.runs]
