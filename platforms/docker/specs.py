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
from platforms.docker.containers import APP_USER, Spec, watching
from platforms.docker.engine import INSTANCE_LABEL, RELEASE_LABEL, SERVICE_LABEL

if TYPE_CHECKING:
    from cluster.services import Service
    from cluster.topology import Topology

#: Seconds between two looks at a worker or a schedule: they tell `cluster status` what it says of itself.
SAID_SECONDS = 4

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
        health=watching(_in_a_state(status, *INSTANCE_STATES), start),
        start_seconds=start,
        labels={INSTANCE_LABEL: name, RELEASE_LABEL: release},
    )


def service_spec(topology: Topology, service: Service, release: str) -> Spec:
    """Return what is peculiar to the container of a worker or a schedule."""
    status = f"{RUN}/{SERVICES}/{service.name}/{service.generation(release)}.$HOSTNAME.json"
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
        health=watching(
            _in_a_state(status, *WELL, DRAINING), start, told=f"cat {status} 2>/dev/null; ", seconds=SAID_SECONDS
        ),
        start_seconds=start,
        labels={SERVICE_LABEL: service.kind.value, RELEASE_LABEL: release},
    )


def _in_a_state(status: str, *states: str) -> str:
    """Return the shell's words that tell whether a process is in one of its states, by its status file.

    That costs no start of Python.
    """
    return f"""grep -qsE '"state": "({"|".join(states)})"' {status}"""


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
