"""nginx's upstreams: the pool of all instances, and one of each instance that has a port of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.config.models import Method, Server
from cluster.config.units import Duration
from cluster.render.between import kept_between
from cluster.render.directives import Directive, block, d
from cluster.services import UPSTREAM_CONNECTION_AGE

if TYPE_CHECKING:
    from cluster.render.paths import NginxPaths
    from cluster.topology import Instance, Topology

#: Shared memory of the upstream, in kilobytes: what nginx needs for itself, and for each server.
ZONE_BASE, ZONE_PER_SERVER = 128, 2


def _socket(paths: NginxPaths, instance: str) -> str:
    return paths.instances[instance].nginx


#: Of an instance behind another host's nginx, where the stack file says nothing: to try a host that is down costs the
#: time until the connection is given up, each time.
FAILS_BETWEEN, FAIL_TIMEOUT_BETWEEN = 2, Duration.parse("2s")


def between_hosts(server: Server) -> Server:
    """Return a server as it is where another host's nginx is before it; what the stack file says stays."""
    if "max_fails" in server.model_fields_set:
        return server
    return server.model_copy(update={"max_fails": FAILS_BETWEEN, "fail_timeout": FAIL_TIMEOUT_BETWEEN})


def server_parameters(server: Server) -> list[str]:
    """Return nginx's parameters of a server; what is nginx's default is left out."""
    parameters = []
    if server.weight != 1:
        parameters.append(f"weight={server.weight}")
    if server.max_conns:
        parameters.append(f"max_conns={server.max_conns}")
    if server.max_fails != 1:
        parameters.append(f"max_fails={server.max_fails}")
    if server.fail_timeout.seconds != 10:  # noqa: PLR2004 - nginx's default
        parameters.append(f"fail_timeout={server.fail_timeout}")
    if server.backup:
        parameters.append("backup")
    if server.down:
        parameters.append("down")
    return parameters


def _method(topology: Topology) -> list[Directive]:
    upstream = topology.config.upstream
    match upstream.method:
        case Method.ROUND_ROBIN:
            return []
        case Method.HASH:
            return [d("hash", upstream.hash.key, *(["consistent"] if upstream.hash.consistent else []))]
        case Method.RANDOM:
            return [d("random", "two", "least_conn")]
        case _:
            return [d(upstream.method.value)]


def _keepalive(connections: int, paths: NginxPaths) -> list[Directive]:
    return instance_keepalive(connections) if paths.between is None else kept_between(connections)


def instance_keepalive(connections: int) -> list[Directive]:
    """Return how long connections to instances live: to one that has lost its name there must soon be none."""
    age = f"{UPSTREAM_CONNECTION_AGE * 1000:g}ms"
    return [
        d("keepalive", connections),
        d("keepalive_time", age),
        d("keepalive_timeout", age),
        d("keepalive_requests", 100_000),
    ]


def upstream(topology: Topology, paths: NginxPaths) -> Directive:
    """Return the pool of all instances."""
    zone = ZONE_BASE + ZONE_PER_SERVER * len(topology.instances)
    return block(
        "upstream",
        "cluster",
        of=[
            d("zone", "cluster", f"{zone}k"),
            *_method(topology),
            *(
                d(
                    "server",
                    _socket(paths, instance.name),
                    *server_parameters(instance.server if paths.between is None else between_hosts(instance.server)),
                )
                for instance in topology.instances
            ),
            *_keepalive(topology.config.upstream.keepalive, paths),
        ],
    )


def instance_upstream(instance: Instance, paths: NginxPaths) -> Directive:
    """Return the upstream of one instance alone."""
    return block(
        "upstream",
        f"cluster_{instance.name}",
        of=[d("server", _socket(paths, instance.name)), *_keepalive(4, paths)],
    )
