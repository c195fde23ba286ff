"""One stack on hosts of two Debians and of Ubuntu: three Pythons with their packages, three nginx; by the real engine.

Ubuntu is among them where its base image is.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.conformance import AROUND, BROKEN_URLS, assert_nothing_lost, servers
from tests.e2e.hosts import LoadOfAll, hosts_stand
from tests.e2e.remote import Host, dockerfile_of, image_of
from tests.e2e.tools import BASE, missing_base
from tests.local.test_commands import assert_done
from tests.planned import planned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.hosts import HostsStand
    from tests.load import Counts

OLDER, UBUNTU = "debian:bookworm-slim", "ubuntu:noble"


class Mixed(Host):
    """A host that says which Python it has."""

    python = ""


class Debian12(Mixed):
    """A host with Python 3.11 and nginx 1.22."""

    image, text, python = image_of(OLDER), dockerfile_of(OLDER), "3.11"


class Debian13(Mixed):
    """A host with Python 3.13 and nginx 1.26."""

    image, text, python = image_of(BASE), dockerfile_of(BASE), "3.13"


class Ubuntu2404(Mixed):
    """A host with Python 3.12 and nginx 1.24."""

    image, text, python = image_of(UBUNTU), dockerfile_of(UBUNTU), "3.12"


#: Each nginx that has visitors asks for instances on hosts of all.
ROLES: dict[str, tuple[str, ...]] = {"edge1": ("nginx",), "web1": ("app", "nginx"), "web2": ("app",)}

KINDS: dict[str, type[Mixed]] = {"edge1": Debian12, "web1": Debian13, "web2": Debian12}

#: It imports while the release is made, on the first host; an instance on an older Python does not.
NEWER_ALONE = """import os, sys
if os.environ.get("CLUSTER_INSTANCE") and sys.version_info < (3, 12):
    raise RuntimeError("this release is for a newer Python")
"""

#: Says by which Python packages run, and whether those of them that are more than Python are there for it.
ASK = "import psycopg, sys; print('%d.%d' % sys.version_info[:2], psycopg.pq.__impl__)"


@pytest.fixture(scope="module")
def without_ubuntu() -> str:
    """Return why no host is Ubuntu's; "" where one is."""
    return missing_base(UBUNTU)


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory, without_ubuntu: str) -> Iterator[HostsStand]:
    for base in (OLDER, BASE):
        if why := missing_base(base):
            pytest.skip(f"hosts of two Debians were not tried: {why}")
    roles, kinds = (
        (ROLES, KINDS) if without_ubuntu else (ROLES | {"web3": ("app", "nginx")}, KINDS | {"web3": Ubuntu2404})
    )
    with hosts_stand(tmp_path_factory.mktemp("hosts"), roles, kinds) as found:
        assert_done(found.up())
        yield found


def pythons_of_hosts(stand: HostsStand) -> dict[str, str]:
    """Return which Python each host with instances has."""
    return {host.name: host.python for host in with_instances(stand) if isinstance(host, Mixed)}


def with_instances(stand: HostsStand) -> list[Host]:
    return [host for host in stand.all_hosts if "app" in host.roles]


def environment(stand: HostsStand, host: Host) -> str:
    """Return the name of the packages of the release that serves, on a host."""
    link = f"/srv/cluster/{stand.name}/releases/{stand.release()}/environment"
    return host.run("readlink", link).rpartition("/")[2]


def pythons(stand: HostsStand) -> dict[str, str]:
    """Return by which Python the packages of the release that serves run, for each host."""
    program = f"/srv/cluster/{stand.name}/releases/{stand.release()}/environment/bin/python"
    return {host.name: host.run(program, "-P", "-c", ASK) for host in with_instances(stand)}


def serving(stand: HostsStand) -> dict[str, set[str]]:
    """Return the programs that are an instance's processes, for each host."""
    found: dict[str, set[str]] = {host.name: set() for host in with_instances(stand)}
    for name in servers(stand.stack):
        host = stand.host_of(name)
        # Which program a process is root is not told in a container, but by which path it was started.
        script = 'for pid; do readlink -f "$(tr "\\0" "\\n" </proc/$pid/cmdline | head -n 1)"; done'
        found[host.name] |= {*host.run("sh", "-c", script, "sh", *map(str, stand.processes(name).values())).split()}
    return found


def loaded(stand: HostsStand, what: str, change: Callable[[], object]) -> Counts:
    """Return what came of the requests while something was changed."""
    with LoadOfAll(stand, clients=6, slow=1) as load:
        load.wait_for(AROUND)
        change()
        load.wait_for(AROUND)
    print(f"{what}: {load.counts}")
    return load.counts


def unharmed(stand: HostsStand, what: str, change: Callable[[], object]) -> None:
    """Change something under load: nothing is lost, each instance has answered, and then nothing is left to be done."""
    counts = loaded(stand, what, change)
    assert_nothing_lost(counts)
    assert {name for name, _release in counts.by} >= {*servers(stand.stack)}
    assert "no changes" in assert_done(stand.up())


def up(stand: HostsStand) -> None:
    assert_done(stand.up())


def test_ubuntu_is_among_them(stand: HostsStand, without_ubuntu: str) -> None:
    if without_ubuntu:
        pytest.skip(f"Ubuntu was not tried: {without_ubuntu}")
    told = {host.name: host.run("sh", "-c", '. /etc/os-release && echo "$ID $VERSION_ID"') for host in stand.all_hosts}
    assert told == {"edge1": "debian 12", "web1": "debian 13", "web2": "debian 12", "web3": "ubuntu 24.04"}


def test_each_host_serves_by_its_own_python_and_by_packages_for_it(stand: HostsStand) -> None:
    assert pythons(stand) == {name: f"{python} binary" for name, python in pythons_of_hosts(stand).items()}
    assert serving(stand) == {name: {f"/usr/bin/python{python}"} for name, python in pythons_of_hosts(stand).items()}
    environments = {host.name: environment(stand, host).split("-") for host in with_instances(stand)}
    assert len({requirements for requirements, *_ in environments.values()}) == 1, environments
    assert {name: python for name, (_, python, *_) in environments.items()} == pythons_of_hosts(stand)
    versions = {host.name: host.run("sh", "-c", "nginx -v 2>&1").rpartition("/")[2] for host in stand.all_hosts}
    assert versions["edge1"] == versions["web2"] < versions.get("web3", "1.24") < versions["web1"], versions
    assert "no changes" in assert_done(stand.up())
    assert_done(stand.run("verify", stand.name))


def test_another_weight_loses_nothing_and_touches_no_process(stand: HostsStand) -> None:
    before = {name: stand.processes(name) for name in servers(stand.stack)}

    def weighted() -> None:
        stand.edit_stack(lambda stack: servers(stack)["app1"].update(weight=5))
        up(stand)

    unharmed(stand, "another weight", weighted)
    assert {name: stand.processes(name) for name in servers(stand.stack)} == before


def test_releases_with_other_packages_and_the_way_back_and_forth_lose_nothing(stand: HostsStand) -> None:
    former, packages = stand.release(), [environment(stand, host) for host in with_instances(stand)]

    def released() -> None:
        requirements = stand.root / "example" / "requirements.txt"
        requirements.write_text(f"{requirements.read_text()}six\n")
        parts = planned(stand)["release"]["parts"]
        assert ("requirements" in parts, "Python" in parts) == (True, False), parts
        up(stand)

    unharmed(stand, "a release with another package", released)
    new = stand.release()
    assert new != former
    assert {environment(stand, host) for host in with_instances(stand)}.isdisjoint(packages)
    assert pythons(stand) == {name: f"{python} binary" for name, python in pythons_of_hosts(stand).items()}
    counts = loaded(stand, "the way back", lambda: assert_done(stand.rollback()))
    assert_nothing_lost(counts)
    assert stand.release() == former
    assert [environment(stand, host) for host in with_instances(stand)] == packages
    assert serving(stand) == {name: {f"/usr/bin/python{python}"} for name, python in pythons_of_hosts(stand).items()}
    unharmed(stand, "and forth", lambda: up(stand))
    assert stand.release() == new


def test_a_release_that_one_of_the_pythons_does_not_run_is_served_by_neither(stand: HostsStand) -> None:
    before = {name: stand.units(name) for name in servers(stand.stack)}
    stand.edit_code("example/urls.py", NEWER_ALONE)

    def refused() -> None:
        result = stand.up()
        assert result.status != 0
        assert "this release is for a newer Python" in result.output

    try:
        counts = loaded(stand, "a release for the newer Python alone", refused)
    finally:
        stand.edit_code("example/urls.py", "")
    assert_nothing_lost(counts)
    assert {name: stand.units(name) for name in servers(stand.stack)} == before
    up(stand)  # the state believes in what failed
    assert "no changes" in assert_done(stand.up())


def test_the_same_release_without_the_health_gate_fails_requests(stand: HostsStand) -> None:
    """The saboteur."""

    def broken() -> None:
        with stand.sabotaged("no_health_gate"):
            stand.edit_code("example/urls.py", BROKEN_URLS)
            stand.up()
        time.sleep(3)

    counts = loaded(stand, "a broken release without the health gate", broken)
    assert counts.failed
    stand.edit_code("example/urls.py", "")
    up(stand)
