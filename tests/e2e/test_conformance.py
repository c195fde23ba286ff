"""The conformance suite on Docker, by the real engine."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests import conformance
from tests.e2e.stand import DockerStand

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conformance import ClusterUnderTest


@pytest.fixture(scope="module")
def cluster() -> Iterator[DockerStand]:
    with contextlib.closing(DockerStand()) as stand:
        result = stand.up()
        assert result.status == 0, result.output
        yield stand


class TestAnswers(conformance.Answers):
    def make_superuser(self, cluster: ClusterUnderTest) -> None:
        assert isinstance(cluster, DockerStand)
        create = ("createsuperuser", "--noinput", "--username", "admin", "--email", "a@example.com")
        result = cluster.run("manage", cluster.name, "--", *create, DJANGO_SUPERUSER_PASSWORD="a long enough one")
        assert result.status == 0, result.output


class TestChanges(conformance.Changes):
    least = 50_000


class TestFaults(conformance.Faults):
    pass


class TestSaboteurs(conformance.Saboteurs):
    pass
