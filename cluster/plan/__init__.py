"""What a change does to a cluster, before it is made: one structure, shown as text, Markdown and JSON. No platform."""

from cluster.plan.costs import COSTS, Cost
from cluster.plan.planned import Planned

__all__ = ["COSTS", "Cost", "Planned"]
