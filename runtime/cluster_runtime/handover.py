"""The handover of an instance's name from the release that holds it to another one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cluster_runtime.checks import Unhealthy
from cluster_runtime.instance_link import InstanceLink
from cluster_runtime.status import READY, SERVING, STARTING
from cluster_runtime.supervision import TICK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


def serve(sockets: Path, instance: str, release: str, patience: float = 0.0) -> None:
    """Let `release` take the name of `instance` from whoever holds it; Unhealthy unless it is proven healthy.

    patience: seconds that it has to get so.
    """
    name = InstanceLink(sockets, instance)
    deadline = time.monotonic() + patience
    while (state := _state(name, release)) in (None, STARTING) and time.monotonic() < deadline:
        time.sleep(TICK)
    if state not in (READY, SERVING):
        raise Unhealthy(f"{instance}: release {release} is {state or 'not running'}")
    if not name.alive(release):
        raise Unhealthy(f"{instance}: release {release} does not listen")
    name.take(release)


def serve_all(sockets: Path, wanted: Sequence[str]) -> Iterator[str]:
    """Let processes take the names of their instances, one after another; wanted: "INSTANCE/PROCESS" each.

    Yield "INSTANCE/PROCESS/GENERATION" for each, as it has its name. Unhealthy where one can't take it: those before it
    have theirs.
    """
    for one in wanted:
        instance, process = one.split("/")
        name = InstanceLink(sockets, instance)
        # One that took a free name by itself was not given it yet.
        generation = name.generation() + ((name.holder(), name.given()) != (process, process))
        serve(sockets, instance, process)
        name.write_generation(generation)
        yield f"{one}/{generation}"


def _state(name: InstanceLink, release: str) -> str | None:
    status = name.status(release)
    return None if status is None else status.get("state", "")
