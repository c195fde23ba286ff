"""What runs of a stack on its hosts, as `status` tells it."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cluster.acme.status import standing
from cluster.maintenance import KEPT_MAINTENANCE, told_trouble
from cluster.render.maintenance import digest_of
from cluster.services import Kind
from cluster_runtime.status import SERVING
from platforms.base import InstanceStatus, NginxStatus, Process, ServiceStatus, Status
from platforms.remote import filesystem
from platforms.remote.host.paths import THERE
from platforms.remote.paths import nginx_config, relay_files
from platforms.remote.renewing import said_of
from platforms.remote.told import renewer_name

if TYPE_CHECKING:
    from cluster.maintenance import Maintenance
    from cluster.services import Service
    from cluster.tls.certificates import Certificate
    from cluster.topology import Topology
    from platforms.remote.host.paths import HostPaths
    from platforms.remote.looked import Seen


@dataclass(frozen=True, kw_only=True)
class Observed:
    """A stack as it was found. certificate: the site's, as far as it is known without secrets."""

    seen: Seen
    topology: Topology
    places: HostPaths
    certificate: Certificate | None

    @property
    def release(self) -> str | None:
        """The release that serves: the one that every instance's name leads to, else None."""
        return self.seen.release

    @property
    def maintenance(self) -> Maintenance | None:
        """What visitors are told in place of the site: by the first host that tells them something."""
        found = next(filter(None, self._maintained()), None)
        return None if found is None else KEPT_MAINTENANCE.validate_json(found)

    @property
    def is_divided(self) -> bool:
        """Whether visitors of one host are told something else than those of another."""
        return len(set(self._maintained())) > 1

    def _maintained(self) -> list[str | None]:
        return [(looked.stack or {}).get("maintenance", {}).get("kept") for looked in self.seen.edges]

    def status(self, sessions: dict[str, Any] | None) -> Status:
        """Return it; sessions: what an instance says of the session store."""
        nginx, of_nginx = self._nginx()
        services = [
            *(self._service(service) for service in self.topology.beside),
            *(self._daemon(service) for service in self.topology.daemons),
            *self._database(),
            *self._certificates(),
            *self._addresses(),
            *of_nginx,
        ]
        instances = [self._instance(name) for name in self.topology.names]
        troubles = self._troubles()
        well = all(one.ok for one in instances) and all(one.ok for one in services)
        return Status(
            ok=nginx.current and self.release is not None and well and not troubles,
            release=self.release,
            releases=self.seen.leader.releases,
            nginx=nginx,
            store=sessions,
            instances=instances,
            services=services,
            maintenance=self.maintenance,
            troubles=troubles,
        )

    def _database(self) -> list[ServiceStatus]:
        """Return what is to be said of the database that is made."""
        found = []
        for service in self.topology.of_kind(Kind.DATABASE):
            said = (self.seen.of(service.name).stack or {}).get("database") or {"active": False, "safe": True}
            left = ", ".join(said.get("left", ()))
            ok = bool(said["active"] and said["safe"] and not left)
            message = f"{left} still gets to its port: `cluster up` ends that" if left else ""
            message = message if said["safe"] else "everybody on its network gets to its port"
            state = "active" if said["active"] else "not running"
            found.append(ServiceStatus(service=service.name, kind=service.kind, state=state, ok=ok, message=message))
        return found

    def _certificates(self) -> list[ServiceStatus]:
        """Return what is to be said of the certificate by ACME of each nginx."""
        several, found = len(self.seen.placement.hosts) > 1, []
        for looked in self.seen.edges if self.topology.of_kind(Kind.ACME) else ():
            called = renewer_name(looked.host, several=several)
            if "renewer" in looked.renewal.get("active", ()):
                now = standing(*said_of(looked.renewal), dt.datetime.now(dt.UTC))
                row = ServiceStatus(service=called, kind=Kind.ACME, state=now.state, ok=now.ok, message=now.message)
            else:
                row = ServiceStatus(service=called, kind=Kind.ACME, state="not running", ok=False)
            found.append(row)
        return found

    @property
    def holders(self) -> dict[str, list[str]]:
        """The hosts that were found to hold each of the site's addresses."""
        each = self.seen.each.items()
        return {
            address: [name for name, looked in each if looked.address and address in looked.address["held"]]
            for address in self.topology.config.site.address or ()
        }

    def _addresses(self) -> list[ServiceStatus]:
        """Return what is to be said of each host that holds the site's address in turn with others."""
        several = len(self.seen.placement.hosts) > 1
        rows = []
        for looked in self.seen.edges if self.topology.config.site.address else ():
            said = looked.address or {"active": False, "held": [], "edited": [], "left": [], "answers": True}
            held = " and ".join(said["held"])
            state = (f"holds {held}" if held else "waits") if said["active"] else "not running"
            message = "nginx does not answer, so that this host holds no address" if not said["answers"] else ""
            message = message or ", ".join(f"{path} was edited" for path in said["edited"])
            message = message or ", ".join(f"{one} is still heard: `cluster up` ends that" for one in said["left"])
            called = f"{Kind.ADDRESS}@{looked.host}" if several else str(Kind.ADDRESS)
            ok = said["active"] and not message
            rows.append(ServiceStatus(service=called, kind=Kind.ADDRESS, state=state, ok=ok, message=message))
        return rows

    def _nginx(self) -> tuple[NginxStatus, list[ServiceStatus]]:
        """Return what is to be said of nginx: of all of them, and of each."""
        found: list[NginxStatus] = []
        services: list[ServiceStatus] = []
        several = len(self.seen.placement.hosts) > 1
        for name in self.seen.placement.hosts:
            looked = self.seen.each[name]
            stack = looked.stack or {}
            runs = bool(stack.get("nginx_runs"))
            called = f"nginx@{name}" if several else "nginx"
            relay = looked.has_relay(relay_files(self.topology, self.places, name, looked.nginx), alone=False)
            current = relay
            if name in self.seen.away:
                message = "the host does not answer"
                services.append(ServiceStatus(service=called, kind=Kind.NGINX, state="?", ok=False, message=message))
                continue
            if name in self.seen.placement.nginx:
                wanted = nginx_config(self.topology, self.places, name, looked.nginx, self.certificate).digest
                current = relay and stack.get("nginx") == wanted
                version = ".".join(map(str, looked.nginx))
                found.append(NginxStatus(digest=stack.get("nginx"), current=current, runs=runs, version=version))
            message = "" if current or not several else "does not run the stack's configuration"
            state = "running" if runs else "stopped"
            ok = runs and (current or not several)
            services.append(ServiceStatus(service=called, kind=Kind.NGINX, state=state, ok=ok, message=message))
        current, runs = all(one.current for one in found), all(one.runs for one in found)
        whole = all(one.ok for one in services) if several else True
        nothing = NginxStatus(digest=None, current=False, runs=False)
        return replace(next(iter(found), nothing), current=current and whole, runs=runs), services

    def _troubles(self) -> list[str]:
        found = [*self.seen.away.values(), *filesystem.problems(self.seen)]
        for address, holders in self.holders.items():
            if len(holders) != 1:
                who = " and ".join(holders) if holders else "no host" + (" that answers" if self.seen.away else "")
                found.append(f"{address} is held by {who}")
        several = len(self.seen.each) > 1
        for looked in self.seen.edges:
            told = (looked.stack or {}).get("maintenance", {}).get("told")
            if told is not None and told != digest_of(self.maintenance):
                trouble = told_trouble(self.maintenance)
                found.append(f"{looked.host}: {trouble}" if several else trouble)
        release = self.release
        if (
            not self.seen.away
            and release is not None
            and all(self.seen.of(name).run([name], release) for name in self.topology.names)
        ):
            found += [
                f"{name} is not started at boot"
                for name in self.topology.names
                if not self.seen.of(name).units[self.places.unit_of(name, release)].get("enabled")
            ]
        return found

    def _instance(self, name: str) -> InstanceStatus:
        live = self.seen.live
        # One that has moved may still run where it was.
        processes = [
            self._process(name, unit, said)
            for looked in self.seen.each.values()
            for unit, said in looked.units.items()
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
        looked = self.seen.of(service.name)
        said = (looked.stack or {}).get("services", {}).get(service.name, {}).get(generation)
        unit = looked.units.get(self.places.unit_of_service(service.name, generation), {})
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
        state = (self.seen.of(service.name).stack or {}).get("daemons", {}).get(unit, {}).get("state", "not running")
        said = (self.seen.of(service.name).stack or {}).get("broker") if service.kind is Kind.BROKER else None
        left = ", ".join((said or {}).get("left", ()))
        message = f"{left} still gets to its port: `cluster up` ends that" if left else ""
        message = message if (said or {}).get("safe", True) else "everybody on its network gets to its port"
        ok = state == "active" and not message
        return ServiceStatus(service=service.name, kind=service.kind, state=state, ok=ok, message=message)

    def _process(self, name: str, unit: str, told: dict[str, Any] | Any) -> Process:
        release = unit.removesuffix(".service").rpartition("-")[2]
        said = self.seen.live.statuses.get((name, release))
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
