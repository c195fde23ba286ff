"""Rules that hold in production alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from policy.containers import SITE
from policy.resources import COMMANDS, Breach, Unknown

if TYPE_CHECKING:
    from policy.resources import Breaches, Resource, Site

#: The component whose output `servers` says which instances there are, and the commands that deliver to nginx.
POOL, DELIVERS = "cluster:index:UpstreamPool", re.compile(r"(?:^|-)nginx-config$")

#: How many at least.
LIVE = 2


def live_instances(resource: Resource, site: Site) -> Breaches:
    """Look whether enough instances serve, or stand by; the pool's own output says it."""
    if site.production and resource.type == POOL:
        if "servers" not in resource.inputs:
            raise Unknown
        servers = resource.entries("servers")
        live = [one for one in servers if not one.get("down")]
        if len(live) < LIVE:
            yield Breach(
                f"has {len(live)} of {len(servers)} instances that {'is' if len(live) == 1 else 'are'} not down"
            )


def tls(resource: Resource, site: Site) -> Breaches:
    """Look whether nginx is delivered a certificate."""
    delivers = resource.type in COMMANDS and resource.component == SITE and DELIVERS.search(resource.part)
    if site.production and delivers and "ssl_certificate " not in str(resource.get("stdin") or ""):
        yield Breach("delivers an nginx that speaks no TLS")
