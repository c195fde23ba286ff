"""A plan as a terminal, a pull request and a program get it: three forms of one structure."""

from __future__ import annotations

import re
from dataclasses import asdict
from fractions import Fraction
from itertools import groupby
from typing import TYPE_CHECKING, Any

from cluster.plan.costs import COSTS
from cluster.plan.planned import Kind
from cluster.topology import percent
from cluster_runtime.unfollowed import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cluster.plan.planned import FileChange, Migration, PackageChange, Planned, Resource, SettingChange, Share

#: The version of what `plan --json` prints: raised where a key goes, or means something else (docs/plan.md).
SCHEMA = 1

#: Names, files, packages that a person is told one by one.
MOST = 10

#: Lines of nginx's that a person is told; of more, the first.
MOST_LINES = 60

#: Characters of a value that a person is told.
LONGEST = 60

SIGNS = {Kind.ADDED: "+", Kind.REMOVED: "-", Kind.CHANGED: "~"}

NOTHING = "no changes"


def headline(planned: Planned) -> str:
    """Return the first line of every form: what the change costs."""
    if planned.refused:
        return "`up` refuses it"
    if not planned.changes:
        return NOTHING
    if not planned.costs:
        return "what it costs is not known"
    return "; ".join(COSTS[cost].words for cost in planned.costs)


def document(plans: Iterable[Planned]) -> dict[str, Any]:
    """Return what `plan --json` prints: every plan with its first line and its digest beside its keys."""
    from cluster.plan.digest import digest  # noqa: PLC0415 - it has the first line in it

    found = [{"headline": headline(one), "digest": digest(one), **asdict(one)} for one in plans]
    return {"version": SCHEMA, "plans": found}


# --- text


def text(planned: Planned) -> list[str]:
    """Return the lines for a terminal, the cost first."""
    return [headline(planned), *(f"- {line}" for line in planned.refused), *_body(planned)]


def _body(planned: Planned) -> Iterator[str]:
    if planned.traffic:
        yield f"traffic: {', '.join(f'{names} {shares}' for names, shares in _shares(planned.traffic))}"
    yield from planned.steps
    if planned.nginx:
        yield "nginx's lines:"
        yield from (f"    {line}" for line in _cut(planned.nginx, MOST_LINES, "lines"))
    for title, rows in _sections(planned):
        if len(rows) == 1:
            yield f"{title}: {rows[0]}"
        else:
            yield f"{title}:"
            yield from (f"    {row}" for row in rows)
    if planned.resources:
        counts = {
            operation: len(list(found))
            for operation, found in groupby(sorted(one.operation for one in planned.resources))
        }
        yield f"resources: {', '.join(f'{count} to {operation}' for operation, count in counts.items())}"


def _sections(planned: Planned) -> Iterator[tuple[str, list[str]]]:
    """Yield what there is beside traffic, steps and nginx's lines: a title, and a row for each thing."""
    release = planned.release
    found: list[tuple[str, list[str]]] = [
        (f"code ({_total(release.code)})", _cut([_file(one) for one in release.code], MOST, "files")),
        ("requirements", _cut([_package(one) for one in release.requirements], MOST, "packages")),
        ("settings", _cut([_setting(one) for one in planned.settings], MOST, "keys")),
        ("secrets, by name", [f"{SIGNS[one.kind]} {one.name}" for one in release.secrets]),
        ("migrations that run", _cut([_migration(one) for one in release.migrations], MOST, "migrations")),
        ("sessions at risk", [planned.sessions] if planned.sessions else []),
        ("stopped or deleted", list(planned.deleted)),
        ("lints that are new", [f"{one.severity}: {one.path}: {one.text} [{one.id}]" for one in planned.lints]),
        ("changed by hand, or broken", list(planned.drift)),
        ("rules of the policy that are disabled", list(planned.disabled)),
        ("not known before", _cut(planned.unknown, MOST, "things")),
    ]
    # No name of a file can begin a line of its own.
    return ((title, [" ".join(row.splitlines()) for row in rows]) for title, rows in found if rows)


def _cut(rows: Sequence[str], most: int, what: str) -> list[str]:
    """Return the first rows, with how many more there are."""
    return list(rows) if len(rows) <= most + 1 else [*rows[:most], f"and {len(rows) - most} more {what}"]


def _total(files: Sequence[FileChange]) -> str:
    counted = [one for one in files if one.added is not None and one.removed is not None]
    added, removed = sum(one.added or 0 for one in counted), sum(one.removed or 0 for one in counted)
    return f"{len(files)} {'file' if len(files) == 1 else 'files'}, +{added} -{removed}"


def _file(one: FileChange) -> str:
    lines = "" if one.added is None or one.removed is None else f" +{one.added} -{one.removed}"
    return f"{SIGNS[one.kind]} {one.path}{lines}"


def _package(one: PackageChange) -> str:
    if one.before is None:
        return f"+ {one.name} {one.after or '(any version)'}"
    if one.after is None:
        return f"- {one.name} {one.before}".rstrip()
    return f"~ {one.name} {one.before or '(any version)'} -> {one.after or '(any version)'}"


def _setting(one: SettingChange) -> str:
    def told(value: str | None) -> str:
        if value is None:
            return "(default)"
        return value if len(value) <= LONGEST else f"{value[: LONGEST - 1]}…"

    return f"{one.key}: {told(one.before)} -> {told(one.after)}"


def _migration(one: Migration) -> str:
    parts = [*(f"the former release can't live beside it: {words}" for words in one.unsafe)]
    parts += [f"can't be judged by reading: {words}" for words in one.unread]
    return f"{one.name} ({'; '.join(parts)})" if parts else one.name


def _shares(traffic: Sequence[Share]) -> Iterator[tuple[str, str]]:
    """Yield instances and how their shares change, those beside each other that change alike together."""

    def told(share: float | None) -> str:
        return "-" if share is None else _percent(share)

    for (before, after), group in groupby(traffic, lambda one: (one.before, one.after)):
        yield listed([one.instance for one in group]), f"{told(before)} -> {told(after)}"


def _percent(share: float) -> str:
    return percent(Fraction(share))


def listed(names: Sequence[str], most: int = 4) -> str:
    """Return names in one line of the same length, however many there are."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 1])} … {names[-1]} ({len(names)})"


# --- Markdown


def markdown(planned: Planned) -> list[str]:
    """Return the lines for a pull request: GitHub's and GitLab's Markdown, whatever a file is called.

    What does not change is one line. Nothing of a plan can end the code that it is shown as.
    """
    if not planned.changes and not planned.refused:
        off = f"; disabled: {', '.join(map(code, planned.disabled))}" if planned.disabled else ""
        return [f"{code(planned.stack)}: {headline(planned)}{off}"]
    lines = [f"### {code(planned.stack)}: {headline(planned)}"]
    if planned.refused:
        lines += ["", *(f"- {code(line)}" for line in planned.refused)]
    if planned.traffic:
        lines += ["", "| instance | share of new requests |", "|---|---|"]
        lines += [f"| {code(names)} | {shares} |" for names, shares in _shares(planned.traffic)]
    if planned.steps:
        lines += ["", *(f"- {code(step)}" for step in planned.steps)]
    if planned.nginx:
        lines += ["", *fenced(_cut(planned.nginx, MOST_LINES, "lines"), "diff")]
    for title, rows in _sections(planned):
        lines += ["", f"**{title[0].upper()}{title[1:]}**", "", *(f"- {code(row)}" for row in rows)]
    if planned.resources:
        rows, count = list(_resources(planned.resources)), len(planned.resources)
        summary = f"{count} {'resource' if count == 1 else 'resources'} of the engine, with what is why"
        lines += ["", f"<details><summary>{summary}</summary>", "", *fenced(rows, ""), "", "</details>"]
    return lines


def _resources(resources: Iterable[Resource]) -> Iterator[str]:
    """Yield a row for those with which the same is done for the same reasons: of a hundred instances as of four."""
    groups: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for one in resources:
        groups.setdefault((one.operation, one.kind, one.reasons), []).append(one.name)
    for (operation, kind, reasons), names in groups.items():
        yield f"{operation} {kind} {listed(names)}" + (f" ({', '.join(reasons)})" if reasons else "")


def code(words: str) -> str:
    """Return words as code in a line: none of them is Markdown, an address, or somebody's name."""
    clean = " ".join(printable(words).split())
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", clean)), default=0))
    space = " " if clean.startswith("`") or clean.endswith("`") else ""
    return f"{ticks}{space}{clean}{space}{ticks}"


def fenced(rows: Iterable[str], language: str) -> list[str]:
    """Return rows as a block of code that none of them can end."""
    clean = [printable(row).replace("\n", " ") for row in rows]
    ticks = "`" * max(3, 1 + max((len(run) for row in clean for run in re.findall("`+", row)), default=0))
    return [f"{ticks}{language}", *clean, ticks]
