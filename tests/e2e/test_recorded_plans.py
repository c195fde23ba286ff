"""What `cluster plan` says on Docker, by the real engine, of each recorded change; and what `up` then costs."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.conformance import AROUND, assert_nothing_lost
from tests.e2e.stand import DockerStand, docker_port, docker_stack, made_image
from tests.e2e.tools import BASE, docker
from tests.load import Load
from tests.recorded import CHANGES, COUNTED, DOCKER, Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.load import Counts
    from tests.local.stand import Stand

IMAGE = "cluster-test/recorded:another"


def images(service: str) -> Callable[[Stand], object]:
    return lambda stand: stand.edit_stack(lambda stack: stack.update(images={service: IMAGE}))


def by_hand(stand: Stand) -> None:
    """Remove an instance's container."""
    assert isinstance(stand, DockerStand)
    docker("rm", "--force", stand.container("app2"))


def tls(stand: Stand) -> None:
    stand.edit_stack(lambda stack: stack["site"].update(tls={"listen": docker_port(), "self_signed": True}))


MAKE: Mapping[str, Callable[[Stand], object]] = {
    **{name: change.make["docker"] for name, change in CHANGES.items() if "docker" in change.make},
    "tls": tls,
    "database": images("postgres"),
    "nginx-image": images("nginx"),
    "drift": by_hand,  # the last one: nothing of it is in a file that could be put back
}

#: Those that are counted nowhere else, in an order in which each is made after the one before.
COUNTED_HERE = [name for name in MAKE if f"{DOCKER}::{COUNTED}" in CHANGES[name].counted["docker"]]


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    stack = docker_stack()
    stack["upstream"]["servers"] = [{"name": "app1", "weight": 3}, {"name": "app2"}, {"name": "app3"}]
    dockerfile = f"FROM {BASE}\nRUN touch /another\n"
    with made_image(IMAGE, dockerfile), contextlib.closing(DockerStand(stack, name="recorded")) as stand:
        result = stand.up()
        assert result.status == 0, result.output
        yield Recorder(stand, "docker", "dev", MAKE)


@pytest.mark.parametrize("change", MAKE)
def test_what_a_plan_says_is_what_is_recorded(recorder: Recorder, change: str, request: pytest.FixtureRequest) -> None:
    with recorder.made(change):
        recorder.assert_recorded(change, renew=request.config.getoption("--renew-plans"))


def refused_posts(counts: Counts) -> None:
    """The former release can't make rows; whatever it only reads, it reads."""
    assert counts.failures("POST"), "it cost nothing"
    assert counts.failures("GET") == 0, counts.failed[:5]
    assert counts.lost == []


#: What each cost comes to where `up` is done under load.
COME_TO: dict[str, Callable[[Counts], None]] = {"none": assert_nothing_lost, "migration": refused_posts}


@pytest.mark.parametrize("change", sorted(COUNTED_HERE, key=lambda name: name != "drift"))
def test_what_a_plan_says_of_the_cost_is_what_up_costs(recorder: Recorder, change: str) -> None:
    stand = recorder.stand
    stand.up()
    with Load(stand.address) as load:
        load.wait_for(AROUND)
        assert_nothing_lost(load.counts)
        MAKE[change](stand)
        found: dict[str, Any]
        (found,) = json.loads(stand.run("plan", stand.name, "--json").output)["plans"]
        before = load.snapshot()  # whoever kills a container by hand costs what it was at
        result = stand.up()
        load.wait_for(AROUND)
    counts = load.counts.since(before)
    stand.edit_stack(lambda stack: stack["site"].pop("snippets", None))
    print(f"{change}: {counts}")
    assert (result.status == 0) == (not found["refused"]), result.output
    for cost in found["costs"] or ["none"]:
        COME_TO[cost](counts)
