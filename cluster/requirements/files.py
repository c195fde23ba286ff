"""Requirements files, which name each other and paths; and a pyproject.toml that has no lock."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cluster.requirements.described import METADATA, LocalPackage, Requirements
from cluster.requirements.gathered import Gathered, collected, with_itself
from cluster.requirements.lines import LINKS, OPTION, Reference, extra_names, find_reference, local_path, logical_lines
from cluster.requirements.metadata import is_clear, is_of_setuptools, is_package, sources_of
from cluster.requirements.workspace import workspace_files, workspace_root
from cluster.source import ReleaseError


def read_requirements_txt(found: Requirements, project: Path) -> Requirements:
    """Read a requirements file, and all that it names."""
    gathered = Gathered()
    waiting = [found.main.resolve()]
    while waiting:
        here = waiting.pop()
        if here in gathered.texts:
            continue
        gathered.texts[here] = text = _without_links(_text(here), here, found, project, gathered)
        for number, _end, line in logical_lines(text):
            option = OPTION.match(line.strip())
            if option:
                path = re.sub(r"\s+#.*$", "", option["path"]).strip().strip("'\"")
                if "://" not in path:
                    waiting.append((here.parent / path).resolve())
                continue
            reference = find_reference(line)
            if reference is None:
                continue
            place = _place(reference, here, found, project)
            gathered.references[here, number] = (reference, place)
            if place.is_dir():
                package = LocalPackage(path=place, editable=reference.editable, marker=reference.marker)
                gathered.add(package, extra_names(reference.extras))
            else:
                gathered.files.append(place)
    return collected(found, gathered)


def _without_links(text: str, here: Path, found: Requirements, project: Path, gathered: Gathered) -> str:
    """Return a requirements file without directories to look for packages in, which are gathered.

    uv is told of them by its configuration: it takes a relative one from elsewhere than pip does.
    """

    def gathered_or_kept(option: re.Match[str]) -> str:
        word = option[1].strip("'\"")
        if "://" in word and not word.startswith("file:"):
            return option[0]
        places = _places(local_path(word), here, found, project)
        gathered.links.append(next((place for place in places if place.is_dir()), places[0]))
        return ""

    lines = text.split("\n")
    for number, end, line in reversed(list(logical_lines(text))):
        if line.lstrip().startswith("-") and LINKS.search(line):
            lines[number:end] = [LINKS.sub(gathered_or_kept, line)]
    return "\n".join(lines)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ReleaseError(f"app.requirements: {path}: no such file") from error
    except (OSError, ValueError) as error:
        raise ReleaseError(f"app.requirements: {path}: {getattr(error, 'strerror', None) or error}") from error


def _places(path: str, here: Path, found: Requirements, project: Path) -> list[Path]:
    """Return what a path in a requirements file may lead to, the likeliest first."""
    bases = dict.fromkeys((project.resolve(), found.directory, here.parent, *here.parent.parents[:2]))
    return [Path(os.path.normpath(base / path)) for base in bases]


def _place(reference: Reference, here: Path, found: Requirements, project: Path) -> Path:
    """Return what a reference leads to.

    pip takes it from where it was run, and nobody knows where that was: the project's directory, that of the file that
    is named in the stack file, or that of the file that has the line; the first of them that has something to install.
    """
    places = _places(local_path(reference.target), here, found, project)
    for place in places:
        if place.is_file() or any((place / name).is_file() for name in METADATA):
            return place.resolve()
    raise ReleaseError(
        f"app.requirements: {here.name} installs {reference.target}, and there is nothing to install at {places[0]}: "
        "a directory with pyproject.toml or setup.py, or a package's file"
    )


def read_pyproject(found: Requirements, _project: Path) -> Requirements:
    """Read a pyproject.toml that has no lock; ReleaseError where it needs one."""
    document = found.project
    if "project" not in document and document.get("tool", {}).get("poetry", {}).get("package-mode") is False:
        raise ReleaseError(
            f"app.requirements: {found.main} is Poetry's, and there is no poetry.lock beside it: run `poetry lock`"
        )
    gathered = Gathered(files=[found.main])
    asked = is_package(document) or is_of_setuptools(document, found.directory)
    if not is_clear(document) and (asked or "dynamic" in document.get("project", {})):
        gathered.unclear.append(found.directory)
    root = workspace_root(found.directory)
    if root is not None:
        gathered.files += workspace_files(root)
    for package, extras in sources_of(found.directory, document, found.extras, found.groups):
        gathered.add(package, extras)
    return collected(with_itself(found, gathered), gathered)
