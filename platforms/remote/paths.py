"""Where what is kept of a stack of hosts lies on this machine, and where its things are on a host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.release import RuntimePaths
from cluster.render.paths import NginxPaths
from cluster.render.shared import Place, render_shared
from cluster.services import Kind
from cluster.source import TREE, project_place
from cluster.stack.paths import StackPaths

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.config.models import ClusterConfig
    from cluster.render.nginx import NginxConfig
    from cluster.render.versions import Version
    from cluster.tls.certificates import Certificate
    from cluster.topology import Topology
    from platforms.remote.host.places import Places


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

    def served(self) -> tuple[list[str], str | None]:
        """Return nothing: only a host knows."""
        return [], None


def project_directory(config: ClusterConfig, places: Places, release: str) -> str:
    """Return where the project lies on a host."""
    return f"{places.releases / release}/{project_place(config)}"


def runtime_paths(topology: Topology, places: Places, release: str) -> RuntimePaths:
    """Return what a release's configuration names."""
    static_url = topology.config.site.static_url or "/static/"
    return RuntimePaths(
        project=project_directory(topology.config, places, release),
        tree=f"{places.releases / release}/{TREE}",
        databases=f"{places.shared}/.databases",
        secrets=str(places.secrets / release),
        database=str(places.data / "db.sqlite3"),
        sessions=str(places.sessions),
        static_root=f"{places.static}/{release}{static_url.rstrip('/')}",
        packages=f"{places.releases / release}/packages",
        endpoints=topology.endpoints(lambda kind: str(places.sockets_of(kind.value))),
        schedules=f"{places.shared}/.schedules",
    )


def access_log(places: Places) -> str:
    """Return the log of the site's requests, where the distribution's logrotate looks after it."""
    return str(places.logs / places.access_log)


def nginx_paths(topology: Topology, places: Places) -> NginxPaths:
    """Return where things are for nginx."""
    return NginxPaths(
        user=None,
        instances=topology.endpoints(lambda _kind: str(places.sockets), Kind.INSTANCE),
        static=str(places.static),
        shared=str(places.shared),
        logs=str(places.logs),
        access_log=access_log(places),
        temp="",
        pid="",
        internal=str(places.internal),
        closing=str(places.closing),
        maintenance=str(places.maintenance),
        acme=str(places.state / "acme"),
        users=str(places.users),
    )


def nginx_config(
    topology: Topology, places: Places, version: Version, certificate: Certificate | None = None, users: str = ""
) -> NginxConfig:
    """Return the site's file and those that it names, for a host's nginx."""
    place = Place(name=places.name, directory=str(places.own_nginx))
    return render_shared(topology, nginx_paths(topology, places), version, place, certificate, users)
