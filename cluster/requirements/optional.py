"""Extras and dependency groups: those that there are, what each brings, and whether the chosen ones are among them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.requirements.described import Kind, Requirements, normalised, read_json, read_toml
from cluster.requirements.metadata import is_of_setuptools, setup_cfg, wanted_lines
from cluster.source import ReleaseError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def known_extras(found: Requirements) -> set[str]:
    """Return the extras that the requirements have."""
    if found.kind is Kind.PYLOCK:
        return set(read_toml(found.main).get("extras", ()))
    if found.kind in (Kind.REQUIREMENTS, Kind.PIPENV):
        return set()
    poetry = found.project.get("tool", {}).get("poetry", {})
    return {*_extras_of(found), *poetry.get("extras", {})}


def _extras_of(found: Requirements) -> dict[str, list[str]]:
    """Return what each extra brings, as pyproject.toml says, or setup.cfg where that leaves it to setuptools."""
    if "project" in found.project:
        extras: dict[str, list[str]] = found.project["project"].get("optional-dependencies", {})
        return extras
    table = setup_cfg(found.directory).get("options.extras_require", {})
    return {name: [line for line in text.splitlines() if line.strip()] for name, text in table.items()}


def known_groups(found: Requirements) -> set[str]:
    """Return the dependency groups that the requirements have."""
    if found.kind is Kind.PYLOCK:
        return set(read_toml(found.main).get("dependency-groups", ()))
    if found.kind is Kind.REQUIREMENTS:
        return set()
    if found.kind is Kind.PIPENV:
        return set(read_json(found.main)) - {"_meta", "default"}
    tool = found.project.get("tool", {})
    poetry, uv, pdm = (tool.get(name, {}) for name in ("poetry", "uv", "pdm"))
    old = {"dev"} if "dev-dependencies" in uv or "dev-dependencies" in poetry else set()
    groups = found.project.get("dependency-groups", {})
    return {*groups, *poetry.get("group", {}), *pdm.get("dev-dependencies", {}), *old}


def optional_lines(found: Requirements) -> Iterator[tuple[str, str, list[str]]]:
    """Yield each extra and group that the requirements have ("extra" or "group", its name), with what it brings."""
    extras, groups = known_extras(found), known_groups(found)
    document = found.project
    poetry = document.get("tool", {}).get("poetry", {})
    brought = _extras_of(found)
    for name in _in_order(extras, brought, poetry.get("extras", {})):
        yield "extra", name, [*brought.get(name, ()), *poetry.get("extras", {}).get(name, ())]
    locked = read_json(found.main) if found.kind is Kind.PIPENV else {}
    for name in _in_order(groups, document.get("dependency-groups", {}), poetry.get("group", {}), locked):
        lines = wanted_lines({**document, "project": {}}, (), [name])
        of_poetry = poetry.get("group", {}).get(name, {}).get("dependencies", {})
        yield "group", name, [*lines, *of_poetry, *locked.get(name, ())]


def _in_order(names: set[str], *tables: Iterable[str]) -> list[str]:
    """Return names as they follow each other in these tables, and then those that are in none of them."""
    written = [name for table in tables for name in table if name in names]
    return list(dict.fromkeys((*written, *sorted(names))))


def check_chosen(found: Requirements) -> None:
    """Refuse extras and groups that are not there, with those that are."""
    dynamic = "optional-dependencies" in found.project.get("project", {}).get("dynamic", ())
    dynamic |= is_of_setuptools(found.project, found.directory) and (found.directory / "setup.py").is_file()
    for key, chosen, known in (
        ("extras", found.extras, known_extras(found)),
        ("groups", found.groups, known_groups(found)),
    ):
        names = {normalised(name) for name in known}
        for name in chosen:
            if normalised(name) in names or (key == "extras" and dynamic and found.kind is Kind.PYPROJECT):
                continue
            there = f"known: {', '.join(sorted(known))}" if known else f"it has no {key}"
            raise ReleaseError(f"app.requirements.{key}: {found.main.name} has no {key[:-1]} {name}; {there}")
