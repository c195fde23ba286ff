"""What runs beside the instances on this machine: workers and schedules as Supervisor's programs, and what is said."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.acme.kept import Store
from cluster.acme.status import standing
from cluster.services import Kind
from cluster_runtime.instance_link import SERVICES, InstanceLink
from cluster_runtime.service import WELL
from cluster_runtime.status import STARTING
from platforms.base import ServiceStatus
from platforms.local.daemons import kind_of
from platforms.local.state import is_daemon, is_service

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from cluster.services import Service
    from cluster.topology import Topology
    from platforms.local.paths import LocalPaths
    from platforms.local.state import Observed
    from platforms.local.supervisor import Process


@dataclass(frozen=True, kw_only=True)
class Said:
    """A process of a service: its name, its generation, and its last word of itself."""

    service: str
    generation: str
    process: Process
    status: Mapping[str, Any]

    @property
    def state(self) -> str:
        """Its own word where it lives, else Supervisor's; one that has said nothing yet is starting."""
        there = STARTING if self.process.state == "RUNNING" else self.process.state.lower()
        return str(self.status.get("state") or there)

    @property
    def well(self) -> bool:
        """Whether it does what it is for."""
        return self.process.state == "RUNNING" and self.state in WELL and bool(self.status.get("well"))


def service_program(name: str, generation: str) -> str:
    """Return Supervisor's name for a process of a service."""
    return f"{name}@{generation}"


def wanted(topology: Topology, release: str, kinds: Collection[str] | None) -> dict[str, Service]:
    """Return the services that run beside the instances of a release, by Supervisor's name of their process.

    kinds: those that the release can run; None: all, as one can that is made now.
    """
    return {
        service_program(one.name, one.generation(release)): one
        for one in topology.beside
        if kinds is None or one.kind in kinds
    }


def said_of(paths: LocalPaths, process: Process) -> Said:
    """Return what a process of a service says of itself; what another, ended one has left is not its word."""
    name, _at, generation = process.name.partition("@")
    status = InstanceLink(paths.run / SERVICES, name).status(generation) or {}
    own = status.get("pid") == process.pid
    return Said(service=name, generation=generation, process=process, status=status if own else {})


def statuses(
    topology: Topology, paths: LocalPaths, observed: Observed, release: str | None, kinds: Collection[str] | None
) -> list[ServiceStatus]:
    """Return what is to be said of all that runs beside instances and nginx; `kinds`: what the release can run."""
    rows = []
    there = {name: said_of(paths, process) for name, process in observed.processes.items() if is_service(name)}
    expected = wanted(topology, release, None) if release else {}
    named = {service.name: service.kind for service in topology.beside}
    for name, service in expected.items():
        if name not in there:
            able = kinds is None or service.kind in kinds
            message = "" if able else f"release {release} was made before the stack had it"
            rows.append(
                ServiceStatus(service=service.name, kind=service.kind, state="not running", ok=False, message=message)
            )
    for name, said in there.items():
        rows.append(
            ServiceStatus(
                service=said.service,
                kind=named.get(said.service, Kind.WORKER),
                state=said.state,
                ok=name in expected and said.well,
                release=said.generation.partition(".")[0],
                message=str(said.status.get("message", "")),
                since=said.status.get("since"),
            )
        )
    renewers = {service.name for service in topology.of_kind(Kind.ACME)}
    daemons: dict[str, Kind | None] = {
        **{name: kind_of(name) for name in observed.processes if is_daemon(name) and name not in renewers},
        **{service.name: service.kind for service in topology.services if service.daemon is not None},
    }
    rows += [_certificate(service, paths, observed) for service in topology.of_kind(Kind.ACME)]
    for name, kind in daemons.items():
        process = observed.processes.get(name)
        state = process.state.lower() if process else "not running"
        rows.append(ServiceStatus(service=name, kind=kind or name, state=state, ok=state == "running"))
    return sorted(rows, key=lambda row: row.service)


def _certificate(service: Service, paths: LocalPaths, observed: Observed) -> ServiceStatus:
    """Return what is to be said of the certificate that a renewer keeps."""
    process = observed.processes.get(service.name)
    if process is None or process.state != "RUNNING":
        state = process.state.lower() if process else "not running"
        return ServiceStatus(service=service.name, kind=service.kind, state=state, ok=False)
    now = standing(Store(paths.acme).said(), observed.certificate, dt.datetime.now(dt.UTC))
    return ServiceStatus(service=service.name, kind=service.kind, state=now.state, ok=now.ok, message=now.message)
