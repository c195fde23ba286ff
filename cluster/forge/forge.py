"""What is asked of a forge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster.plan.comment import Posted, Run


@dataclass(frozen=True, kw_only=True)
class Pull:
    """A pull request (GitLab: a merge request) as it is now.

    head: the commit that it would merge. author: by whom the description is, as the forge calls them.
    """

    head: str
    description: str
    author: str


class Forge(Protocol):
    """The pull request that a job runs for. Each raises CommandError, without the token, where the forge refuses.

    name: as people write it. limit: characters that a comment may have. run: the job's own.
    head: the commit that the job was started for.
    """

    @property
    def name(self) -> str: ...  # noqa: D102 - above

    @property
    def limit(self) -> int: ...  # noqa: D102

    @property
    def run(self) -> Run: ...  # noqa: D102

    @property
    def head(self) -> str: ...  # noqa: D102

    def pull(self) -> Pull:
        """Return the pull request."""
        ...

    def labels(self) -> frozenset[str]:
        """Return the names of the labels that somebody put on it who may."""
        ...

    def may_push(self, author: str) -> bool:
        """Tell whether somebody may write to the repository."""
        ...

    def comments(self) -> list[Posted]:
        """Return the comments that were written by whom the token is of, those of all pages."""
        ...

    def create(self, body: str) -> None:
        """Write a new comment."""
        ...

    def edit(self, comment: int, body: str) -> None:
        """Let a comment say something else; one that is gone meanwhile stays gone."""
        ...

    def delete(self, comment: int) -> None:
        """Delete a comment; one that is gone already is as it should be."""
        ...


def required(environment: Mapping[str, str], meanings: Mapping[str, str]) -> list[str]:
    """Return what is said of variables that are missing, a line each; meanings: what each is for."""
    return [
        f"{name} is not set: {meaning}" for name, meaning in meanings.items() if not environment.get(name, "").strip()
    ]
