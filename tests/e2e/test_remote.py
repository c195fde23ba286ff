"""The conformance suite on a host that is reached by SSH, by the real engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import conformance
from tests.e2e.remote import RemoteStand, remote_stand

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conformance import ClusterUnderTest


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteStand]:
    with remote_stand(tmp_path_factory.mktemp("host")) as stand:
        result = stand.up()
        assert result.status == 0, result.output
        yield stand


class TestAnswers(conformance.Answers):
    def make_superuser(self, cluster: ClusterUnderTest) -> None:
        assert isinstance(cluster, RemoteStand)
        cluster.make_superuser()


class TestChanges(conformance.Changes):
    least = 10_000


class TestFaults(conformance.Faults):
    pass


class TestSaboteurs(conformance.Saboteurs):
    pass
