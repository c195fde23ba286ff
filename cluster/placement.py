"""Which host runs what. Pure: the same stack file gives the same answer, and so for each instance that it names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.config.hosts import Role
from cluster.services import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cluster.services import Service
    from cluster.topology import Topology


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a stack's services run.

    app, nginx: the names of the hosts with that role, in the stack file's order. database: the host of the database
    that is made; None where there is none. host_of: each service's host, by the service's name, but nginx's. broker:
    the host of a broker that is asked by TLS; None where there is none.
    """

    app: tuple[str, ...]
    nginx: tuple[str, ...]
    database: str | None
    host_of: Mapping[str, str]
    broker: str | None = None

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts with a part of the site, those with instances first."""
        return (*self.app, *(name for name in self.nginx if name not in self.app))

    @property
    def asks_database(self) -> bool:
        """Whether instances ask for the database that is made from another host."""
        return self.database is not None and any(name != self.database for name in self.app)

    @property
    def asks_broker(self) -> bool:
        """Whether instances ask for the broker from another host."""
        return self.broker is not None and any(name != self.broker for name in self.app)

    @property
    def leader(self) -> str:
        """The host on which is done what is done once."""
        return self.app[0]

    @property
    def is_spread(self) -> bool:
        """Whether a host's nginx passes requests on to another host."""
        return any(self.reaches_out(name) for name in self.nginx)

    def reaches_out(self, nginx: str) -> bool:
        """Tell whether a host with the role nginx has instances behind it that run elsewhere."""
        return any(name != nginx for name in self.app)

    def on(self, host: str, names: Sequence[str]) -> tuple[str, ...]:
        """Return the names among these of services that run on a host."""
        return tuple(name for name in names if self.host_of.get(name) == host)

    def services(self, host: str, services: Iterable[Service]) -> list[Service]:
        """Return those of these services that run on a host."""
        return [service for service in services if self.host_of.get(service.name) == host]

    def peers(self, host: str) -> tuple[str, ...]:
        """Return the other hosts that have instances."""
        return tuple(name for name in self.app if name != host)


def place(topology: Topology) -> Placement:
    """Return where the services of a stack run; KeyError where it names a host that is none of its own."""
    config = topology.config
    app = tuple(host.name for host in config.hosts if Role.APP in host.roles)
    nginx = tuple(host.name for host in config.hosts if Role.NGINX in host.roles)
    database = next((host.name for host in config.hosts if Role.DATABASE in host.roles), None)
    by_tls = config.broker_is_asked_by_tls
    broker = next((host.name for host in config.hosts if by_tls and Role.BROKER in host.roles), None)
    dealt = dict.fromkeys(app, 0)
    host_of: dict[str, str] = {}
    for server in config.upstream.servers:
        if server.host is not None:
            host_of[server.name] = server.host
            dealt[server.host] += 1
    for server in config.upstream.servers:
        if server.host is None:
            host = min(app, key=lambda name: dealt[name])
            host_of[server.name] = host
            dealt[host] += 1
    workers = [service.name for service in topology.of_kind(Kind.WORKER)]
    host_of |= {name: app[number % len(app)] for number, name in enumerate(workers)}
    host_of |= {service.name: app[0] for service in topology.services if _is_alone(service)}
    host_of |= {service.name: database for service in topology.of_kind(Kind.DATABASE) if database is not None}
    host_of |= {service.name: broker for service in topology.of_kind(Kind.BROKER) if broker is not None}
    return Placement(app=app, nginx=nginx, database=database, broker=broker, host_of=host_of)


def _is_alone(service: Service) -> bool:
    """Tell whether a service runs on one host: a schedule's command runs once for the whole cluster."""
    return service.kind not in {Kind.INSTANCE, Kind.WORKER, Kind.NGINX}
