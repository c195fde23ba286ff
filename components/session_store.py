"""Where sessions are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pulumi

if TYPE_CHECKING:
    from cluster.topology import Topology
    from platforms.base import Resources


@dataclass(frozen=True, kw_only=True)
class SessionStoreArgs:
    """What a session store is made of: `sessions` of the topology's configuration, on a platform."""

    topology: Topology
    platform: Resources


class SessionStore(pulumi.ComponentResource):
    """The store of the sessions: memcached nodes for cache and cached_db, else nothing of its own.

    engine: Django's session engine, by the stack file's name.
    nodes: the sockets of the memcached nodes, as the instances see them.
    """

    engine: pulumi.Output[str]
    nodes: pulumi.Output[list[str]]

    def __init__(self, name: str, args: SessionStoreArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("cluster:index:SessionStore", name, None, opts)
        self.store = args.platform.store(name, args.topology, pulumi.ResourceOptions(parent=self))
        self.engine = pulumi.Output.from_input(args.topology.config.sessions.engine.value)
        self.nodes = self.store.nodes
        self.register_outputs({"engine": self.engine, "nodes": self.nodes})
