"""A whole cluster: the five components together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pulumi

from cluster.topology import build_topology
from components.app_hosts import AppHosts, AppHostsArgs
from components.database import Database, DatabaseArgs
from components.nginx_site import NginxSite, NginxSiteArgs
from components.program import open_site
from components.session_store import SessionStore, SessionStoreArgs
from components.upstream_pool import UpstreamPool, UpstreamPoolArgs

if TYPE_CHECKING:
    from cluster.config import ClusterConfig


@dataclass(frozen=True, kw_only=True)
class DjangoClusterArgs:
    """What a cluster is made of.

    config: what a stack file says, read from one (`cluster.config.load_stack`) or made of its models.
    root: the directory that its paths (`app.project`) are meant from; the current one where none is said.
    """

    config: ClusterConfig
    root: Path | None = None


class DjangoCluster(pulumi.ComponentResource):
    """A site of the program: session store, database, instances, pool and nginx, called `<name>-sessions` and so on.

    Its name is the site's, among those of the program: lower-case letters, digits and -. Its secrets are keys of the
    program's configuration, `<name>:secret_key` and so on. RunError says why there can't be one.

    url: the site's address.
    upstream: nginx's servers, with their shares.
    release: the digest of the release that serves once this is done.
    nginx: the digest of the configuration that nginx runs then.
    sessions: Django's session engine, by the stack file's name.
    """

    url: pulumi.Output[str]
    upstream: pulumi.Output[list[dict[str, str | int | bool]]]
    release: pulumi.Output[str]
    nginx: pulumi.Output[str]
    sessions: pulumi.Output[str]

    def __init__(self, name: str, args: DjangoClusterArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("cluster:index:DjangoCluster", name, None, opts)
        program = open_site(args.config, Path(args.root or ".").resolve(), name, name)
        topology = build_topology(program.config)
        platform, release = program.platform(topology), program.release(topology)
        child = pulumi.ResourceOptions(parent=self)
        sessions = SessionStore(f"{name}-sessions", SessionStoreArgs(topology=topology, platform=platform), child)
        database = Database(f"{name}-database", DatabaseArgs(topology=topology, platform=platform), child)
        hosts = AppHosts(
            f"{name}-app",
            AppHostsArgs(topology=topology, release=release, sessions=sessions, database=database, platform=platform),
            child,
        )
        pool = UpstreamPool(f"{name}-upstream", UpstreamPoolArgs(topology=topology, hosts=hosts), child)
        site = NginxSite(f"{name}-nginx", NginxSiteArgs(topology=topology, pool=pool, platform=platform), child)
        self.url, self.upstream, self.release = site.url, pool.servers, hosts.release
        self.nginx, self.sessions = site.digest, sessions.engine
        outputs = {"url": self.url, "upstream": self.upstream, "release": self.release}
        self.register_outputs({**outputs, "nginx": self.nginx, "sessions": self.sessions})
