"""Which costs of a plan a pull request has accepted: by lines of its description, and by labels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import TYPE_CHECKING

from cluster.plan.costs import COSTS, Cost

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cluster.plan.planned import Planned

LABEL = "accept:"

#: A whole line: /accept logged-out, or /accept logged-out prod.
LINE = re.compile(r"/accept[ \t]+(?P<cost>\S+)(?:[ \t]+(?P<stack>\S+))?[ \t]*")

FENCE = re.compile(r" {0,3}(?P<mark>`{3,}|~{3,})(?P<rest>.*)")

#: What HTML opens and closes of which a reader sees nothing, or no command.
HIDDEN = (
    ("<!--", "-->"),
    ("<pre", "</pre>"),
    ("<script", "</script>"),
    ("<style", "</style>"),
    ("<textarea", "</textarea>"),
)


class By(StrEnum):
    """Who may accept: whoever may put labels on; the author too, where he may push; or any author."""

    LABELS = "labels"
    WRITERS = "writers"
    ANYONE = "anyone"


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """A cost that is accepted, of one stack or of all (None), and where that is said."""

    cost: str
    stack: str | None
    where: str


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A cost of a stack that has to be accepted."""

    cost: Cost
    stack: str


def of_labels(labels: Iterable[str]) -> list[Accepted]:
    """Return what labels accept: `accept:logged-out`, or `accept:logged-out:prod` for one stack."""
    found = []
    for label in sorted(labels):
        if label.startswith(LABEL):
            cost, _, stack = label.removeprefix(LABEL).partition(":")
            found.append(Accepted(cost=cost.strip(), stack=stack.strip() or None, where=f"label {label}"))
    return found


def of_description(text: str) -> list[Accepted]:
    """Return what a description's lines accept; only whole lines count that a reader sees as no code."""
    found = []
    for line in _shown(text):
        said = LINE.fullmatch(line)
        if said is not None:
            found.append(
                Accepted(cost=said["cost"], stack=said["stack"], where=f"the description's line {line.strip()}")
            )
    return found


def _shown(text: str) -> Iterator[str]:
    """Yield the lines of Markdown that are in no block of code and in no HTML that is hidden."""
    fence, end = "", ""
    for line in re.split(r"\r\n|\n|\r", text):
        if end:
            end = "" if end in line.lower() else end
            continue
        block = FENCE.fullmatch(line)
        if fence:
            # As long at least, of the same kind, and nothing after it.
            ends = block is not None and block["mark"].startswith(fence) and not block["rest"].strip()
            fence = "" if ends else fence
            continue
        if block is not None and not ("`" in block["rest"] and block["mark"].startswith("`")):
            fence = block["mark"]
            continue
        end = _left_open(line.lower())
        if not end:
            yield line


def _left_open(line: str) -> str:
    """Return what ends the HTML that a line opens and does not close; empty text for none."""
    for first, last in HIDDEN:
        _before, opened, rest = line.rpartition(first)
        if opened and last not in rest:
            return last
    return ""


def asked(plans: Iterable[Planned]) -> list[Asked]:
    """Return the costs of plans that have to be accepted, in the plans' order, the dearest first."""
    return [
        Asked(cost=cost, stack=one.stack) for one in plans for cost in one.costs if one.changes and COSTS[cost].asks
    ]


def answer(found: Asked, accepted: Sequence[Accepted]) -> Accepted | None:
    """Return what accepts a cost; None where nothing does."""
    return next(
        (one for one in accepted if one.cost == found.cost and one.stack in (None, found.stack)),
        None,
    )


def how(found: Asked) -> str:
    """Return how a cost is accepted."""
    return f"put the label {LABEL}{found.cost} on it, or the line /accept {found.cost} into its description"


def unknown(accepted: Iterable[Accepted], stacks: Iterable[str]) -> list[str]:
    """Return what is said of words that accept nothing that there is, a line each."""
    names, lines = [cost.value for cost in Cost], []
    known = list(stacks)
    for one in accepted:
        if one.cost not in names:
            near = get_close_matches(one.cost, names, 1)
            lines.append(f"{one.where}: there is no such cost{f'; is it {near[0]}?' if near else ''}")
        elif one.stack is not None and one.stack not in known:
            lines.append(f"{one.where}: stack {one.stack} is not among those that were planned")
    return lines


__all__ = ["Accepted", "Asked", "By", "answer", "asked", "how", "of_description", "of_labels", "unknown"]
