"""What a stack file means: the instances, their names and their shares of the traffic. Pure; no platform in it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from cluster.config.models import Method
from cluster.endpoints import HTTPS, Endpoint
from cluster.services import Kind, Service, services
from cluster_runtime.sessions import ENGINES

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.config.models import App, ClusterConfig, Server


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One instance: `server` as the stack file says, its `share` of the traffic, its own port where it has one."""

    server: Server
    share: Fraction
    port: int | None

    @property
    def name(self) -> str:
        """The instance's name."""
        return self.server.name


@dataclass(frozen=True, kw_only=True)
class Topology:
    """The cluster as it should be."""

    config: ClusterConfig
    instances: tuple[Instance, ...]
    memcached_nodes: int
    services: tuple[Service, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The instances' names, in the stack file's order."""
        return tuple(instance.name for instance in self.instances)

    def instance(self, name: str) -> Instance:
        """Return the instance called `name`; KeyError where there is none."""
        for instance in self.instances:
            if instance.name == name:
                return instance
        raise KeyError(name)

    def of_kind(self, *kinds: Kind) -> tuple[Service, ...]:
        """Return the services of these kinds, in the stack file's order."""
        return tuple(service for service in self.services if service.kind in kinds)

    def endpoints(self, directory: Callable[[Kind], str], *kinds: Kind) -> dict[str, Endpoint]:
        """Return where the services of these kinds (of all, where none is named) are reached, by their names.

        directory: where the sockets of a kind are, for whom it is asked.
        """
        return {
            service.name: service.endpoint.below(directory(service.kind))
            for service in self.services
            if service.endpoint is not None and (not kinds or service.kind in kinds)
        }

    @property
    def daemons(self) -> tuple[Service, ...]:
        """Programs of the distribution's that the stack has for itself."""
        return tuple(service for service in self.services if service.daemon is not None)

    @property
    def beside(self) -> tuple[Service, ...]:
        """What runs the project's code beside the instances: workers and schedules."""
        return tuple(service for service in self.services if service.is_of_release)


def shares(servers: list[Server]) -> dict[str, Fraction]:
    """Return each server's share of the traffic while all are available: its weight over the sum of weights.

    A backup gets traffic only when no other server is available; one that is down gets none.
    """
    serving = {server.name: server.weight for server in servers if not server.down and not server.backup}
    total = sum(serving.values())
    return {server.name: Fraction(serving.get(server.name, 0), total or 1) for server in servers}


def build_topology(config: ClusterConfig) -> Topology:
    """Return the topology of a stack file."""
    share = shares(config.upstream.servers)
    first_port = config.site.instance_ports
    instances = []
    for number, server in enumerate(config.upstream.servers):
        instances.append(
            Instance(
                server=server,
                share=share[server.name],
                port=first_port + number if first_port is not None else None,
            )
        )
    nodes = config.sessions.memcached.nodes if uses_memcached(config) else 0
    return Topology(
        config=config,
        instances=tuple(instances),
        memcached_nodes=nodes,
        services=tuple(services(config, nodes)),
    )


def uses_memcached(config: ClusterConfig) -> bool:
    """Tell whether sessions are kept in memcached, now or before."""
    engines = (config.sessions.engine, config.sessions.previous)
    return any(engine in ENGINES and bool(ENGINES[engine].alias) for engine in engines if engine is not None)


def exact_shares(config: ClusterConfig) -> bool:
    """Tell whether nginx gives each server its share exactly (round robin, whose state the workers share by `zone`)."""
    return config.upstream.method is Method.ROUND_ROBIN


def site_host(config: ClusterConfig) -> str:
    """Return a host of the first of the site's names: of a pattern one that it matches."""
    name = config.site.server_names[0]  # browsers send no capital letters
    found = "localhost" if name == "_" else f"www{name[1:]}" if name.startswith("*") else name.removeprefix(".")
    return found.lower()


def site_url(config: ClusterConfig) -> str:
    """Return the address to open in a browser."""
    return f"{site_origin(config, site_host(config))}/"


def site_origin(config: ClusterConfig, host: str) -> str:
    """Return the origin of the site's pages by one of its names, as visitors have it."""
    tls = config.site.tls
    if tls is None and config.site.scheme_is_told:
        return Endpoint(host=host, port=HTTPS).secure_origin  # what is before nginx ends TLS
    if tls is not None:
        return Endpoint(host=host, port=config.site.https_port or tls.listen).secure_origin
    return Endpoint(host=host, port=config.site.listen).origin


def served_static_url(config: ClusterConfig) -> str | None:
    """Return the path below which nginx serves what was collected; None where it passes everything on."""
    return config.site.static_url if config.app.collectstatic else None


def percent(share: Fraction) -> str:
    """Return a share as a person reads it."""
    return f"{float(share) * 100:.3g} %"


def batches(names: tuple[str, ...], app: App) -> list[tuple[str, ...]]:
    """Return which instances are replaced together: the first alone, then `rollout.batch` at a time.

    With `all` the first one's name is taken with the others', after it has been proven healthy alone.
    """
    size = app.rollout.batch
    if not isinstance(size, int):
        return [names] if names else []
    rest = names[1:]
    return [names[:1], *(rest[at : at + size] for at in range(0, len(rest), size))] if names else []
