"""What a project's packages are read from, and the local ones among them."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.source import ReleaseError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Where a project may list its packages, in the order looked for.
REQUIREMENTS = ("requirements.txt", "pyproject.toml", "Pipfile.lock", "pylock.toml")

#: Files by which a directory says that it can be installed.
METADATA = ("pyproject.toml", "setup.py", "setup.cfg")

#: Endings of packages that are one file.
ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


class Kind(StrEnum):
    """Who reads a project's requirements."""

    REQUIREMENTS = "requirements.txt"
    PYPROJECT = "pyproject.toml"
    UV = "uv.lock"
    POETRY = "poetry.lock"
    PDM = "pdm.lock"
    PIPENV = "Pipfile.lock"
    PYLOCK = "pylock.toml"


#: Locks that may stand beside a pyproject.toml, and the table of it that shows whose project it is.
LOCKS = {Kind.UV: "uv", Kind.POETRY: "poetry", Kind.PDM: "pdm"}


@dataclass(frozen=True, kw_only=True)
class LocalPackage:
    """A package that is installed from a directory.

    itself: it is the project, which also runs without being installed as a package.
    """

    path: Path
    editable: bool
    marker: str = ""
    itself: bool = False

    def line(self, place: Path | str) -> str:
        """Return the requirement that installs it from its copy at `place`."""
        return f"{'-e ' if self.editable else ''}{place}{' ; ' if self.marker else ''}{self.marker}"


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """Where a project's packages come from.

    main: the file that was named, or found. directory: where its paths begin.
    texts: requirements files as they are installed from, with their local paths written from `directory`.
    files: others that are needed to find out what to install: locks, pyproject.toml files, archives.
    unclear: local packages whose own code says what they need: they are needed whole.
    links: directories of packages' files that are looked through; those files are among `files`.
    top: the directory that holds all of them.
    beside: a lock that stands there and is not used.
    """

    kind: Kind
    main: Path
    directory: Path
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    texts: Mapping[Path, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    local: tuple[LocalPackage, ...] = ()
    unclear: tuple[Path, ...] = ()
    links: tuple[Path, ...] = ()
    top: Path = Path("/")
    beside: Path | None = None

    @property
    def project(self) -> dict[str, Any]:
        """The pyproject.toml that belongs to it; empty where there is none."""
        return read_toml(self.directory / "pyproject.toml")

    @property
    def depends_on_local(self) -> bool:
        """Whether packages other than the project itself come from directories."""
        return any(not package.itself for package in self.local)


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file says, empty where there is none; ReleaseError where it can't be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ReleaseError(f"app.requirements: {path}: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file says; ReleaseError where it can't be read."""
    import json  # noqa: PLC0415 - only for Pipfile.lock

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReleaseError(f"app.requirements: {path}: {error}") from error
    if not isinstance(found, dict):
        raise ReleaseError(f"app.requirements: {path}: must be a JSON object")
    return found


def outermost(paths: Iterable[Path]) -> list[Path]:
    """Return the paths that lie in none of the others."""
    unique = dict.fromkeys(paths)
    return [path for path in unique if not any(other in path.parents for other in unique)]


def normalised(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
