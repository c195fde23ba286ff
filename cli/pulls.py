"""`cluster plan --post` and `--gate`: a plan's one comment on a pull request, and whether it accepts what it costs."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.console import warn
from cluster.errors import ClusterError, CommandError
from cluster.forge import FORGES, forge
from cluster.forge.posting import post
from cluster.plan.acceptance import By, answer, asked, how, of_description, of_labels, unknown
from cluster.plan.comment import compose, failure
from cluster.plan.costs import COSTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cluster.forge import Forge
    from cluster.plan import Planned
    from cluster.plan.acceptance import Accepted


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the command line wants of pull requests: the forge that is commented on, and the one that is asked.

    accepted_by: a word of By. CommandError at once where one of them makes no sense, or a variable is missing.
    """

    post: str | None
    gate: str | None
    accepted_by: str

    def __post_init__(self) -> None:
        if self.accepted_by not in tuple(By):
            raise CommandError(f"--accepted-by: must be one of {', '.join(By)}, got {self.accepted_by}")
        for option, name in (("--post", self.post), ("--gate", self.gate)):
            if name is not None:
                opened(option, name)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Say in the comment that no plan can be made, where planning fails: it would tell of the commit before."""
        try:
            yield
        except ClusterError as error:
            if self.post is not None:
                to = opened("--post", self.post)
                try:
                    warn(f"{to.name}: {post(to, failure(str(error), to.run, limit=to.limit))}")
                except CommandError as refused:
                    warn(str(refused))  # beside what went wrong first
            raise

    def carry_out(self, plans: Sequence[Planned]) -> bool:
        """Post plans, and tell whether what they cost is accepted; True where nobody asks."""
        if self.post is not None:
            post_plans(opened("--post", self.post), plans, gated=self.gate is not None)
        return self.gate is None or is_accepted(opened("--gate", self.gate), plans, By(self.accepted_by))


def opened(option: str, name: str) -> Forge:
    """Return the pull request that this job runs for on the named forge; CommandError says which variables fail."""
    if name not in FORGES:
        raise CommandError(f"{option}: must be one of {', '.join(FORGES)}, got {name}")
    return forge(name, os.environ)


def post_plans(to: Forge, plans: Sequence[Planned], *, gated: bool) -> None:
    """Let the one comment say what these plans do; what was done is told beside the result.

    gated: whether it says too what has to be accepted, and how.
    """
    said = post(to, compose(plans, to.run, limit=to.limit, end=_to_accept(plans) if gated else ()))
    warn(f"{to.name}: {said}")


def _to_accept(plans: Sequence[Planned]) -> list[str]:
    """Return a paragraph that says which costs have to be accepted, and how."""
    costs = dict.fromkeys(one.cost for one in asked(plans))
    words = [f"`/accept {cost}` (or the label `accept:{cost}`)" for cost in costs]
    return [f"**Has to be accepted** in this description: {', '.join(words)}."] if words else []


def is_accepted(of: Forge, plans: Sequence[Planned], by: By) -> bool:
    """Tell whether the pull request accepts what the plans cost; each cost is told, with who accepts it or how."""
    wanted = asked(plans)
    if not wanted:
        return True
    accepted, notes = _accepted(of, by)
    for line in [*notes, *unknown(accepted, [one.stack for one in plans])]:
        warn(line)
    ok = True
    for one in wanted:
        what = f"{one.cost} of stack {one.stack} ({COSTS[one.cost].words})"
        found = answer(one, accepted)
        ok = ok and found is not None
        warn(f"not accepted: {what}: {how(one)}" if found is None else f"accepted: {what}: by {found.where}")
    return ok


def _accepted(of: Forge, by: By) -> tuple[list[Accepted], list[str]]:
    """Return what the pull request accepts, and what is said of lines that do not count."""
    pull = of.pull()
    labels, lines = of_labels(of.labels()), of_description(pull.description)
    if not lines or by is By.ANYONE or (by is By.WRITERS and of.may_push(pull.author)):
        return [*labels, *lines], []
    why = "labels alone count" if by is By.LABELS else "its author may not push, or nobody says so: a label counts"
    return labels, [f"{one.where} does not count: {why}" for one in lines]


__all__ = ["Wanted", "is_accepted", "opened", "post_plans"]
