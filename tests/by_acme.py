"""A cluster whose certificate comes by ACME, on whatever platform: what is asked of it on each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from tests.conformance import AROUND, ClusterUnderTest, assert_nothing_lost, assert_up, servers, wait_until
from tests.load import SPARSE
from tests.pebble import shown
from tests.secure_load import SecureLoad

if TYPE_CHECKING:
    from pathlib import Path

    from tests.pebble import Pebble

#: Seconds that a certificate lasts where renewals are waited for: they come after two thirds.
LASTS = 60

#: OpenSSL's X509_V_FLAG_NO_CHECK_TIME: on a busy machine one may end before the next is there.
NO_CHECK_TIME = 0x200000


class ByAcme(ClusterUnderTest, Protocol):
    """A cluster in a repository of its own, that says how it is."""

    @property
    def root(self) -> Path: ...
    def status(self) -> dict[str, Any]: ...


def tls_of(pebble: Pebble, port: int) -> dict[str, Any]:
    return {"listen": port, "acme": {"directory": pebble.url, "directory_ca": str(pebble.ca)}}


def port(cluster: ByAcme) -> int:
    found: int = cluster.stack["site"]["tls"]["listen"]
    return found


def load_of(cluster: ByAcme, pebble: Pebble) -> SecureLoad:
    root = cluster.root / "pebble.pem"
    root.write_text(pebble.root())
    return SecureLoad(port(cluster), root, pause=SPARSE, flags=NO_CHECK_TIME)


def certificate_row(cluster: ByAcme) -> dict[str, Any]:
    found: list[dict[str, Any]] = cluster.status()["services"]
    return next(row for row in found if row["service"] == "acme")


def assert_renewals_lose_nothing(cluster: ByAcme, pebble: Pebble) -> None:
    """Two renewals under load, and a release and another weight beside them."""
    before, given = shown(port(cluster), "cluster"), pebble.issued()
    load = load_of(cluster, pebble)
    with load:
        load.wait_for(AROUND)
        cluster.edit_stack(lambda stack: servers(stack)["app1"].update(weight=5))
        assert_up(cluster)
        cluster.edit_code("visits/views.py", "\n# another release\n")
        assert_up(cluster)
        wait_until(lambda: pebble.issued() >= given + 2, "it was renewed twice", seconds=4 * LASTS)
        wait_until(lambda: bool(certificate_row(cluster)["ok"]), "nginx has read it")
        load.wait_for(AROUND)
    renewals = pebble.issued() - given
    print(f"over TLS, {renewals} renewals, a release, another weight: {load.counts}, {load.again} asked again")
    assert_nothing_lost(load.counts)
    assert shown(port(cluster), "cluster") != before
