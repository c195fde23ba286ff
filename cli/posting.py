"""`cluster plan --post`: one comment on the pull request that a job runs for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cluster.console import warn
from cluster.errors import CommandError
from cluster.forge import FORGES, forge
from cluster.forge.posting import post
from cluster.plan.comment import compose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.forge import Forge
    from cluster.plan import Planned


def opened(option: str, name: str) -> Forge:
    """Return the pull request that this job runs for on the named forge; CommandError says which variables fail."""
    if name not in FORGES:
        raise CommandError(f"{option}: must be one of {', '.join(FORGES)}, got {name}")
    return forge(name, os.environ)


def post_plans(to: Forge, plans: Sequence[Planned]) -> None:
    """Let the one comment say what these plans do; what was done is told beside the result."""
    said = post(to, compose(plans, to.run, limit=to.limit))
    warn(f"{to.name}: {said}")


__all__ = ["opened", "post_plans"]
