"""The jobs of Django's tasks on this machine, through releases, a way back and kills, each of them counted."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests import tasks_jobs
from tests.local.postgres import Postgres, missing
from tests.local.stand import Stand
from tests.tasks_jobs import Tasks

if TYPE_CHECKING:
    from collections.abc import Iterator

# That workers lose no job is guarded with a queue of files and with Celery.
pytestmark = [pytest.mark.skipif(bool(missing()), reason=missing()), pytest.mark.wide]


@pytest.fixture(scope="module")
def tasks() -> Iterator[Tasks]:
    with (
        contextlib.closing(Postgres()) as database,
        contextlib.closing(Stand(case="tasks", database=database)) as stand,
    ):
        tasks = Tasks(stand)
        tasks.up()
        yield tasks


@pytest.fixture
def queue(tasks: Tasks) -> Tasks:
    """Return the queue with nothing in it."""
    tasks.forget()
    return tasks


class TestQuickly(tasks_jobs.Quickly):
    pass


class TestEverything(tasks_jobs.Everything):
    pass


class TestSaboteurs(tasks_jobs.Saboteurs):
    pass
