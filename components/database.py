"""Django's default database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pulumi

if TYPE_CHECKING:
    from cluster.topology import Topology
    from platforms.base import Resources


@dataclass(frozen=True, kw_only=True)
class DatabaseArgs:
    """What the database is made of: `database` of the topology's configuration, on a platform."""

    topology: Topology
    platform: Resources


class Database(pulumi.ComponentResource):
    """PostgreSQL where the stack file asks for it; else whatever the project or `database_url` names.

    engine: sqlite, postgres, external, or project where the project's own DATABASES stay.
    """

    engine: pulumi.Output[str]

    def __init__(self, name: str, args: DatabaseArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("cluster:index:Database", name, None, opts)
        self.made = args.platform.database(name, args.topology, pulumi.ResourceOptions(parent=self))
        database = args.topology.config.database
        self.engine = pulumi.Output.from_input("project" if database is None else database.engine.value)
        self.register_outputs({"engine": self.engine})
