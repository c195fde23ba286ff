"""Compares two states of a stack by its files: code, packages, keys of the stack file, secrets, migrations, lints."""

from __future__ import annotations

import difflib
import json
import os
import posixpath
from typing import TYPE_CHECKING, Any

from packaging.requirements import InvalidRequirement, Requirement

from cluster.plan.planned import FileChange, Kind, Lint, PackageChange, SecretChange, SettingChange, Share
from cluster.requirements import Kind as Reader
from cluster.requirements import logical_lines, normalised, read_json, read_toml, wanted_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from fractions import Fraction
    from pathlib import Path

    from cluster.lint import Finding
    from cluster.requirements import Requirements
    from cluster.source import Entry

#: How each part of a release is called in a sentence.
PARTS = {
    "code": "code",
    "runtime": "runtime",
    "requirements": "requirements",
    "python": "Python",
    "packages": "local packages above the project",
    "platform": "what it runs on",
    "settings": "settings of the app",
    "secrets": "secrets",
}

#: Of a larger file nobody counts lines, bytes: it takes too long, and it is nobody's code.
LARGEST = 400_000

#: Values of secrets that are JSON objects, whose names are told one by one.
OBJECTS = ("secret_environment",)


def tree_of(entries: Iterable[Entry]) -> dict[str, Path | str]:
    """Return what makes a release another one when it changes, by path: a file, or what a link says."""
    found: dict[str, Path | str] = {}
    for entry in entries:
        if entry.fixed and (entry.link is not None or entry.source is not None):
            found[entry.target] = entry.link if entry.link is not None else entry.source or ""
    return found


def compare_code(before: Mapping[str, Path | str], after: Mapping[str, Path | str]) -> tuple[FileChange, ...]:
    """Return the files that differ, by their paths. A file that can't be read is one that changed."""
    found = []
    for path in sorted({*before, *after}):
        old, new = before.get(path), after.get(path)
        if old is None or new is None or not _same(old, new):
            kind = Kind.ADDED if old is None else Kind.REMOVED if new is None else Kind.CHANGED
            added, removed = _counted(old, new)
            found.append(FileChange(path=path, kind=kind, added=added, removed=removed))
    return tuple(found)


def _same(old: Path | str, new: Path | str) -> bool:
    if isinstance(old, str) or isinstance(new, str):
        return old == new
    try:
        one, other = old.stat(), new.stat()
        if one.st_size != other.st_size or (one.st_mode & 0o100) != (other.st_mode & 0o100):
            return False
        return old.read_bytes() == new.read_bytes()
    except OSError:
        return False


def _counted(old: Path | str | None, new: Path | str | None) -> tuple[int | None, int | None]:
    """Return the lines that are added and removed; None where they are not counted."""
    one, other = _lines(old), _lines(new)
    if one is None or other is None:
        return None, None
    found = [line[:1] for line in difflib.unified_diff(one, other, lineterm="", n=0) if line[:3] not in ("---", "+++")]
    return found.count("+"), found.count("-")


def _lines(source: Path | str | None) -> list[str] | None:
    if source is None:
        return []
    if isinstance(source, str):
        return None
    try:
        if source.stat().st_size > LARGEST:
            return None
        # A line of its own that begins as a header of the difference does is a line all the same.
        return [f" {line}" for line in source.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        return None


def packages_of(found: Requirements) -> dict[str, str]:
    """Return what the requirements say of the version of each package that they name; empty text: any.

    Of a lock these are versions. ReleaseError where a file of theirs can't be read.
    """
    if found.kind is Reader.REQUIREMENTS:
        return _specified(line for text in found.texts.values() for _first, _last, line in logical_lines(text))
    if found.kind is Reader.PYPROJECT:
        return _specified(wanted_lines(found.project, found.extras, found.groups))
    if found.kind is Reader.PIPENV:
        document = read_json(found.main)
        sections = [document.get(name, {}) for name in ("default", *found.groups)]
        return {
            normalised(name): str(one.get("version", "")).removeprefix("==")
            for section in sections
            for name, one in section.items()
            if isinstance(one, dict)
        }
    names = {kind.value for kind in Reader} | {found.main.name}
    locks = [path for path in found.files if path.name in names and path.name != Reader.PYPROJECT]
    versions: dict[str, list[str]] = {}
    for path in locks:
        document = read_toml(path)
        for one in (*document.get("package", ()), *document.get("packages", ())):
            if isinstance(one, dict) and "name" in one:
                versions.setdefault(normalised(str(one["name"])), []).append(str(one.get("version", "")))
    return {name: ", ".join(sorted(set(found_versions))) for name, found_versions in versions.items()}


def _specified(lines: Iterable[str]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for line in lines:
        text = line.split(" #")[0].split(" --")[0].strip()
        try:
            wanted = Requirement(text)
        except InvalidRequirement:
            continue  # an option, a path, an empty line
        pinned = [one.version for one in wanted.specifier if one.operator in ("==", "===")]
        said = pinned[0] if len(pinned) == len(wanted.specifier) == 1 else str(wanted.specifier)
        found.setdefault(normalised(wanted.name), []).append(said or (wanted.url or "").partition("@")[0])
    return {name: ", ".join(dict.fromkeys(said)) for name, said in found.items()}


def compare_packages(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[PackageChange, ...]:
    """Return the packages that differ, by their names."""
    return tuple(
        PackageChange(name=name, before=before.get(name), after=after.get(name))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    )


def compare_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[SettingChange, ...]:
    """Return the keys of two configurations (plain values) that differ; what has a name is told by it."""
    old, new = dict(_flat(before)), dict(_flat(after))
    return tuple(
        SettingChange(key=key, before=old.get(key), after=new.get(key))
        for key in dict.fromkeys((*old, *new))
        if old.get(key) != new.get(key)
    )


def _flat(value: Any, key: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, one in value.items():
            yield from _flat(one, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and value and all(isinstance(one, dict) and "name" in one for one in value):
        for one in value:
            rest = {name: inner for name, inner in one.items() if name != "name"}
            yield from _flat(rest, f"{key}[{one['name']}]")
    elif value is not None and value not in ({}, []):
        yield key, json.dumps(value, ensure_ascii=False)


def compare_secrets(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[SecretChange, ...]:
    """Return the secrets that differ, by name; no value is in it."""
    old, new = _by_name(before), _by_name(after)
    return tuple(
        SecretChange(
            name=name, kind=Kind.ADDED if name not in old else Kind.REMOVED if name not in new else Kind.CHANGED
        )
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    )


def _by_name(values: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name, value in values.items():
        inner = _object(value) if name in OBJECTS else None
        if inner is None:
            found[name] = value
        else:
            found |= {f"{name}.{variable}": json.dumps(one) for variable, one in inner.items()}
    return found


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def compare_shares(before: Mapping[str, Fraction], after: Mapping[str, Fraction]) -> tuple[Share, ...]:
    """Return the instances whose share of the traffic changes: those of after in their order, then those that go."""

    def told(share: Fraction | None) -> float | None:
        return None if share is None else round(float(share), 6)

    return tuple(
        Share(instance=name, before=told(before.get(name)), after=told(after.get(name)))
        for name in dict.fromkeys((*after, *before))
        if before.get(name) != after.get(name)
    )


def compare_lints(before: Iterable[Finding], after: Iterable[Finding]) -> tuple[Lint, ...]:
    """Return what the lints find now, and did not before, whatever the position in a list."""
    known = {(one.id, one.path) for one in before}
    return tuple(
        Lint(id=str(one.id), severity=str(one.severity), path=str(one.path), text=f"{one.why} {one.remedy}")
        for one in after
        if (one.id, one.path) not in known
    )


def from_project(path: str, tree: Path, project: Path) -> str:
    """Return a path of a release's tree as it is from the project's directory."""
    return posixpath.normpath(os.path.relpath(tree / path, project))
