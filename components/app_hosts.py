"""The instances of the Django project."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pulumi

if TYPE_CHECKING:
    from cluster.release import ReleaseSpec
    from cluster.topology import Topology
    from components.database import Database
    from components.session_store import SessionStore
    from platforms.base import Resources


@dataclass(frozen=True, kw_only=True)
class AppHostsArgs:
    """What the instances are made of: the topology, and the release that they run."""

    topology: Topology
    release: ReleaseSpec
    sessions: SessionStore
    database: Database
    platform: Resources


class AppHosts(pulumi.ComponentResource):
    """All instances of one release: built, migrated, proven healthy, and holding their names.

    release: the digest of the release that serves once this is done.
    names: the instances' names.
    """

    release: pulumi.Output[str]
    names: pulumi.Output[list[str]]

    def __init__(self, name: str, args: AppHostsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("cluster:index:AppHosts", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        store, made = args.sessions.store, args.database.made
        prepared = args.platform.prepare(name, args.topology, args.release, store, made, child)
        self.instances = args.platform.instances(name, args.topology, args.release, prepared, child)
        self.release = self.instances.release
        self.names = pulumi.Output.from_input(list(args.topology.names))
        self.register_outputs({"release": self.release, "names": self.names})
