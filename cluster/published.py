"""Which packages of a project have no wheel for another machine: as locks say it, or else an index. None is built."""

from __future__ import annotations

import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import uv
from packaging.markers import InvalidMarker, Marker, UndefinedComparison, UndefinedEnvironmentName
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from cluster.packages import base_python, chosen_options, last_lines, run_program, uv_config, write_installation
from cluster.requirements import Kind, normalised, read_toml
from cluster.sdists import unbuilt
from cluster.source import ReleaseError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from packaging.tags import Tag

    from cluster.requirements import Requirements

#: The oldest C library that a wheel may say it is for, and the names that were used for such before.
OLDEST_LIBRARY, OF_FORMER_TIMES = 5, ("manylinux2014", "manylinux2010", "manylinux1", "linux")

#: Packages of which an index says nothing but by their own code.
MOST_ASKED = 20


@dataclass(frozen=True, kw_only=True)
class Lacking:
    """A package that has no wheel for a machine. is_compiled: it has some for other machines, so it is not pure."""

    name: str
    version: str
    is_compiled: bool

    def __str__(self) -> str:
        return f"{self.name} {self.version}".strip()


def lacking(found: Requirements, target: tuple[str, str]) -> list[Lacking]:
    """Return the packages that have no wheel for a machine, which is told by its Python and its platform as uv has it.

    ReleaseError where that can't be known before they are installed.
    """
    if found.kind is Kind.PIPENV:
        raise ReleaseError("Pipfile.lock does not say which wheels there are")
    fitting = tags_of(*target)
    entries = _of_lock(found) if found.kind in (Kind.POETRY, Kind.PDM) else _of_pylock(found, target)
    return [
        Lacking(name=name, version=version, is_compiled=any(_platforms(wheel) - {"any"} for wheel in wheels))
        for name, version, wheels in entries
        if not any(_tags(wheel) & fitting for wheel in wheels)
    ]


def tags_of(python: str, platform: str) -> frozenset[Tag]:
    """Return the tags of wheels (PEP 425, PEP 600) that fit a machine."""
    architecture, _, library = platform.partition("-manylinux_2_")
    platforms = [f"manylinux_2_{minor}_{architecture}" for minor in range(int(library), OLDEST_LIBRARY - 1, -1)]
    platforms += [f"{name}_{architecture}" for name in OF_FORMER_TIMES]
    major, _, minor = python.partition(".")
    version = (int(major), int(minor))
    return frozenset(
        (
            *cpython_tags(version, platforms=platforms),
            *compatible_tags(version, f"cp{major}{minor}", platforms),
        )
    )


def _tags(wheel: str) -> frozenset[Tag]:
    try:
        return parse_wheel_filename(wheel)[3]
    except InvalidWheelFilename:
        return frozenset()


def _platforms(wheel: str) -> set[str]:
    return {tag.platform for tag in _tags(wheel)}


def _of_lock(found: Requirements) -> Iterator[tuple[str, str, list[str]]]:
    """Yield of each package of Poetry's or PDM's lock its name, its version and its wheels."""
    default = "main" if found.kind is Kind.POETRY else "default"
    wanted = {default, *map(normalised, (*found.groups, *(found.extras if found.kind is Kind.PDM else ())))}
    for package in read_toml(found.directory / found.kind).get("package", ()):
        groups = {normalised(name) for name in package.get("groups", ())} or wanted
        is_left_out = package.get("optional") and not found.extras
        if (
            groups & wanted
            and not is_left_out
            and "path" not in package
            and package.get("source", {}).get("url") is None
        ):
            names = [str(file["file"]) for file in package.get("files", ())]
            yield package["name"], package.get("version", ""), [name for name in names if name.endswith(".whl")]


def _of_pylock(found: Requirements, target: tuple[str, str]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield of each package its name, its version and its wheels, as a pylock.toml has them (PEP 751)."""
    if found.kind is Kind.PYLOCK:
        document = read_toml(found.main)
    elif found.kind is Kind.UV:
        words = ("export", "--frozen", "--no-default-groups", "--python", base_python(), *chosen_options(found))
        document = tomllib.loads(_uv(found, found.directory, *words))
    else:
        document = _resolved(found, target)
    environment = _environment(target)
    for package in document.get("packages", ()):
        kinds = {"directory", "vcs", "archive"} & set(package)
        if not kinds and _holds(package.get("marker", ""), environment):
            yield package["name"], package.get("version", ""), [_name_of(wheel) for wheel in package.get("wheels", ())]


def _uv(found: Requirements, directory: Path, *words: str, more: Mapping[str, Any] | None = None) -> str:
    """Return the pylock.toml that uv makes; ReleaseError with what it says where it makes none."""
    with tempfile.TemporaryDirectory() as temporary:
        config = Path(temporary) / "uv.toml"
        config.write_text(uv_config(found, absolute=True, more=more), encoding="utf-8")
        command = [uv.find_uv_bin(), "--config-file", str(config), "--system-certs", "--quiet", *words]
        done = run_program([*command, "--no-header", "--format", "pylock.toml"], cwd=directory, outlives=True)
    if done.returncode != 0:
        raise ReleaseError(done.stderr)
    return done.stdout


def _resolved(found: Requirements, target: tuple[str, str]) -> dict[str, Any]:
    """Return what an index has for requirements, as a pylock.toml.

    Of a package whose own code alone tells what it needs, and fails here, it is as if it needed nothing.
    """
    unsaid: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary) / "from"
        write_installation(made, found, runtime=(), python="", place=str(made), outlives=True)
        main = made / "tree" / (made / "main").read_text(encoding="utf-8").strip()
        words = ("--python", base_python(), "--python-version", target[0], "--python-platform", target[1])
        for _time in range(MOST_ASKED):
            more = {"dependency-metadata": [*unsaid.values()]} if unsaid else {}
            try:
                text = _uv(found, main.parent, "pip", "compile", *words, main.name, *chosen_options(found), more=more)
            except ReleaseError as error:
                package = unbuilt(str(error))
                if package is None or not package.version or package.name in unsaid:
                    raise ReleaseError(last_lines(str(error))) from error
                unsaid[package.name] = {"name": package.name, "version": package.version, "requires-dist": []}
            else:
                return tomllib.loads(text)
    raise ReleaseError(f"more than {MOST_ASKED} packages do not say what they need")


def _name_of(wheel: Mapping[str, Any]) -> str:
    return str(wheel.get("name") or Path(unquote(urlsplit(wheel.get("url") or wheel.get("path", "")).path)).name)


def _environment(target: tuple[str, str]) -> dict[str, str]:
    """Return a machine's values of environment markers."""
    return {
        "python_version": target[0],
        "python_full_version": f"{target[0]}.0",
        "implementation_version": f"{target[0]}.0",
        "platform_machine": target[1].partition("-")[0],
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }


def _holds(marker: str, environment: dict[str, str]) -> bool:
    """Tell whether a marker holds; one that nobody can read may."""
    try:
        return not marker or Marker(marker).evaluate(dict(environment), context="lock_file")
    except (InvalidMarker, UndefinedComparison, UndefinedEnvironmentName):
        return True
