"""What of a stack runs on its engine."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.acme.kept import Said
from cluster.acme.status import standing
from cluster.services import Kind
from cluster_runtime.status import SERVING, believable
from platforms.base import InstanceStatus, NginxStatus, Process, ServiceStatus
from platforms.docker.container_paths import nginx_config
from platforms.docker.engine import INSTANCE_LABEL, RELEASE_LABEL, ROLE_LABEL, SERVICE_LABEL, SHORT_ID, Engine

if TYPE_CHECKING:
    from cluster.tls.certificates import Certificate
    from cluster.topology import Topology
    from platforms.pulumi.live import Live


@dataclass(frozen=True, kw_only=True)
class Observed:
    """A stack as it is: `containers` by what `docker inspect` says, `live` as nginx and the instances say.

    certificate: the site's, as far as it is known without secrets.
    """

    live: Live
    containers: tuple[dict[str, Any], ...]
    topology: Topology
    certificate: Certificate | None = None

    @property
    def nginx_current(self) -> bool:
        """Whether nginx runs what the stack file says."""
        return self.live.nginx == nginx_config(self.topology, self.certificate).digest

    @property
    def release(self) -> str | None:
        """The release that serves: the one that every instance's name leads to, else None."""
        held = {release_of(self.live.holders.get(name)) for name in self.topology.names}
        return held.pop() if len(held) == 1 else None

    def of(self, role: str) -> list[dict[str, Any]]:
        """Return the containers of a role."""
        return [c for c in self.containers if c["Config"]["Labels"].get(ROLE_LABEL) == role]

    def nginx(self) -> NginxStatus:
        """Return what is to be said of nginx."""
        runs = any(container["State"]["Running"] for container in self.of("nginx"))
        return NginxStatus(digest=self.live.nginx, current=self.nginx_current, runs=runs)

    def instances(self) -> list[InstanceStatus]:
        """Return what is to be said of each instance."""
        return [self._instance(name) for name in self.topology.names]

    def _instance(self, name: str) -> InstanceStatus:
        holder = self.live.holders.get(name)
        processes = [
            self._process(name, container)
            for container in self.of("instance")
            if container["Config"]["Labels"].get(INSTANCE_LABEL) == name
        ]
        serving = [f"{process.release}.{process.container}" for process in processes if process.state == SERVING]
        return InstanceStatus(
            instance=name,
            share=round(float(self.topology.instance(name).share), 6),
            release=release_of(holder),
            ok=len(processes) == 1 and serving == [holder],
            processes=processes,
        )

    def _process(self, name: str, container: dict[str, Any]) -> Process:
        release, short = container["Config"]["Labels"][RELEASE_LABEL], container["Id"][:SHORT_ID]
        said = self.live.statuses.get((name, f"{release}.{short}"))
        runs = container["State"]["Running"] and said is not None
        said = said or {}
        return Process.of(
            said,
            release=release,
            state=said.get("state", "") if runs else container["State"]["Status"],
            lives=runs,
            pid=container["State"]["Pid"],
            container=short,
        )

    def services(self) -> list[ServiceStatus]:
        """Return what is to be said of workers and schedules, nginx, each memcached node, the broker, the database."""
        kinds = {service.name: service.kind for service in self.topology.services}
        found = [self._beside(container) for container in self.containers if SERVICE_LABEL in labels_of(container)]
        there = {service.service for service in found}
        found += [
            ServiceStatus(service=service.name, kind=service.kind, state="not running", ok=False)
            for service in self.topology.beside
            if service.name not in there
        ]
        for container in self.containers:
            role = container["Config"]["Labels"].get(ROLE_LABEL, "")
            if role in ("instance", "task") or SERVICE_LABEL in labels_of(container):
                continue
            state = container["State"]
            health = state.get("Health", {}).get("Status", state["Status"])
            ok = state["Running"] and health in ("healthy", "running")
            if kinds.get(role) is Kind.ACME and ok:
                now = standing(self.live.renewal or Said(), self.live.certificate, dt.datetime.now(dt.UTC))
                found.append(
                    ServiceStatus(service=role, kind=Kind.ACME, state=now.state, ok=now.ok, message=now.message)
                )
                continue
            found.append(ServiceStatus(service=role, kind=kinds.get(role, role), state=health, ok=ok))
        return sorted(found, key=lambda one: one.service)

    def _beside(self, container: dict[str, Any]) -> ServiceStatus:
        """Return what is to be said of a worker or a schedule: what it says itself is in the engine's last look."""
        labels, state = labels_of(container), container["State"]
        said = said_of(container) if state["Running"] else {"state": state["Status"]}
        release, name = labels[RELEASE_LABEL], labels[ROLE_LABEL]
        wanted = {service.name: service.generation(release) for service in self.topology.beside}
        command = container["Config"]["Cmd"] or []
        current = release == self.release and wanted.get(name) in command
        return ServiceStatus(
            service=name,
            kind=labels[SERVICE_LABEL],
            state=str(said.get("state") or state.get("Health", {}).get("Status") or state["Status"]),
            ok=current and bool(said.get("well")),
            release=release,
            message=str(said.get("message", "")),
            since=said.get("since"),
        )


def labels_of(container: dict[str, Any]) -> dict[str, str]:
    """Return a container's labels."""
    found: dict[str, str] = container["Config"]["Labels"]
    return found


def said_of(container: dict[str, Any]) -> dict[str, Any]:
    """Return what a worker or a schedule says of itself; nothing where no look at it has told."""
    looks = container["State"].get("Health", {}).get("Log") or [{}]
    try:
        return believable(json.loads(looks[-1].get("Output", ""))) or {}
    except (ValueError, RecursionError):
        return {}


def release_of(process: str | None) -> str | None:
    """Return the release of a process that calls its files `release.container`."""
    return None if process is None else process.partition(".")[0]


def observe(
    engine: Engine, stack: str, topology: Topology, certificate: Certificate | None, handed: str | None = None
) -> Observed:
    """Look at everything that runs; EngineError where the engine is away. handed: what another process has seen."""
    containers = tuple(engine.inspect(engine.containers(stack, stopped=True)))
    live = engine.handed(handed, stack) or engine.live(stack)
    return Observed(live=live, containers=containers, topology=topology, certificate=certificate)
