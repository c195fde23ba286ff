"""Sessions in memcached alone, on a host whose nodes are units: what happens to the nodes costs no session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conformance import assert_nothing_lost
from tests.e2e.remote import RemoteStand, remote_stand
from tests.e2e.test_workers import services
from tests.load import Load
from tests.local.test_commands import assert_done

if TYPE_CHECKING:
    from collections.abc import Iterator

AROUND = 150

#: How often both nodes are started again, one right after the other, until somebody notices.
TURNS_WITHOUT_WAITING = 10


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteStand]:
    sessions = {"engine": "cache", "memcached": {"nodes": 2, "memory": "32m"}}
    more = {"sessions": sessions, "upstream": {"servers": 2}, "broker": {"engine": "valkey"}}
    with remote_stand(tmp_path_factory.mktemp("host"), **more) as found:
        assert_done(found.up())
        yield found


def node(stand: RemoteStand, number: int) -> str:
    return f"cluster-{stand.name}.memcached{number}.service"


def test_each_is_a_unit_that_answers_the_instances_user_alone(stand: RemoteStand) -> None:
    found = {name: (service["kind"], service["state"], service["ok"]) for name, service in services(stand).items()}
    assert found == {
        "memcached1": ("memcached", "active", True),
        "memcached2": ("memcached", "active", True),
        "broker": ("broker", "active", True),
        "nginx": ("nginx", "running", True),
    }
    host, user = stand.host_there, f"cluster-{stand.name}"
    for kind, socket in (("memcached", "memcached1.sock"), ("broker", "broker.sock")):
        path = f"/run/{user}/.{kind}/{socket}"
        asked = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect('{path}'); print('in')"
        assert host.run("setpriv", f"--reuid={user}", "--clear-groups", "python3", "-c", asked) == "in"
        for other in ("www-data", "deploy"):
            words = ("setpriv", f"--reuid={other}", "--init-groups", "--regid", other, "python3", "-c", asked)
            assert "in" not in host.run(*words, check=False), other
    listening = host.run("cat", "/proc/net/tcp", "/proc/net/tcp6", check=False)
    assert ":2BCB " not in listening, "the distribution's own memcached listens on 11211"


@pytest.mark.parametrize("number", [1, 2])
def test_a_killed_node_costs_no_session(stand: RemoteStand, number: int) -> None:
    with Load(stand.address, clients=6, slow=0) as load:
        load.wait_for(AROUND)
        stand.host_there.run("systemctl", "kill", "--signal=KILL", node(stand, number))
        load.wait_for(AROUND)
        stand.wait_healthy()
    print(f"memcached{number} killed: {load.counts}")
    assert_nothing_lost(load.counts)


def test_nodes_of_another_size_take_each_other_s_place_and_keep_all(stand: RemoteStand) -> None:
    with Load(stand.address, clients=6, slow=0) as load:
        load.wait_for(AROUND)
        stand.edit_stack(lambda stack: stack["sessions"]["memcached"].update(memory="40m"))
        assert_done(stand.up())
        load.wait_for(AROUND)
    print(f"both nodes started again: {load.counts}")
    assert_nothing_lost(load.counts)
    assert "no changes" in assert_done(stand.up())


def test_nodes_that_do_not_wait_for_each_other_lose_sessions(stand: RemoteStand) -> None:
    """The saboteur."""
    with stand.sabotaged("no_waiting"), Load(stand.address, clients=6, slow=0) as load:
        load.wait_for(AROUND)
        sizes = iter(range(48, 48 + TURNS_WITHOUT_WAITING))
        # How far the first one is filled when the second one ends is the machine's to say.
        while not (load.counts.lost or load.counts.failed) and (size := next(sizes, 0)):
            stand.stack["sessions"]["memcached"]["memory"] = f"{size}m"
            stand.write()
            assert_done(stand.up())
            load.wait_for(AROUND)
    print(f"without waiting: {load.counts}")
    assert load.counts.lost or load.counts.failed, "nobody noticed that no node had the sessions any more"
