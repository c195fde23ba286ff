"""nginx's upstream: which instances get which share of the traffic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pulumi

from cluster.topology import percent

if TYPE_CHECKING:
    from cluster.topology import Topology
    from components.app_hosts import AppHosts


@dataclass(frozen=True, kw_only=True)
class UpstreamPoolArgs:
    """What the pool is made of: the servers of the topology, which the hosts run."""

    topology: Topology
    hosts: AppHosts


@dataclass(frozen=True, kw_only=True)
class UpstreamServer:
    """One server of the upstream; `share` is its part of the traffic while all are available, as `60 %`."""

    name: str
    weight: int
    share: str
    backup: bool
    down: bool

    def plain(self) -> dict[str, str | int | bool]:
        """Return it as a stack output: what is nginx's default is left out."""
        marks = {mark: True for mark in ("backup", "down") if getattr(self, mark)}
        return {"name": self.name, "weight": self.weight, "share": self.share, **marks}


class UpstreamPool(pulumi.ComponentResource):
    """The servers of nginx's upstream, each a name that an instance holds.

    servers: the stack output `upstream`. nginx may count on them once `hosts` is done.
    """

    servers: pulumi.Output[list[dict[str, str | int | bool]]]

    def __init__(self, name: str, args: UpstreamPoolArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("cluster:index:UpstreamPool", name, None, opts)
        self.hosts = args.hosts
        servers = [
            UpstreamServer(
                name=instance.name,
                weight=instance.server.weight,
                share=percent(instance.share),
                backup=instance.server.backup,
                down=instance.server.down,
            )
            for instance in args.topology.instances
        ]
        self.servers = pulumi.Output.from_input([server.plain() for server in servers])
        self.register_outputs({"servers": self.servers})
