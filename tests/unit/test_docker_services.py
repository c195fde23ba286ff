"""Workers, schedules and the broker on Docker: what is registered, what is told of them, what a failure leaves."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest

from cluster.config import parse_config
from cluster.topology import build_topology
from platforms.docker.observe import Observed
from platforms.docker.repair import stop_what_never_served
from platforms.pulumi.live import Live
from tests.unit.pulumi_mocks import COMMAND, CONTAINER, VOLUME, Record, run_main, stack_values
from tests.unit.test_docker_up import FAILED, FORMER, NGINX_CONTAINER, SERVED, Told, container, on

if TYPE_CHECKING:
    from pathlib import Path

VALUES = stack_values(
    workers=[
        {"name": "mail", "command": "celery -A shop worker", "count": 2, "memory": "256m", "graceful_timeout": "5m"},
        {"name": "clock", "command": "celery -A shop beat", "replacement": "alone"},
    ],
    schedule=[{"name": "digest", "command": "manage.py send_digest", "at": "0 6 * * *"}],
    broker={"engine": "valkey", "memory": "100m"},
)
BESIDE = ("mail1", "mail2", "digest")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return run_main(tmp_path_factory.mktemp("services"), VALUES)


def names(urns: frozenset[str]) -> set[str]:
    return {urn.rpartition("::")[2].removeprefix("app-") for urn in urns}


def test_each_process_is_a_container_of_the_releases_image(made: Record) -> None:
    image = made.named("app1", CONTAINER).inputs["image"]
    for name in (*BESIDE, "clock1"):
        one = made.named(name, CONTAINER)
        assert one.inputs["image"] == image
        assert one.labels["django-cluster.role"] == name
        assert not one.inputs.get("ports")
        assert one.inputs["readOnly"]
    mail = made.named("mail1", CONTAINER).inputs
    assert mail["memory"] == 256
    assert mail["destroyGraceSeconds"] == 300 + 15
    assert mail["command"][-4:] == ["celery", "-A", "shop", "worker"]


def test_they_see_what_the_instances_see(made: Record) -> None:
    instance = made.named("app1", CONTAINER)
    for name in BESIDE:
        assert made.named(name, CONTAINER).mounts == instance.mounts
        assert made.named(name, CONTAINER).inputs["networksAdvanced"] == instance.inputs["networksAdvanced"]


def test_they_start_once_an_instance_is_healthy_and_before_any_name_is_taken(made: Record) -> None:
    for name in BESIDE:
        assert {"app1", "app2"} <= names(made.named(name, CONTAINER).dependencies)
        assert all(made.named(one, CONTAINER).inputs["wait"] for one in ("app1", "app2", name))
        assert not made.named(name, CONTAINER).delete_before_replace
    serve = made.named("app1-serve", COMMAND)
    before = names(serve.dependencies)
    assert {*BESIDE, "static-current"} <= before
    assert "clock1" not in before


def test_one_that_must_not_run_twice_begins_when_all_serve_and_the_former_has_gone(made: Record) -> None:
    clock = made.named("clock1", CONTAINER)
    assert {"app1-serve", "app2-serve"} <= names(clock.dependencies)
    assert clock.delete_before_replace
    assert clock.before_create == ("app-clock1-alone",)


def test_the_broker_has_no_network_and_keeps_what_it_has(made: Record) -> None:
    broker = made.named("broker", CONTAINER)
    assert broker.inputs["networkMode"] == "none"
    assert not broker.inputs.get("ports")
    assert broker.delete_before_replace
    words = broker.inputs["command"]
    assert all(words), "the provider takes no empty word"
    pairs = dict(itertools.pairwise(words))
    assert (pairs["--port"], pairs["--appendonly"], pairs["--appendfsync"]) == ("0", "yes", "always")
    assert pairs["--maxmemory-policy"] == "noeviction"
    assert pairs["--save"] == "--appendonly", "no snapshots"
    assert made.named("broker", VOLUME).protect
    assert made.named("app1", CONTAINER).mounts["/run/broker"][1], "whoever connects writes nothing there"
    prepare = made.named("prepare").environment
    assert "/run/broker:ro" in prepare["VOLUMES"]


def test_a_stack_without_them_has_nothing_of_them(tmp_path: Path) -> None:
    made = run_main(tmp_path, stack_values())
    assert not {name for name in made.names() if "broker" in name}
    assert "/run/broker" not in made.named("app1", CONTAINER).mounts


# --- what is told of them


def service(name: str, release: str, said: dict[str, Any], *, created: int = 0, running: bool = True) -> dict[str, Any]:
    """Return what `docker inspect` says of a service's container."""
    topology = build_topology(parse_config(VALUES))
    (one,) = (one for one in topology.beside if one.name == name)
    found = container(f"{name}{release}".ljust(64, "0"), name, created=created, running=running)
    found["Config"]["Labels"] |= {"django-cluster.service": one.kind.value, "django-cluster.release": release}
    found["Config"]["Cmd"] = list(one.words(release, "c", "s"))
    found["State"]["Health"] = {"Status": "healthy", "Log": [{"Output": json.dumps(said)}]}
    return found


def status(*containers: dict[str, Any], release: str = FORMER) -> dict[str, tuple[str, bool, str]]:
    topology = build_topology(parse_config(VALUES))
    live = Live(holders=dict.fromkeys(topology.names, f"{release}.abc"))
    observed = Observed(live=live, containers=containers, topology=topology)
    return {one.service: (one.state, one.ok, one.message) for one in observed.services()}


WELL = {"state": "running", "well": True, "message": "", "since": 1.0}


def test_what_each_says_of_itself_is_told() -> None:
    failed = {"state": "waiting", "well": False, "message": "the run of 06:00: ended with status 1"}
    found = status(service("mail1", FORMER, WELL), service("digest", FORMER, failed))
    assert found["mail1"] == ("running", True, "")
    assert found["digest"] == ("waiting", False, "the run of 06:00: ended with status 1")
    assert found["mail2"] == ("not running", False, "")


@pytest.mark.parametrize(
    ("container", "state"),
    [
        (service("mail1", FAILED, WELL), "running"),
        (service("mail1", FORMER, {**WELL, "state": "crashed", "well": False}), "crashed"),
        (service("mail1", FORMER, {**WELL, "well": "no"}), "healthy"),
        (service("mail1", FORMER, WELL, running=False), "exited"),
    ],
    ids=["of another release", "crashed", "senseless", "ended"],
)
def test_one_that_is_not_as_it_should_be_is_not_well(container: dict[str, Any], state: str) -> None:
    assert status(container)["mail1"][:2] == (state, False)


# --- what a failed release has started


def test_what_a_failed_release_has_started_takes_no_jobs(tmp_path: Path) -> None:
    former, failed = service("mail1", FORMER, WELL), service("mail1", FAILED, WELL, created=5)
    engine = Told(found=[NGINX_CONTAINER, former, failed], live_text=SERVED)
    said: list[str] = []
    stop_what_never_served(on(tmp_path, engine), said.append)
    assert engine.calls == [("stop", "--time", "60", failed["Id"])]


def test_of_two_of_the_release_that_serves_the_newer_is_stopped(tmp_path: Path) -> None:
    former, failed = service("mail1", FORMER, WELL), service("mail1", FORMER, WELL, created=5)
    failed["Id"] = "9" * 64
    engine = Told(found=[NGINX_CONTAINER, failed, former], live_text=SERVED)
    said: list[str] = []
    stop_what_never_served(on(tmp_path, engine), said.append)
    assert engine.calls == [("stop", "--time", "60", failed["Id"])]


@pytest.mark.parametrize("text", [None, SERVED], ids=["nginx does not answer", "nothing was started"])
def test_after_a_failure_what_takes_jobs_goes_on(text: str | None, tmp_path: Path) -> None:
    found = [NGINX_CONTAINER, service("mail1", FORMER, WELL), service("mail2", FORMER, WELL)]
    found += [service("digest", FAILED, WELL)] if text is None else []
    engine = Told(found=found, live_text=text)
    said: list[str] = []
    stop_what_never_served(on(tmp_path, engine), said.append)
    assert engine.calls == []
