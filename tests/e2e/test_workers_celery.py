"""Celery's jobs in containers, through releases, a way back and kills, each of them counted."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests import celery_jobs
from tests.celery_jobs import Shop
from tests.e2e.stand import DockerStand

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with contextlib.closing(DockerStand(case="shop", name="wc")) as stand:
        result = stand.up()
        assert result.status == 0, result.output
        yield Shop(stand)


@pytest.fixture
def queue(shop: Shop) -> Shop:
    """Return the queue with nothing in it."""
    shop.forget()
    return shop


class TestEverything(celery_jobs.Everything):
    pass


class TestSaboteurs(celery_jobs.Saboteurs):
    pass
