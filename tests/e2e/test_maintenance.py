"""A site on Docker in maintenance: nobody's request is lost by it, nobody's session ends, and it outlives the stack."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from cluster.render.maintenance import page
from tests.conformance import servers
from tests.e2e.stand import DockerStand, docker_stack
from tests.e2e.tools import docker
from tests.visitors import MESSAGE, ON, Visitors

if TYPE_CHECKING:
    from collections.abc import Iterator


def small_stack() -> dict[str, Any]:
    """Return a stack of two instances."""
    stack = docker_stack()
    stack["upstream"]["servers"] = [{"name": "app1", "weight": 3}, {"name": "app2"}]
    stack["database"] = {"engine": "sqlite"}
    return stack


@pytest.fixture(scope="module")
def stand() -> Iterator[DockerStand]:
    with contextlib.closing(DockerStand(small_stack(), name="mt")) as found:
        assert_done(found, "up")
        yield found


def assert_done(stand: DockerStand, command: str, *words: str) -> str:
    result = stand.run(command, stand.name, *words)
    assert result.status == 0, result.output
    return result.output


def get(stand: DockerStand, path: str) -> httpx.Response:
    url = "http://{}:{}".format(*stand.address)
    return httpx.get(f"{url}{path}", headers={"Host": "cluster"}, trust_env=False, timeout=20)


def test_visitors_lose_nothing_while_everything_goes_on(stand: DockerStand) -> None:
    with Visitors(stand.address) as visitors:
        visitors.wait_for(200, 300)
        before = {name: stand.processes(name) for name in servers(stand.stack)}
        (nginx,) = stand.containers("nginx")
        assert "maintenance is on; visitors get 503, Retry-After 1200 s" in assert_done(stand, "maintenance", "on", *ON)
        visitors.wait_for(503, 500)
        assert "maintenance is on already" in assert_done(stand, "maintenance", "on", *ON)
        assert {name: stand.processes(name) for name in servers(stand.stack)} == before
        found = stand.status()
        kept = {"message": MESSAGE, "retry_after": 1200, "allow": []}
        assert (found["ok"], found["maintenance"], found["troubles"]) == (True, kept, [])
        checks = json.loads(assert_done(stand, "verify", "--json"))["checks"]
        assert "maintenance" in {check["name"] for check in checks if check["ok"] is None}
        stand.edit_stack(lambda stack: servers(stack)["app1"].update(weight=5))
        assert "the site is in maintenance: visitors get 503" in assert_done(stand, "up")
        stand.edit_code("visits/apps.py", "# another release\n")
        assert "the site is in maintenance: visitors get 503" in assert_done(stand, "up")
        served = visitors.answers[200]
        visitors.wait_for(503, 500)
        assert visitors.answers[200] == served, "somebody got in"
        assert "maintenance is off; visitors get the site" in assert_done(stand, "maintenance", "off")
        assert "maintenance is off already" in assert_done(stand, "maintenance", "off")
        visitors.wait_for(200, 500)
    print(f"visitors: {visitors}")
    assert (visitors.failed, visitors.lost) == ([], [])
    assert set(visitors.answers) == {200, 503}
    assert stand.containers("nginx") == [nginx]
    assert_done(stand, "verify")


def test_an_allowed_network_gets_the_site(stand: DockerStand) -> None:
    (nginx,) = stand.containers("nginx")
    (network,) = json.loads(docker("inspect", nginx))[0]["NetworkSettings"]["Networks"].values()
    assert_done(stand, "maintenance", "on", "--allow", network["Gateway"])  # as which this machine comes in
    assert get(stand, "/whoami").status_code == 200
    assert_done(stand, "maintenance", "on", *ON)
    assert (get(stand, "/whoami").status_code, get(stand, "/").text) == (503, page(MESSAGE))


def test_it_outlives_nginx_and_the_stack_and_not_its_data(stand: DockerStand) -> None:
    assert_done(stand, "maintenance", "on", *ON)
    (nginx,) = stand.containers("nginx")
    docker("restart", nginx)
    stand.wait_healthy()
    assert get(stand, "/whoami").status_code == 503
    assert_done(stand, "down")
    assert "maintenance is on; visitors get 503" in assert_done(stand, "maintenance")
    assert "takes effect when the stack is up" in assert_done(stand, "maintenance", "on", *ON, "--allow", "10.9.0.0/16")
    seen: Counter[int] = Counter()
    stopped = threading.Event()

    def look() -> None:
        while not stopped.is_set():
            with contextlib.suppress(httpx.HTTPError):
                seen[get(stand, "/whoami").status_code] += 1

    looking = threading.Thread(target=look)
    looking.start()
    assert "the site is in maintenance: all but 10.9.0.0/16 get 503" in assert_done(stand, "up")
    stopped.set()
    looking.join()
    print(f"answers while it came up: {dict(seen)}")
    assert set(seen) == {503}
    assert_done(stand, "down", "--delete-data", "--yes")
    assert stand.run("maintenance", stand.name, "on").status == 1
    assert_done(stand, "up")
    assert get(stand, "/whoami").status_code == 200


def test_what_a_killed_command_left_is_mended_by_up(stand: DockerStand) -> None:
    assert_done(stand, "maintenance", "on", *ON)
    (nginx,) = stand.containers("nginx")
    docker("exec", nginx, "rm", "/srv/maintenance/maintenance.json")
    result = stand.run("status", stand.name)
    assert result.status == 1
    assert f"nginx keeps visitors out, and should not; `cluster up {stand.name}` mends it" in result.output
    assert_done(stand, "up")
    assert get(stand, "/whoami").status_code == 200
    assert stand.status()["ok"]
