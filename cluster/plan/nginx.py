"""The difference between two configurations of nginx, in its own words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cluster.plan import blocks
from cluster.render.nginx import SITE
from cluster.render.snippets import HTTP, SERVER

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

#: Where an instance is reached: the directory is the machine's, and says nothing that its name does not.
SOCKET = re.compile(r"unix:[^\s;]*/(?P<place>[^/\s;]+/http\.sock)")

#: Said where the users for whom nginx asks are others: nobody is told which.
OTHER_USERS = "~ users: others, or with other passwords"

#: In the order in which they are shown.
FILES = ("nginx.conf", SITE, HTTP, SERVER)


def difference(
    before: Callable[[str], str],
    after: Mapping[str, str],
    digest: str,
    files: Iterable[str] = FILES,
    places: Collection[str] = (),
) -> list[str]:
    """Return the lines that go and come, without context; the digest that nginx tells is none of them.

    before: gives the text of a file of the configuration in place, empty where there is none. after: the files of the
    new one by their paths, which tells `digest`. files: what is compared, in this order. places: directories of this
    machine's, which are left out of the lines.
    """
    lines = []
    for path in files:
        old, new = before(path).splitlines(), after.get(path, "").splitlines()
        if not old and not path.endswith((HTTP, SERVER)):
            lines.append(f"~ {path} was lost: it is written again")
            continue
        lines += line_difference(old, new, digest)
    for place in sorted(places, key=len, reverse=True):
        lines = [line.replace(f"{place}/", "…/") for line in lines]
    return lines


def in_order(files: Collection[str]) -> list[str]:
    """Return the paths of a configuration's files as they are shown; those that it names elsewhere are the last."""
    others = sorted((path for path in files if path not in FILES), key=lambda path: (path.startswith("/"), path))
    return [*(path for path in FILES if path in files), *others]


def line_difference(old: list[str], new: list[str], digest: str = "") -> Iterator[str]:
    """Yield the lines that go and come of one file; those that tell a digest are left out."""
    for line in changed_lines(old, new):
        if not (digest and digest in line):
            yield SOCKET.sub(_shortened, line)


def changed_lines(old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    """Yield the lines that go and come, each after - or +; what nginx tells of itself is none of them.

    Before those of a location or a map is its first line, after a space. Lines beside each other are indented as in
    the file, beginning from the margin.
    """
    for lines in blocks.difference(old, new):
        yield from _from_margin(lines)


def _from_margin(found: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield lines after their signs, without the indentation that all of them have."""
    kept = [(sign, line) for sign, line in found if line.strip() and not line.strip().startswith("return 200 ")]
    if all(sign == " " for sign, _line in kept):
        return
    margin = min(len(line) - len(line.lstrip()) for _sign, line in kept)
    yield from (f"{sign} {line[margin:].rstrip()}" for sign, line in kept)


def _shortened(found: re.Match[str]) -> str:
    return f"unix:…/{found['place']}"
