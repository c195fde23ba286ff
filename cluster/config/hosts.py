"""Hosts that are reached by SSH."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from cluster.config.kinds import InterfaceName, Model, PathText, Port, text_enum

#: What a host is called in a stack file; in a message, and to ssh.
HostName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,31}$")]

#: An address, or a name that the machine from which it is reached can resolve.
HostAddress = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?$", max_length=253)]

#: Of a person or a program on a host.
UserName = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]

#: A line of known_hosts without its name: what `ssh-keyscan` prints after it.
HostKey = Annotated[
    str,
    StringConstraints(pattern=r"^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)) [A-Za-z0-9+/]+={0,2}$"),
]


class Role(StrEnum):
    """What a host does."""

    APP = "app"
    NGINX = "nginx"
    DATABASE = "database"
    BROKER = "broker"


class Way(Model):
    """How a host is reached by SSH."""

    address: HostAddress = Field(description="Its address, or its name.")
    port: Port = Field(22, description="Of its SSH server.")
    user: UserName = Field("root", description="Who logs in; where that is not root, sudo must ask for no password.")
    host_key: HostKey = Field(
        description="The key by which it is known: a line that `ssh-keyscan -t ed25519 ADDRESS` prints, without the "
        "address. No other is believed."
    )
    identity_file: PathText | None = Field(
        None, description="The key to log in with, from the repository's root or ~; null: what ssh's agent has."
    )


class Host(Way):
    """A host of the cluster."""

    name: HostName = Field(description="What it is called here.")
    roles: list[Annotated[Role, text_enum(Role)]] = Field(
        default_factory=lambda: [Role.APP, Role.NGINX],
        min_length=1,
        description="What it does: app runs instances, nginx serves the site, database has the PostgreSQL that is "
        "made, broker has the broker, which is then asked by TLS.",
    )
    internal: HostAddress | None = Field(
        None,
        description="The address by which the other hosts reach it; default: `address`, but for a database or a "
        "broker.",
    )
    interface: InterfaceName | None = Field(
        None, description="The network interface that gets `site.address`; default: the one on whose network that is."
    )
    jump: Way | None = Field(None, description="A host through which it is reached.")

    @property
    def between(self) -> str:
        """The address by which the other hosts reach it."""
        return self.internal or self.address
