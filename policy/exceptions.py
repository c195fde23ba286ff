"""What need not keep to a rule, and why. Whatever is not here has no exception but those of a stack file."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from cluster.policies import PolicyRule

if TYPE_CHECKING:
    from policy.resources import Breach, Resource

STORE, DATABASE = "cluster:index:SessionStore", "cluster:index:Database"
HOSTS, SITE = "cluster:index:AppHosts", "cluster:index:NginxSite"

#: What a container that writes files for other users may: it has no network, and runs for a moment.
GIVES_AWAY = frozenset({"--user root", "--cap-add CHOWN", "--cap-add DAC_OVERRIDE", "--cap-add FOWNER"})

UNPROTECTED = frozenset({"unprotected"})


@dataclass(frozen=True, kw_only=True)
class Exempt:
    """A part of a component that may break a rule in these ways, and no other. part: a pattern."""

    rule: PolicyRule
    component: str
    part: str
    marks: frozenset[str]
    why: str

    def allows(self, rule: PolicyRule, resource: Resource, breach: Breach) -> bool:
        """Tell whether this is it."""
        here = (self.rule, self.component) == (rule, resource.component) and fnmatchcase(resource.part, self.part)
        return here and breach.mark in self.marks


EXCEPTIONS = (
    Exempt(
        rule=PolicyRule.PUBLISHED_PORTS,
        component=SITE,
        part="nginx-ports",
        marks=frozenset({"--publish"}),
        why="It tries nginx's own ports before the former nginx goes, by a container that runs `true` and is gone.",
    ),
    Exempt(
        rule=PolicyRule.PRIVILEGED,
        component=DATABASE,
        part="database-password",
        marks=GIVES_AWAY,
        why="It writes the database's password for two users, each of whom can read one file and nobody else.",
    ),
    Exempt(
        rule=PolicyRule.PRIVILEGED,
        component=SITE,
        part="acme-account-given",
        marks=GIVES_AWAY,
        why="It writes the account's key for the renewer's user, whom nobody else can be.",
    ),
    Exempt(
        rule=PolicyRule.PRIVILEGED,
        component=SITE,
        part="*-renewer",
        marks=frozenset({"unit load"}),
        why="It lets nginx load another certificate, as systemd does for root alone; it has no network, and a sandbox.",
    ),
    Exempt(
        rule=PolicyRule.PRIVILEGED,
        component=SITE,
        part="*-address",
        marks=frozenset({"unit unit"}),
        why="keepalived gives a host its address, and asks nginx as nginx's user; it has what it needs, and a sandbox.",
    ),
    Exempt(
        rule=PolicyRule.HEALTH_CHECK,
        component=SITE,
        part="nginx",
        marks=frozenset({"none"}),
        why="It waits for its configuration; whoever delivers that asks it, and `up` fails where it does not answer.",
    ),
    *(
        Exempt(rule=PolicyRule.UNPROTECTED_DATA, component=component, part=part, marks=UNPROTECTED, why=why)
        for component, part, why in (
            (STORE, "sessions", "Sockets of the memcached nodes."),
            (DATABASE, "database-sockets", "PostgreSQL's socket."),
            (DATABASE, "database-secrets", "A password that is made again, for the socket alone."),
            (HOSTS, "secrets", "Copies of the stack's secrets, which each release puts there."),
            (HOSTS, "static", "Static files, which each release collects."),
            (HOSTS, "sockets", "Sockets of the instances."),
            (HOSTS, "*-sockets", "Sockets of what the instances use."),
            (SITE, "nginx", "nginx's configuration, which is delivered."),
            (SITE, "acme-account", "A copy of the stack's secret acme_account."),
        )
    ),
)


def exempt(rule: PolicyRule, resource: Resource, breach: Breach) -> bool:
    """Tell whether a breach is one that is documented here."""
    return any(one.allows(rule, resource, breach) for one in EXCEPTIONS)
