"""Celery's jobs on this machine, through releases, a way back and kills, each of them counted."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests import celery_jobs
from tests.celery_jobs import Shop
from tests.local.stand import Stand

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with contextlib.closing(Stand(case="shop", instances=1)) as stand:
        shop = Shop(stand)
        shop.up()
        yield shop


@pytest.fixture
def queue(shop: Shop) -> Shop:
    """Return the queue with nothing in it."""
    shop.forget()
    return shop


class TestQuickly(celery_jobs.Quickly):
    pass


@pytest.mark.wide
class TestEverything(celery_jobs.Everything):
    pass


class TestSaboteurs(celery_jobs.Saboteurs):
    pass
