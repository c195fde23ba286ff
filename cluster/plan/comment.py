"""The one comment of a pull request: all stacks of a plan, within what a forge takes, and how it is found again."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from cluster.errors import CommandError
from cluster.plan.shown import NOTHING, code, headline, listed, markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cluster.plan.planned import Planned, Release

#: The comment's first line, which no reader sees: what it is, and the run that wrote it.
MARK = re.compile(r"<!-- cluster plan: run (\d{1,18})\.(\d{1,18}) -->")

SEPARATOR = "\n\n"

#: Stacks that are named where there is no room for all of them.
FEW = 4

LEFT_OUT = "Left out, since a comment has no room for it: "


@dataclass(frozen=True, kw_only=True, order=True)
class Run:
    """A run of a forge's jobs; the later one is the greater one. One that is tried again is not later than the next."""

    number: int
    attempt: int


def mark(run: Run) -> str:
    """Return the line by which a comment is found again."""
    return f"<!-- cluster plan: run {run.number}.{run.attempt} -->"


def written_by(body: str) -> Run | None:
    """Return the run that a comment says it is of; None for a comment that is no plan."""
    found = MARK.fullmatch(body.partition("\n")[0].rstrip())
    return None if found is None else Run(number=int(found[1]), attempt=int(found[2]))


# --- what is in it


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a plan that can be left out: what it is called, whether it is there, and the plan without it."""

    words: str
    there: Callable[[Planned], object]
    without: Callable[[Planned], Planned]


def _of_release(words: str, there: Callable[[Release], object], without: Callable[[Release], Release]) -> Part:
    return Part(
        words=words,
        there=lambda planned: there(planned.release),
        without=lambda planned: replace(planned, release=without(planned.release)),
    )


#: What stands for reasons that have no room.
ELSEWHERE: tuple[str, ...] = ("the job's log says why",)

#: What is left out first, first. The cost is no part: nothing is shown without it.
LEAST_IMPORTANT_FIRST = (
    Part(words="resources", there=lambda one: one.resources, without=lambda one: replace(one, resources=())),
    _of_release("code files", lambda one: one.code, lambda one: replace(one, code=())),
    Part(words="nginx's lines", there=lambda one: one.nginx, without=lambda one: replace(one, nginx=())),
    Part(words="what is not known before", there=lambda one: one.unknown, without=lambda one: replace(one, unknown=())),
    _of_release("requirements", lambda one: one.requirements, lambda one: replace(one, requirements=())),
    Part(words="settings", there=lambda one: one.settings, without=lambda one: replace(one, settings=())),
    Part(words="lints", there=lambda one: one.lints, without=lambda one: replace(one, lints=())),
    Part(words="steps", there=lambda one: one.steps, without=lambda one: replace(one, steps=())),
    Part(words="what was changed by hand", there=lambda one: one.drift, without=lambda one: replace(one, drift=())),
    Part(words="traffic", there=lambda one: one.traffic, without=lambda one: replace(one, traffic=())),
    _of_release("secrets' names", lambda one: one.secrets, lambda one: replace(one, secrets=())),
    _of_release("migrations", lambda one: one.migrations, lambda one: replace(one, migrations=())),
    Part(words="sessions at risk", there=lambda one: one.sessions, without=lambda one: replace(one, sessions="")),
    Part(words="what is deleted", there=lambda one: one.deleted, without=lambda one: replace(one, deleted=())),
    Part(words="disabled rules", there=lambda one: one.disabled, without=lambda one: replace(one, disabled=())),
    Part(
        words="why `up` refuses it",
        there=lambda one: one.refused and one.refused != ELSEWHERE,
        without=lambda one: replace(one, refused=ELSEWHERE),
    ),
)


class Draft:
    """A comment while parts of it are left out, so that it fits. end: paragraphs that are never left out."""

    def __init__(self, plans: Sequence[Planned], end: Sequence[str]) -> None:
        self.plans = list(plans)
        self.end = end
        self.left: dict[str, list[str]] = {}
        self.blocks = [_block(one) for one in plans]
        self.sizes = [characters(block) for block in self.blocks]
        self.of_blocks = sum(self.sizes) + len(SEPARATOR) * len(self.blocks)

    def leave_out(self, part: Part, at: int) -> None:
        """Leave a part of one plan out, and remember whose."""
        self.plans[at] = part.without(self.plans[at])
        self.blocks[at] = _block(self.plans[at])
        self.of_blocks -= self.sizes[at]
        self.sizes[at] = characters(self.blocks[at])
        self.of_blocks += self.sizes[at]
        self.left.setdefault(part.words, []).append(self.plans[at].stack)

    def size(self) -> int:
        """Return the characters that the comment has at most."""
        return self.of_blocks + characters(self.text([]))

    def text(self, blocks: Sequence[str] | None = None) -> str:
        """Return the comment below its mark; blocks: in place of its own."""
        missing = [f"{what} of {code(listed(names))}" for what, names in self.left.items()]
        said = f"{LEFT_OUT}{'; '.join(missing)}. The job's log has it." if missing else ""
        return SEPARATOR.join(one for one in (*(self.blocks if blocks is None else blocks), said, *self.end) if one)


def _block(planned: Planned) -> str:
    return "\n".join(markdown(planned))


def compose(plans: Sequence[Planned], run: Run, *, limit: int, end: Sequence[str] = ()) -> str | None:
    """Return the comment for these plans, at most `limit` characters long; None where nothing changes.

    end: further lines, a paragraph each. Stacks that do not change are one line. Whole parts are left out where there
    is no room, the least important first, and the comment says which; CommandError where not even the costs have room.
    """
    changed = [one for one in plans if one.changes or one.refused]
    same = [one.stack for one in plans if not (one.changes or one.refused)]
    if not changed:
        return None
    unchanged = f"{NOTHING}: {', '.join(map(code, same))}" if same else ""
    first = f"{mark(run)}\n"
    draft = Draft(changed, [unchanged, *end])
    for part in LEAST_IMPORTANT_FIRST:
        # Of the largest first: as few as can be lose it.
        for at in sorted(range(len(changed)), key=lambda at: -draft.sizes[at]):
            if len(first) + draft.size() <= limit:
                return first + draft.text()
            if part.there(draft.plans[at]):
                draft.leave_out(part, at)
    for most in (len(plans), FEW):
        draft.end = [f"{NOTHING}: {code(listed(same, most))}" if same else "", *end]
        text = first + draft.text(_alike(changed, most))
        if characters(text) <= limit:
            return text
    raise CommandError(f"a comment of {limit:,} characters has no room for what {len(changed)} stacks cost")


def failure(words: str, run: Run, *, limit: int) -> str:
    """Return the comment of a commit of which no plan can be made; words: why, of which the first lines have room."""
    text = f"{mark(run)}\n### No plan can be made of this commit\n"
    for line in words.splitlines():
        row = f"\n- {code(line)}"
        if characters(text + row) > limit - len(ELSEWHERE[0]) - len("\n- ``"):
            return f"{text}\n- {code(ELSEWHERE[0])}"
        text += row
    return text


def _alike(plans: Sequence[Planned], most: int) -> list[str]:
    """Return stacks with what they cost alone, those that cost the same together."""
    ordered = sorted(plans, key=headline)
    return [
        f"### {code(listed([one.stack for one in group], most))}: {words}"
        for words, group in groupby(ordered, key=headline)
    ]


def characters(text: str) -> int:
    """Return the length of a comment as the strictest forge counts it: what is beyond 16 bits is two."""
    return len(text) + sum(ord(char) > 0xFFFF for char in text)  # noqa: PLR2004 - the last character of 16 bits


# --- what becomes of it


@dataclass(frozen=True, kw_only=True)
class Posted:
    """A comment that is there, and that we have written ourselves."""

    id: int
    body: str


@dataclass(frozen=True, kw_only=True)
class Step:
    """What is to be done to the comments of a pull request.

    write: what the comment is to say; None: nothing is written. edit: the one that is to say it; None for a new one.
    delete: those that go. newer: whether a later run has said what its commit does, which stays.
    """

    write: str | None = None
    edit: int | None = None
    delete: tuple[int, ...] = ()
    newer: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether all is as it should be."""
        return self.write is None and not self.delete


def next_step(found: Sequence[Posted], body: str | None, run: Run, *, wrote: bool = False) -> Step:
    """Return what makes one comment of those that there are: that of the latest run.

    found: all comments of ours. body: what this run says; None where nothing changes. wrote: whether it has said so
    already, and looks again. Two runs at once each write one: whoever looks next deletes the former's.
    """
    plans = sorted(
        ((by, -one.id, one) for one in found if (by := written_by(one.body)) is not None), key=lambda row: row[:2]
    )
    if not plans:
        return Step(write=body)
    *others, (by, _age, latest) = plans
    rest = tuple(one.id for _by, _age, one in others)
    if by > run:
        return Step(delete=rest, newer=True)
    if body is None:
        return Step(delete=(*rest, latest.id))
    if _plain(latest.body) == _plain(body) or (wrote and by == run):
        return Step(delete=rest)
    return Step(write=body, edit=latest.id, delete=rest)


def _plain(body: str) -> str:
    """Return a comment without how its lines end, which forges change."""
    return body.replace("\r\n", "\n").strip()
