"""The forges that there are, by the names that the command line has for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import CommandError
from cluster.forge import github, gitlab

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster.forge.forge import Forge

FORGES = ("github", "gitlab")


def forge(name: str, environment: Mapping[str, str], **options: Any) -> Forge:
    """Return the pull request that a job runs for, by the variables that its forge sets; options: of Api.

    CommandError with a line for each variable that is missing or makes no sense.
    """
    if name not in FORGES:
        raise CommandError(f"must be one of {', '.join(FORGES)}, got {name}")
    wanting = (github if name == "github" else gitlab).missing(environment)
    if wanting:
        raise CommandError("\n".join(wanting))
    if name == "github":
        return github.GitHub(environment, Path(environment["GITHUB_EVENT_PATH"].strip()), **options)
    return gitlab.GitLab(environment, **options)


__all__ = ["FORGES", "forge"]
