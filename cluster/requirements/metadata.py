"""What pyproject.toml, and setup.cfg beside it, say that a package is and needs."""

from __future__ import annotations

import configparser
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.requirements.described import LocalPackage, normalised, read_toml
from cluster.requirements.lines import extra_names, find_reference, local_path
from cluster.requirements.workspace import members_of, workspace_root

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


def setup_cfg(directory: Path) -> dict[str, dict[str, str]]:
    """Return the tables of a setup.cfg; empty where there is none that can be read."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(directory / "setup.cfg", encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return {}
    return {name: dict(table) for name, table in parser.items()}


def is_clear(document: Mapping[str, Any]) -> bool:
    """Tell whether a pyproject.toml says by itself what its package needs; else its build backend must be asked."""
    project = document.get("project", {})
    unsaid = {"dependencies", "optional-dependencies", "requires-python", "version"} & set(project.get("dynamic", ()))
    return "name" in project and not unsaid and "{root:" not in str(project.get("dependencies", ""))


def is_package(document: Mapping[str, Any]) -> bool:
    """Tell whether a pyproject.toml makes its project a package, which is installed as well as run."""
    tool = document.get("tool", {})
    refused = (
        tool.get("uv", {}).get("package") is False
        or tool.get("poetry", {}).get("package-mode") is False
        or tool.get("pdm", {}).get("distribution") is False
    )
    named = "name" in document.get("project", {}) or "name" in tool.get("poetry", {})
    return not refused and named and ("build-system" in document or tool.get("uv", {}).get("package") is True)


def is_of_setuptools(document: Mapping[str, Any], directory: Path) -> bool:
    """Tell whether a setup.cfg or setup.py says what a package is, beside a pyproject.toml that does not."""
    if "project" in document or "poetry" in document.get("tool", {}):
        return False
    return "name" in setup_cfg(directory).get("metadata", {}) or (directory / "setup.py").is_file()


def wanted_lines(document: Mapping[str, Any], extras: Iterable[str], groups: Iterable[str]) -> list[str]:
    """Return the requirements of a pyproject.toml, with those of extras and groups."""
    project, tool = document.get("project", {}), document.get("tool", {})
    lines = [*project.get("dependencies", ())]
    chosen = {normalised(name) for name in extras}
    for name, more in project.get("optional-dependencies", {}).items():
        lines += more if normalised(name) in chosen else []
    tables = [document.get("dependency-groups", {}), tool.get("pdm", {}).get("dev-dependencies", {})]
    tables.append({"dev": tool.get("uv", {}).get("dev-dependencies", [])})
    waiting, seen = [normalised(name) for name in groups], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for line in (line for table in tables for key in table if normalised(key) == name for line in table[key]):
            if isinstance(line, str):
                lines.append(line)
            else:
                waiting.append(normalised(line.get("include-group", "")))
    return lines


def sources_of(
    directory: Path, document: Mapping[str, Any], extras: Iterable[str], groups: Iterable[str]
) -> Iterator[tuple[LocalPackage, list[str]]]:
    """Yield the packages that a pyproject.toml takes from paths, with the extras that it wants of them."""
    named: dict[str, list[str]] = {}
    for line in wanted_lines(document, extras, groups):
        reference = find_reference(re.sub(r"\{root(?::uri)?\}|\$\{PROJECT_ROOT\}", directory.as_posix(), line))
        if reference is not None:
            path = Path(os.path.normpath(directory / local_path(reference.target))).resolve()
            if path.is_dir():
                package = LocalPackage(path=path, editable=reference.editable, marker=reference.marker)
                yield package, extra_names(reference.extras)
            continue
        found = re.match(r"\s*([A-Za-z0-9._-]+)\s*(\[[^\]]*\])?", line)
        if found:
            named.setdefault(normalised(found[1]), []).extend(extra_names(found[2] or ""))
    yield from _uv_sources(directory, document, named)
    yield from _poetry_sources(directory, document, groups)


def _uv_sources(
    directory: Path, document: Mapping[str, Any], named: Mapping[str, list[str]]
) -> Iterator[tuple[LocalPackage, list[str]]]:
    root = workspace_root(directory)
    sources: dict[str, Any] = {}
    for place, where in ((root, read_toml(root / "pyproject.toml") if root else {}), (directory, document)):
        for name, entries in where.get("tool", {}).get("uv", {}).get("sources", {}).items():
            sources[normalised(name)] = (place, entries if isinstance(entries, list) else [entries])
    for name, wanted in named.items():
        place, entries = sources.get(name, (directory, ()))
        for source in entries:
            path = _source_path(source, name, place or directory, root)
            if path is not None and path.is_dir():
                editable = source.get("editable", bool(source.get("workspace")))
                yield LocalPackage(path=path, editable=editable, marker=source.get("marker", "")), wanted


def _source_path(source: Mapping[str, Any], name: str, directory: Path, root: Path | None) -> Path | None:
    if "path" in source:
        return (directory / str(source["path"])).resolve()
    if source.get("workspace") and root is not None:
        workspace = read_toml(root / "pyproject.toml")["tool"]["uv"]["workspace"]
        for member in (root, *members_of(root, workspace)):
            if normalised(read_toml(member / "pyproject.toml").get("project", {}).get("name", "")) == name:
                return member
    return None


def _poetry_sources(
    directory: Path, document: Mapping[str, Any], groups: Iterable[str]
) -> Iterator[tuple[LocalPackage, list[str]]]:
    poetry = document.get("tool", {}).get("poetry", {})
    tables = [poetry.get("dependencies", {})]
    chosen = {normalised(name) for name in groups}
    tables += [
        group.get("dependencies", {}) for name, group in poetry.get("group", {}).items() if normalised(name) in chosen
    ]
    for entry in (entry for table in tables for entries in table.values() for entry in _listed(entries)):
        path = (directory / entry["path"]).resolve() if isinstance(entry, dict) and "path" in entry else None
        if path is not None and path.is_dir():
            yield LocalPackage(path=path, editable=entry.get("develop", False)), list(entry.get("extras", ()))


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]
