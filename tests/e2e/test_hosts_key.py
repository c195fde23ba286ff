"""Another key of which hosts make certificates and the database's password: by the real engine, under load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conformance import AROUND, assert_nothing_lost
from tests.e2e.hosts import LoadOfAll, hosts_stand
from tests.local.stand import kill_at_line
from tests.local.test_commands import assert_done

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.hosts import HostsStand

#: What visitors get they get by way of another host.
ROLES = {"edge1": ("nginx",), "web1": ("app",), "web2": ("app",), "db1": ("database",)}

KEY = "cluster:hosts_key"


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostsStand]:
    with hosts_stand(tmp_path_factory.mktemp("hosts"), ROLES, database={"engine": "postgres"}) as found:
        assert_done(found.up())
        yield found


def key_of(stand: HostsStand, name: str = KEY) -> str:
    return stand.pulumi("config", "get", name).stdout.strip()


def put_key(stand: HostsStand, key: str) -> None:
    done = stand.pulumi("config", "set", "--secret", KEY, key)
    assert done.returncode == 0, done.stdout


def logins(stand: HostsStand) -> list[str]:
    """Return the users of the database who may log in."""
    words = f"select rolname from pg_roles where rolname like 'cluster_{stand.name}%' and rolcanlogin"
    command = ("runuser", "-u", "postgres", "--", "psql", "-p", "5432", "-t", "-A", "-c", words)
    return stand.all_hosts[3].run(*command).split()


def believed(stand: HostsStand) -> set[str]:
    """Return what hosts believe, as they have it in files: of nginx, and of instances."""
    of_nginx, of_instances = f"/etc/nginx/cluster-{stand.name}/hosts", f"/var/lib/cluster-{stand.name}"
    found = {one.run("cat", f"{of_nginx}/authority.pem") for one in stand.all_hosts[:3]}
    return found | {one.run("cat", f"{of_instances}/authority.pem") for one in stand.all_hosts[1:3]}


def no_changes(stand: HostsStand) -> None:
    assert "no changes" in assert_done(stand.up())


def test_a_change_by_hand_in_one_step_is_refused_and_changes_nothing(stand: HostsStand) -> None:
    before = key_of(stand)
    put_key(stand, "07" * 32)
    result = stand.up()
    assert result.status != 0
    assert "cluster:hosts_key: edge1 shows what is made of another one" in result.output
    assert f"cluster rotate-key {stand.name} --hosts" in " ".join(result.output.split())
    put_key(stand, before)
    no_changes(stand)


def test_another_key_costs_no_request_and_no_session(stand: HostsStand) -> None:
    before, authority, users = key_of(stand), believed(stand), logins(stand)
    with LoadOfAll(stand, clients=6, slow=1) as load:
        load.wait_for(AROUND)
        assert_done(stand.run("rotate-key", stand.name, "--hosts", timeout=900))
        load.wait_for(AROUND)
    print(f"another hosts_key: {load.counts}")
    assert_nothing_lost(load.counts)
    assert key_of(stand) != before
    after = believed(stand)
    assert len(authority) == len(after) == 1
    assert after.isdisjoint(authority)
    assert after.pop().count("BEGIN CERTIFICATE") == 1
    assert len(users) == len(logins(stand)) == 1
    assert users != logins(stand)
    no_changes(stand)
    assert_done(stand.run("verify", stand.name))


def test_a_change_that_is_killed_goes_on_where_it_was(stand: HostsStand) -> None:
    before = key_of(stand)
    with LoadOfAll(stand, clients=6) as load:
        load.wait_for(AROUND)
        kill_at_line(stand.start("rotate-key", stand.name, "--hosts"), "letting release")  # of step 2
        load.wait_for(AROUND)
        assert_done(stand.run("rotate-key", stand.name, "--hosts", timeout=900))
        load.wait_for(AROUND)
    print(f"killed while instances change to another password: {load.counts}")
    assert_nothing_lost(load.counts)
    assert key_of(stand) != before
    assert len(logins(stand)) == 1
    no_changes(stand)


def test_the_same_in_one_step_loses_requests(stand: HostsStand) -> None:
    """The saboteur: nobody looks what hosts believe."""
    put_key(stand, "07" * 32)
    with stand.sabotaged("key_in_one_step"), LoadOfAll(stand, clients=6) as load:
        load.wait_for(AROUND)
        assert_done(stand.up())
        load.wait_for(AROUND)
    print(f"another hosts_key in one step: {load.counts}")
    assert load.counts.failed
    no_changes(stand)
