"""Celery's jobs: enqueued by requests, through releases, a way back and kills, each of them counted.

`late` jobs are acknowledged when they have ended (acks_late, task_reject_on_worker_lost), `early` ones when they begin,
as Celery does by itself. A platform's test module makes a fixture `queue` (a `Shop` in which nothing is), and inherits
the classes.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.jobs import Kind, asked_during, children, last_of_its_process, late_by, until
from tests.queues import AT_WORK, ENDLESS, HELD, LONG, PATIENCE, SHORT, WORKERS, Queue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.jobs import Account

#: The project's visibility_timeout (tests/cases/shop): what a killed worker held is given to another one after it.
VISIBILITY_TIMEOUT = 20.0


def mixed(*kinds: str, every: int) -> Sequence[Kind]:
    """Return jobs of milliseconds of these kinds in turn, one of `every` with seconds."""
    return [Kind(kinds[turn % len(kinds)], SHORT if turn else LONG) for turn in range(every)]


class Shop(Queue):
    """The project's queue: two workers of two processes each, and the broker."""

    def at_jobs(self, worker: str) -> list[int]:
        """Return the two that the command has forked."""
        until(lambda: len(children(self.program(worker))) == 2, PATIENCE, lambda: f"{worker} is not whole")
        return children(self.program(worker))

    def kill_process(self, kind: str) -> None:
        """Kill one of the processes that a worker's command has forked."""
        one = self.processes("work1")[0]
        self.kill_at_work("a process of work1", one.pid, [one], Kind(kind, HELD))

    def kill_command(self, kind: str, *, since: float = 0.0) -> None:
        """Kill a worker's command itself, which holds what its processes do."""
        hit = self.processes("work1")
        self.kill_at_work("work1's command", self.program("work1"), hit, Kind(kind, HELD), since=since)

    def kill_parent(self, kind: str) -> None:
        """Kill what keeps a worker."""
        self.kill_keeper("work2", Kind(kind, HELD))

    def kill_broker(self, kind: str, *, waiting: int = 0) -> None:
        """Kill the broker while all processes are at a job, and so many more wait."""
        hit = self.processes(*WORKERS)
        names, busy = {one.name for one in hit}, set[str]()
        while busy != names:  # all are still at a job: what waits was given to nobody
            self.hold(hit, Kind(kind, HELD))
            self.enqueue(waiting, Kind(kind, SHORT))
            busy = self.journal.busy(names, since=0.0, left=AT_WORK)
        broker = self.stand.process_of("broker")
        with self.hits("the broker", hit):
            os.kill(broker, signal.SIGKILL)
            until(lambda: self.stand.process_of("broker") not in {0, broker}, PATIENCE, self.stand.status)


#: What Celery does by its own rules, where no kill has found a job under way.
RULES = {
    # It hears nothing of a job that ends just as its worker stops, and gives it back.
    "ended as their worker stopped": last_of_its_process,
    "not acknowledged within visibility_timeout": late_by(VISIBILITY_TIMEOUT),
    "enqueued while the broker was away": asked_during("the broker"),
}


def assert_nothing_lost(name: str, account: Account) -> None:
    print(f"{name}: {account.told(**RULES)}")
    assert account.lost == []
    assert [job for job in account.cut_off if not account.killed(job)] == [], "cut off, and by no kill"
    assert account.unexplained(*RULES.values()) == {}


class Quickly:
    """The least of it."""

    def test_no_job_is_lost_by_a_release_and_a_killed_worker(self, queue: Shop) -> None:
        with queue.customers(mixed("late", every=40), pause=0.2) as customers:
            queue.kill_command("late")
            queue.release()
            customers.wait_for(50)
        assert_nothing_lost("a killed worker and a release", queue.drained())


class Everything:
    """All that may happen to a stack."""

    least = 3_000

    def test_no_job_is_lost_by_three_releases_a_way_back_and_all_that_is_killed(self, queue: Shop) -> None:
        """Jobs that are acknowledged when they begin are among those of the releases, not where something is killed."""
        with queue.customers(mixed("late", "early", every=40)) as customers:
            for change in (queue.release, queue.release, queue.roll_back, queue.release):
                change()
                customers.wait_for(250)
        assert_nothing_lost("three releases and a way back", queue.drained())
        with queue.customers(mixed("late", every=40)) as customers:
            for kill in (queue.kill_process, queue.kill_command, queue.kill_parent, queue.kill_broker):
                kill("late")
                customers.wait_for(250)
            customers.wait_for(max(0, self.least - len(queue.orders) - customers.acknowledged))
        account = queue.drained()
        assert_nothing_lost("that, and all that was killed", account)
        assert len(account.enqueued) >= self.least
        runs = [run for runs in account.runs.values() for run in runs]
        assert all(any(map(kill.found, runs)) for kill in account.kills), "each kill found a job under way"


class Saboteurs:
    """With a protection switched off the same counts are not zero."""

    def test_jobs_that_are_acknowledged_when_they_begin_are_lost_with_their_worker(self, queue: Shop) -> None:
        """The saboteur of the kills: Celery's own way."""
        queue.kill_command("early", since=0.5)
        account = queue.drained(again=False)
        print(f"acknowledged early: {account.told(**RULES)}")
        assert account.lost
        assert all(account.killed(job) for job in account.lost)

    @pytest.mark.wide
    def test_workers_that_are_not_given_their_time_lose_what_was_acknowledged(self, queue: Shop) -> None:
        """The saboteur of the releases: they are killed as soon as they are told to stop."""
        with queue.without_graceful_timeout():
            queue.hold(queue.processes(*WORKERS), Kind("early", ENDLESS), since=0.5)
            queue.release()
            with queue.enough():
                account = queue.drained(again=False)
        print(f"with graceful_timeout 0: {account.told(**RULES)}")
        assert account.lost
        assert set(account.lost) <= set(account.cut_off)

    def test_a_broker_that_keeps_nothing_on_disk_loses_what_waits(self, queue: Shop) -> None:
        """The saboteur of the broker's kill."""
        stand = queue.stand
        with stand.sabotaged("no_appendonly"):
            stand.edit_stack(lambda stack: stack["broker"].update(memory="65m"))
            queue.up()
        queue.kill_broker("late", waiting=20)
        queue.enqueue(1, Kind("late", SHORT))  # what waited before it would be begun before it
        until(lambda: queue.orders[-1].job in queue.journal.ended(), PATIENCE)
        account = queue.drained(2 * HELD)
        print(f"without appendonly: {account.told(**RULES)}")
        stand.edit_stack(lambda stack: stack["broker"].update(memory="64m"))  # for the next `up`
        assert [job for job in account.lost if job not in account.runs]
