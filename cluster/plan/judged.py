"""What a plan says of a stack file by itself: its lints, its shares, and its first `up`. The same on every platform."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster.config import StackFileError, parse_config
from cluster.plan import compare
from cluster.plan.costs import Cost
from cluster.plan.planned import Lint, Planned
from cluster.stack.judge import findings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cluster.config import ClusterConfig
    from cluster.lint import Facts, Finding
    from cluster.topology import Topology


def forbidding(config: ClusterConfig, facts: Facts) -> list[str]:
    """Return why the lints forbid a stack, a line each."""
    return [str(one) for one in findings(config, facts) if one.severity == "error"]


def new_lints(former: ClusterConfig | None, config: ClusterConfig, facts: Facts) -> tuple[Lint, ...]:
    """Return what the lints warn of, and did not in the former stack; of all where there is none."""
    return compare.compare_lints([] if former is None else _warnings(former, facts), _warnings(config, facts))


def _warnings(config: ClusterConfig, facts: Facts) -> list[Finding]:
    return [one for one in findings(config, facts) if one.severity == "warning"]


def former_config(kept: dict[str, Any] | None) -> ClusterConfig | None:
    """Return a stack's configuration by what was kept of it; None where that is none, of another version perhaps."""
    try:
        return None if kept is None else parse_config(kept)
    except StackFileError:
        return None


def disabled_rules(config: ClusterConfig) -> tuple[str, ...]:
    """Return the rules of the policy that a stack file switches off, each with its reason."""
    return tuple(f"{one.rule}: {one.reason}" for one in config.policy.disable)


def first(stack: str, topology: Topology, facts: Facts, refused: Iterable[str]) -> Planned:
    """Return a plan of a stack that has no secret_key: nobody knows its release yet."""
    config = topology.config
    steps = ["the first release; its secret_key is made first", *([] if not config.app.migrate else ["migrations"])]
    return Planned(
        stack=stack,
        changes=True,
        costs=(Cost.START,),
        refused=tuple(dict.fromkeys(refused)),
        steps=(*steps, *(f"+ {service.name}" for service in topology.services)),
        traffic=compare.compare_shares({}, {one.name: one.share for one in topology.instances}),
        lints=new_lints(None, config, facts),
        disabled=disabled_rules(config),
    )


__all__ = ["disabled_rules", "first", "forbidding", "former_config", "new_lints"]
