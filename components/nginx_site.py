"""nginx before the instances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pulumi

from cluster.topology import site_url

if TYPE_CHECKING:
    from cluster.topology import Topology
    from components.upstream_pool import UpstreamPool
    from platforms.base import Resources


@dataclass(frozen=True, kw_only=True)
class NginxSiteArgs:
    """What the site is made of: the topology, and the pool that nginx spreads requests over."""

    topology: Topology
    pool: UpstreamPool
    platform: Resources


class NginxSite(pulumi.ComponentResource):
    """nginx, with the configuration that the topology gives, checked and loaded.

    url: the site's address.
    digest: what nginx answers on its internal socket once it runs this configuration.
    """

    url: pulumi.Output[str]
    digest: pulumi.Output[str]

    def __init__(self, name: str, args: NginxSiteArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("cluster:index:NginxSite", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        self.site = args.platform.site(name, args.topology, args.pool.hosts.instances, child)
        self.url = pulumi.Output.from_input(site_url(args.topology.config))
        self.digest = self.site.digest
        self.register_outputs({"url": self.url, "digest": self.digest})
