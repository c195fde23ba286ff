"""Where pull requests are: GitHub and GitLab, as far as a plan's comment and its acceptance need them."""

from cluster.forge.forge import Forge, Pull
from cluster.forge.known import FORGES, forge

__all__ = ["FORGES", "Forge", "Pull", "forge"]
