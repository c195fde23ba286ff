"""The conformance suite on several hosts that are reached by SSH, by the real engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests import conformance
from tests.e2e.hosts import HostsStand, LoadOfAll, hosts_stand

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conformance import ClusterUnderTest
    from tests.load import Load


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostsStand]:
    with hosts_stand(tmp_path_factory.mktemp("hosts")) as stand:
        result = stand.up()
        assert result.status == 0, result.output
        yield stand


class OnAll:
    def load(self, cluster: ClusterUnderTest, **options: Any) -> Load:
        assert isinstance(cluster, HostsStand)
        return LoadOfAll(cluster, **options)


class TestAnswers(OnAll, conformance.Answers):
    def make_superuser(self, cluster: ClusterUnderTest) -> None:
        assert isinstance(cluster, HostsStand)
        cluster.make_superuser()


class TestChanges(OnAll, conformance.Changes):
    least = 50_000


class TestFaults(OnAll, conformance.Faults):
    pass


class TestSaboteurs(OnAll, conformance.Saboteurs):
    pass
