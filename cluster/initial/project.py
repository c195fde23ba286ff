"""What a project's files say, before any of its code has run."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.errors import CommandError
from cluster.initial.settings import find_settings, other_settings, read_settings, set_for_servers, star_sources
from cluster.requirements import REQUIREMENTS

#: Files that list packages where a project keeps several, for production first.
REQUIREMENTS_OF_PRODUCTION = tuple(
    f"requirements/{name}.txt" for name in ("production", "prod", "deploy", "base", "common", "requirements")
)


@dataclass
class Project:
    """What can be read from a project's files.

    values: the settings that are written as plain constants. said: variables that wsgi.py (or asgi.py) sets.
    """

    directory: Path
    settings: str
    requirements: str
    python: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    environment: set[str] = field(default_factory=set)
    said: dict[str, str] = field(default_factory=dict)
    decide: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def inspect(directory: Path, settings: str | None, requirements: str | None, *, static: bool = True) -> Project:
    """Return what the project's files say; `static`: nothing else is asked, so its settings must be here."""
    if not (directory / "manage.py").is_file():
        below = sorted(str(found.parent.relative_to(directory)) for found in directory.glob("*/manage.py"))
        hint = f"; there is one in {', '.join(below)}" if below else ""
        raise CommandError(f"{directory} has no manage.py{hint}: --project names the directory that holds it")
    module, why = (settings, "--settings says so") if settings else find_settings(directory)
    named = None if requirements is None else _named_requirements(directory, requirements)
    project = Project(directory, module, named or find_requirements(directory, module))
    others = other_settings(directory, module)
    project.lines.append(f"settings: {module}, since {why}")
    if others and not settings:
        project.decide.append(f"settings: there are also {', '.join(others)}; --settings chooses one of them")
    for source in star_sources(directory, module, needed=static):
        values, needed = read_settings(source)
        project.values |= values
        project.environment |= needed
    project.said = set_for_servers(directory, module)
    project.lines += [f"environment: {name}, which the project sets for its server" for name in project.said]
    return project


def _named_requirements(directory: Path, name: str) -> str:
    """Return what --requirements says, from the project's directory, as a stack file does."""
    path = Path(os.path.normpath(directory / name))
    if not path.is_file():
        raise CommandError(f"--requirements: {path}: no such file (its path begins at the project's directory)")
    return os.path.relpath(path, directory)


def find_requirements(directory: Path, settings: str = "") -> str:
    """Return the requirements file, from the project's directory: in it, or up to two levels above."""
    last = settings.rpartition(".")[2]
    of_settings = (f"requirements/{last}.txt",) if last else ()
    for up in (Path(), Path(".."), Path("../..")):
        for name in (*of_settings, *REQUIREMENTS, *REQUIREMENTS_OF_PRODUCTION):
            if (directory / up / name).is_file():
                return str(up / name)
    names = " nor ".join(REQUIREMENTS)
    raise CommandError(f"{directory} has neither {names}, nor has a directory above: say --requirements")
