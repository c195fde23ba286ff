"""The difference between two texts of nginx, by its blocks: one that comes or goes is told whole, from { to }."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Blocks of which lines are told without saying so: there is one, or its lines say in which they are.
PLAIN = ("events", "http", "server", "upstream")


#: A line of a difference after its sign.
Line = tuple[str, str]


@dataclass(frozen=True)
class Node:
    """A directive. lines: indented as in the file. inner: what a block holds; None: it is none."""

    lines: tuple[str, ...]
    inner: tuple[Node, ...] | None = field(default=None, compare=False)

    @property
    def head(self) -> str:
        """A block's first line, or all of a plain directive."""
        return self.lines[0].strip()

    @cached_property
    def words(self) -> Counter[str]:
        """Its lines, by how often it has each."""
        return Counter(line.strip() for line in self.lines)


def parsed(lines: Sequence[str]) -> tuple[Node, ...] | None:
    """Return the directives of a text as this program writes it; None where it does not close what it opens."""
    # What is open, the outermost first: where each block begins, and what it holds so far.
    begun: list[tuple[int, list[Node]]] = [(0, [])]
    for number, line in enumerate(lines):
        if line.rstrip().endswith("{"):
            begun.append((number, []))
        elif line.strip() != "}":
            begun[-1][1].append(Node((line,)))
        elif len(begun) == 1:
            return None
        else:
            first, inner = begun.pop()
            begun[-1][1].append(Node(tuple(lines[first : number + 1]), tuple(inner)))
    return tuple(begun[0][1]) if len(begun) == 1 else None


def difference(old: Sequence[str], new: Sequence[str]) -> Iterator[list[Line]]:
    """Yield lines that are together, each after its sign: - it goes, + it comes, a space: they are in this block."""
    before, after = parsed(old), parsed(new)
    if before is None or after is None:  # somebody has edited it
        before, after = (tuple(Node((line,)) for line in lines) for lines in (old, new))
    yield from _between(before, after)


def _between(old: Sequence[Node], new: Sequence[Node]) -> Iterator[list[Line]]:
    for what, old_first, old_end, new_first, new_end in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if what == "equal":
            continue
        for gone, come in _paired(old[old_first:old_end], new[new_first:new_end]):
            if len(gone) == len(come) == 1 and _alike(gone[0], come[0]):
                yield from _within(gone[0], come[0])
            else:
                lines = [("-", line) for node in gone for line in node.lines]
                yield [*lines, *(("+", line) for node in come for line in node.lines)]


def _within(old: Node, new: Node) -> Iterator[list[Line]]:
    """Yield what changes within a block; of most blocks it is together, after their first line."""
    found = _between(old.inner or (), new.inner or ())
    if new.head.split()[0] in PLAIN:
        yield from found
    else:
        yield [(" ", new.lines[0]), *(line for lines in found for line in lines)]


def _paired(old: Sequence[Node], new: Sequence[Node]) -> Iterator[tuple[Sequence[Node], Sequence[Node]]]:
    """Yield what takes the place of what: a block of the same name is the one that has most lines in common.

    Between two such pairs is what only goes, and what only comes.
    """
    # best[i][j]: how much old[i:] and new[j:] have in common at most.
    best = [[0] * (len(new) + 1) for _ in range(len(old) + 1)]
    alike = [[_alike(one, other) for other in new] for one in old]
    for i in reversed(range(len(old))):
        for j in reversed(range(len(new))):
            both = alike[i][j] + best[i + 1][j + 1] if alike[i][j] else 0
            best[i][j] = max(both, best[i + 1][j], best[i][j + 1])
    i = j = first = begin = 0
    while i < len(old) and j < len(new) and best[i][j]:
        if alike[i][j] and best[i][j] == alike[i][j] + best[i + 1][j + 1]:
            if first < i or begin < j:
                yield old[first:i], new[begin:j]
            yield old[i : i + 1], new[j : j + 1]
            i = first = i + 1
            j = begin = j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    if first < len(old) or begin < len(new):
        yield old[first:], new[begin:]


def _alike(one: Node, other: Node) -> int:
    """Return how many lines two blocks have in common, the first among them; 0 where they are not called the same."""
    if one.inner is None or other.inner is None or one.head != other.head:
        return 0
    return (one.words & other.words).total()


__all__ = ["Node", "difference", "parsed"]
