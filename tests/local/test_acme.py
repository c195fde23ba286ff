"""A site whose certificate comes by ACME, on this machine: from the placeholder to renewals under load."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster.acme.kept import Store
from cluster.stack.secrets import write_secret
from tests.by_acme import LASTS, assert_renewals_lose_nothing, certificate_row, load_of, port, tls_of
from tests.conformance import AROUND, assert_nothing_lost, assert_up
from tests.local.stand import Stand, free_port
from tests.pebble import Pebble, needs_pebble, shown
from tests.trees import files_with

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = needs_pebble


def stand_by_name(instances: int = 1) -> Stand:
    """Return a stand whose site has names alone, as an authority wants it."""
    found = Stand(instances=instances)
    found.stack["site"]["server_names"] = ["cluster", "localhost"]
    return found


@pytest.fixture(scope="module")
def made() -> Iterator[Stand]:
    with contextlib.closing(stand_by_name(instances=2)) as found:
        yield found


@pytest.fixture(scope="module")
def pebble(made: Stand) -> Iterator[Pebble]:
    with contextlib.closing(Pebble(made.port, seconds=LASTS)) as found:
        yield found


@pytest.fixture(scope="module")
def stand(made: Stand, pebble: Pebble) -> Stand:
    """A stand that is up, with its first certificate."""
    made.stack["site"]["tls"] = tls_of(pebble, free_port(consecutive=30) + 29)
    made.write()
    result = made.up()
    assert result.status == 0, result.output
    assert "the certificate: valid, until " in result.output
    return made


def store(stand: Stand) -> Store:
    return Store(stand.paths.acme)


def test_clients_believe_the_first_certificate_and_status_says_when_it_is_renewed(stand: Stand, pebble: Pebble) -> None:
    with load_of(stand, pebble) as load:
        load.wait_for(AROUND)
    assert_nothing_lost(load.counts)
    row = certificate_row(stand)
    assert (row["state"], row["ok"]) == ("valid", True)


def test_nobody_else_reads_the_keys_and_no_instance_has_the_account(stand: Stand) -> None:
    keys = [*stand.paths.acme.rglob("privkey.pem"), stand.paths.secrets / "acme_account"]
    assert len(keys) >= 2
    for key in keys:
        assert key.stat().st_mode & 0o777 == 0o600
        assert key.stat().st_uid == os.geteuid()
    assert stand.paths.acme.stat().st_mode & 0o077 == 0
    account = (stand.paths.secrets / "acme_account").read_bytes()[40:140]
    assert not files_with(stand.paths.releases, account, links=True)


def test_renewals_releases_and_weights_lose_no_request_and_no_session(stand: Stand, pebble: Pebble) -> None:
    assert_renewals_lose_nothing(stand, pebble)
    assert stand.up().output.splitlines()[-1].startswith("stack t: no changes")


def test_a_certificate_outlives_down_and_another_name_is_asked_for_at_once(stand: Stand, pebble: Pebble) -> None:
    assert stand.down().status == 0
    held = (store(stand).live / "fullchain.pem").read_bytes()
    assert_up(stand)
    stand.edit_stack(lambda stack: stack["site"]["server_names"].append("shop.example.test"))
    result = stand.up()
    assert result.status == 0, result.output
    assert "the certificate: valid" in result.output
    issued = store(stand).issued()
    assert issued is not None
    assert "shop.example.test" in issued.names
    assert (store(stand).live / "fullchain.pem").read_bytes() != held


def test_what_the_authority_refuses_is_told_by_up_status_and_verify_and_what_is_there_serves_on(stand: Stand) -> None:
    with contextlib.closing(Pebble(free_port(consecutive=40) + 39)) as elsewhere:  # it asks where nobody answers
        stand.edit_stack(lambda stack: stack["site"].update(tls=tls_of(elsewhere, port(stand))))
        held = shown(port(stand), "cluster")
        result = stand.up()
        assert result.status == 0, result.output
        assert "connection refused" in result.output.lower(), result.output
        row = certificate_row(stand)
        assert "1 times; again at " in str(row["message"])
        assert shown(port(stand), "cluster") == held, "the one by the other authority serves on"
        tried = elsewhere.said().count("POST /order-plz")
        stand.supervisor().stop(["acme"])
        stand.supervisor().ensure([])
        assert_up(stand)
        assert elsewhere.said().count("POST /order-plz") == tried, "a restart is no reason to ask again"
        assert elsewhere.issued() == 0


def test_a_site_that_has_none_yet_serves_with_a_placeholder_and_says_so() -> None:
    with (
        contextlib.closing(stand_by_name()) as stand,
        contextlib.closing(Pebble(free_port(consecutive=40) + 39)) as elsewhere,
    ):
        stand.stack["site"]["tls"] = tls_of(elsewhere, free_port(consecutive=60) + 59)
        stand.write()
        result = stand.up()
        assert "the certificate: placeholder, " in result.output
        assert "connection refused" in result.output.lower(), result.output
        assert certificate_row(stand)["state"] == "placeholder"
        assert stand.run("status", stand.name).status == 1
        verified = stand.verify()
        assert verified.status == 1
        assert "self-signed" in verified.output
        stand.edit_stack(lambda stack: stack["site"].pop("tls"))
        assert_up(stand)
        assert "acme" not in stand.supervisor().processes()
        assert "acme" not in {row["service"] for row in stand.status()["services"]}


def test_an_account_is_bound_by_a_key_of_the_authoritys_that_no_instance_has() -> None:
    kid, key = "ours", "dGhlIGtleSB0aGF0IHRoZSBhdXRob3JpdHkgZ2F2ZSE"
    with (
        contextlib.closing(stand_by_name()) as stand,
        contextlib.closing(Pebble(stand.port, bound={kid: key})) as bound,
    ):
        tls = tls_of(bound, free_port(consecutive=60) + 59)
        stand.stack["site"]["tls"] = {**tls, "acme": {**tls["acme"], "eab": kid}}
        stand.write()
        result = stand.up()
        assert result.status != 0
        assert "the stack has no acme_eab_key. Write what the authority gave with it into .cluster/t/secrets/" in (
            result.output
        )
        path = stand.paths.secrets / "acme_eab_key"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_secret(path, "no key")
        result = stand.up()
        assert result.status != 0
        assert f"{path}: the key of site.tls.acme.eab: is no key in base64url" in result.output
        write_secret(path, key)
        result = stand.up()
        assert result.status == 0, result.output
        assert "the certificate: valid, until " in result.output
        assert bound.issued() == 1
        assert files_with(stand.paths.state, key) == [path]
        processes = [Path(f"/proc/{pid}") for pid in stand.processes("app1").values()]
        assert processes
        for process in processes:
            assert key.encode() not in (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
