"""Locks: which of the packages that they pin come from paths."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.requirements.described import METADATA, Kind, LocalPackage, Requirements, normalised, read_json, read_toml
from cluster.requirements.gathered import Gathered, collected, with_itself
from cluster.requirements.lines import local_path
from cluster.requirements.workspace import lock_of
from cluster.source import ReleaseError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def read_uv(found: Requirements, _project: Path) -> Requirements:
    """Read a uv.lock."""
    lock = lock_of(Kind.UV, found.main)
    assert lock is not None  # noqa: S101 - by which the kind was found
    root, document = lock.parent.resolve(), read_toml(lock)
    gathered = Gathered(files=[lock, found.main])
    for package in document.get("package", ()):
        source = package.get("source", {})
        where = source.get("virtual") or source.get("editable") or source.get("directory")
        if where is not None:
            gathered.files += [path for name in METADATA if (path := root / where / name).is_file()]
    for path, editable in _closure(found, document, root):
        if path.is_dir():
            gathered.local[path] = LocalPackage(path=path, editable=editable, itself=path == found.directory)
        else:
            gathered.files.append(path)
    return collected(found, gathered)


def _closure(found: Requirements, lock: Mapping[str, Any], root: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the paths that a uv.lock takes packages from, of those that the project needs; True: editable."""
    packages: dict[str, list[dict[str, Any]]] = {}
    for package in lock.get("package", ()):
        packages.setdefault(package["name"], []).append(package)
    first = [
        package
        for package in lock.get("package", ())
        if (where := package.get("source", {}).get("virtual", package.get("source", {}).get("editable"))) is not None
        and (root / where).resolve() == found.directory
    ]
    waiting = [(package, tuple(found.extras), tuple(found.groups)) for package in first]
    seen = set[str]()
    while waiting:
        package, extras, groups = waiting.pop()
        key = f"{package['name']} {package.get('version')} {package.get('source')} {sorted(extras)} {groups}"
        if key in seen:
            continue
        seen.add(key)
        source = package.get("source", {})
        where = source.get("editable") or source.get("directory") or source.get("path")
        if where is not None:
            yield (root / where).resolve(), "editable" in source
        edges = [*package.get("dependencies", ())]
        for table, chosen in (("optional-dependencies", extras), ("dev-dependencies", groups)):
            names = {normalised(name) for name in chosen}
            edges += [
                edge for name, more in package.get(table, {}).items() if normalised(name) in names for edge in more
            ]
        for edge in edges:
            waiting += [(one, tuple(edge.get("extra", ())), ()) for one in packages.get(edge["name"], ())]


def read_poetry(found: Requirements, _project: Path) -> Requirements:
    """Read a poetry.lock."""
    lock = found.directory / Kind.POETRY
    gathered = Gathered(files=[lock, found.main])
    wanted = {"main", *map(normalised, found.groups)}
    for package in read_toml(lock).get("package", ()):
        source = package.get("source", {})
        groups = {normalised(name) for name in package.get("groups", ())} or wanted
        if source.get("type") in ("directory", "file") and groups & wanted:
            _add_locked(gathered, found, source["url"], editable=bool(package.get("develop")))
    return collected(with_itself(found, gathered), gathered)


def read_pdm(found: Requirements, _project: Path) -> Requirements:
    """Read a pdm.lock."""
    lock = found.directory / Kind.PDM
    gathered = Gathered(files=[lock, found.main])
    wanted = {"default", *map(normalised, (*found.groups, *found.extras))}
    for package in read_toml(lock).get("package", ()):
        groups = {normalised(name) for name in package.get("groups", ())} or wanted
        if "path" in package and groups & wanted:
            _add_locked(gathered, found, package["path"], editable=bool(package.get("editable")))
    return collected(with_itself(found, gathered), gathered)


def read_pipenv(found: Requirements, _project: Path) -> Requirements:
    """Read a Pipfile.lock."""
    gathered = Gathered(
        files=[path for name in ("Pipfile.lock", "Pipfile") if (path := found.directory / name).is_file()]
    )
    document = read_json(found.main)
    for category in ("default", *found.groups):
        for package in document.get(category, {}).values():
            path = package.get("path") or package.get("file", "")
            if path and "://" not in path:
                _add_locked(gathered, found, path, editable=bool(package.get("editable")))
    return collected(found, gathered)


def read_pylock(found: Requirements, _project: Path) -> Requirements:
    """Read a pylock.toml (PEP 751)."""
    gathered = Gathered(files=[found.main])
    for package in read_toml(found.main).get("packages", ()):
        for kind in ("directory", "archive", "sdist"):
            source = package.get(kind, {})
            if "path" in source:
                path = str(Path(source["path"]) / source.get("subdirectory", ""))
                _add_locked(
                    gathered, found, path, editable=bool(source.get("editable")), marker=package.get("marker", "")
                )
        for wheel in package.get("wheels", ()):
            if "path" in wheel:
                _add_locked(gathered, found, wheel["path"], editable=False)
    return collected(found, gathered)


def _add_locked(gathered: Gathered, found: Requirements, where: str, *, editable: bool, marker: str = "") -> None:
    """Add a path that a lock names, from the lock's directory."""
    path = (found.directory / local_path(where.replace("${PROJECT_ROOT}", str(found.directory)))).resolve()
    if path.is_dir():
        gathered.files += [file for name in METADATA if (file := path / name).is_file()]
        gathered.local[path] = LocalPackage(path=path, editable=editable, marker=marker)
    elif path.is_file():
        gathered.files.append(path)
    else:
        raise ReleaseError(f"app.requirements: {found.kind} installs {where}, and there is nothing at {path}")
