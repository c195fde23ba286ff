"""Where things are in the containers of a stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.release import RuntimePlaces
from cluster.render.nginx import NginxConfig, NginxPlaces, render_nginx, version_in_image
from cluster.source import TREE, project_place

if TYPE_CHECKING:
    from cluster.config.models import ClusterConfig
    from cluster.topology import Topology

#: Directories of sockets: the instances', the memcached nodes', PostgreSQL's, the broker's.
RUN, SESSIONS, DATABASE, BROKER = "/run/cluster", "/run/sessions", "/run/database", "/run/broker"
BROKER_SOCKET = f"{BROKER}/broker.sock"
DATA, SESSION_FILES, STATIC = "/srv/data", "/srv/sessions", "/srv/static"
SECRETS, DATABASE_SECRETS = "/srv/secrets", "/srv/database"

#: What the project writes, one for all instances and releases.
SHARED = "/srv/shared"


def project_directory(config: ClusterConfig) -> str:
    """Return where the project lies in the instances' image."""
    return f"/srv/{project_place(config)}"


#: A release's local packages, and the source of those that are not in the project.
PACKAGES, SOURCES = "/srv/packages", "/srv/sources"

#: nginx's directory in its container: configurations, temporary files, the internal socket.
NGINX_HOME = "/var/lib/cluster"

NGINX_PLACES = NginxPlaces(
    user=None,
    sockets=RUN,
    static=STATIC,
    shared=SHARED,
    logs="/var/log/cluster",
    temp=f"{NGINX_HOME}/temp",
    pid="/tmp/nginx.pid",  # noqa: S108 - the container's own
    internal=f"{NGINX_HOME}/internal.sock",
    closing=f"{NGINX_HOME}/closing",
    instance_address="",
)


def base_image(config: ClusterConfig, service: str) -> str:
    """Return the image that the image of a service (app, nginx, memcached, postgres) is built on."""
    return getattr(config.images, service) or config.images.base


def nginx_config(topology: Topology) -> NginxConfig:
    """Return nginx's configuration, for the version that its base image has."""
    return render_nginx(topology, NGINX_PLACES, version_in_image(base_image(topology.config, "nginx")))


def memcached_socket(number: int) -> str:
    """Return where memcached node `number` (from 1) listens."""
    return f"{SESSIONS}/memcached{number}.sock"


def runtime_places(topology: Topology, digest: str) -> RuntimePlaces:
    """Return what a release's configuration names, as its instances see it."""
    static_url = topology.config.site.static_url or "/static/"
    return RuntimePlaces(
        project=project_directory(topology.config),
        tree=f"/srv/{TREE}",
        databases=f"{SHARED}/.databases",
        secrets=f"{SECRETS}/{digest}",
        database=f"{DATA}/db.sqlite3",
        sessions=SESSION_FILES,
        static_root=f"{STATIC}/{digest}{static_url.rstrip('/')}",
        packages=PACKAGES,
        memcached=tuple(memcached_socket(number + 1) for number in range(topology.memcached_nodes)),
        broker=BROKER_SOCKET,
        schedules=f"{SHARED}/.schedules",
    )
