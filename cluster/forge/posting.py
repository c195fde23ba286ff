"""Makes what a run has to say the one comment of a pull request, whatever other runs do meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.errors import CommandError
from cluster.plan.comment import next_step

if TYPE_CHECKING:
    from cluster.forge.forge import Forge
    from cluster.plan.comment import Step

#: How often the comments are looked at; each look but the first finds what another run has done in between.
ROUNDS = 6


def post(forge: Forge, body: str | None) -> str:
    """Let a comment of the pull request say `body`, or be gone for None; return in words what was done.

    It looks again after whatever it has done, until nothing is left to do: a second comment that a run at the same
    time has written is deleted then, and what an older run has written over this one's is written again. Of a commit
    that is not the pull request's any more nothing is said. CommandError where the forge refuses.
    """
    done = ""
    for _round in range(ROUNDS):
        step = next_step(forge.comments(), body, forge.run, wrote=bool(done))
        if step.newer and not step.delete:
            return done or "the comment is of a later run, and stays"
        if step.is_empty:
            return done or ("the comment says it already" if body else "nothing changes, and there is no comment")
        head = forge.pull().head
        if forge.head and head != forge.head:
            return f"nothing is said of commit {forge.head[:12]}: the pull request is at {head[:12]} by now"
        done = _carry_out(forge, step)
    raise CommandError(f"{forge.name}: other runs go on changing the comment; given up after {ROUNDS} looks")


def _carry_out(forge: Forge, step: Step) -> str:
    for comment in step.delete:
        forge.delete(comment)
    if step.write is None:
        return "a comment that is no more true is deleted" if not step.newer else "a comment twice is deleted"
    if step.edit is None:
        forge.create(step.write)
        return "a comment is written"
    forge.edit(step.edit, step.write)
    return "the comment is edited in place"


__all__ = ["post"]
