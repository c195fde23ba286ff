"""Workers, a schedule and the broker in containers: each job is counted through what happens to them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.conformance import wait_until
from tests.e2e.stand import DockerStand, docker_stack
from tests.e2e.tools import docker
from tests.file_queue import LONG_START, PROGRAM, Jobs, count_a_release_and_the_way_back, count_what_is_cut_off
from tests.local.test_commands import assert_done

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKER = {"name": "jobs", "command": "python jobs.py", "count": 2, "startsecs": "1s", "memory": "128m"}
SCHEDULE = {"name": "yearly", "command": "manage.py check", "at": "0 0 1 1 *"}


@pytest.fixture(scope="module")
def stand() -> Iterator[DockerStand]:
    stack = docker_stack()
    stack["app"]["shared"] = ["queue"]
    stack["upstream"]["servers"] = stack["upstream"]["servers"][:2]
    stack |= {"sessions": {"engine": "db"}, "database": {"engine": "sqlite"}}
    stack |= {"workers": [dict(WORKER)], "schedule": [dict(SCHEDULE)], "broker": {"engine": "valkey"}}
    with contextlib.closing(DockerStand(stack, name="w")) as found:
        write(found, "first")
        assert_done(found.up())
        yield found


@pytest.fixture(scope="module")
def jobs(stand: DockerStand) -> Jobs:
    return Jobs(stand.shared / "queue")


def write(stand: DockerStand, release: str, *, before: str = "") -> None:
    (stand.project / "jobs.py").write_text(before + PROGRAM.format(release=release))


def roles(stand: DockerStand) -> dict[str, set[str]]:
    """Return the containers that run, by their roles."""
    found: dict[str, set[str]] = {}
    for one in json.loads(docker("inspect", *stand.containers())):
        found.setdefault(one["Config"]["Labels"]["django-cluster.role"], set()).add(one["Id"])
    return found


def services(stand: DockerStand) -> dict[str, dict[str, Any]]:
    return {service["service"]: service for service in stand.status()["services"]}


def test_all_are_in_the_status_as_on_this_machine(stand: DockerStand) -> None:
    stand.wait_healthy()
    found = {name: (service["kind"], service["state"], service["ok"]) for name, service in services(stand).items()}
    assert found == {
        "jobs1": ("worker", "running", True),
        "jobs2": ("worker", "running", True),
        "yearly": ("schedule", "waiting", True),
        "broker": ("broker", "healthy", True),
        "nginx": ("nginx", "running", True),
    }


def test_the_broker_has_neither_port_nor_network_and_keeps_what_it_has(stand: DockerStand) -> None:
    (broker,) = stand.containers("broker")
    (found,) = json.loads(docker("inspect", broker))
    assert set(found["NetworkSettings"]["Networks"]) == {"none"}
    assert not found["NetworkSettings"]["Ports"]
    (instance,) = stand.containers("jobs1")
    socket = "/run/broker/broker.sock"
    script = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect('{socket}'); s.send(b'SET k v\\r\\n'); "
    assert "+OK" in docker("exec", instance, "python", "-c", script + "print(s.recv(99))")
    os.kill(found["State"]["Pid"], signal.SIGKILL)
    ask = ("exec", broker, "valkey-cli", "-s", socket)
    wait_until(lambda: docker(*ask, "get", "k", check=False).strip() == "v", "there again, with what it had")


def test_a_release_and_the_way_back_lose_no_job_and_do_none_twice(stand: DockerStand, jobs: Jobs) -> None:
    count_a_release_and_the_way_back(stand, jobs, lambda release: write(stand, release))


def test_workers_that_are_not_given_their_time_lose_jobs(stand: DockerStand, jobs: Jobs) -> None:
    """The saboteur."""
    count_what_is_cut_off(stand, jobs, lambda release: write(stand, release), releases=5)
    assert_done(stand.up())


def test_a_release_whose_worker_ends_is_given_up_and_the_former_goes_on(stand: DockerStand, jobs: Jobs) -> None:
    before, serving = roles(stand), stand.release()
    stand.edit_stack(lambda stack: stack["workers"][0].update(startsecs=LONG_START))
    write(stand, "broken", before="raise RuntimeError('nothing works today')\n")
    result = stand.up()
    assert result.status == 1
    assert "nothing works today" in result.output
    assert roles(stand) == before, "what was started is stopped, and what ran goes on"
    assert stand.release() == serving
    jobs.put(20)
    assert jobs.lost(jobs.wait_done()) == []
    stand.edit_stack(lambda stack: stack["workers"].__setitem__(0, dict(WORKER)))
    write(stand, "mended")
    assert_done(stand.up())
    stand.wait_healthy()


def test_another_command_replaces_the_worker_and_nothing_else(stand: DockerStand) -> None:
    before = roles(stand)
    stand.edit_stack(lambda stack: stack["workers"][0].update(command="python ./jobs.py"))
    assert_done(stand.up())
    after = roles(stand)
    assert {role for role in before if before[role] != after[role]} == {"jobs1", "jobs2"}
    assert "no changes" in assert_done(stand.up())


def test_a_command_runs_once_in_the_release_that_serves(stand: DockerStand) -> None:
    assert stand.run("run", stand.name, "--", "manage.py", "check").status == 0
    assert stand.run("run", stand.name, "--", "sh", "-c", "exit 7").status == 7


def test_down_lets_them_end_their_jobs_and_what_waits_is_done_after_up(stand: DockerStand, jobs: Jobs) -> None:
    jobs.put(100)
    assert_done(stand.down())
    assert not any((jobs.directory / "taken").iterdir())
    assert_done(stand.up())
    done = jobs.wait_done()
    assert (jobs.lost(done), max(done.values())) == ([], 1)
