"""Every session engine, interface and balancing method on this machine: changed by the stack file, under load."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.clients import NO_TLS
from tests.conformance import assert_nothing_lost, assert_up, servers
from tests.load import SPARSE, Load
from tests.local.stand import Stand

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Requests that are counted before and after each change, beside those during it.
AROUND = 60


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    """A stand that each test brings up, as it wants it."""
    with contextlib.closing(Stand()) as found:
        yield found


#: Releases under load with these are what tests/local/test_conformance.py and test_sessions.py have.
ELSEWHERE = ("cached_db", "cache", "file")


@pytest.mark.parametrize(
    "engine", ["db", *(pytest.param(name, marks=pytest.mark.wide) for name in ELSEWHERE), "signed_cookies"]
)
def test_sessions_of_each_engine_hold_on_every_instance_and_over_a_release(stand: Stand, engine: str) -> None:
    stand.edit_stack(lambda stack: stack.update(sessions={"engine": engine, "discard": True}))
    assert_up(stand)
    result = stand.verify()
    assert (result.status, f"({engine})" in result.output) == (0, True), result.output
    with Load(stand.address, slow=0, pause=SPARSE) as load:
        load.wait_for(AROUND)
        stand.edit_code("visits/apps.py", f"# {engine}\n")
        assert_up(stand)
        load.wait_for(AROUND)
    instances = {instance for instance, _release in load.counts.by}
    print(f"{engine}: {load.counts}, by {len(instances)} instances")
    assert_nothing_lost(load.counts)
    assert instances == set(servers(stand.stack))


def test_asgi_instances_serve_and_are_released_without_a_loss(stand: Stand) -> None:
    sessions = {"engine": "db", "discard": True}
    stand.edit_stack(lambda stack: (stack["app"].update(interface="asgi"), stack.update(sessions=sessions)))
    assert_up(stand)
    assert stand.verify().status == 0
    with Load(stand.address, pause=SPARSE) as load:
        load.wait_for(AROUND)
        stand.edit_code("visits/apps.py", "# asgi\n")
        assert_up(stand)
        load.wait_for(AROUND)
    print(f"asgi: {load.counts}")
    assert_nothing_lost(load.counts)


def wsgi(stack: dict[str, Any]) -> object:
    return stack["app"].pop("interface", None)


@pytest.mark.parametrize("method", ["least_conn", "ip_hash", "hash", "random", "round_robin"])
def test_each_balancing_method_is_verified(stand: Stand, method: str) -> None:
    stand.edit_stack(lambda stack: (wsgi(stack), stack["upstream"].update(method=method)))
    assert_up(stand)
    result = stand.verify()
    assert result.status == 0, result.output


def test_the_instances_own_ports_lead_to_one_instance_each(stand: Stand) -> None:
    import httpx  # noqa: PLC0415

    from tests.local.stand import free_port  # noqa: PLC0415

    names = list(servers(stand.stack))
    port = free_port(consecutive=len(names))
    stand.edit_stack(lambda stack: stack["site"].update(instance_ports=port))
    assert_up(stand)
    with httpx.Client(trust_env=False, verify=NO_TLS) as client:
        for number, name in enumerate(names):
            answers = {client.get(f"http://127.0.0.1:{port + number}/whoami").json()["instance"] for _ in range(5)}
            assert answers == {name}
            assert client.get(f"http://127.0.0.1:{port + number}/-/probe").status_code == 404
    verified = stand.run("verify", stand.name, "--json").output
    assert f"GET /-/health 404{''.join(f', 127.0.0.1:{port + number} 404' for number in range(len(names)))}" in verified


def test_least_conn_leaves_a_busy_instance_alone(stand: Stand) -> None:
    stand.edit_stack(lambda stack: stack["upstream"].update(method="least_conn"))
    assert_up(stand)
    with Load(stand.address, clients=6, slow=2, slow_seconds=3.0) as load:
        time.sleep(4)
    print(f"least_conn: {load.counts}")
    assert_nothing_lost(load.counts)
