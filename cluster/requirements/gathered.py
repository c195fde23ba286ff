"""What is found on the way through files that name each other, and what comes of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.requirements.described import ARCHIVES, METADATA, LocalPackage, Requirements, read_toml
from cluster.requirements.lines import Reference, logical_lines
from cluster.requirements.metadata import is_clear, is_of_setuptools, is_package, sources_of
from cluster.requirements.workspace import uv_table

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass
class Gathered:
    """What is found on the way through files that name each other."""

    texts: dict[Path, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    local: dict[Path, LocalPackage] = field(default_factory=dict)
    #: By a file and a line of it: what a reference in it leads to.
    references: dict[tuple[Path, int], tuple[Reference, Path]] = field(default_factory=dict)
    unclear: list[Path] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)

    def add(self, package: LocalPackage, extras: Iterable[str] = ()) -> None:
        """Add a package, and what its own metadata takes from paths."""
        former = self.local.get(package.path)
        if former is None or (package.editable and not former.editable):
            self.local[package.path] = package
        if former is None:
            self._add_metadata(package.path, tuple(extras))

    def _add_metadata(self, path: Path, extras: tuple[str, ...]) -> None:
        self.files += [file for name in METADATA if (file := path / name).is_file()]
        document = read_toml(path / "pyproject.toml")
        if not is_clear(document):
            self.unclear.append(path)
        for package, more in sources_of(path, document, extras, ()):
            self.add(package, more)


def collected(found: Requirements, gathered: Gathered) -> Requirements:
    """Return what was gathered, with the references in requirements files written from where uv is run."""
    whole = replace(
        found,
        files=tuple(dict.fromkeys(path.resolve() for path in gathered.files)),
        local=tuple(gathered.local.values()),
        unclear=tuple(gathered.unclear),
        links=tuple(gathered.links),
        texts=gathered.texts,
    )
    texts = {}
    for path, text in gathered.texts.items():
        lines = text.split("\n")
        for number, end, line in reversed(list(logical_lines(text))):
            if (path, number) in gathered.references:
                reference, place = gathered.references[path, number]
                path_to = Path(os.path.relpath(place, found.directory)).as_posix()
                target = path_to if path_to.startswith("..") else f"./{path_to}"
                begin = line[: reference.start]
                lines[number:end] = [f"{begin}{target}{reference.extras}{line[reference.end :]}"]
        texts[path] = "\n".join(lines)
    return replace(whole, texts=texts)


def _top(found: Requirements) -> Path:
    directories = [found.directory, *(path.parent for path in (*found.texts, *found.files))]
    return Path(os.path.commonpath([*directories, *(package.path for package in found.local)]))


def with_top(found: Requirements) -> Requirements:
    """Return the requirements with all files that they are found by, and the directory that holds everything."""
    words = [word for word in uv_table(found.directory).get("find-links", ()) if "://" not in word]
    links = dict.fromkeys((*found.links, *(Path(os.path.normpath(found.directory / word)) for word in words)))
    inside = [path for place in links if place.is_dir() for path in sorted(place.iterdir()) if _is_archive(path)]
    found = replace(found, links=tuple(links), files=tuple(dict.fromkeys((*found.files, *inside))))
    return replace(found, top=_top(found))


def _is_archive(path: Path) -> bool:
    return path.name.endswith(ARCHIVES) and path.is_file()


def with_itself(found: Requirements, gathered: Gathered) -> Requirements:
    """Add the project itself where it is a package; return `found`."""
    if is_package(found.project) or is_of_setuptools(found.project, found.directory):
        gathered.local.setdefault(found.directory, LocalPackage(path=found.directory, editable=True, itself=True))
    return found
