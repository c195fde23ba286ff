"""Uploads on a filesystem that hosts share, under load, while hosts and releases change; by the real engine."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import pytest

from tests.conformance import servers
from tests.e2e.hosts import SHARED, VOLUME, SharingHost, Volume, hosts_stand, sharing
from tests.e2e.uploads import SHARING, Uploads, share_uploads, up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.e2e.hosts import HostsStand
    from tests.e2e.remote import Host


def number_of(stand: HostsStand, there: Host) -> str:
    return there.run("id", "-u", f"cluster-{stand.name}")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def volume() -> Iterator[Volume]:
    with contextlib.closing(Volume()) as found:
        yield found


@pytest.fixture(scope="module")
def stand(directory: Path, volume: Volume) -> Iterator[HostsStand]:
    with hosts_stand(directory, SHARING, kinds=sharing(dict.fromkeys(SHARING, volume))) as found:
        # Its next user of the system's would have another number than on the others.
        found.all_hosts[1].run("useradd", "--system", "somebody")
        share_uploads(found)
        up(found)
        yield found


def unharmed(stand: HostsStand, what: str, change: Callable[[], object]) -> None:
    uploads = Uploads(stand)
    with uploads.under_load():
        change()
    uploads.read_again()
    print(f"{what}: {uploads}")
    assert not uploads.failed
    assert not uploads.lost
    kept_by = {host for _content, host in uploads.sent.values()}
    assert len(kept_by) > 1, "all were kept by one host"
    assert all(any(one == by and other != by for one, other in uploads.read) for by in kept_by)


def test_the_user_has_one_number_on_all_hosts(stand: HostsStand) -> None:
    numbers = {number_of(stand, one) for one in stand.all_hosts}
    assert len(numbers) == 1
    owner = stand.host_there.run("stat", "-c", "%u %U:%G %a", f"{SHARED}/cluster-{stand.name}")
    assert owner == f"{numbers.pop()} cluster-{stand.name}:www-data 2750"
    result = stand.up()
    assert "no changes" in result.output, result.output
    verified = stand.run("verify", stand.name)
    assert verified.status == 0, verified.output
    assert "shared filesystem" in verified.output


def test_no_upload_is_lost_by_releases_and_changes_of_hosts(stand: HostsStand, directory: Path, volume: Volume) -> None:
    def released() -> None:
        stand.edit_code("visits/views.py", "\n# another release\n")
        up(stand)

    unharmed(stand, "a release", released)

    def moved() -> None:
        stand.edit_stack(lambda stack: servers(stack)["app1"].update(host="web2"))
        up(stand)

    unharmed(stand, "an instance moved", moved)

    def back() -> None:
        result = stand.rollback()
        assert result.status == 0, result.output

    unharmed(stand, "a rollback", back)

    web3 = SharingHost(directory, "web3", ("app", "nginx"), stand.network.place(), volume.name)
    with contextlib.closing(web3):

        def added() -> None:
            stand.add(web3)
            up(stand)

        unharmed(stand, "a host more", added)
        assert number_of(stand, web3) == number_of(stand, stand.host_there)

        def removed() -> None:
            stand.edit_stack(lambda stack: stack["hosts"].pop())
            stand.all_hosts.remove(web3)
            up(stand)

        uploads = Uploads(stand)
        uploads.addresses = uploads.addresses[:1]  # visitors are told before
        with uploads.under_load():
            removed()
        uploads.read_again()
        print(f"a host less: {uploads}")
        assert not uploads.failed
        assert not uploads.lost


def test_a_host_without_its_mount_is_refused_and_writes_nothing_into_the_hole(stand: HostsStand) -> None:
    web2 = stand.host_named("web2")
    assert isinstance(web2, SharingHost)
    web2.mounts_at_boot("/nowhere")
    web2.restart()
    refused = stand.up()
    assert refused.status == 1
    assert (
        f"hosts: web2: nothing is mounted at {SHARED}: what is written there would stay on this host" in refused.output
    )
    uploads = Uploads(stand)
    with uploads.under_load(least=50):
        assert not web2.run(
            "systemctl", "list-units", f"cluster-{stand.name}@*", "--state=active", "--no-legend", "--plain"
        )
    uploads.read_again()
    print(f"a host whose mount failed at boot: {uploads}")
    assert not uploads.failed
    assert not uploads.lost
    assert {by for _content, by in uploads.sent.values()} == {stand.host_there.run("hostname")}
    assert not web2.run("find", SHARED, "-mindepth", "1")
    verified = stand.run("verify", stand.name, "--json")
    assert verified.status == 1
    (check,) = (one for one in json.loads(verified.output)["checks"] if one["name"] == "shared filesystem")
    assert not check["ok"]
    assert f"hosts: web2: nothing is mounted at {SHARED}" in check["found"]
    web2.mounts_at_boot(VOLUME)
    web2.run("mount", SHARED)
    serving = ("systemctl", "is-active", "--quiet", f"cluster-{stand.name}@*", "--all")
    web2.until(lambda: web2.run("sh", "-c", f"{' '.join(serving)} && echo yes", check=False) == "yes", 90)
    up(stand)
