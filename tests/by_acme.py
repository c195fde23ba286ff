"""A cluster whose certificate comes by ACME, on whatever platform: what is asked of it on each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from tests.conformance import AROUND, ClusterUnderTest, assert_nothing_lost, assert_up, servers, wait_until
from tests.pebble import shown
from tests.secure_load import SecureLoad

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.pebble import Pebble

#: Seconds that a certificate lasts where renewals are waited for: they come after two thirds.
LASTS = 60

#: A client's pause, in seconds: for most of a minute nothing but renewals is waited for.
PAUSE = 0.5

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


def load_of(cluster: ByAcme, pebble: Pebble, at: Sequence[str] = ()) -> SecureLoad:
    root = cluster.root / "pebble.pem"
    root.write_text(pebble.root())
    return SecureLoad(port(cluster), root, pause=PAUSE, flags=NO_CHECK_TIME, at=at or [cluster.address[0]])


def certificate_rows(cluster: ByAcme) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cluster.status()["services"]
    return [row for row in found if row["kind"] == "acme"]


def certificate_row(cluster: ByAcme) -> dict[str, Any]:
    (found,) = certificate_rows(cluster)
    return found


def assert_renewals_lose_nothing(cluster: ByAcme, pebble: Pebble, at: Sequence[str] = ()) -> None:
    """Two renewals under load, and a release and another weight beside them.

    at: the addresses of the cluster's nginx, where it has several; each of them has a certificate of its own.
    """
    at = at or [cluster.address[0]]
    before, given = [shown(port(cluster), "cluster", one) for one in at], pebble.issued()
    load = load_of(cluster, pebble, at)
    with load:
        load.wait_for(AROUND)
        cluster.edit_stack(lambda stack: servers(stack)["app1"].update(weight=5))
        assert_up(cluster)
        cluster.edit_code("visits/views.py", "\n# another release\n")
        assert_up(cluster)
        wait_until(lambda: pebble.issued() >= given + 2 * len(at), "it was renewed twice", seconds=4 * LASTS)
        wait_until(lambda: all(row["ok"] for row in certificate_rows(cluster)), "nginx has read it", pause=0.5)
        load.wait_for(AROUND)
    renewals = pebble.issued() - given
    print(f"over TLS, {renewals} renewals, a release, another weight: {load.counts}, {load.again} asked again")
    assert_nothing_lost(load.counts)
    after = [shown(port(cluster), "cluster", one) for one in at]
    assert not {*before} & {*after}
