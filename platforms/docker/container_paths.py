"""Where things are in the containers of a stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.release import RuntimePaths
from cluster.render.nginx import NginxConfig, render_nginx
from cluster.render.paths import NginxPaths
from cluster.render.versions import version_in_image
from cluster.services import Kind
from cluster.source import TREE, project_place

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster.config.models import ClusterConfig
    from cluster.services import Service
    from cluster.tls.certificates import Certificate
    from cluster.topology import Topology

#: Directories of sockets: the instances', the memcached nodes', PostgreSQL's.
RUN, SESSIONS, DATABASE = "/run/cluster", "/run/sessions", "/run/database"
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

#: What is kept of a site's maintenance: it outlives the stack's being down.
MAINTENANCE = "/srv/maintenance"

#: What a renewer keeps: the site's certificate by ACME, and its key.
ACME = "/srv/acme"

#: The key of the account by ACME, for the renewer alone.
ACCOUNT = "/srv/account"

#: The socket on which nginx passes probes to the instances.
NGINX_INTERNAL = f"{NGINX_HOME}/internal.sock"

#: Where the sockets of each kind of service are, in all containers that have them.
SOCKETS: Mapping[Kind, str] = {
    Kind.INSTANCE: RUN,
    Kind.MEMCACHED: SESSIONS,
    Kind.DATABASE: DATABASE,
}


def sockets_of(kind: Kind) -> str:
    """Return the directory of the sockets of a kind of service."""
    return SOCKETS.get(kind, f"/run/{kind}")


def nginx_paths(topology: Topology) -> NginxPaths:
    """Return where things are for nginx."""
    return NginxPaths(
        user=None,
        instances=topology.endpoints(sockets_of, Kind.INSTANCE),
        static=STATIC,
        shared=SHARED,
        logs="/var/log/cluster",
        temp=f"{NGINX_HOME}/temp",
        pid="/tmp/nginx.pid",  # noqa: S108 - the container's own
        internal=NGINX_INTERNAL,
        closing=f"{NGINX_HOME}/closing",
        maintenance=f"{MAINTENANCE}/maintenance",
        acme=ACME,
        users=f"{NGINX_HOME}/users",
        instance_address="",
    )


def image_of(service: Service) -> str:
    """Return what the image of a service is called: as its kind, and PostgreSQL's as itself."""
    return service.name if service.kind is Kind.DATABASE else service.kind.value


def base_image(config: ClusterConfig, image: str) -> str:
    """Return what an image (app, nginx, memcached, postgres, …) is built on."""
    return getattr(config.images, image, None) or config.images.base


def nginx_config(topology: Topology, certificate: Certificate | None = None, users: str = "") -> NginxConfig:
    """Return nginx's configuration, for the version that its base image has; with the site's certificate and users."""
    version = version_in_image(base_image(topology.config, "nginx"))
    return render_nginx(topology, nginx_paths(topology), version, certificate, users)


def runtime_paths(topology: Topology, digest: str) -> RuntimePaths:
    """Return what a release's configuration names, as its instances see it."""
    static_url = topology.config.site.static_url or "/static/"
    return RuntimePaths(
        project=project_directory(topology.config),
        tree=f"/srv/{TREE}",
        databases=f"{SHARED}/.databases",
        secrets=f"{SECRETS}/{digest}",
        database=f"{DATA}/db.sqlite3",
        sessions=SESSION_FILES,
        static_root=f"{STATIC}/{digest}{static_url.rstrip('/')}",
        packages=PACKAGES,
        endpoints=topology.endpoints(sockets_of),
        schedules=f"{SHARED}/.schedules",
    )
