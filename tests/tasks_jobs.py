"""The jobs of Django's tasks, kept in PostgreSQL: through releases, a way back and kills, each of them counted.

Its worker (django-tasks-db) takes a job by a mark in the database, and nobody takes it back from a worker that is no
more: the project's command `requeue` does. A platform's test module makes a fixture `queue` (a `Tasks` in which nothing
is), and inherits the classes.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from tests.jobs import Kind
from tests.queues import ENDLESS, HELD, LONG, PATIENCE, SHORT, WORKERS, Queue

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.jobs import Account

#: Seconds after which a job that the database has as running is given back; more than any takes.
OLD = 15.0

MIXED = [Kind("job", SHORT if turn else LONG) for turn in range(40)]


class Tasks(Queue):
    """The project's queue, and its two workers of one process each."""

    def kill_command(self) -> None:
        """Kill a worker's command while it is at a job."""
        hit = self.processes("work1")
        self.kill_at_work("work1's command", hit[0].pid, hit, Kind("job", HELD))

    def kill_parent(self) -> None:
        """Kill what keeps a worker."""
        self.kill_keeper("work2", Kind("job", HELD))

    def restart_database(self) -> None:
        self._without_database("the database's restart", self.stand.restart_database)

    def kill_database(self) -> None:
        self._without_database("the database", self.stand.kill_database)

    def _without_database(self, what: str, away: Callable[[], None]) -> None:
        """Do something to the database while both workers are at a job: they can't say that it has ended."""
        hit = self.processes(*WORKERS)
        self.hold(hit, Kind("job", HELD))
        with self.hits(what, hit):
            away()

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


class Quickly:
    """The least of it."""

    def test_no_job_is_lost_by_a_release_and_a_killed_worker(self, queue: Tasks) -> None:
        with queue.customers(MIXED) as customers:
            queue.kill_command()
            queue.release()
            customers.wait_for(50)
        assert_nothing_lost("a killed worker and a release", queue)


class Everything:
    """All that may happen to a stack."""

    least = 1_500

    def test_no_job_is_lost_by_three_releases_a_way_back_and_all_that_is_killed(self, queue: Tasks) -> None:
        changes = (queue.release, queue.release, queue.roll_back, queue.release)
        kills = (queue.kill_command, queue.kill_parent, queue.restart_database, queue.kill_database)
        with queue.customers(MIXED) as customers:
            for change in (*changes, *kills):
                change()
                customers.wait_for(150)
            customers.wait_for(max(0, self.least - customers.acknowledged))
        account = assert_nothing_lost("three releases, a way back, and all that was killed", queue)
        assert len(account.enqueued) >= self.least
        assert len(account.kills) == len(kills)
        runs = [run for runs in account.runs.values() for run in runs]
        assert all(any(map(kill.found, runs)) for kill in account.kills), "each kill found a job under way"


class Saboteurs:
    """With a protection switched off the same counts are not zero."""

    def test_workers_that_are_not_given_their_time_lose_what_they_were_at(self, queue: Tasks) -> None:
        """The saboteur of the releases, and of giving back: killed as soon as they are told to stop; nobody looks."""
        with queue.without_graceful_timeout():
            queue.hold(queue.processes(*WORKERS), Kind("job", ENDLESS))
            queue.release()
            with queue.enough():
                account = queue.drained(again=False)
        print(f"with graceful_timeout 0: {account.told()}")
        assert account.lost
        assert set(account.lost) <= set(account.cut_off)
        with queue.enough():
            # One at a time where they began apart: a job is given back once it is old.
            assert queue.given_back() >= set(account.lost)
            assert queue.account().lost == [], "given back, they are done"
