"""The gate of the lints: what they find in a stack, and whether `up` may go on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cluster.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.config import ClusterConfig
    from cluster.lint import Facts, Finding


def findings(config: ClusterConfig, facts: Facts, project: dict[str, object] | None = None) -> list[Finding]:
    """Return what the lints find; `project`: what the release says of it, where there is one."""
    from cluster.lint import lint  # noqa: PLC0415 - most commands judge nothing

    return lint(config, facts if project is None else replace(facts, project=project))


def judge(
    config: ClusterConfig,
    facts: Facts,
    project: dict[str, object] | None = None,
    *,
    warn: Callable[[str], object],
) -> None:
    """Tell `warn` the warnings; CommandError, with a line for each reason, where a lint forbids the stack."""
    from cluster.lint import Severity  # noqa: PLC0415

    found = findings(config, facts, project)
    for finding in found:
        if finding.severity is Severity.WARNING:
            warn(str(finding))
    errors = [str(finding) for finding in found if finding.severity is Severity.ERROR]
    if errors:
        raise CommandError("\n".join(errors))
