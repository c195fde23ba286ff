"""Which file says what a project needs, and who reads it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cluster.requirements.described import LOCKS, REQUIREMENTS, Kind, Requirements
from cluster.requirements.files import read_pyproject, read_requirements_txt
from cluster.requirements.gathered import with_top
from cluster.requirements.locks import read_pdm, read_pipenv, read_poetry, read_pylock, read_uv
from cluster.requirements.optional import check_chosen
from cluster.requirements.workspace import lock_of
from cluster.source import ReleaseError

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.config.models import App


def read_requirements(app: App, project: Path) -> Requirements:
    """Return where the packages of the project in `project` come from; ReleaseError where that can't be said."""
    main = _main_file(app, project)
    kind, main, beside = _kind(main)
    directory = main.parent.resolve()
    if kind is Kind.PIPENV:
        main = directory / "Pipfile.lock"
    found = Requirements(
        kind=kind,
        main=main,
        directory=directory,
        extras=tuple(app.requirements.extras),
        groups=tuple(app.requirements.groups),
        beside=beside,
    )
    check_chosen(found)
    reader = {
        Kind.REQUIREMENTS: read_requirements_txt,
        Kind.PYPROJECT: read_pyproject,
        Kind.UV: read_uv,
        Kind.POETRY: read_poetry,
        Kind.PDM: read_pdm,
        Kind.PIPENV: read_pipenv,
        Kind.PYLOCK: read_pylock,
    }[kind]
    return with_top(reader(found, project))


def _main_file(app: App, project: Path) -> Path:
    if app.requirements.file is not None:
        path = project / app.requirements.file
        if not path.is_file():
            raise ReleaseError(f"app.requirements: {path}: no such file")
        return path
    for name in REQUIREMENTS:
        if (project / name).is_file():
            return project / name
    raise ReleaseError(f"app.requirements: {app.project} has neither {' nor '.join(REQUIREMENTS)}: name the file")


def _kind(main: Path) -> tuple[Kind, Path, Path | None]:
    """Return who reads the file, the file that is read first, and a lock beside it that is not used."""
    name = main.name
    if name in ("Pipfile", Kind.PIPENV):
        lock = main.with_name(Kind.PIPENV.value)
        if not lock.is_file():
            raise ReleaseError(f"app.requirements: {main}: there is no Pipfile.lock beside it: run `pipenv lock`")
        return Kind.PIPENV, lock, None
    if name == Kind.PYLOCK or re.fullmatch(r"pylock\.[^.]+\.toml", name):
        return Kind.PYLOCK, main, None
    for kind in LOCKS:
        if name == kind:
            return kind, main.with_name("pyproject.toml"), None
    if name != Kind.PYPROJECT:
        locks = (*LOCKS, Kind.PIPENV, Kind.PYLOCK)
        return (
            Kind.REQUIREMENTS,
            main,
            next((path for kind in locks if (path := main.with_name(kind.value)).is_file()), None),
        )
    there = [kind for kind in LOCKS if lock_of(kind, main) is not None]
    if len(there) > 1:
        raise ReleaseError(
            f"app.requirements: {' and '.join(there)} both stand beside {main}: name the one that counts in "
            "app.requirements.file, or remove the other"
        )
    if there:
        return there[0], main, None
    pylock = main.with_name(Kind.PYLOCK.value)
    return (Kind.PYLOCK, pylock, None) if pylock.is_file() else (Kind.PYPROJECT, main, None)
