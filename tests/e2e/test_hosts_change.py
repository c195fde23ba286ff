"""Hosts that come, go and break, under load on each host that has visitors; by the real engine."""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.conformance import servers
from tests.e2e.hosts import LoadOfAll, hosts_stand
from tests.e2e.remote import Host
from tests.e2e.tools import docker
from tests.local.stand import kill_at_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.e2e.hosts import HostsStand
    from tests.load import Counts

#: Requests before a change and after it.
AROUND = 200

#: Clients of a load.
CLIENTS = 12


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hosts")


@pytest.fixture(scope="module")
def stand(directory: Path) -> Iterator[HostsStand]:
    with hosts_stand(directory) as found:
        result = found.up()
        assert result.status == 0, result.output
        yield found


def loaded(stand: HostsStand, what: str, change: Callable[[], object], **options: float) -> Counts:
    """Return what came of the requests while something was changed."""
    began = time.monotonic()
    with LoadOfAll(stand, clients=CLIENTS, **options) as load:
        load.wait_for(AROUND)
        change()
        load.wait_for(AROUND)
    print(f"{what}: {load.counts} in {time.monotonic() - began:.1f} s")
    return load.counts


def up(stand: HostsStand) -> None:
    result = stand.up()
    assert result.status == 0, result.output


def up_when_the_killed_one_has_ended(stand: HostsStand) -> None:
    """What a host was at is done to its end, and until then nobody else changes anything."""
    deadline = time.monotonic() + 120
    while "is changing this stack; wait until it has ended" in (result := stand.up()).output:
        assert time.monotonic() < deadline, result.output
    assert result.status == 0, result.output


def settled(stand: HostsStand) -> None:
    result = stand.up()
    assert result.status == 0, result.output
    assert "no changes" in result.output, result.output


def unharmed(stand: HostsStand, what: str, change: Callable[[], object]) -> None:
    counts = loaded(stand, what, change)
    assert not counts.failed
    assert not counts.lost


def of_the_stack(stand: HostsStand, host: Host) -> str:
    """Return what there is of the stack on a host: units, files and directories, but what is kept."""
    name = f"cluster-{stand.name}"
    places = f"/etc/systemd/system /etc/nginx /etc/tmpfiles.d /srv/cluster /run/{name}* /var/lib/{name}"
    return host.run("sh", "-c", f"find {places} -name '*{name}*' -o -path '/srv/cluster/*' 2>/dev/null", check=False)


def without_web3(stack: dict[str, Any]) -> None:
    """Take the third host out of the stack file, with its instance."""
    stack["hosts"] = [host for host in stack["hosts"] if host["name"] != "web3"]
    stack["upstream"]["servers"] = [
        {key: value for key, value in server.items() if key != "host"}
        for server in stack["upstream"]["servers"]
        if server["name"] != "app5"
    ]


def test_hosts_and_instances_come_move_and_go(stand: HostsStand, directory: Path) -> None:
    web3 = Host(directory, "web3", ("app",), stand.network.place())
    try:

        def added() -> None:
            stand.add(web3)
            stand.edit_stack(lambda stack: stack["upstream"]["servers"].append({"name": "app5"}))
            up(stand)

        unharmed(stand, "a host more, with an instance more", added)
        assert stand.host_of("app3") is web3, "instances are dealt out to all"
        settled(stand)

        def moved() -> None:
            stand.edit_stack(lambda stack: servers(stack)["app1"].update(host="web3"))
            up(stand)

        unharmed(stand, "half of the traffic moved to another host", moved)
        assert stand.host_of("app1") is web3
        assert not [line for line in of_the_stack(stand, stand.host_there).splitlines() if "app1" in line]
        settled(stand)

        def visited_too() -> None:
            stand.edit_stack(lambda stack: stack["hosts"][1].update(roles=["app", "nginx"]))
            up(stand)

        unharmed(stand, "visitors on one host more", visited_too)
        settled(stand)

        def not_visited() -> None:
            stand.edit_stack(lambda stack: stack["hosts"][1].update(roles=["app"]))
            up(stand)

        unharmed(stand, "its visitors gone elsewhere", not_visited)
        settled(stand)

        def removed() -> None:
            stand.edit_stack(without_web3)
            up(stand)

        unharmed(stand, "a host less", removed)
        assert not web3.run("systemctl", "list-units", f"cluster-{stand.name}*", "--no-legend", "--all")
        left = of_the_stack(stand, web3).split()
        assert left == [f"/var/lib/cluster-{stand.name}"], "what it may have stored stays"
        settled(stand)
    finally:
        web3.close()
        stand.all_hosts = [host for host in stand.all_hosts if host is not web3]


def test_a_host_that_has_just_come_takes_part_in_the_way_back(stand: HostsStand, directory: Path) -> None:
    """It has never been sent the former release, and gets it from another one."""
    before = stand.release()
    stand.edit_code("visits/apps.py", "# another\n")
    up(stand)
    assert stand.release() != before
    web3 = Host(directory, "web3", ("app",), stand.network.place())
    try:
        stand.add(web3)
        stand.edit_stack(lambda stack: stack["upstream"]["servers"].append({"name": "app5", "host": "web3"}))
        up(stand)

        def back() -> None:
            result = stand.rollback()
            assert result.status == 0, result.output

        unharmed(stand, "the way back, with a host that was not there", back)
        assert stand.release() == before
        assert stand.host_of("app5") is web3
        stand.edit_code("visits/apps.py", "")
        settled(stand)
        stand.edit_stack(without_web3)
        up(stand)
    finally:
        web3.close()
        stand.all_hosts = [host for host in stand.all_hosts if host is not web3]


def test_a_host_that_is_gone_for_good_is_forgotten(stand: HostsStand, directory: Path) -> None:
    web3 = Host(directory, "web3", ("app",), stand.network.place())
    stand.add(web3)
    stand.edit_stack(lambda stack: stack["upstream"]["servers"].append({"name": "app5", "host": "web3"}))
    up(stand)
    answered = stand.run("forget-host", stand.name, "web3")
    assert answered.status == 1
    assert "hosts: web3 is named in the stack file" in answered.output

    def without(stack: dict[str, list[dict[str, str]]]) -> None:
        stack["hosts"] = [host for host in stack["hosts"] if host["name"] != "web3"]
        kept = [server for server in stack["upstream"]["servers"] if server["name"] != "app5"]  # type: ignore[call-overload]
        stack["upstream"]["servers"] = kept  # type: ignore[call-overload]

    def gone() -> None:
        web3.close()
        stand.all_hosts.remove(web3)
        refused = stand.up()
        assert refused.status == 1
        assert "web3: " in refused.output
        stand.edit_stack(without)
        forgotten = stand.run("forget-host", stand.name, "web3")
        assert forgotten.status == 0, forgotten.output
        up(stand)

    counts = loaded(stand, "a host that died, and was forgotten", gone)
    assert len(counts.failed) <= CLIENTS, counts.failed  # those that it held
    assert not counts.lost
    settled(stand)


def test_a_host_that_is_away_keeps_nobody_from_looking_and_from_maintenance(stand: HostsStand) -> None:
    web2 = stand.all_hosts[1]
    docker("kill", web2.container)
    try:
        status = json.loads(stand.run("status", stand.name, "--json").output)
        assert not status["ok"]
        assert any(line.startswith("web2: ") for line in status["troubles"]), status["troubles"]
        assert {one["instance"]: one["ok"] for one in status["instances"]}["app1"]
        (nginx,) = [one for one in status["services"] if one["service"] == "nginx@web2"]
        assert (nginx["ok"], nginx["message"]) == (False, "the host does not answer")
        managed = stand.run("manage", stand.name, "--", "check")
        assert managed.status == 0, managed.output
        on = stand.run("maintenance", stand.name, "on")
        assert on.status == 0, on.output
        for host in stand.visited:
            assert asked(host, stand.port) == httpx.codes.SERVICE_UNAVAILABLE
        off = stand.run("maintenance", stand.name, "off")
        assert off.status == 0, off.output
        verified = stand.run("verify", stand.name)
        assert verified.status == 1
        assert "web2 answers" in verified.output, verified.output
        refused = stand.up()
        assert refused.status == 1
        assert "web2: " in refused.output
    finally:
        web2.start()
    stand.wait_healthy()
    settled(stand)


def asked(host: Host, port: int) -> int:
    with httpx.Client(trust_env=False) as client:
        return client.get(f"http://{host.address}:{port}/", headers={"Host": "cluster"}).status_code


def test_a_release_that_one_host_does_not_start_leaves_nothing_on_the_others(stand: HostsStand) -> None:
    web2 = stand.all_hosts[1]
    before = {name: stand.units(name) for name in ("app1", "app2")}
    broken = "import os, socket\nif os.environ.get('CLUSTER_INSTANCE') == 'app2':\n    raise RuntimeError('not here')\n"
    stand.edit_code("example/urls.py", broken)
    try:
        counts = loaded(stand, "a release that one host of two does not start", stand.up)
        assert not counts.failed
        assert not counts.lost
        assert {name: stand.units(name) for name in before} == before
        assert stand.host_of("app2") is web2
    finally:
        stand.edit_code("example/urls.py", "")
    up(stand)  # the state believes in what failed
    settled(stand)


@pytest.mark.parametrize(
    "line",
    [
        "web2: sending the release",
        "web2: sending its static files on",
        "web2: starting instances",
        "web2: letting release",
        "edge1: nginx: checking",
        "web2: draining",
    ],
)
def test_an_up_that_is_killed_costs_nothing_and_the_next_one_ends_it(stand: HostsStand, line: str) -> None:
    stand.edit_code("visits/apps.py", f"# killed at {line}\n")
    stand.edit_stack(lambda stack: servers(stack)["app2"].update(weight=len(line)))  # so that nginx has to change, too
    with LoadOfAll(stand, clients=6) as load:
        load.wait_for(50)
        kill_at_line(stand.start("up", stand.name), line)
        load.wait_for(50)
        up_when_the_killed_one_has_ended(stand)
        load.wait_for(50)
    print(f"killed at `{line}`: {load.counts}")
    assert not load.counts.failed
    assert not load.counts.lost
    settled(stand)


#: What may become of requests, for each fault: those that the host held.
FAULTS = ("kill", "pause", "drop", "reboot")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_host_that_breaks_takes_no_more_with_it_than_it_held(stand: HostsStand, fault: str) -> None:
    web2 = stand.all_hosts[1]
    address = web2.address

    def broken() -> None:
        if fault == "kill":
            docker("kill", web2.container)
            time.sleep(10)
            web2.start()
        elif fault == "pause":
            docker("pause", web2.container)
            time.sleep(10)
            docker("unpause", web2.container)
        elif fault == "drop":
            _drop(web2, "--insert")
            time.sleep(10)
            _drop(web2, "--delete")
        else:
            web2.restart()
        web2.until(lambda: len(stand.units("app2")) == 1)
        stand.wait_healthy()

    counts = loaded(stand, f"web2: {fault}", broken)
    assert web2.address == address
    assert len(counts.failed) <= CLIENTS, counts.failed
    assert not [line for line in counts.failed if line.startswith("GET") and "timed out" not in line], counts.failed
    assert not counts.lost
    settled(stand)


def _drop(host: Host, how: str) -> None:
    """Let a host get, or get again, what is sent to it."""
    firewall(host, how, "INPUT", "--jump", "DROP")


def firewall(host: Host, *words: str) -> None:
    """Change the rules of a host's packets, whatever it has itself."""
    pid = docker("inspect", "--format", "{{.State.Pid}}", host.container)
    subprocess.run(["nsenter", "--target", pid, "--net", "iptables", *words], check=True)
