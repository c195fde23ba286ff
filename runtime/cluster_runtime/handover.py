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

#: What is said of a process that has a status and no socket: it may have been started again, and the status is the
#: former one's.
DEAF = "does not listen"

#: What may be otherwise in a moment.
UNSAID = ("is not running", f"is {STARTING}", DEAF)


def serve(sockets: Path, instance: str, release: str, patience: float = 0.0) -> None:
    """Let `release` take the name of `instance` from whoever holds it; Unhealthy unless it is proven healthy.

    patience: seconds that it has to get so.
    """
    name = InstanceLink(sockets, instance)
    deadline = time.monotonic() + patience
    while (problem := _problem(name, release)) in UNSAID and time.monotonic() < deadline:
        time.sleep(TICK)
    if problem:
        raise Unhealthy(f"{instance}: release {release} {problem}")
    name.take(release)


def serve_all(sockets: Path, wanted: Sequence[str], patience: float = 0.0) -> Iterator[str]:
    """Let processes take the names of their instances, one after another; wanted: "INSTANCE/PROCESS" each.

    Yield "INSTANCE/PROCESS/GENERATION" for each, as it has its name. Unhealthy where one can't take it: those before it
    have theirs. One to which its name was given and that does not hold it is passed over: whether that takes it again
    by itself, which is no other generation, whoever releases has seen, and gives it again where it does not.
    """
    for one in wanted:
        instance, process = one.split("/")
        name = InstanceLink(sockets, instance)
        same = name.given() == process
        if same and name.holder() != process:
            continue
        generation = name.generation() + (not same)
        serve(sockets, instance, process, patience)
        name.write_generation(generation)
        yield f"{one}/{generation}"


def _problem(name: InstanceLink, release: str) -> str:
    """Return why a process must not take a name; empty where it may."""
    status = name.status(release)
    state = None if status is None else status.get("state", "")
    if state not in (READY, SERVING):
        return f"is {state or 'not running'}"
    return "" if name.alive(release) else DEAF
