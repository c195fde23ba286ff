"""Where what is kept of a stack of hosts lies on this machine, and where its things are on a host."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from cluster.endpoints import Endpoint
from cluster.placement import place
from cluster.release import RuntimePaths
from cluster.render.paths import Between, NginxPaths
from cluster.render.relay import Relay, render_relay
from cluster.render.shared import Place, render_shared
from cluster.services import Kind
from cluster.source import TREE, project_place, shared_paths, shared_place
from cluster.stack.paths import StackPaths
from platforms.remote.host.paths import AUTHORITY, CERTIFICATE, KEY

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.config.models import ClusterConfig
    from cluster.render.nginx import NginxConfig
    from cluster.render.versions import Version
    from cluster.tls.certificates import Certificate
    from cluster.tls.hosts_keys import HostsKeys
    from cluster.topology import Topology
    from platforms.remote.host.paths import HostPaths


@dataclass(frozen=True)
class RemotePaths(StackPaths):
    """The directories and files of one stack on this machine."""

    @property
    def ssh(self) -> Path:
        """What ssh is told: its configuration, the hosts' keys, and what is sent to them to be run."""
        return self.state / "ssh"

    @property
    def releases(self) -> Path:
        """Archives of releases, and of environments of packages, until they are sent."""
        return self.state / "sent"

    @property
    def wheels(self) -> Path:
        """Wheels of packages that have none for a host, as one has built them."""
        return self.state / "wheels"

    def served(self) -> tuple[list[str], str | None]:
        """Return nothing: only a host knows."""
        return [], None


def project_directory(config: ClusterConfig, places: HostPaths, release: str) -> str:
    """Return where the project lies on a host."""
    return f"{places.releases / release}/{project_place(config)}"


def runtime_paths(topology: Topology, places: HostPaths, release: str) -> RuntimePaths:
    """Return what a release's configuration names."""
    static_url = topology.config.site.static_url or "/static/"
    return RuntimePaths(
        project=project_directory(topology.config, places, release),
        tree=f"{places.releases / release}/{TREE}",
        databases=str(places.databases),
        secrets="",  # systemd gives them
        database=str(places.data / "db.sqlite3"),
        sessions=str(places.sessions),
        static_root=f"{places.static}/{release}{static_url.rstrip('/')}",
        packages=f"{places.releases / release}/packages",
        endpoints=topology.endpoints(lambda kind: str(places.sockets_of(kind.value))),
        schedules=str(places.schedules),
        authority=str(places.authority),
    )


def written(config: ClusterConfig, places: HostPaths) -> str:
    """Return the directory that holds what the project writes, as nginx finds it."""
    path = config.app.shared_filesystem
    return str(places.shared if path is None else f"{path}/{places.name}")


def kept_there(config: ClusterConfig) -> list[str]:
    """Return the directories on a filesystem that hosts share of what the project writes; none without one."""
    paths = shared_paths(config) if config.app.shared_filesystem is not None else []
    return [shared_place(path).partition("/")[0] for path in paths]


def access_log(places: HostPaths) -> str:
    """Return the log of the site's requests, where the distribution's logrotate looks after it."""
    return str(places.logs / places.access_log)


def between(places: HostPaths) -> Between:
    """Return where a host has what it shows other hosts."""
    return Between(
        authority=str(places.shown / AUTHORITY),
        certificate=str(places.shown / CERTIFICATE),
        key=str(places.shown / KEY),
    )


def shown_files(places: HostPaths, keys: HostsKeys, host: str) -> dict[str, str]:
    """Return what a host shows other hosts, and by what it knows them, by its paths; keys: of which it is made."""
    from cluster.tls.hosts import certificate_of_host  # noqa: PLC0415 - cryptography takes its time

    paths, made = between(places), certificate_of_host(keys.key, places.stack, host)
    return {paths.authority: keys.authorities(places.stack), paths.certificate: made.certificate, paths.key: made.key}


def nginx_paths(topology: Topology, places: HostPaths, host: str) -> NginxPaths:
    """Return where things are for a host's nginx."""
    placement = place(topology)
    reaches_out = placement.reaches_out(host)
    instances = topology.endpoints(lambda _kind: str(places.sockets), Kind.INSTANCE)
    if reaches_out:
        instances = {
            name: Endpoint(path=str(places.relay_socket(name)))
            if placement.host_of[name] == host
            else Endpoint(host=topology.config.host(placement.host_of[name]).between, port=port)
            for name, port in relay_ports(topology).items()
        }
    return NginxPaths(
        user=None,
        instances=instances,
        static=str(places.static),
        shared=written(topology.config, places),
        logs=str(places.logs),
        access_log=access_log(places),
        temp="",
        pid="",
        internal=str(places.internal),
        closing=str(places.closing),
        maintenance=str(places.maintenance),
        acme=str(places.acme),
        users=str(places.users),
        between=between(places) if reaches_out else None,
    )


def relay_ports(topology: Topology) -> dict[str, int]:
    """Return the port of each instance where another host's nginx asks for it."""
    first = topology.config.upstream.relay_port + 1
    return {name: first + number for number, name in enumerate(topology.names)}


def nginx_config(  # noqa: PLR0913, PLR0917 - what a site is made of
    topology: Topology,
    places: HostPaths,
    host: str,
    version: Version,
    certificate: Certificate | None = None,
    users: str = "",
    keys: HostsKeys | None = None,
) -> NginxConfig:
    """Return the site's file and those that it names, for a host's nginx.

    keys: of which is made what hosts show each other, where they are known.
    """
    paths = nginx_paths(topology, places, host)
    rendered = render_shared(topology, paths, version, _place(places), certificate, users)
    if paths.between is None or keys is None:
        return rendered
    return replace(rendered, private={**rendered.private, **shown_files(places, keys, host)})


def _place(places: HostPaths) -> Place:
    return Place(name=places.name, directory=str(places.own_nginx))


def relay_files(topology: Topology, places: HostPaths, host: str, version: Version) -> dict[str, str]:
    """Return the files of a host's relay; empty where nginx asks for its instances without one."""
    placement = place(topology)
    # Also of the one host that has visitors, and instances beside others': it asks for its own as for those.
    if host not in placement.app or not placement.is_spread:
        return {}
    this = topology.config.host(host)
    ports, first = relay_ports(topology), topology.config.upstream.relay_port
    own = placement.on(host, topology.names)
    reaches_itself = host in placement.nginx and placement.reaches_out(host)
    sockets = topology.endpoints(lambda _kind: str(places.sockets), Kind.INSTANCE)
    # On one address where it is said which; the certificates keep others away in any case.
    listens = partial(_listens, this.internal, on_all="[::]" if ":" in this.between else "")
    relay = Relay(
        instances={name: sockets[name] for name in own},
        ports={name: ports[name] for name in own},
        drained=[name for name in own if topology.instance(name).server.down],
        listens={
            "": [listens(first)],
            **{
                name: [
                    listens(ports[name]),
                    *([Endpoint(path=str(places.relay_socket(name))).nginx] if reaches_itself else []),
                ]
                for name in own
            },
        },
        peers=[Endpoint(host=topology.config.host(name).between, port=first) for name in placement.peers(host)],
        peers_socket=Endpoint(path=str(places.relay_peers)),
        internal=Endpoint(path=str(places.relay_internal)),
        files=str(places.relay_files),
        between=between(places),
    )
    return render_relay(topology.config.site, relay, nginx_paths(topology, places, host), version, _place(places))


def _listens(address: str | None, port: int, *, on_all: str) -> str:
    if address is not None:
        return str(Endpoint(host=address, port=port))
    return f"{on_all}:{port}" if on_all else str(port)


def asked_relays(topology: Topology, host: str) -> list[tuple[str, str, int]]:
    """Return the name, the address and the port of each other host whose nginx a host's asks."""
    first = topology.config.upstream.relay_port
    return [(name, topology.config.host(name).between, first) for name in place(topology).peers(host)]
