"""What systemd gives units on a host: of a stack whose secrets were files once, on the way back, and where it can't.

The release that reads files is made by the program with its part of it switched off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conformance import AROUND, assert_nothing_lost, assert_up
from tests.e2e.remote import RemoteStand, remote_stand
from tests.e2e.test_workers import WORKER, write
from tests.load import Load
from tests.local.stand import kill_at_line
from tests.local.test_commands import assert_done

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteStand]:
    with remote_stand(tmp_path_factory.mktemp("host"), workers=[dict(WORKER)], upstream={"servers": 2}) as found:
        found.edit_stack(lambda stack: stack["app"].update(shared=["queue"]))
        write(found, "first")
        with found.sabotaged("secrets_as_files"):
            assert_done(found.up())
        yield found


def files(stand: RemoteStand) -> set[str]:
    """Return the releases whose secrets are files of the instances' user."""
    listed = stand.host_there.run("sh", "-c", f"ls /var/lib/cluster-{stand.name}/secrets", check=False)
    return set(listed.split())


def given(stand: RemoteStand) -> set[str]:
    """Return the releases whose secrets are root's."""
    listed = stand.host_there.run("sh", "-c", f"ls /etc/cluster/{stand.name}/secrets", check=False)
    return set(listed.split())


def restart_all(stand: RemoteStand) -> None:
    """Let each of the stack's processes begin anew, one after another."""
    for instance in ("app1", "app2"):
        stand.restart(instance)
    stand.host_there.run("systemctl", "restart", f"cluster-{stand.name}.jobs*@*")
    stand.wait_healthy()


def test_what_is_there_before_is_asked_as_before(stand: RemoteStand) -> None:
    assert files(stand) == {stand.release()}
    assert given(stand) == set()
    assert_done(stand.run("manage", stand.name, "--", "check"))


def test_what_serves_starts_again_by_the_units_of_an_up_that_was_killed(stand: RemoteStand) -> None:
    former = stand.release()
    with Load(stand.address, clients=6) as load:
        load.wait_for(AROUND)
        kill_at_line(stand.start("up", stand.name), "sending the release")
        stand.host_there.until(
            lambda: "LoadCredential=" in stand.host_there.run("systemctl", "cat", *stand.units("app1"))
        )
        restart_all(stand)
        load.wait_for(AROUND)
    print(f"restarted by other units: {load.counts}")
    assert_nothing_lost(load.counts)
    assert (stand.release(), files(stand)) == (former, {former})


def test_the_first_up_takes_the_files_away_and_loses_nothing(stand: RemoteStand) -> None:
    former = stand.release()
    with Load(stand.address, clients=6, slow=1) as load:
        load.wait_for(AROUND)
        assert_up(stand)
        load.wait_for(AROUND)
    print(f"secrets of files that systemd gives now: {load.counts}")
    assert_nothing_lost(load.counts)
    assert stand.release() != former
    assert (files(stand), given(stand)) == (set(), {stand.release()})
    assert "no changes" in assert_done(stand.up())
    restart_all(stand)


def test_the_way_back_and_forth_loses_nothing(stand: RemoteStand) -> None:
    new = stand.release()
    with Load(stand.address, clients=6, slow=1) as load:
        load.wait_for(AROUND)
        assert_done(stand.rollback())
        load.wait_for(AROUND)
        former = stand.release()
        assert former != new
        assert files(stand) == {former}
        assert_done(stand.run("manage", stand.name, "--", "check"))
        restart_all(stand)
        assert_up(stand)
        load.wait_for(AROUND)
    print(f"back to files and forth: {load.counts}")
    assert_nothing_lost(load.counts)
    assert (files(stand), given(stand)) == (set(), {new})


def test_a_key_that_is_rotated_reaches_new_instances_and_leaves_no_former_one(stand: RemoteStand) -> None:
    host, before = stand.host_there, stand.pulumi("config", "get", "cluster:secret_key").stdout.strip()
    with Load(stand.address, clients=6) as load:
        load.wait_for(AROUND)
        assert_done(stand.run("rotate-key", stand.name))
        load.wait_for(AROUND)
    print(f"a key rotated: {load.counts}")
    assert_nothing_lost(load.counts)
    after = stand.pulumi("config", "get", "cluster:secret_key").stdout.strip()
    assert after != before
    assert given(stand) == {stand.release()}
    found = host.run("grep", "-rlsF", "-e", after, "/etc/cluster", "/run/credentials").splitlines()
    assert len(found) == 1 + 2 + 2, "at rest, of each instance, of each worker"


def test_secrets_that_others_can_read_or_that_are_gone_are_put_right(stand: RemoteStand) -> None:
    directory = f"/etc/cluster/{stand.name}/secrets/{stand.release()}"
    for words in (["chmod", "644", f"{directory}/secret_key"], ["rm", "-r", directory]):
        stand.host_there.run(*words)
        assert "no changes" not in assert_done(stand.up())
        assert stand.host_there.run("stat", "--format", "%a %U", f"{directory}/secret_key") == "600 root"
        assert "no changes" in assert_done(stand.up())
    restart_all(stand)


def test_where_systemd_gives_none_a_unit_refuses_to_start_and_says_why(stand: RemoteStand) -> None:
    """As in a container that shares nothing it mounts: there systemd says nothing of it."""
    host, (unit,) = stand.host_there, stand.units("app1")
    host.run("mount", "--make-rprivate", "/")
    try:
        host.run("systemctl", "--no-block", "restart", unit)
        host.until(lambda: "systemd has given this process none" in host.run("journalctl", "--unit", unit))
        assert "Traceback" not in host.run("journalctl", "--unit", unit, "--lines", "20")
        assert host.run("systemctl", "is-active", unit, check=False) != "active"
        stand.edit_stack(lambda stack: stack["app"].update(memory="300m"))
        result = stand.up()
        assert result.status != 0
        assert "systemd gives units no secrets here" in result.output
    finally:
        host.run("mount", "--make-rshared", "/")
    assert_up(stand)
    stand.wait_healthy()
