"""Lines of a requirements file, and the paths that they install from."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from cluster.requirements.described import ARCHIVES

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKER = re.compile(r"""\s*;\s*(?=[A-Za-z_'"(])""")
LINKS = re.compile(r"(?:^|(?<=\s))(?:-f|--find-links)(?:\s*=\s*|\s+)(\S+)")
OPTION = re.compile(r"(-r|--requirement|-c|--constraint)(?:\s*=\s*|\s+|(?<=-[rc]))(?P<path>\S.*)")
EDITABLE = re.compile(r"(?:-e|--editable)(?:\s*=\s*|\s+)")
DIRECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\s*(?P<extras>\[[^\]]*\])?\s*@\s*(?P<target>\S+)")
PATH = re.compile(r"(?P<target>[^\s;\[]+)(?P<extras>\[[^\]]*\])?")
VERSIONED = ("git+", "hg+", "svn+", "bzr+")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A requirement that is a path: where it lies in its line, and what else stands there."""

    target: str
    start: int
    end: int
    editable: bool
    extras: str
    marker: str


def find_reference(line: str) -> Reference | None:
    """Return the path that a line of a requirements file installs from; None where it installs from no path."""
    text = re.sub(r"(^|\s)#.*$", "", line)
    begin = len(text) - len(text.lstrip())
    editable = EDITABLE.match(text, begin)
    begin = editable.end() if editable else begin
    if text[begin:].startswith("-") or not text[begin:].strip():
        return None
    cut = re.search(r"\s--?[a-z]", text[begin:])
    body = text[: begin + cut.start()] if cut else text
    found = (None if editable else DIRECT.match(body, begin)) or PATH.match(body, begin)
    if found is None:
        return None
    target, end = found["target"], found.end()
    target = target.partition("#")[0]  # #egg=name says nothing that the directory does not
    return _reference(target, (begin, end), bool(editable), found["extras"] or "", body, named="@" in found[0])


def _reference(  # noqa: PLR0913, PLR0917 - the parts of a line
    target: str, span: tuple[int, int], editable: bool, extras: str, body: str, named: bool = False
) -> Reference | None:
    if target.startswith(VERSIONED) or ("://" in target and not target.startswith("file:")):
        return None
    looks_local = target.startswith((".", "/", "~", "file:", "$")) or "/" in target or target.endswith(ARCHIVES)
    if not (editable or named or looks_local):
        return None
    marker = MARKER.split(body[span[1] :], maxsplit=1)
    return Reference(
        target=target,
        start=span[0],
        end=span[1],
        editable=editable,
        extras=extras,
        marker=marker[1].strip() if len(marker) > 1 else "",
    )


def local_path(target: str) -> str:
    """Return the path in a reference: of a file: URL what it leads to."""
    target = re.sub(r"\$\{(\w+)\}", lambda found: os.environ.get(found[1], found[0]), target)
    if target.startswith("file:"):
        parts = urlsplit(target)
        return unquote(parts.path if parts.netloc in ("", "localhost") else f"/{parts.netloc}{parts.path}")
    return str(Path(target).expanduser())


def logical_lines(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield the lines of a requirements file, those joined that end in a backslash, with where they begin and end."""
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        first, joined = number, lines[number].rstrip("\r")
        while joined.endswith("\\") and number + 1 < len(lines):
            number += 1
            joined = joined[:-1] + " " + lines[number].rstrip("\r")
        number += 1
        yield first, number, joined


def extra_names(extras: str) -> list[str]:
    """Return the extras between brackets."""
    return [name.strip() for name in extras.strip("[]").split(",") if name.strip()]
