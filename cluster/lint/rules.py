"""The lints."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.config.models import ClusterConfig
    from cluster.lint.finding import Facts, Finding

RULES: tuple[object, ...] = ()


def lint(config: ClusterConfig, facts: Facts) -> list[Finding]:
    """Return what all rules find, errors first."""
    del config, facts
    return []
