"""Faults of what the instances stand on: memcached, PostgreSQL, the engine itself; and who may reach them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shlex
import signal as signals
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.stand import DockerStand
from tests.e2e.tools import docker
from tests.load import Load

if TYPE_CHECKING:
    from collections.abc import Iterator

AROUND = 300


@pytest.fixture(scope="module")
def stand() -> Iterator[DockerStand]:
    with contextlib.closing(DockerStand(name="s")) as found:
        result = found.up()
        assert result.status == 0, result.output
        yield found


@pytest.mark.parametrize("signal", ["restart", "kill"])
def test_a_memcached_node_that_goes_and_comes_back_loses_no_session(stand: DockerStand, signal: str) -> None:
    (node,) = stand.containers("memcached1")
    with Load(stand.address) as load:
        load.wait_for(AROUND)
        docker(signal, node)
        load.wait_for(AROUND)
        if signal == "kill":  # restart unless-stopped does not cover a kill by hand
            docker("start", node)
        load.wait_for(AROUND)
    print(f"memcached1, {signal}: {load.counts}")
    assert load.counts.failed == []
    assert load.counts.lost == []


def test_postgresql_restarted_under_load_loses_no_session_and_answers_again(stand: DockerStand) -> None:
    (database,) = stand.containers("postgres")
    with Load(stand.address) as load:
        load.wait_for(AROUND)
        docker("restart", "--time", "60", database)
        back = time.monotonic()
        wait_serving(stand)
        back = time.monotonic() - back
        before = load.snapshot()
        load.wait_for(AROUND)
        after = load.snapshot().since(before)
    print(f"PostgreSQL restarted, answering {back:.1f} s after: {load.counts}")
    assert load.counts.lost == []
    assert after.failed == [], "the database is back, and requests still fail"
    assert back < 5


def nginx_processes(stand: DockerStand, word: str) -> list[int]:
    """Return the processes in nginx's container whose command line has a word, by their ids here."""
    (nginx,) = stand.containers("nginx")
    listed = docker("top", nginx, "-eo", "pid,args").splitlines()[1:]
    return [int(line.split()[0]) for line in listed if word in line]


def stopped(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"]


def stop(pids: list[int]) -> None:
    assert pids
    for pid in pids:
        os.kill(pid, signals.SIGSTOP)


def test_nginx_workers_that_were_stopped_go_on_by_themselves_and_without_the_watch_they_do_not(
    stand: DockerStand,
) -> None:
    workers = nginx_processes(stand, "nginx: worker")
    stop(workers)
    began = time.monotonic()
    while stopped(workers):
        assert time.monotonic() - began < 60
        time.sleep(0.2)
    print(f"{len(workers)} workers of nginx stopped: they went on after {time.monotonic() - began:.1f} s")
    (watch,) = nginx_processes(stand, "cluster/watch")
    os.kill(watch, signals.SIGKILL)
    stop(workers)
    time.sleep(10)
    assert stopped(workers) == workers
    for pid in workers:
        os.kill(pid, signals.SIGCONT)
    docker("restart", "--time", "60", *stand.containers("nginx"))
    stand.wait_healthy()
    assert nginx_processes(stand, "cluster/watch"), "it comes with nginx"


def test_with_the_whole_engine_restarted_the_cluster_comes_back_by_itself(stand: DockerStand) -> None:
    """Every container of the stack is killed; the engine's restart policy, and nobody's hand, brings all back."""
    with Load(stand.address) as load:
        load.wait_for(AROUND)
    pids = [docker("inspect", "--format", "{{.State.Pid}}", one) for one in stand.containers()]
    subprocess.run(["kill", "-9", *pids], check=True)
    began = time.monotonic()
    stand.wait_healthy()
    print(f"all {len(pids)} containers killed at once: healthy again in {time.monotonic() - began:.1f} s")
    result = stand.verify()
    assert result.status == 0, result.output
    assert "no changes" in stand.up().output


def test_the_engine_restarted_brings_the_cluster_back_by_itself(stand: DockerStand) -> None:
    command = os.environ.get("CLUSTER_TEST_RESTART_ENGINE")
    if not command:
        pytest.skip("set CLUSTER_TEST_RESTART_ENGINE to the command that restarts the Docker engine")
    release = stand.release()
    subprocess.run(shlex.split(command), check=True, timeout=120)
    began = time.monotonic()
    stand.wait_healthy()
    print(f"the engine restarted: healthy again in {time.monotonic() - began:.1f} s after it answered")
    assert stand.release() == release
    result = stand.verify()
    assert result.status == 0, result.output


def test_nothing_but_nginx_answers_on_any_port_from_here_or_from_another_container(stand: DockerStand) -> None:
    ports = [*range(1, 1025), 3306, 5432, 6379, *range(8000, 8100), 11211, 11212, stand.port]
    found = {}
    for container in stand.containers():
        (inspected,) = inspect(container)
        for network in inspected["NetworkSettings"]["Networks"].values():
            if network["IPAddress"]:
                found[inspected["Name"]] = [port for port in ports if answers(network["IPAddress"], port)]
    assert len(found) >= 5, "the scan reached nobody"
    assert {name.rpartition("-")[0]: open_ports for name, open_ports in found.items() if open_ports} == {
        "/nginx-nginx": [stand.port]
    }
    # From the instances' own network nobody else answers at all.
    (other,) = inspect(stand.container("app2"))
    address = next(network["IPAddress"] for network in other["NetworkSettings"]["Networks"].values())
    probe = f"""
import socket
socket.setdefaulttimeout(0.5)
print([port for port in (22, 80, 5432, 8000, 8080, 11211) if socket.socket().connect_ex(({address!r}, port)) == 0])
"""
    assert docker("exec", stand.container("app1"), "python", "-c", probe) == "[]"
    assert answers("127.0.0.1", stand.port), "the scanner sees nothing at all"
    print(f"{len(ports)} ports of {len(found)} containers scanned: 1 of {len(ports) * len(found):,} open, nginx's")


def answers(address: str, port: int) -> bool:
    with socket.socket() as trial:
        trial.settimeout(0.5)
        return trial.connect_ex((address, port)) == 0


def inspect(container: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(docker("inspect", container))
    return found


def wait_serving(stand: DockerStand) -> None:
    """Return once a page that needs the database is answered."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(*stand.address, timeout=10)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/whoami", headers={"Host": "cluster"})
            if connection.getresponse().status == 200:
                return
        time.sleep(0.05)
    pytest.fail("the site does not answer")
