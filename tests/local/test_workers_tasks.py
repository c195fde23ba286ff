"""The jobs of Django's tasks on this machine, kept in PostgreSQL: through releases, a way back and kills, each counted.

Its worker (django-tasks-db) takes a job by a mark in the database, and nobody takes it back from a worker that is no
more: the project's command `requeue` does.
"""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING

import pytest

from tests.jobs import Kill, Kind
from tests.local.postgres import Postgres, missing
from tests.local.queues import PATIENCE, Queue
from tests.local.stand import Stand

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.jobs import Account

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

#: Seconds after which a job that the database has as running is given back; more than any takes.
OLD = 15.0

SHORT, LONG, HELD, ENDLESS = 0.003, 2.0, 3.0, 3600.0

WORKERS = ("work1", "work2")

MIXED = [Kind("job", SHORT if turn else LONG) for turn in range(40)]


class Tasks(Queue):
    """The project's queue, and its two workers of one process each."""

    def processes(self, *workers: str) -> list[int]:
        return [self.program(worker) for worker in workers]

    def kill_command(self) -> None:
        """Kill a worker's command while it is at a job."""
        pid = self.program("work1")
        self.kill_at_work("work1's command", pid, [pid], Kind("job", HELD))

    def kill_parent(self) -> None:
        """Kill the process that keeps a worker."""
        self.kill_at_work("work2's parent", self.parent("work2"), self.processes("work2"), Kind("job", HELD))

    def restart_database(self) -> None:
        """Restart the database while both workers are at a job: they can't say that it has ended."""
        hit = self.processes(*WORKERS)
        self.hold(hit, Kind("job", HELD))
        at = time.monotonic()
        self.stand.restart_database()
        self.kills.append(Kill("the database's restart", at, time.monotonic(), frozenset(hit)))
        self.wait_well()

    def give_back(self) -> set[str]:
        """Give the jobs of workers that are no more back to the queue; return which."""
        result = self.stand.run("run", self.stand.name, "--", "manage.py", "requeue", "--older-than", f"{OLD:g}")
        assert result.status == 0, result.output
        return set(re.findall(r"^given back: (\S+)", result.output, re.MULTILINE))

    def given_back(self, timeout: float = PATIENCE) -> set[str]:
        """Give back what nobody works on until all jobs have ended; return which those were."""
        found: set[str] = set()
        deadline = time.monotonic() + timeout
        while self.drained(OLD / 3).lost:
            assert time.monotonic() < deadline, f"not ended: {self.account().lost}"
            found |= self.give_back()
        return found


@pytest.fixture(scope="module")
def tasks() -> Iterator[Tasks]:
    with (
        contextlib.closing(Postgres()) as database,
        contextlib.closing(Stand(case="tasks", database=database)) as stand,
    ):
        result = stand.up()
        assert result.status == 0, result.output
        yield Tasks(stand)


@pytest.fixture
def queue(tasks: Tasks) -> Tasks:
    """Return the queue with nothing in it."""
    tasks.forget()
    return tasks


def assert_nothing_lost(name: str, queue: Tasks) -> Account:
    queue.drained(OLD)
    given_back = queue.given_back()
    account = queue.account()
    before_they_began = [job for job in given_back if len(account.runs[job]) == 1]
    print(
        f"{name}: {account.told()}; {len(given_back)} given back, {len(before_they_began)} of them never begun before"
    )
    assert account.lost == []
    assert [job for job in account.cut_off if not account.killed(job)] == [], "cut off, and by no kill"
    assert account.unexplained() == {}
    assert set(account.repeated) <= given_back
    return account


def test_no_job_is_lost_by_a_release_and_a_killed_worker(queue: Tasks) -> None:
    with queue.customers(MIXED) as customers:
        queue.kill_command()
        queue.release()
        customers.wait_for(50)
    assert_nothing_lost("a killed worker and a release", queue)


@pytest.mark.wide
def test_no_job_is_lost_by_three_releases_a_way_back_and_all_that_is_killed(queue: Tasks) -> None:
    changes = (queue.release, queue.release, queue.roll_back, queue.release)
    kills = (queue.kill_command, queue.kill_parent, queue.restart_database)
    with queue.customers(MIXED) as customers:
        for change in (*changes, *kills):
            change()
            customers.wait_for(150)
        customers.wait_for(max(0, 1_500 - customers.acknowledged))
    account = assert_nothing_lost("three releases, a way back, and all that was killed", queue)
    assert len(account.enqueued) >= 1_500
    found = {kill.what for kill in account.kills for runs in account.runs.values() if any(map(kill.found, runs))}
    assert found == {"work1's command", "work2's parent", "the database's restart"}


def test_workers_that_are_not_given_their_time_lose_what_they_were_at(queue: Tasks) -> None:
    """The saboteur of the releases, and of giving back: killed as soon as they are told to stop, and nobody looks."""
    worker = queue.stand.stack["workers"][0]
    allowed = worker["graceful_timeout"]
    queue.stand.edit_stack(lambda _stack: worker.update(graceful_timeout="0"))
    assert queue.stand.up().status == 0
    queue.hold(queue.processes(*WORKERS), Kind("job", ENDLESS))
    queue.release()
    with queue.enough():
        account = queue.drained(again=False)
    print(f"with graceful_timeout 0: {account.told()}")
    queue.stand.edit_stack(lambda _stack: worker.update(graceful_timeout=allowed))  # for the next `up`
    assert account.lost
    assert set(account.lost) <= set(account.cut_off)
    with queue.enough():
        # One at a time where they began apart: a job is given back once it is old.
        assert queue.given_back() >= set(account.lost)
        assert queue.account().lost == [], "given back, they are done"
