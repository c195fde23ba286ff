"""Who listens on a host, and what leads to its sockets: begun before it is needed, and again where it has ended."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from platforms.remote.host.paths import HostPaths
from platforms.remote.ssh import HostError
from platforms.remote.verifying import Verifying
from tests.unit import test_remote_hosts as hosts
from tests.unit.test_remote_relays import SAYING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Machines:
    """Hosts whose programs run here: what leads to each says that 8000 is listened at."""

    def __init__(self) -> None:
        self.begun: dict[str, list[subprocess.Popen[bytes]]] = {}
        self.asked: list[tuple[str, str]] = []
        self.silent: set[str] = set()
        self.hosts = hosts.seen().topology.config.hosts

    def start(self, host: str, _what: str) -> subprocess.Popen[bytes]:
        program = "" if host in self.silent else SAYING.replace("'ports'", "'listening'")
        process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.begun.setdefault(host, []).append(process)
        return process

    def run(self, host: str, what: str, *_words: str) -> str:
        self.asked.append((host, what))
        if host == "edge1":
            raise HostError("edge1: no route")
        return json.dumps([9000])


@pytest.fixture
def machines() -> Machines:
    return Machines()


@pytest.fixture
def verifying(machines: Machines) -> Iterator[Verifying]:
    ssh: Any = SimpleNamespace(hosts=machines.hosts, run=machines.run)
    topology = hosts.seen().topology
    found = Verifying(topology=topology, places=HostPaths("t"), ssh=ssh, start=machines.start, authority="")
    yield found
    found.close()
    assert all(process.poll() is not None for each in machines.begun.values() for process in each)


def led_to(verifying: Verifying) -> list[str]:
    return sorted({*verifying.placement.app, *verifying.placement.nginx})


def test_what_leads_to_a_host_is_begun_once_and_says_who_listens(verifying: Verifying, machines: Machines) -> None:
    verifying.begin_early(())
    verifying.begin(())
    assert {host: len(each) for host, each in machines.begun.items()} == dict.fromkeys(led_to(verifying), 1)
    found = verifying._listening(())
    assert found.keys() == {host.name for host in machines.hosts}
    assert {host for host, ports in found.items() if ports == "[8000]"} == {*led_to(verifying)}
    assert {host for host, _what in machines.asked} == found.keys() - {*led_to(verifying)}


def test_what_has_ended_meanwhile_is_begun_again(verifying: Verifying, machines: Machines) -> None:
    verifying.begin_early(())
    (first,) = machines.begun["web1"]
    first.kill()
    first.wait()
    deadline = time.monotonic() + 60
    while not verifying._ways["web1"].has_ended:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    verifying.begin(())
    assert len(machines.begun["web1"]) == 2
    assert verifying._listening(())["web1"] == "[8000]"


def test_a_host_that_is_silent_is_asked_by_a_program_of_its_own(verifying: Verifying, machines: Machines) -> None:
    machines.silent = {"web1"}
    verifying.begin(())
    assert verifying._listening(())["web1"] == "[9000]"


def test_why_a_host_can_not_be_asked_is_told(verifying: Verifying, machines: Machines) -> None:
    machines.silent = {"edge1"}
    verifying.begin(())
    with pytest.raises(HostError, match="edge1: no route"):
        verifying._listening(())


def test_a_host_that_is_away_is_not_asked(verifying: Verifying, machines: Machines) -> None:
    verifying.begin(("edge1",))
    assert "edge1" not in machines.begun
    assert "edge1" not in verifying._listening(("edge1",))


def test_what_is_begun_early_keeps_nothing_from_being_done(
    verifying: Verifying, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> object:
        raise OSError("no space")

    with monkeypatch.context() as patched:
        patched.setattr("platforms.remote.verifying.Relays", full)
        verifying.begin_early(())
    verifying.begin(())
    assert verifying._listening(())["web1"] == "[8000]"
