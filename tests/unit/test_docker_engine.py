"""What is said of a Docker engine that can't be used, and how its address and a stack's rows are found."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest

from cluster.config import parse_config
from cluster.topology import build_topology
from platforms.docker.container_paths import nginx_config
from platforms.docker.engine import Engine, EngineError
from platforms.docker.observe import Observed
from platforms.pulumi.live import Live

if TYPE_CHECKING:
    from pathlib import Path


def with_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = tmp_path / "docker"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


GROUP = "(sudo usermod -aG docker $USER, then log in again)"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "permission denied while trying to connect to the Docker daemon socket",
            f"no right to use the Docker engine here: add yourself to the group docker {GROUP}",
        ),
        (
            "Cannot connect to the Docker daemon at unix:///var/run/docker.sock.",
            "the Docker engine here does not answer: start it (sudo systemctl start docker), or set docker:host",
        ),
        ("something else", "docker: something else"),
    ],
)
def test_an_engine_that_refuses_is_told_in_one_line(
    words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_docker(tmp_path, monkeypatch, f"echo '{words}' >&2; exit 1")
    with pytest.raises(EngineError) as caught:
        Engine().run("version")
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("", "127.0.0.1"),
        ("unix:///var/run/docker.sock", "127.0.0.1"),
        ("ssh://deploy@10.0.0.5", "10.0.0.5"),
        ("ssh://deploy@docker.example.com:2222", "docker.example.com"),
        ("tcp://10.0.0.5:2376", "10.0.0.5"),
    ],
)
def test_the_site_is_where_the_engine_publishes_its_port(host: str, address: str) -> None:
    assert Engine(host).address() == address


STACK: dict[str, Any] = {
    "platform": "docker",
    "app": {"project": "./example", "settings": "example.settings"},
    "upstream": {"servers": 2},
    "site": {"server_names": ["cluster"]},
}


def container(name: str, identity: str, release: str = "r1", *, running: bool = True) -> dict[str, Any]:
    labels = {
        "django-cluster.role": "instance",
        "django-cluster.instance": name,
        "django-cluster.release": release,
    }
    state = {"Running": running, "Status": "running" if running else "exited", "Pid": 7}
    return {"Id": identity.ljust(64, "0"), "Config": {"Labels": labels}, "State": state}


def observed(**changes: Any) -> Observed:
    topology = build_topology(parse_config(copy.deepcopy(STACK)))
    ids = {"app1": "a" * 12, "app2": "b" * 12}
    status = {"state": "serving", "since": 1.0, "message": ""}
    live: dict[str, Any] = {
        "nginx": nginx_config(topology).digest,
        "holders": {name: f"r1.{found}" for name, found in ids.items()},
        "statuses": {(name, f"r1.{found}"): status for name, found in ids.items()},
    }
    containers = [container(name, found) for name, found in ids.items()]
    more = changes.pop("more", [])
    return Observed(live=Live(**{**live, **changes}), containers=(*containers, *more), topology=topology)


def test_all_is_well_where_each_name_is_held_by_its_one_container() -> None:
    found = observed()
    assert (found.nginx_current, found.release) == (True, "r1")
    assert all(row.ok for row in found.instances())


def test_a_second_container_a_lost_name_or_another_release_is_not_well() -> None:
    orphan = observed(more=[container("app1", "c" * 12, running=False)])
    assert [row.ok for row in orphan.instances()] == [False, True]
    lost = observed(holders={"app1": f"r1.{'a' * 12}", "app2": None})
    assert [row.ok for row in lost.instances()] == [True, False]
    assert lost.release is None
    assert observed(nginx="0" * 64).nginx_current is False


def mounted(identity: str, *volumes: str) -> dict[str, Any]:
    mounts = [{"Type": "volume", "Name": volume} for volume in volumes]
    return {"Id": identity, "Name": f"/nginx-{identity}", "Mounts": [*mounts, {"Type": "tmpfs"}]}


def test_containers_of_another_checkout_s_stack_of_the_same_name_are_told_by_their_volumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [mounted("ours", "sockets-1", "static-1"), mounted("theirs", "sockets-2"), mounted("bare")]
    (tmp_path / "found").write_text(json.dumps(found))
    calls = tmp_path / "calls"
    script = f'echo "$*" >>{calls}; case $1 in ps) echo ours theirs bare;; inspect) cat {tmp_path}/found;; esac'
    with_docker(tmp_path, monkeypatch, script)
    mounting = Engine().mounting("p/dev", {"sockets-1", "secrets-1"}, "nginx")
    assert [one["Id"] for one in mounting] == ["ours"]
    assert Engine().mounting("p/dev", set()) == [], "what mounts nothing is nobody's"
    asked, _inspected, without_role, *_ = calls.read_text().splitlines()
    assert asked == (
        "ps --quiet --no-trunc --all --filter label=django-cluster.stack=p/dev --filter label=django-cluster.role=nginx"
    )
    assert without_role == "ps --quiet --no-trunc --all --filter label=django-cluster.stack=p/dev"


def test_a_container_is_removed_only_after_it_has_ended_within_its_grace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tmp_path / "calls"
    with_docker(tmp_path, monkeypatch, f'echo "$*" >>{calls}')
    Engine().remove("0123abcd", grace=48)
    assert calls.read_text().splitlines() == ["stop --time 48 0123abcd", "rm --force 0123abcd"]


def test_a_container_that_does_not_stop_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = tmp_path / "calls"
    with_docker(tmp_path, monkeypatch, f'echo "$*" >>{calls}; echo no >&2; exit 1')
    with pytest.raises(EngineError, match="docker: no"):
        Engine().remove("0123abcd", grace=48)
    assert calls.read_text().splitlines() == ["stop --time 48 0123abcd"]
