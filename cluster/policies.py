"""The rules that a stack's resources keep to, by the names that a stack file calls them: `policy/` looks, as Pulumi's.

A lint guards the stack file; these guard what the engine is about to make, whatever program asked for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class PolicyRule(StrEnum):
    """The rules' names."""

    PUBLISHED_PORTS = "published-ports"
    DEBUG = "debug"
    PLAIN_SECRET = "plain-secret"  # noqa: S105 - a name
    PRIVILEGED = "privileged"
    HEALTH_CHECK = "health-check"
    LIMITS = "limits"
    UNPROTECTED_DATA = "unprotected-data"
    REACHABLE_STORE = "reachable-store"
    LIVE_INSTANCES = "live-instances"
    TLS = "tls"


@dataclass(frozen=True, kw_only=True)
class Told:
    """What is said of a rule: what must hold, and what to do where it does not, a sentence each.

    production: whether it holds in production alone.
    """

    summary: str
    remedy: str
    production: bool = False


TOLD = {
    PolicyRule.PUBLISHED_PORTS: Told(
        summary="No port is published but nginx's.",
        remedy="Let nginx be the way to it (site.locations, site.instance_ports), or a socket in a volume.",
    ),
    PolicyRule.DEBUG: Told(
        summary="Nothing is started with DEBUG.",
        remedy="Remove the variable or the option.",
    ),
    PolicyRule.PLAIN_SECRET: Told(
        summary="No secret stands in plain among the inputs of a resource.",
        remedy="Make it a secret output (pulumi.Output.secret), made of a secret of the stack.",
    ),
    PolicyRule.PRIVILEGED: Told(
        summary="Nothing is privileged, or root where it need not be.",
        remedy="Run it as a user of its own, without capabilities and without the host's namespaces.",
    ),
    PolicyRule.HEALTH_CHECK: Told(
        summary="Every container of a site has a health check.",
        remedy="Give it one (healthcheck).",
    ),
    PolicyRule.LIMITS: Told(
        summary="Every container and unit of a site has limits of its memory and its processes.",
        remedy="Set both (memory and ulimits nproc; MemoryMax and TasksMax).",
    ),
    PolicyRule.UNPROTECTED_DATA: Told(
        summary="Volumes that hold data are protected.",
        remedy="Make it with protect=True.",
    ),
    PolicyRule.REACHABLE_STORE: Told(
        summary="No store (memcached, a database, a broker) is reachable from outside.",
        remedy="Let it listen on a unix socket, or on a network that nothing is published of.",
    ),
    PolicyRule.LIVE_INSTANCES: Told(
        summary="In production two instances at least are not down.",
        remedy="Add one to upstream.servers, or let one that is down serve.",
        production=True,
    ),
    PolicyRule.TLS: Told(
        summary="In production nginx speaks TLS.",
        remedy="Set site.tls; disable the rule where a load balancer before nginx ends TLS.",
        production=True,
    ),
}
