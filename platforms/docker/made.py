"""What each operation on Docker makes, for the next one: beside what all see, what is private to the platform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from platforms import base

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pulumi

    from platforms.docker.containers import Mount


@dataclass(frozen=True, kw_only=True)
class Store(base.Store):
    """What keeps sessions: beside the nodes' sockets, what an instance mounts for it, and what must be there first."""

    mounts: tuple[Mount, ...]
    ready: tuple[pulumi.Resource, ...]


@dataclass(frozen=True, kw_only=True)
class MadeDatabase(base.MadeDatabase):
    """The database that the platform made; `secret_links` are the secrets that it made for it, by their paths."""

    mounts: tuple[Mount, ...]
    secret_links: Mapping[str, str]
    ready: tuple[pulumi.Resource, ...]


@dataclass(frozen=True, kw_only=True)
class MadeOthers:
    """What else the instances may use: what mounts its sockets, and what must be there first."""

    mounts: tuple[Mount, ...]
    ready: tuple[pulumi.Resource, ...]


@dataclass(frozen=True, kw_only=True)
class Prepared(base.Prepared):
    """A release that is built and whose database is migrated: its image, and what its containers are given.

    services: the kinds of services that it can run; one that serves again may be older than they are.
    """

    image: pulumi.Output[str]
    mounts: tuple[Mount, ...]
    static: pulumi.Output[str]
    shared: pulumi.Output[str]
    sockets: pulumi.Output[str]
    network: pulumi.Output[str]
    services: frozenset[str]
    ready: tuple[pulumi.Resource, ...]


@dataclass(frozen=True, kw_only=True)
class Instances(base.Instances):
    """Instances that hold their names: beside the release, the volumes that nginx needs of them."""

    sockets: pulumi.Output[str]
    static: pulumi.Output[str]
    shared: pulumi.Output[str]
    ready: tuple[pulumi.Resource, ...]
