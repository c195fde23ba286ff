"""The keys of `cluster:upstream`: nginx's upstream, and the instances in it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from cluster.config.hosts import HostName  # noqa: TC001 - pydantic reads the annotations
from cluster.config.kinds import Count, HashKey, InstanceName, Model, Weight, text_enum
from cluster.config.units import Duration

LARGEST_CLUSTER = 1000


class Method(StrEnum):
    """nginx's load balancing methods (ngx_http_upstream_module)."""

    ROUND_ROBIN = "round_robin"
    LEAST_CONN = "least_conn"
    IP_HASH = "ip_hash"
    HASH = "hash"
    RANDOM = "random"


def _numbered_servers(value: object) -> object:
    """`servers: 4` means app1 … app4."""
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if not 1 <= value <= LARGEST_CLUSTER:
        raise PydanticCustomError(
            "servers", "must be a number from 1 to {largest}, or a list", {"largest": LARGEST_CLUSTER}
        )
    return [{"name": f"app{number}"} for number in range(1, value + 1)]


class Hash(Model):
    """What the method `hash` hashes."""

    key: HashKey = Field("$request_uri", description="nginx's key: text and variables.")
    consistent: bool = Field(True, description="ketama: a server more or less moves few keys.")


class Server(Model):
    """One instance, with nginx's parameters of a server in an upstream."""

    name: InstanceName = Field(description="The instance's name; it outlives its releases.")
    weight: Weight = Field(1, description="Its share of the traffic is its weight over the sum of weights.")
    max_fails: Count = Field(
        0,
        description="Failed attempts within fail_timeout until nginx passes it over; 0: never. nginx's own default "
        "of 1 takes an instance out for ten seconds after a single reset, and the whole site if each has had one; to "
        "try an instance that is gone costs nothing here.",
    )
    fail_timeout: Duration = Field(
        Duration.parse("10s"), description="The time for max_fails, and how long it is passed over."
    )
    max_conns: Count = Field(0, description="Connections at a time; 0: no limit.")
    backup: bool = Field(False, description="Gets traffic only when all others are unavailable.")
    down: bool = Field(False, description="Drained: keeps running, gets no new request.")
    host: HostName | None = Field(
        None,
        description="The host on which it runs, one of `hosts`; default: dealt out to those with the role app.",
    )


class Upstream(Model):
    """nginx's upstream."""

    method: Annotated[Method, text_enum(Method)] = Field(Method.ROUND_ROBIN, description="nginx's balancing method.")
    hash: Hash = Field(default_factory=Hash, description="Used by the method hash.")
    keepalive: int = Field(
        256, ge=1, le=65535, description="Idle connections that each nginx worker keeps to the instances, for a second."
    )
    servers: Annotated[
        list[Server], BeforeValidator(_numbered_servers), Field(min_length=1, max_length=LARGEST_CLUSTER)
    ] = Field(description="The instances; or just a number: 4 means app1 … app4.")
    relay_port: int = Field(
        8440,
        ge=1024,
        le=65_535 - LARGEST_CLUSTER,
        description="With several hosts: the first of the ports on which a host's nginx passes on to its instances "
        "what another host's nginx sends it, and nobody else's. Each instance has one after it, in their order.",
    )


__all__ = [
    "LARGEST_CLUSTER",
    "Hash",
    "Method",
    "Server",
    "Upstream",
]
