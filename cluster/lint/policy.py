"""The lint of the policy's keys. What the policy itself finds is told by the engine: policy/."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.config.models import Policy
from cluster.lint.rule import WARNING, Remark, Rule

if TYPE_CHECKING:
    from cluster.config.models import ClusterConfig
    from cluster.lint.finding import Facts
    from cluster.lint.rule import Remarks


def _policy_unasked(config: ClusterConfig, _facts: Facts) -> Remarks:
    # Whoever writes it believes that something is guarded.
    traits = config.platform.traits
    if config.policy != Policy() and not (traits.containers or traits.hosts):
        why = f"Platform {config.platform} makes no resources that a policy is asked of."
        yield Remark("policy", why, "Remove it, or use another platform.")


POLICY_RULES = (Rule("policy-unasked", WARNING, "A policy where nothing is asked of it.", _policy_unasked),)
