"""What is peculiar to the containers that run the project's code: instances, workers and schedules."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from cluster.services import instance_grace
from cluster_runtime.instance_link import SERVICES
from cluster_runtime.service import WELL
from cluster_runtime.status import DRAINING, READY, SERVING
from platforms.docker.container_paths import RUN
from platforms.docker.containers import APP_USER, Health, Spec
from platforms.docker.engine import INSTANCE_LABEL, RELEASE_LABEL, SERVICE_LABEL

if TYPE_CHECKING:
    from cluster.services import Service
    from cluster.topology import Topology

#: Seconds for which a look at an instance waits: for the first time that it is healthy, and then for the next look. So
#: nobody waits for an instance that has got ready, and there are fewer looks at one that is.
WATCH_SECONDS = 4

#: States of an instance in which it is well.
INSTANCE_STATES = (READY, SERVING, DRAINING)

#: Instances, of two releases, for which the limit of processes is made at least.
LEAST_TOGETHER = 32


def instance_spec(topology: Topology, release: str, name: str) -> Spec:
    """Return what is peculiar to the container of an instance."""
    app = topology.config.app
    run = ("python", "-P", "-m", "cluster_runtime.instance", "run", "--container", "--instance", name)
    status = f"{RUN}/{name}/{release}.$HOSTNAME.json"
    start = int(app.health.start_timeout.seconds)
    return Spec(
        role="instance",
        user=APP_USER,
        command=(*run, "--config", "/srv/config.json", "--sockets", RUN),
        memory=int(app.memory),
        processes=app.processes * _together(len(topology.names)),
        grace=int(instance_grace(app.graceful_timeout.seconds)),
        health=Health(test=("CMD-SHELL", watch(status)), interval=1, start_period=start, timeout=WATCH_SECONDS + 5),
        start_seconds=start,
        labels={INSTANCE_LABEL: name, RELEASE_LABEL: release},
    )


def service_spec(topology: Topology, service: Service, release: str) -> Spec:
    """Return what is peculiar to the container of a worker or a schedule."""
    status = f"{RUN}/{SERVICES}/{service.name}/{service.generation(release)}.$HOSTNAME.json"
    test = watch(status, *WELL, DRAINING, tell=True)
    start = int(service.start_seconds)
    return Spec(
        role=service.name,
        user=APP_USER,
        command=("python", *service.words(release, "/srv/config.json", RUN, container=True)),
        memory=service.memory,
        # The instances' processes are the same user's.
        processes=max(service.processes, topology.config.app.processes)
        * _together(len(topology.names) + len(topology.beside)),
        grace=int(service.grace),
        health=Health(test=("CMD-SHELL", test), interval=1, start_period=start, timeout=WATCH_SECONDS + 5),
        start_seconds=start,
        labels={SERVICE_LABEL: service.kind.value, RELEASE_LABEL: release},
    )


def watch(status: str, *states: str, tell: bool = False) -> str:
    """Return the shell's words that look at a process by its status file, which costs no start of Python.

    states: those in which it is well; an instance's where none are named. tell: print what it says of itself, which the
    engine keeps of its last look.
    """
    told = f"cat {status} 2>/dev/null; " if tell else ""
    ready = f"""grep -qsE '"state": "({"|".join(states or INSTANCE_STATES)})"' {status}"""
    seen = "/tmp/healthy"  # noqa: S108 - the container's own
    tries = WATCH_SECONDS * 10
    return (
        f"if [ -e {seen} ]; then sleep {WATCH_SECONDS}; {told}{ready}; exit; fi; tries={tries}; "
        f"until {ready}; do tries=$((tries - 1)); [ $tries -gt 0 ] || exit 1; sleep 0.1; done; {told}: >{seen}"
    )


def _together(instances: int) -> int:
    """Return for how many instances a limit of processes must be enough.

    The kernel counts a user's processes in all containers together, those of two releases. A power of two, so that one
    instance more does not make all others anew.
    """
    return max(LEAST_TOGETHER, 1 << (2 * instances - 1).bit_length())


def container_digest(topology: Topology) -> str:
    """Return a digest of how the instances' containers are made: another way makes another release."""
    specs = [instance_spec(topology, "", name).fingerprint() for name in topology.names[:1]]
    return hashlib.sha256(json.dumps(specs).encode()).hexdigest()
