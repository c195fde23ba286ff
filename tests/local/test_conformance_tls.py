"""The conformance suite on this machine by https: clients that keep their connections, half of them by HTTP/2."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from tests import conformance
from tests.local.stand import Stand, free_port
from tests.secure_load import SecureLoad

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conformance import ClusterUnderTest

# The changes and faults are guarded without TLS, and reloads over TLS by test_tls.py.
pytestmark = pytest.mark.wide


@pytest.fixture(scope="module")
def cluster() -> Iterator[Stand]:
    with contextlib.closing(Stand(instances=4)) as stand:
        stand.stack["site"]["tls"] = {"listen": free_port(consecutive=3) + 2, "self_signed": True}
        stand.write()
        conformance.assert_up(stand)
        yield stand


class OverTls(conformance.Loaded):
    """Every other client by HTTP/1.1, every other one by HTTP/2."""

    def load(self, cluster: ClusterUnderTest, **options: Any) -> SecureLoad:
        """Return clients that believe the stack's own authority alone."""
        assert isinstance(cluster, Stand)
        return SecureLoad(cluster.stack["site"]["tls"]["listen"], cluster.paths.authority, **options)


class TestChanges(OverTls, conformance.Changes):
    pass


class TestFaults(OverTls, conformance.Faults):
    pass


class TestSaboteurs(OverTls, conformance.Saboteurs):
    pass


def test_verify_passes(cluster: Stand) -> None:
    result = cluster.verify()
    assert result.status == 0, result.output
