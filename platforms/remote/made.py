"""Secrets of a release that no stack file has: where the database and the broker are that are made on hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.placement import place
from cluster_runtime.secret_files import BROKER_SECRET
from platforms.remote import broker, database

if TYPE_CHECKING:
    from cluster.topology import Topology
    from platforms.remote.host.paths import HostPaths


def makes_secrets(topology: Topology) -> bool:
    """Tell whether there are any: they hold passwords, which are made of the hosts' key."""
    return topology.config.makes_postgres or place(topology).broker is not None


def needs_hosts_key(topology: Topology) -> bool:
    """Tell whether hosts ask each other for something, by certificates and passwords that are made of one secret."""
    return makes_secrets(topology) or place(topology).is_spread


def made_secrets(topology: Topology, places: HostPaths, key: str) -> dict[str, str]:
    """Return them, by their names. key: the hosts'."""
    found = {}
    if topology.config.makes_postgres:
        found["database_url"] = database.url(topology, places, key)
    if place(topology).broker is not None:
        found[BROKER_SECRET] = broker.url(topology, places, key)
    return found
