"""HTTP/3 by containers: a port by UDP beside that by TCP, and reloads under load by HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import pytest

from tests.conformance import AROUND, assert_nothing_lost, assert_up, servers
from tests.e2e.stand import DockerStand, docker_stack
from tests.e2e.tools import docker
from tests.h3_client import Client
from tests.load import SPARSE
from tests.local.stand import free_port
from tests.secure_load import SecureLoad

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.h3_client import Answer

#: Seconds that an answer may take.
PATIENCE = 30.0


@pytest.fixture(scope="module")
def stand() -> Iterator[DockerStand]:
    stack = docker_stack()
    stack["upstream"]["servers"] = stack["upstream"]["servers"][:2]
    stack["site"]["tls"] = {
        "listen": free_port(consecutive=4) + 3,
        "self_signed": True,
        "http3": True,
        "discard_http3_requests": True,
    }
    with contextlib.closing(DockerStand(stack, name="q")) as found:
        assert_up(found)
        yield found


def port_of(stand: DockerStand) -> int:
    port: int = stand.stack["site"]["tls"]["listen"]
    return port


def ask(stand: DockerStand, path: str = "/whoami") -> Answer:
    """Ask by HTTP/3, on a connection of its own."""
    authority = (stand.root / ".cluster" / stand.name / "authority.pem").read_text()
    with contextlib.closing(Client(port_of(stand), "cluster", authority, PATIENCE)) as client:
        return client.ask(path)


def test_it_answers_and_verify_sees_that(stand: DockerStand) -> None:
    answer = ask(stand)
    assert answer.status == 200
    assert answer.of("alt-svc") == [f'h3=":{port_of(stand)}"; ma=3600']
    checked = stand.verify()
    assert checked.status == 0, checked.output
    assert "HTTP/3 answers by UDP" in checked.output


def test_the_port_is_published_by_both_and_the_next_up_replaces_nothing(stand: DockerStand) -> None:
    before = stand.containers("nginx")
    (found,) = json.loads(docker("inspect", *before))
    port = port_of(stand)
    assert {f"{port}/tcp", f"{port}/udp"} <= {*found["HostConfig"]["PortBindings"]}
    assert_up(stand)
    assert stand.containers("nginx") == before


def test_a_reload_costs_what_the_plan_says_and_nothing_by_other_protocols(stand: DockerStand) -> None:
    before = stand.containers("nginx")
    with SecureLoad(port_of(stand), stand.root / ".cluster" / stand.name / "authority.pem", pause=SPARSE) as load:
        load.wait_for(AROUND)
        stand.edit_stack(lambda stack: servers(stack)["app1"].update(weight=5))
        planned = stand.run("plan", stand.name)
        assert "requests that are asked by HTTP/3 meanwhile may be lost" in planned.output, planned.output
        assert_up(stand)
        load.wait_for(AROUND)
    assert_nothing_lost(load.counts)
    assert stand.containers("nginx") == before
    assert ask(stand).status == 200
