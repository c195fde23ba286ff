"""Which platforms there are, and what of a stack file each can do: all that the lints and releases know of them.

Each is a package of that name in `platforms`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Platform(StrEnum):
    """Where the cluster runs."""

    LOCAL = "local"
    DOCKER = "docker"
    REMOTE = "remote"

    @property
    def traits(self) -> Traits:
        """What it can do."""
        return TRAITS[self]


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a platform can do.

    containers: each service runs in a container, of an image that is built, and sees no directory of the machine's.
    limits: the memory and the processes of an instance have a limit.
    postgres: it makes a PostgreSQL where one is asked for.
    own_secrets: it makes the secret_key, and keeps the secrets in files of its own.
    private: the site is for who uses the machine alone.
    ipv6: nginx can listen by IPv6 too.
    hosts: it runs on hosts that the stack file names.
    services: it runs whatever a cluster has: a renewer of certificates too.
    """

    containers: bool = False
    limits: bool = False
    postgres: bool = False
    own_secrets: bool = False
    private: bool = False
    ipv6: bool = False
    hosts: bool = False
    services: bool = True


TRAITS = {
    Platform.LOCAL: Traits(own_secrets=True, private=True, ipv6=True),
    Platform.DOCKER: Traits(containers=True, limits=True, postgres=True),
    Platform.REMOTE: Traits(limits=True, postgres=True, ipv6=True, hosts=True, services=False),
}
