"""The jobs of Django's tasks in containers, through releases, a way back and kills, each of them counted."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests import tasks_jobs
from tests.e2e.stand import DockerStand
from tests.local.stand import stack_of_case
from tests.tasks_jobs import Tasks

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def tasks() -> Iterator[Tasks]:
    stack = {**stack_of_case("tasks"), "platform": "docker", "database": {"engine": "postgres"}}
    with contextlib.closing(DockerStand(stack, case="tasks", name="wt")) as stand:
        result = stand.up()
        assert result.status == 0, result.output
        yield Tasks(stand)


@pytest.fixture
def queue(tasks: Tasks) -> Tasks:
    """Return the queue with nothing in it."""
    tasks.forget()
    return tasks


class TestEverything(tasks_jobs.Everything):
    least = 2_000


class TestSaboteurs(tasks_jobs.Saboteurs):
    pass
