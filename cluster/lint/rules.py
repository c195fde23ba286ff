"""All lints. To add one: a function beside its like, a `Rule` in that module's tuple, its two cases in the tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.lint.address import ADDRESS_RULES
from cluster.lint.app import APP_RULES
from cluster.lint.choices import CHOICE_RULES
from cluster.lint.finding import Severity
from cluster.lint.hosts import HOST_RULES
from cluster.lint.images import IMAGE_RULES
from cluster.lint.policy import POLICY_RULES
from cluster.lint.services import SERVICE_RULES
from cluster.lint.sessions import SESSION_RULES
from cluster.lint.site import SITE_RULES
from cluster.lint.upstream import UPSTREAM_RULES

if TYPE_CHECKING:
    from cluster.config.models import ClusterConfig
    from cluster.lint.finding import Facts, Finding
    from cluster.lint.rule import Rule

RULES: tuple[Rule, ...] = (
    *APP_RULES,
    *UPSTREAM_RULES,
    *SERVICE_RULES,
    *SESSION_RULES,
    *SITE_RULES,
    *IMAGE_RULES,
    *HOST_RULES,
    *ADDRESS_RULES,
    *POLICY_RULES,
    *CHOICE_RULES,
)

_ORDER = tuple(Severity)


def lint(config: ClusterConfig, facts: Facts) -> list[Finding]:
    """Return what all rules find, errors first, then in the order of the rules."""
    found = [finding for rule in RULES for finding in rule.findings(config, facts)]
    return sorted(found, key=lambda finding: _ORDER.index(finding.severity))
