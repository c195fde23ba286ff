"""Whether a process of an instance serves is told by who holds the name: its own word of that comes a moment later."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from cluster_runtime.instance_link import InstanceLink
from platforms.docker.engine import read_live
from platforms.local.state import own_status
from platforms.local.supervisor import Process
from platforms.remote.host.paths import HostPaths
from platforms.remote.looked import Looked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

MINE, OTHER = "2993de9fbed9", "0123456789ab"

#: What a process says, who holds the name, and what it does.
TOLD = {
    "it was just given the name": ("ready", MINE, "serving"),
    "the name was just taken away": ("serving", OTHER, "ready"),
    "nobody holds the name": ("serving", None, "ready"),
    "it serves": ("serving", MINE, "serving"),
    "it is ready": ("ready", OTHER, "ready"),
    "it is not healthy yet": ("starting", MINE, "starting"),
    "it ends": ("draining", MINE, "draining"),
}


def on_this_machine(said: Mapping[str, object], holder: str | None, directory: Path) -> object:
    name = InstanceLink(directory, "app1")
    name.directory.mkdir()
    if holder is not None:
        name.take(holder)
    name.write_status(MINE, {**said, "pid": 7})
    status = own_status(name, MINE, Process(f"app1-{MINE}", "RUNNING", 7), holder=name.holder())
    assert status is not None
    return status["state"]


def on_docker(said: Mapping[str, object], holder: str | None, _directory: Path) -> object:
    process = f"{MINE}.ba9876543210"
    held = "-" if holder is None else f"{holder}.ba9876543210"
    live = read_live(f"nginx - 0\nstatus app1 {process} {json.dumps(said)}\ninstance app1 {held} 3 {held} yes\n")
    return live.statuses["app1", process]["state"]


def on_a_host(said: Mapping[str, object], holder: str | None, _directory: Path) -> object:
    one = {"holder": holder, "turn": 3, "given": holder, "answers": True, "said": {MINE: said}}
    stack = {"nginx": None, "nginx_turn": 0, "static": None, "static_turn": 0, "instances": {"app1": one}}
    live = Looked(host="web1", places=HostPaths("shop"), machine={}, stack=stack).live
    return live.statuses["app1", MINE]["state"]


@pytest.mark.parametrize("told", TOLD)
@pytest.mark.parametrize("look", [on_this_machine, on_docker, on_a_host])
def test_a_process_serves_that_holds_the_name(
    tmp_path: Path, look: Callable[[Mapping[str, object], str | None, Path], object], told: str
) -> None:
    says, holder, does = TOLD[told]
    assert look({"state": says}, holder, tmp_path) == does
