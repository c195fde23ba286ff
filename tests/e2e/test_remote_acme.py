"""A certificate by ACME on hosts: a renewer beside each nginx, renewals under load, and who can read the keys."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from typing import TYPE_CHECKING

import pytest

from tests.by_acme import LASTS, assert_renewals_lose_nothing, certificate_row, certificate_rows, load_of, port, tls_of
from tests.conformance import AROUND, assert_nothing_lost, assert_up, wait_until
from tests.e2e.remote import Host, Network, RemoteStand
from tests.e2e.tools import gateway
from tests.pebble import Pebble, needs_pebble, shown
from tests.trees import files_with

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = needs_pebble

#: Where hosts listen.
HTTP, HTTPS = 8080, 9443

#: The most that `systemd-analyze security` may say of what keeps a certificate.
EXPOSED = 1.6


def site(pebble: Pebble) -> dict[str, object]:
    return {"server_names": ["cluster", "localhost"], "listen": HTTP, "tls": tls_of(pebble, HTTPS)}


def kept(host: Host) -> set[str]:
    """Return the certificates that a host keeps."""
    return {*host.run("sh", "-c", "ls /var/lib/cluster-*/acme/certificates").split()}


def key(host: Host) -> str:
    """Return the second line of the private key in use."""
    return host.run("sh", "-c", "cat /var/lib/cluster-*/acme/live/privkey.pem").splitlines()[1]


def units(host: Host) -> list[str]:
    return host.run("sh", "-c", "ls /etc/systemd/system | grep acme", check=False).split()


def assert_up_again_changes_nothing(stand: RemoteStand) -> None:
    result = stand.up()
    assert result.status == 0, result.output
    assert "no changes" in result.output, result.output


def assert_valid(stand: RemoteStand) -> None:
    """A certificate of a minute is late, or not loaded yet, for a moment now and then."""
    wait_until(lambda: all(row["state"] == "valid" for row in certificate_rows(stand)), "each certificate is valid")


# --- one host


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hosts")


@pytest.fixture(scope="module")
def host(directory: Path) -> Iterator[Host]:
    with contextlib.closing(Host(directory)) as found:
        yield found


@pytest.fixture(scope="module")
def pebble(host: Host) -> Iterator[Pebble]:
    with contextlib.closing(Pebble(HTTP, host=gateway(), seconds=LASTS, at=host.address)) as found:
        yield found


@pytest.fixture(scope="module")
def stand(host: Host, pebble: Pebble) -> Iterator[RemoteStand]:
    with contextlib.closing(RemoteStand(host, site=site(pebble))) as found:
        assert_up(found)
        yield found


def test_renewals_a_release_and_a_weight_lose_no_request_and_no_session(stand: RemoteStand, pebble: Pebble) -> None:
    assert_renewals_lose_nothing(stand, pebble)
    assert_valid(stand)
    assert_up_again_changes_nothing(stand)


def test_the_keys_are_root_s_and_the_renewer_s_alone_and_never_come_here(stand: RemoteStand, host: Host) -> None:
    modes = host.run("sh", "-c", "stat --format '%a' /var/lib/cluster-*/acme/certificates/*/privkey.pem").split()
    assert {*modes} == {"600"}
    assert host.run("sh", "-c", "stat -L --format '%a' /var/lib/cluster-*/acme").split() == ["700"]
    account = f"/var/lib/cluster-{stand.name}/account"
    assert host.run("stat", "--format", "%a %U", account) == "700 root"
    assert host.run("stat", "--format", "%a %U", f"{account}/account.key") == "600 root"
    for path in (f"{account}/account.key", f"/var/lib/cluster-{stand.name}/acme/live/privkey.pem"):
        done = host.run("runuser", "-u", f"cluster-{stand.name}", "--", "cat", path, check=False)
        assert "KEY" not in done
    secrets = [key(host), host.run("cat", f"{account}/account.key").splitlines()[1]]
    assert not files_with(stand.root, *secrets)
    said = host.run("sh", "-c", "journalctl; cat /etc/systemd/system/*acme*; systemctl show '*acme*'; ps -eo args")
    assert not [one for one in secrets if one in said]


def test_what_keeps_a_certificate_is_in_a_sandbox(stand: RemoteStand, host: Host) -> None:
    for unit in ("acme", "acme-load"):
        said = host.run("systemd-analyze", "security", "--no-pager", f"cluster-{stand.name}.{unit}.service")
        exposed = float(said.rpartition("level for ")[2].split(": ")[1].split()[0])
        print(f"{unit}: {exposed}")
        assert exposed <= EXPOSED, said
    assert host.run("systemctl", "--failed", "--no-legend") == ""


def test_a_host_that_boots_again_has_its_certificate(stand: RemoteStand, host: Host) -> None:
    held, before = kept(host), shown(port(stand), "cluster", host.address)
    assert before
    host.restart()
    host.until(lambda: stand.status()["ok"])
    assert kept(host) & held
    assert_valid(stand)
    assert_up_again_changes_nothing(stand)


def test_a_renewer_that_was_stopped_by_hand_is_told_and_put_right(stand: RemoteStand, host: Host) -> None:
    host.run("systemctl", "stop", f"cluster-{stand.name}.acme.service")
    assert certificate_row(stand)["state"] == "not running"
    assert not stand.status()["ok"]
    assert_up(stand)
    assert_valid(stand)


def test_a_certificate_outlives_down(stand: RemoteStand, pebble: Pebble, host: Host) -> None:
    held = kept(host)
    assert stand.down().status == 0
    assert units(host) == []
    assert kept(host) & held
    state = host.run("ls", f"/var/lib/cluster-{stand.name}", "/srv/cluster", check=False)
    assert "account" not in state
    assert stand.name not in host.run("ls", "/srv", "/srv/cluster", check=False)
    given = pebble.issued()
    assert_up(stand)
    assert kept(host) & held or pebble.issued() > given
    with load_of(stand, pebble) as load:
        load.wait_for(AROUND)
    assert_nothing_lost(load.counts)


def test_what_an_authority_refuses_is_told_and_the_former_certificate_serves_on(stand: RemoteStand, host: Host) -> None:
    """Another directory is another certificate to be had, and there is none at this one."""
    acme = stand.stack["site"]["tls"]["acme"]
    directory = acme["directory"]
    stand.edit_stack(lambda _stack: acme.update(directory=directory.replace("/dir", "/nowhere")))
    held = kept(host)
    try:
        result = stand.up()
        assert "; again at " in result.output, result.output
        assert "; again at " in certificate_row(stand)["message"]
        assert kept(host) & held
        assert "acme: asking" in stand.run("logs", stand.name, "acme").output
    finally:
        stand.edit_stack(lambda _stack: acme.update(directory=directory))
        assert_up(stand)
    assert_valid(stand)


def test_a_reload_without_the_care_of_a_renewal_s_loses_requests(
    stand: RemoteStand, pebble: Pebble, host: Host
) -> None:
    """The saboteur of the first test."""
    with load_of(stand, pebble) as load:
        load.wait_for(AROUND)
        for reloads in range(1, 61):  # noqa: B007 - told below
            host.run("systemctl", "reload", "nginx.service")
            time.sleep(0.2)
            if load.snapshot().failed:
                break
    print(f"{reloads} reloads without care: {load.counts}")
    assert load.counts.failed


# --- two nginx


@pytest.fixture(scope="module")
def two(directory: Path) -> Iterator[tuple[RemoteStand, Pebble]]:
    with contextlib.ExitStack() as there:
        network = there.enter_context(contextlib.closing(Network()))
        roles = {"web1": ("app", "nginx"), "edge1": ("nginx",)}
        hosts = [
            there.enter_context(contextlib.closing(Host(directory, *one, network.place()))) for one in roles.items()
        ]
        # It asks the first one, whoever ordered.
        pebble = Pebble(HTTP, host=f"{network.begin}.1", seconds=2 * LASTS, at=hosts[0].address)
        there.enter_context(contextlib.closing(pebble))
        stand = there.enter_context(contextlib.closing(RemoteStand(*hosts, site=site(pebble))))
        assert_up(stand)
        yield stand, pebble


def test_two_nginx_have_a_certificate_each_though_one_of_them_alone_is_asked(two: tuple[RemoteStand, Pebble]) -> None:
    stand, pebble = two
    assert {row["service"] for row in certificate_rows(stand)} == {"acme@web1", "acme@edge1"}
    assert_valid(stand)
    seen = {hashlib.sha256(shown(port(stand), "cluster", host.address)).hexdigest() for host in stand.all_hosts}
    assert len(seen) == 2
    assert pebble.issued() >= 2
    keys = [key(host) for host in stand.all_hosts]
    assert len({*keys}) == 2
    accounts = {
        host.run("sh", "-c", "sha256sum /var/lib/cluster-*/account/account.key").split()[0] for host in stand.all_hosts
    }
    assert len(accounts) == 1
    assert not files_with(stand.root, *keys)
    checks = json.loads(stand.run("verify", stand.name, "--json").output)["checks"]
    shaken = {check["name"]: check["ok"] for check in checks if "the certificate covers the site" in check["name"]}
    assert shaken == {f"{host.name}: the certificate covers the site": True for host in stand.all_hosts}
    assert_up_again_changes_nothing(stand)


def test_renewals_of_two_nginx_lose_no_request_and_no_session(two: tuple[RemoteStand, Pebble]) -> None:
    stand, pebble = two
    assert_renewals_lose_nothing(stand, pebble, [host.address for host in stand.all_hosts])


def test_a_host_that_is_no_nginx_any_more_keeps_no_certificate(two: tuple[RemoteStand, Pebble]) -> None:
    stand, _pebble = two
    web1, edge1 = stand.all_hosts
    stand.edit_stack(lambda stack: stack["hosts"][0].update(roles=["app"]))
    assert_up(stand)
    assert units(web1) == []
    assert units(edge1)
    assert [row["service"] for row in certificate_rows(stand)] == ["acme@edge1"]
    wait_until(lambda: bool(shown(port(stand), "cluster", edge1.address)), "edge1 serves on")
    assert web1.run("ls", f"/srv/cluster/{stand.name}/renewers", check=False) == ""
    assert kept(web1), "authorities give few: what is there stays until the data goes"
