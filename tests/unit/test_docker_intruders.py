"""What listens in a container is read from the kernel's tables, of its process here or by a command in it."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from platforms.docker import endpoints
from platforms.docker.endpoints import intruders
from platforms.docker.engine import ROLE_LABEL, Engine

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

#: Listens on 8000; the engine's resolver; a connection to 8001.
IPV4 = (
    f"{HEAD}   0: 00000000:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1 1 0 100 0 0 10 0\n"
    "   1: 0B00007F:A2B3 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1 1 0 100 0 0 10 0\n"
    "   2: 0100007F:1F41 0100007F:D431 01 00000000:00000000 00:00000000 00000000 0 0 1 1 0 100 0 0 10 0\n"
)

#: Listens on 9000.
IPV6 = f"{HEAD}   0: {'0' * 32}:2328 {'0' * 32}:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1 1 0 100 0 0 10 0\n"

ID = "61c7364c700ccd307d18d405aa8d7f9b4ed3b2831c0a2f8a8ef5e26a19042534"


def container(pid: int, **host: Any) -> dict[str, Any]:
    return {
        "Id": ID,
        "Name": "/app1",
        "Config": {"Labels": {ROLE_LABEL: "instance"}},
        "HostConfig": {"NetworkMode": "app", "PortBindings": None, "Runtime": "runc", **host},
        "State": {"Running": True, "Pid": pid},
    }


@dataclass(frozen=True)
class Asked(Engine):
    """An engine with one container, in which a command finds what listens. commands: those that were run in it."""

    found: dict[str, Any] = field(default_factory=dict)
    commands: list[tuple[str, ...]] = field(default_factory=list)

    def containers(self, stack: str, role: str | None = None, *, stopped: bool = False) -> list[str]:
        return [ID]

    def inspect(self, containers: Any) -> list[dict[str, Any]]:
        return [self.found]

    def output(self, *arguments: str, timeout: float = 0.0) -> str:
        self.commands.append(arguments)
        return IPV4.replace("1F40", "1F90")  # 8080


def process(root: Path, cgroup: str, *, ipv6: bool = True) -> None:
    """Write what the kernel tells of process 7."""
    there = root / "7"
    (there / "net").mkdir(parents=True)
    (there / "net" / "tcp").write_text(IPV4)
    if ipv6:
        (there / "net" / "tcp6").write_text(IPV6)
    (there / "cgroup").write_text(cgroup)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the processes of this machine are told of."""
    monkeypatch.setattr(endpoints._tables_here, "__defaults__", (tmp_path,))
    return tmp_path


CGROUPS = {
    "of version 1": f"17:perf_event:/\n8:pids:/docker/{ID}\n0::/docker/{ID}\n",
    "of version 2": f"0::/system.slice/docker-{ID}.scope\n",
    "seen from another": f"0::/../{ID}\n",
}


@pytest.mark.parametrize("cgroup", CGROUPS)
@pytest.mark.parametrize("ipv6", [True, False])
def test_what_listens_is_read_of_the_container_s_process_here(here: Path, cgroup: str, ipv6: bool) -> None:
    process(here, CGROUPS[cgroup], ipv6=ipv6)
    engine = Asked(found=container(7))
    ports = [8000, 9000] if ipv6 else [8000]
    assert intruders(engine, "s") == [f"app1 listens on port {port}" for port in ports]
    assert engine.commands == []


@pytest.mark.parametrize("cgroup", ["0::/user.slice\n", f"0::/docker/{ID[::-1]}\n", "", None])
def test_what_is_no_process_of_it_is_not_believed(here: Path, cgroup: str | None) -> None:
    """The engine's numbers are another machine's, or the process has ended and another one has its number."""
    if cgroup is not None:
        process(here, cgroup)
    engine = Asked(found=container(7))
    assert intruders(engine, "s") == ["app1 listens on port 8080"]
    assert engine.commands == [("exec", ID, "cat", "/proc/net/tcp", "/proc/net/tcp6")]


@pytest.mark.parametrize("runtime", ["runsc", "io.containerd.kata.v2", "another"])
def test_what_has_sockets_of_its_own_kernel_is_asked_in_the_container(here: Path, runtime: str) -> None:
    process(here, CGROUPS["of version 2"])
    assert intruders(Asked(found=container(7, Runtime=runtime)), "s") == ["app1 listens on port 8080"]


def test_a_table_that_may_not_be_read_is_read_in_the_container(here: Path) -> None:
    process(here, CGROUPS["of version 2"])
    (here / "7" / "net" / "tcp").unlink()
    (here / "7" / "net" / "tcp").mkdir()  # which nobody may read, root neither
    assert intruders(Asked(found=container(7)), "s") == ["app1 listens on port 8080"]


@pytest.fixture
def listener() -> Iterator[int]:
    """A port on which this process listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_the_kernel_s_own_tables_are_understood(listener: int) -> None:
    cgroup = Path(f"/proc/{os.getpid()}/cgroup").read_text().splitlines()[0]
    mine = {**container(os.getpid()), "Id": cgroup}
    said = endpoints._tables_here(mine, Path("/proc"))
    assert said is not None
    assert f":{listener:04X} " in said


def test_what_is_published_is_told_and_what_has_no_network_is_not_asked(here: Path) -> None:
    bindings = {"11211/tcp": [{"HostPort": "11211"}]}
    engine = Asked(found=container(7, NetworkMode="none", PortBindings=bindings))
    assert intruders(engine, "s") == ["app1 has port 11211/tcp published"]
    assert not (here / "7").exists()
    assert engine.commands == []
