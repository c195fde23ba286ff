"""What runs of a stack on its host, as `status` tells it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.maintenance import KEPT_MAINTENANCE, told_trouble
from cluster.render.maintenance import digest_of
from cluster.services import Kind
from cluster_runtime.status import SERVING
from platforms.base import InstanceStatus, NginxStatus, Process, ServiceStatus, Status
from platforms.remote.host.places import THERE
from platforms.remote.paths import nginx_config

if TYPE_CHECKING:
    from cluster.maintenance import Maintenance
    from cluster.services import Service
    from cluster.tls.certificates import Certificate
    from cluster.topology import Topology
    from platforms.remote.host.places import Places
    from platforms.remote.looked import Looked


@dataclass(frozen=True, kw_only=True)
class Observed:
    """A stack as it was found. certificate: the site's, as far as it is known without secrets."""

    looked: Looked
    topology: Topology
    places: Places
    certificate: Certificate | None

    @property
    def release(self) -> str | None:
        """The release that serves: the one that every instance's name leads to, else None."""
        held = {self.looked.live.holders.get(name) for name in self.topology.names}
        return held.pop() if len(held) == 1 else None

    @property
    def maintenance(self) -> Maintenance | None:
        """What visitors are told in place of the site."""
        kept = (self.looked.stack or {}).get("maintenance", {}).get("kept")
        return None if kept is None else KEPT_MAINTENANCE.validate_json(kept)

    def status(self, sessions: dict[str, Any] | None) -> Status:
        """Return it; sessions: what an instance says of the session store."""
        stack = self.looked.stack or {}
        wanted = nginx_config(self.topology, self.places, self.looked.nginx, self.certificate).digest
        runs = bool(stack.get("nginx_runs"))
        version = ".".join(map(str, self.looked.nginx))
        nginx = NginxStatus(digest=stack.get("nginx"), current=stack.get("nginx") == wanted, runs=runs, version=version)
        instances = [self._instance(name) for name in self.topology.names]
        troubles = self._troubles()
        return Status(
            ok=nginx.current and self.release is not None and all(one.ok for one in instances) and not troubles,
            release=self.release,
            releases=self.looked.releases,
            nginx=nginx,
            store=sessions,
            instances=instances,
            services=[
                *(self._service(service) for service in self.topology.beside),
                *(self._daemon(service) for service in self.topology.services if service.daemon is not None),
                ServiceStatus(service="nginx", kind=Kind.NGINX, state="running" if runs else "stopped", ok=runs),
            ],
            maintenance=self.maintenance,
            troubles=troubles,
        )

    def _troubles(self) -> list[str]:
        found = []
        told = (self.looked.stack or {}).get("maintenance", {}).get("told")
        if told is not None and told != digest_of(self.maintenance):
            found.append(told_trouble(self.maintenance))
        release = self.release
        if release is not None and self.looked.run(self.topology.names, release):
            found += [
                f"{name} is not started at boot"
                for name in self.topology.names
                if not self.looked.units[self.places.unit_of(name, release)].get("enabled")
            ]
        return found

    def _instance(self, name: str) -> InstanceStatus:
        live = self.looked.live
        processes = [
            self._process(name, unit, said)
            for unit, said in self.looked.units.items()
            if unit.startswith(self.places.unit_of(name, "").removesuffix(".service")) and said["state"] in THERE
        ]
        serving = [process.release for process in processes if process.state == SERVING]
        return InstanceStatus(
            instance=name,
            share=round(float(self.topology.instance(name).share), 6),
            release=live.holders.get(name),
            ok=len(processes) == 1 and serving == [live.holders.get(name)],
            processes=processes,
        )

    def _service(self, service: Service) -> ServiceStatus:
        """Return what is to be said of a worker or a schedule: of the one of the release that serves."""
        generation = service.generation(self.release or "")
        said = (self.looked.stack or {}).get("services", {}).get(service.name, {}).get(generation)
        unit = self.looked.units.get(self.places.unit_of_service(service.name, generation), {})
        lives = unit.get("state") in THERE and said is not None
        said = said or {}
        return ServiceStatus(
            service=service.name,
            kind=service.kind,
            state=said.get("state", "") if lives else unit.get("state", "not running"),
            ok=lives and bool(said.get("well")),
            release=self.release,
            message=said.get("message", "") if lives else "",
            since=said.get("since") if lives else None,
        )

    def _daemon(self, service: Service) -> ServiceStatus:
        unit = self.places.daemon(service.name).name
        state = (self.looked.stack or {}).get("daemons", {}).get(unit, {}).get("state", "not running")
        return ServiceStatus(service=service.name, kind=service.kind, state=state, ok=state == "active")

    def _process(self, name: str, unit: str, told: dict[str, Any] | Any) -> Process:
        release = unit.removesuffix(".service").rpartition("-")[2]
        said = self.looked.live.statuses.get((name, release))
        lives = told["state"] in THERE and said is not None
        said = said or {}
        return Process.of(
            said,
            release=release,
            state=said.get("state", "") if lives else told["state"],
            lives=lives,
            pid=told["pid"],
        )


def told(maintenance: Maintenance | None) -> str | None:
    """Return what is kept of a maintenance on a host."""
    return None if maintenance is None else json.dumps(KEPT_MAINTENANCE.dump_python(maintenance, mode="json"))
