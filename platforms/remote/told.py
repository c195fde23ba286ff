"""What is done with units on hosts, by what was found there: each step of the program is done by the same."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.config.models import DatabaseEngine
from cluster.plan.costs import Cost
from cluster.plan.held_address import named
from cluster.services import Kind
from platforms.pulumi import told
from platforms.pulumi.preview import names
from platforms.pulumi.progress import COMMAND, NGINX_CONFIG
from platforms.pulumi.told import DAEMONS
from platforms.remote.host.paths import THERE
from platforms.remote.units import daemon_unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cluster.render.nginx import NginxConfig
    from cluster.services import Service
    from cluster.topology import Topology
    from platforms.pulumi.preview import Preview, Step
    from platforms.remote.address import Shared
    from platforms.remote.looked import Looked

#: End the names of the commands that set a host up, and that let its nginx do something for other hosts.
HOST, RELAYS = "-host", "-relays"

#: And of those that make a database or a broker that others ask, and that start what keeps the certificate by ACME of a
#: host's nginx.
POSTGRES, BROKER, RENEWER = "-postgres", "-broker", "-renewer"

#: What is another one of the broker's step where its certificate, its key or its users are.
GIVEN = "environment.GIVEN"

#: And of those that let a host hold the site's address in turn with others.
ADDRESS = "-address"

#: What a daemon is that the stack file does not name any more.
FORMER_KINDS = {"broker": Kind.BROKER}


@dataclass(frozen=True, kw_only=True)
class Hosted:
    """A host, and what of the stack file runs on it: instances, workers and schedules, and daemons.

    rendered: the site's configuration there, as far as it is known without secrets; None where nobody visits it.
    relay: what nginx does there for other hosts, files by their paths. shared: what it is told to hold the site's
    address in turn with others; None where it is not to.
    """

    looked: Looked
    instances: Sequence[str]
    beside: Sequence[Service]
    daemons: Sequence[Service]
    rendered: NginxConfig | None
    relay: Mapping[str, str]
    shared: Shared | None = None

    @property
    def gives_up(self) -> bool:
        """Whether it holds an address of the site's, and gives it up."""
        found = self.looked.address
        if not found or not found["held"]:
            return False
        kept = self.shared is not None and {*found["held"]} <= {*self.shared.wanted["addresses"]}
        return not kept or (self.shared is not None and self.shared.starts(self.looked))

    def has_nginx(self) -> bool:
        """Tell whether nginx there does what it should."""
        has_site = self.rendered is None or self.looked.has_site(self.rendered)
        return has_site and self.looked.has_relay(self.relay, alone=False)

    def processes(self) -> Iterator[tuple[str, str, str]]:
        """Yield of each process that is there whose it is, its release or its generation, and its unit.

        Of an instance that is the name, of a worker or a schedule the name with a dot in front.
        """
        own = self.looked.places.name
        for unit, said in self.looked.units.items():
            if said["state"] in THERE:
                template, _, called = unit.removesuffix(".service").partition("@")
                service = template.removeprefix(own)
                name, _, release = ("", "", called) if service else called.rpartition("-")
                yield service or name, release, unit

    def operation(self, name: str, wanted: str) -> str | None:
        """Return what is done with an instance or a service, so that it runs in a release or a generation."""
        there = {release for one, release, _unit in self.processes() if one == name}
        places = self.looked.places
        unit = places.unit_of_service(name[1:], wanted) if name.startswith(".") else places.unit_of(name, wanted)
        if self.looked.are_active([unit]):
            return None
        return "replace" if there - {wanted} else "create"

    def operation_on_daemon(self, service: Service) -> str | None:
        """Return what is done with a daemon: one that does not run is started, another unit makes another of it."""
        called = self.looked.places.daemon(service.name).name
        found = (self.looked.stack or {}).get("daemons", {}).get(called, {})
        if found.get("state") != "active":
            return "create"
        digest = hashlib.sha256(daemon_unit(service, self.looked.places).encode()).hexdigest()
        return None if {found["unit"], found["started"]} == {digest} else "replace"

    def former_daemons(self) -> list[str]:
        """Return the daemons that the stack file does not name any more."""
        kept = {service.name for service in self.daemons}
        own = f"{self.looked.places.name}."
        there = [
            unit.removeprefix(own).removesuffix(".service") for unit in (self.looked.stack or {}).get("daemons", {})
        ]
        return [name for name in there if name not in kept]


class Told(told.Told):
    """What becomes of what runs on hosts where a release is to serve; None: nobody knows which."""

    another = "started again"

    def __init__(
        self, preview: Preview, topology: Topology, hosts: Sequence[Hosted], release: str | None, *, serves: bool
    ) -> None:
        super().__init__(preview, topology, serves=serves)
        self.hosts = hosts
        self.release = release

    def instances(self, *operations: str) -> list[str]:
        """Return the instances with whose units that is done."""
        found = [
            name
            for host in self.hosts
            for name in (host.instances if self.release is not None else ())
            if host.operation(name, self.release or "") in operations
        ]
        gone = [
            name
            for host in self.hosts
            for name, _release, _unit in host.processes()
            if not name.startswith(".") and name not in host.instances
        ]
        return names({*found, *(gone if "delete" in operations else ())})

    def daemons(self, *operations: str, among: Sequence[Kind] = DAEMONS) -> list[str]:
        """Return what else runs of these kinds and with whose units that is done."""
        found = {
            service.name
            for host in self.hosts
            for service in host.daemons
            if service.kind in among and self._on_daemon(host, service) in operations
        }
        if "delete" in operations:
            found |= {
                name
                for host in self.hosts
                for name in host.former_daemons()
                if FORMER_KINDS.get(name, Kind.MEMCACHED) in among
            }
        if Kind.DATABASE in among:
            found |= {service.name for service in self.topology.of_kind(Kind.DATABASE) if self._made() in operations}
        if Kind.ACME in among:
            found |= {self._called(step) for step in self._of_renewers() if _operation(step) in operations}
        return names(found)

    def _on_daemon(self, host: Hosted, service: Service) -> str | None:
        """Return what is done with a daemon: one whose certificate or password is another one is started again too."""
        found = host.operation_on_daemon(service)
        steps = steps_of(self.preview, BROKER, "update") if service.kind is Kind.BROKER else []
        return found or ("replace" if any(GIVEN in step.changed for step in steps) else None)

    def _of_renewers(self) -> list[Step]:
        return [step for step in self.preview.steps if step.part.endswith(RENEWER)]

    def _called(self, step: Step) -> str:
        """Return what `status` calls the renewer of a step's host."""
        return renewer_name(step.part.removesuffix(RENEWER), several=len(self.hosts) > 1)

    def _made(self) -> str | None:
        """Return what is done with the database, but for telling it something else."""
        return "create" if steps_of_database(self.preview, "create", "replace") else None

    def _of_daemons(self) -> Iterator[str]:
        yield from super()._of_daemons()
        if steps_of_database(self.preview, "update"):
            yield "~ postgres: what it is told"
        yield from self._of_address()

    def _of_address(self) -> Iterator[str]:
        wanted = named(self.topology.config)
        own = [host.looked.host for host in self.hosts if host.shared is not None]
        there = [host for host in self.hosts if host.looked.address is not None]
        steps = [step for step in self.preview.steps if step.part.endswith(ADDRESS)]
        if not wanted and there:
            yield "- address: it is given up"
        elif wanted and not there and steps:
            yield f"+ address: {wanted}, held by one of {', '.join(own)}"
        elif wanted and steps:
            yield f"~ address: {wanted}, held by one of {', '.join(own)}{self._moved()}"

    def _moved(self) -> str:
        """Return in words which host gives the address up."""
        held = [host.looked.host for host in self.hosts if host.gives_up]
        return f"; {' and '.join(held)} gives it up" if held else ""

    @property
    def moves_address(self) -> bool:
        """Whether a host gives the site's address up: one that was asked, or one that is not named any more."""
        there = [host for host in self.hosts if host.looked.address is not None]
        held = any((host.looked.address or {}).get("held") for host in there)
        elsewhere = bool(there and self.left) and not held
        return any(host.gives_up for host in self.hosts) or elsewhere

    def beside(self, *operations: str) -> list[str]:
        """Return the workers and schedules with whose units that is done."""
        found = [
            service.name
            for host in self.hosts
            for service in (host.beside if self.release is not None else ())
            if host.operation(f".{service.name}", service.generation(self.release or "")) in operations
        ]
        gone = [
            name[1:]
            for host in self.hosts
            for name, _generation, _unit in host.processes()
            if name.startswith(".") and name[1:] not in {service.name for service in host.beside}
        ]
        return names({*found, *(gone if "delete" in operations else ())})

    def named(self) -> list[str]:
        """Return the instances whose names units take that run already."""
        start, release = self.instances("create", "replace"), self.release
        if release is None:
            return []
        return names(
            name
            for host in self.hosts
            for name in host.instances
            if name not in start and not host.looked.hold_names([name], release)
        )

    @property
    def nginx(self) -> str | None:
        """What is done with nginx."""
        asked = [host.looked.stack for host in self.hosts if host.rendered is not None or host.relay]
        if any(stack is not None and not stack["nginx_runs"] for stack in asked):
            return "create"
        return "reload" if steps_of_nginx(self.preview) or not all(host.has_nginx() for host in self.hosts) else None

    # --- hosts

    @property
    def left(self) -> list[str]:
        """The hosts that are no longer the stack's."""
        gone = self.preview.of(COMMAND, "delete")
        return names(name.removesuffix(HOST) for name in gone if name.endswith(HOST))

    def costs(self) -> list[Cost]:
        """Return what is known to cost something; another machine has none of what the former one keeps."""
        leader, database = self.hosts[0].looked, self.topology.config.database
        elsewhere = database is not None and database.engine is not DatabaseEngine.SQLITE
        another = leader.stack is None and bool(self.preview.before.get("release")) and not elsewhere
        moved = [Cost.ADDRESS_MOVED] if self.moves_address and self.serves else []
        return [*super().costs(), *moved, *([Cost.DATA_LEFT] if another else [])]

    def deleted(self) -> list[str]:
        """Return in words what is stopped for good."""
        return [
            *super().deleted(),
            *(f"host {name}: what runs there stops, and what it keeps stays" for name in self.left),
        ]


def _operation(step: Step) -> str:
    """Return what is done with a renewer: one that is told something else is started again."""
    return "replace" if step.operation == "update" else step.operation


def renewer_name(host: str, *, several: bool) -> str:
    """Return what a host's renewer is called."""
    return f"{Kind.ACME}@{host}" if several else str(Kind.ACME)


def steps_of_database(preview: Preview, *operations: str) -> list[Step]:
    """Return the steps that make or change a database."""
    return steps_of(preview, POSTGRES, *operations)


def steps_of(preview: Preview, part: str, *operations: str) -> list[Step]:
    """Return the steps of which the name ends so."""
    return [step for step in preview.steps if step.part.endswith(part) and step.operation in operations]


def steps_of_nginx(preview: Preview) -> list[Step]:
    """Return the steps that tell nginx something: of the site, and of what it does for other hosts."""
    return [step for step in preview.steps if step.part.endswith((NGINX_CONFIG, RELAYS))]


__all__ = ["Hosted", "Told", "steps_of_database", "steps_of_nginx"]
