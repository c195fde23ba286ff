"""The policy by the real engine: what breaks a rule is refused before anything is made, or goes through by a reason."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.remote import remote_stand
from tests.e2e.stand import DockerStand, docker_port, docker_stack
from tests.e2e.test_plan import state_of
from tests.e2e.tools import BASE, docker
from tests.local.stand import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: A program of somebody's own beside the site: it publishes memcached's port, and is started with DEBUG.
PROGRAM = """
import runpy
runpy.run_path({main!r}, run_name="__main__")
import pulumi_docker as docker
docker.Container(
    "cache",
    image={image!r},
    command=["sleep", "infinity"],
    user="65534:65534",
    envs=["DJANGO_DEBUG=1"],
    ports=[docker.ContainerPortArgs(internal=11211, external={port})],
    rm=False,
)
"""

BROKEN = ("published-ports", "debug", "reachable-store")

REASONS = {rule: f"{rule} is looked at by hand" for rule in BROKEN}


@pytest.fixture(scope="module")
def stand() -> Iterator[DockerStand]:
    stack = docker_stack()
    stack["upstream"]["servers"] = 2
    stack["sessions"], stack["database"] = {"engine": "db"}, {"engine": "sqlite"}
    with contextlib.closing(DockerStand(stack, name="policy")) as found:
        main = PROGRAM.format(main=str(ROOT / "__main__.py"), image=BASE, port=docker_port())
        (found.root / "__main__.py").write_text(main)
        yield found


def refused(output: str) -> list[str]:
    """Return the rules by which something is refused, in the order of their names."""
    lines = [line.strip().removeprefix("- ") for line in output.splitlines()]
    return sorted(line.split(":")[0].removeprefix("policy ") for line in lines if line.startswith("policy "))


def disable(stand: DockerStand, *rules: str) -> None:
    entries = [{"rule": rule, "reason": REASONS[rule]} for rule in rules]
    stand.edit_stack(lambda stack: stack.update(policy={"disable": entries}))


def resources(stand: DockerStand) -> list[dict[str, Any]]:
    deployment = json.loads(stand.pulumi("stack", "export").stdout)["deployment"]
    return [one for one in deployment.get("resources") or [] if not one["type"].startswith("pulumi:")]


def of_the_engine(stand: DockerStand) -> list[str]:
    """Return all volumes, networks, containers and images of the stack that the engine has."""
    found = stand.containers(stopped=True)
    for kind in ("volume", "network"):
        found += docker(kind, "ls", "--quiet", "--filter", "name=(app|nginx|database|sessions)-").split()
    return sorted(found + docker("images", "--quiet", f"django-cluster/django-cluster-{stand.name}/*").split())


def test_what_breaks_rules_is_refused_before_the_first_resource_is_made(stand: DockerStand) -> None:
    before = of_the_engine(stand)
    result = stand.up()
    assert result.status == 1, result.output
    assert refused(result.output) == sorted(BROKEN)
    assert "policy debug: container cache has envs.DJANGO_DEBUG set to 1. Remove the variable" in result.output
    assert "policy reachable-store: container cache is a store, and publishes port " in result.output
    assert (resources(stand), of_the_engine(stand)) == ([], before)


def test_one_rule_that_is_disabled_leaves_the_others(stand: DockerStand) -> None:
    disable(stand, "debug")
    result = stand.up()
    assert (result.status, refused(result.output)) == (1, ["published-ports", "reachable-store"])
    assert resources(stand) == []


def test_with_a_reason_for_each_it_goes_through_and_says_them(stand: DockerStand) -> None:
    disable(stand, *BROKEN)
    result = stand.up()
    assert result.status == 0, result.output
    assert all(f"{rule}: {reason}" in result.output for rule, reason in REASONS.items())
    assert any(one["urn"].endswith("::cache") for one in resources(stand))
    for again in (stand.run("plan", stand.name), stand.up(), stand.run("plan", stand.name, "--markdown")):
        assert again.status == 0, again.output
        assert all(f"{rule}: {reason}" in again.output for rule, reason in REASONS.items())
        assert "no changes" in again.output


def test_what_runs_stays_as_it_is_where_a_rule_holds_again(stand: DockerStand) -> None:
    disable(stand, "debug", "reachable-store")
    stand.edit_stack(lambda stack: stack["upstream"].update(servers=3))
    before = state_of(stand)
    result = stand.run("plan", stand.name)
    assert (result.status, refused(result.output)) == (1, ["published-ports"])
    assert state_of(stand) == before, "a plan changes something"
    running, made = stand.containers(stopped=True), resources(stand)
    result = stand.up()
    assert (result.status, refused(result.output)) == (1, ["published-ports"])
    assert (stand.containers(stopped=True), resources(stand)) == (running, made)


def test_production_asks_for_two_instances_and_tls(stand: DockerStand) -> None:
    disable(stand, *BROKEN)
    stand.edit_stack(lambda stack: stack["policy"].update(production=True))
    stand.edit_stack(lambda stack: stack["upstream"].update(servers=[{"name": "app1"}, {"name": "app2", "down": True}]))
    result = stand.run("plan", stand.name)
    assert (result.status, refused(result.output)) == (1, ["live-instances", "tls"])
    assert "1 of 2 instances that is not down" in result.output
    stand.edit_stack(lambda stack: stack["policy"].update(production=False))
    assert stand.run("plan", stand.name).status == 0


def test_a_rule_that_does_not_exist_is_an_error_of_the_stack_file(stand: DockerStand) -> None:
    stand.edit_stack(lambda stack: stack.update(policy={"disable": [{"rule": "debgu", "reason": "x"}]}))
    result = stand.up()
    disable(stand, *BROKEN)
    assert result.status == 1
    assert "policy.disable[0].rule: must be one of published-ports, debug, " in result.output


def test_what_the_policy_costs(stand: DockerStand) -> None:
    """Nothing is asserted of it: another machine takes another time."""
    disable(stand, *BROKEN)
    stand.edit_stack(lambda stack: stack["upstream"].update(servers=2))
    taken: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(5):
        for policed, times in taken.items():
            began = time.monotonic()
            done = stand.pulumi("preview", *(["--policy-pack", str(ROOT / "policy")] if policed else []))
            times.append(time.monotonic() - began)
            assert done.returncode == 0, done.stdout
    without, with_it = (statistics.median(taken[policed]) for policed in (False, True))
    print(f"a preview: {without:.1f} s without the policy, {with_it:.1f} s with it (the middle of 5)")


def test_on_a_host_the_first_step_waits_for_the_policy(tmp_path: Path) -> None:
    """Each step there is a resource: the engine alone would ask of the last when the others are done."""
    with remote_stand(tmp_path, policy={"production": True}) as stand:
        before = stand.host_there.run("sh", "-c", "ls -A /srv /etc/systemd/system; getent passwd")
        result = stand.up()
        assert (result.status, refused(result.output)) == (1, ["tls"]), result.output
        assert resources(stand) == []
        assert stand.host_there.run("sh", "-c", "ls -A /srv /etc/systemd/system; getent passwd") == before
