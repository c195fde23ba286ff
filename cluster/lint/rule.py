"""What a lint is: a rule with an id and a severity, and the function that looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from cluster.lint.finding import Finding, Severity

if TYPE_CHECKING:
    from cluster.config.models import ClusterConfig, Server
    from cluster.config.units import Duration
    from cluster.lint.finding import Facts

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE


class Remark(NamedTuple):
    """Where a rule is broken: the key's path, a sentence why that matters, a sentence that says what to change."""

    path: str
    why: str
    remedy: str


Remarks = Iterator[Remark]
Check = Callable[["ClusterConfig", "Facts"], Remarks]


@dataclass(frozen=True)
class Rule:
    """One lint. `summary` is one sentence for the reference; `check` is a generator of remarks."""

    id: str
    severity: Severity
    summary: str
    check: Check

    def findings(self, config: ClusterConfig, facts: Facts) -> Iterator[Finding]:
        """Yield what the rule finds in a stack."""
        for remark in self.check(config, facts):
            yield Finding(id=self.id, severity=self.severity, path=remark.path, why=remark.why, remedy=remark.remedy)


def numbered_servers(config: ClusterConfig) -> Iterator[tuple[str, Server]]:
    """Yield each server with its path in the stack file."""
    for number, server in enumerate(config.upstream.servers):
        yield f"upstream.servers[{number}]", server


def serving(config: ClusterConfig) -> list[Server]:
    """Return the servers that get traffic while all are available."""
    return [server for server in config.upstream.servers if not server.down and not server.backup]


def standby(config: ClusterConfig) -> list[Server]:
    """Return the servers that get traffic when no other is available."""
    return [server for server in config.upstream.servers if server.backup and not server.down]


def waits(config: ClusterConfig) -> dict[str, Duration]:
    """Return how long nginx waits for an instance, by the keys that say so, the longest first."""
    own = {
        f"site.locations[{number}].proxy_read_timeout": location.proxy_read_timeout
        for number, location in enumerate(config.site.locations)
        if location.proxy_read_timeout is not None
    }
    found = {"site.proxy_read_timeout": config.site.proxy_read_timeout, **own}
    return dict(sorted(found.items(), key=lambda one: -one[1]))


def longest_wait(config: ClusterConfig) -> tuple[str, Duration]:
    """Return how long nginx waits for an instance at most, after the key that says so."""
    return next(iter(waits(config).items()))


def has_secret(config: ClusterConfig, facts: Facts, name: str) -> bool | None:
    """Tell whether the stack has a secret; None where that is not known."""
    if getattr(config, name) is not None:
        return True
    return None if facts.secrets is None else name in facts.secrets
