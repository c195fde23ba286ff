"""Which services another stack file makes anew: what a container can't change while it runs is a part of what it is.

Where a service is no container, nginx takes all of its configuration by a reload, and a daemon is started again by
other words of its command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.config.units import moment_text
from cluster.services import PACKAGED, Kind

if TYPE_CHECKING:
    from cluster.config.models import ClusterConfig
    from cluster.services import Service
    from cluster.topology import Topology

#: The keys of images by the kind of what runs in one.
IMAGES = {
    Kind.INSTANCE: "app",
    Kind.MEMCACHED: "memcached",
    Kind.DATABASE: "postgres",
    Kind.BROKER: "broker",
    Kind.NGINX: "nginx",
}


def image_of(config: ClusterConfig, kind: Kind) -> dict[str, str]:
    """Return on what a service's image is built, by keys of the stack file; empty where it is no container."""
    if not config.platform.traits.containers:
        return {}
    called, as_of = IMAGES.get(kind, "base"), config.images.as_of
    base = getattr(config.images, called) or config.images.base
    return {f"images.{called}": base, **({"images.as_of": moment_text(as_of)} if as_of else {})}


def nginx_made_of(topology: Topology) -> dict[str, str]:
    """Return what makes another nginx of it, by the keys of the stack file; empty where a reload is enough for all."""
    config = topology.config
    if not config.platform.traits.containers:
        return {}
    site = config.site
    ports = [str(instance.port) for instance in topology.instances if instance.port is not None]
    return {
        **image_of(config, Kind.NGINX),
        **{key: str(port) for port, key in site.listeners.items()},
        **({"site.tls.http3": "yes"} if site.http3 else {}),  # a port by UDP
        **({"site.instance_ports": ", ".join(ports)} if ports else {}),
        # What keeps the certificate asks nginx by a name of its own, and lends it a volume.
        **({"site.tls.acme": "yes"} if site.acme is not None else {}),
    }


def made_of(config: ClusterConfig, service: Service) -> tuple[object, ...]:
    """Return what makes another process of a service that runs none of the project's code; nginx aside."""
    words = service.daemon.options if service.daemon is not None else ()
    if not config.platform.traits.containers:
        return words
    limits = (service.memory, service.processes, service.grace, service.start_seconds)
    return (*words, *limits, *sorted(image_of(config, service.kind).items()))


def restarted(before: Topology, after: Topology) -> list[Service]:
    """Return the services that are there before and after, and are made anew between; nginx aside."""
    former = {one.name: one for one in before.services if _is_judged(one)}
    return [
        one
        for one in after.services
        if _is_judged(one)
        and one.name in former
        and made_of(before.config, former[one.name]) != made_of(after.config, one)
    ]


def _is_judged(service: Service) -> bool:
    return service.kind is Kind.DATABASE or service.kind in PACKAGED
