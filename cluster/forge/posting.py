"""Makes what a run has to say the one comment of a pull request, whatever other runs do meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.errors import CommandError
from cluster.forge.api import ForgeError
from cluster.plan.comment import Step, next_step, written_by

if TYPE_CHECKING:
    from cluster.forge.forge import Forge

#: How often the comments are looked at; each look but the first finds what another run has done in between.
ROUNDS = 6


def post(forge: Forge, body: str | None) -> str:
    """Let a comment of the pull request say `body`, or be gone for None; return in words what was done.

    It looks again after whatever it has done, until nothing is left to do: a second comment that a run at the same
    time has written is deleted then, and what an older run has written over this one's is written again. Of a commit
    that is not the pull request's any more nothing is said, and what was said meanwhile is taken back: it may have
    taken the place of what a later run has said. CommandError where the forge refuses.
    """
    done, failure = "", None
    for _round in range(ROUNDS):
        found = forge.comments()
        passed = _passed(forge)
        if passed is None:
            step = next_step(found, body, forge.run, wrote=bool(done))
        else:
            step = Step(delete=tuple(one.id for one in found if written_by(one.body) == forge.run))
        if step.is_empty:
            return passed or _outcome(step, done, body)
        try:
            done = _carry_out(forge, step)
        except ForgeError as error:
            if not error.again:
                raise
            failure = error
    raise failure or CommandError(f"{forge.name}: others go on changing the comment; given up after {ROUNDS} looks")


def _outcome(step: Step, done: str, body: str | None) -> str:
    """Return in words what it is now, where nothing is left to do."""
    if step.newer:
        return "the comment is of a later run, and stays"
    return done or ("the comment says it already" if body else "nothing changes, and there is no comment")


def _passed(forge: Forge) -> str | None:
    """Return what is said where the pull request is at another commit than this run's; None where it is at it."""
    head = forge.pull().head
    if not forge.head or head == forge.head:
        return None
    return f"nothing is said of commit {forge.head[:12]}: the pull request is at {head[:12]} by now"


def _carry_out(forge: Forge, step: Step) -> str:
    for comment in step.delete:
        forge.delete(comment)
    if step.write is None:
        return "a comment that is no more true is deleted"
    if step.edit is None:
        forge.create(step.write)
        return "a comment is written"
    forge.edit(step.edit, step.write)
    return "the comment is edited in place"


__all__ = ["post"]
