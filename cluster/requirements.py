"""What a project's packages are read from: requirements files, pyproject.toml, locks; and the local ones among them.

All of it is read from files alone: nothing is resolved, built or asked of an index here.
"""

from __future__ import annotations

import configparser
import os
import re
import tomllib
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from cluster.source import ReleaseError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from cluster.config.models import App

#: Where a project may list its packages, in the order looked for.
REQUIREMENTS = ("requirements.txt", "pyproject.toml", "Pipfile.lock", "pylock.toml")

#: Files by which a directory says that it can be installed.
METADATA = ("pyproject.toml", "setup.py", "setup.cfg")

#: Endings of packages that are one file.
ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

MARKER = re.compile(r"""\s*;\s*(?=[A-Za-z_'"(])""")


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
    _check_chosen(found)
    reader = {
        Kind.REQUIREMENTS: _read_requirements_txt,
        Kind.PYPROJECT: _read_pyproject,
        Kind.UV: _read_uv,
        Kind.POETRY: _read_poetry,
        Kind.PDM: _read_pdm,
        Kind.PIPENV: _read_pipenv,
        Kind.PYLOCK: _read_pylock,
    }[kind]
    return _with_top(reader(found, project))


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
    there = [kind for kind in LOCKS if _lock_of(kind, main) is not None]
    if len(there) > 1:
        raise ReleaseError(
            f"app.requirements: {' and '.join(there)} both stand beside {main}: name the one that counts in "
            "app.requirements.file, or remove the other"
        )
    if there:
        return there[0], main, None
    pylock = main.with_name(Kind.PYLOCK.value)
    return (Kind.PYLOCK, pylock, None) if pylock.is_file() else (Kind.PYPROJECT, main, None)


def _lock_of(kind: Kind, pyproject: Path) -> Path | None:
    """Return the lock of a pyproject.toml: beside it, or at the root of the workspace that it is a member of."""
    beside = pyproject.with_name(kind.value)
    if beside.is_file():
        return beside
    root = workspace_root(pyproject.parent.resolve()) if kind is Kind.UV else None
    return root / kind if root is not None and (root / kind).is_file() else None


def workspace_root(directory: Path) -> Path | None:
    """Return the root of the uv workspace that `directory` belongs to; None where it belongs to none."""
    for above in (directory, *directory.parents):
        workspace: Mapping[str, Any] | None = (
            read_toml(above / "pyproject.toml").get("tool", {}).get("uv", {}).get("workspace")
        )
        if workspace is not None:
            return above if above == directory or directory in _members(above, workspace) else None
    return None


def _members(root: Path, workspace: Mapping[str, Any]) -> list[Path]:
    def matching(patterns: Iterable[str]) -> set[Path]:
        return {path.resolve() for pattern in patterns for path in root.glob(pattern) if path.is_dir()}

    return sorted(matching(workspace.get("members", ())) - matching(workspace.get("exclude", ())))


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file says, empty where there is none; ReleaseError where it can't be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ReleaseError(f"app.requirements: {path}: {error}") from error


def outermost(paths: Iterable[Path]) -> list[Path]:
    """Return the paths that lie in none of the others."""
    unique = dict.fromkeys(paths)
    return [path for path in unique if not any(other in path.parents for other in unique)]


def normalised(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


# --- extras and groups


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


def setup_cfg(directory: Path) -> dict[str, dict[str, str]]:
    """Return the tables of a setup.cfg; empty where there is none that can be read."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(directory / "setup.cfg", encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return {}
    return {name: dict(table) for name, table in parser.items()}


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


def _check_chosen(found: Requirements) -> None:
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


# --- requirements files


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A requirement that is a path: where it lies in its line, and what else stands there."""

    target: str
    start: int
    end: int
    editable: bool
    extras: str
    marker: str


LINKS = re.compile(r"(?:^|(?<=\s))(?:-f|--find-links)(?:\s*=\s*|\s+)(\S+)")
OPTION = re.compile(r"(-r|--requirement|-c|--constraint)(?:\s*=\s*|\s+|(?<=-[rc]))(?P<path>\S.*)")
EDITABLE = re.compile(r"(?:-e|--editable)(?:\s*=\s*|\s+)")
DIRECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\s*(?P<extras>\[[^\]]*\])?\s*@\s*(?P<target>\S+)")
PATH = re.compile(r"(?P<target>[^\s;\[]+)(?P<extras>\[[^\]]*\])?")
VERSIONED = ("git+", "hg+", "svn+", "bzr+")


def find_reference(line: str) -> Reference | None:
    """Return the path that a line of a requirements file installs from; None where it installs from no path."""
    text = re.sub(r"(^|\s)#.*$", "", line)
    begin = len(text) - len(text.lstrip())
    editable = EDITABLE.match(text, begin)
    begin = editable.end() if editable else begin
    if text[begin:].startswith("-") or not text[begin:].strip():
        return None
    cut = re.search(r"\s--?[a-z]", text[begin:])
    body = text[: begin + cut.start()] if cut else text
    found = (None if editable else DIRECT.match(body, begin)) or PATH.match(body, begin)
    if found is None:
        return None
    target, end = found["target"], found.end()
    target = target.partition("#")[0]  # #egg=name says nothing that the directory does not
    return _reference(target, (begin, end), bool(editable), found["extras"] or "", body, named="@" in found[0])


def _reference(  # noqa: PLR0913, PLR0917 - the parts of a line
    target: str, span: tuple[int, int], editable: bool, extras: str, body: str, named: bool = False
) -> Reference | None:
    if target.startswith(VERSIONED) or ("://" in target and not target.startswith("file:")):
        return None
    looks_local = target.startswith((".", "/", "~", "file:", "$")) or "/" in target or target.endswith(ARCHIVES)
    if not (editable or named or looks_local):
        return None
    marker = MARKER.split(body[span[1] :], maxsplit=1)
    return Reference(
        target=target,
        start=span[0],
        end=span[1],
        editable=editable,
        extras=extras,
        marker=marker[1].strip() if len(marker) > 1 else "",
    )


def local_path(target: str) -> str:
    """Return the path in a reference: of a file: URL what it leads to."""
    target = re.sub(r"\$\{(\w+)\}", lambda found: os.environ.get(found[1], found[0]), target)
    if target.startswith("file:"):
        parts = urlsplit(target)
        return unquote(parts.path if parts.netloc in ("", "localhost") else f"/{parts.netloc}{parts.path}")
    return str(Path(target).expanduser())


def logical_lines(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield the lines of a requirements file, those joined that end in a backslash, with where they begin and end."""
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        first, joined = number, lines[number].rstrip("\r")
        while joined.endswith("\\") and number + 1 < len(lines):
            number += 1
            joined = joined[:-1] + " " + lines[number].rstrip("\r")
        number += 1
        yield first, number, joined


@dataclass
class _Gathered:
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


def is_clear(document: Mapping[str, Any]) -> bool:
    """Tell whether a pyproject.toml says by itself what its package needs; else its build backend must be asked."""
    project = document.get("project", {})
    unsaid = {"dependencies", "optional-dependencies", "requires-python", "version"} & set(project.get("dynamic", ()))
    return "name" in project and not unsaid and "{root:" not in str(project.get("dependencies", ""))


def _read_requirements_txt(found: Requirements, project: Path) -> Requirements:
    gathered = _Gathered()
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
                gathered.add(package, _names(reference.extras))
            else:
                gathered.files.append(place)
    return _collected(found, gathered)


def _without_links(text: str, here: Path, found: Requirements, project: Path, gathered: _Gathered) -> str:
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


def _names(extras: str) -> list[str]:
    return [name.strip() for name in extras.strip("[]").split(",") if name.strip()]


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


def _collected(found: Requirements, gathered: _Gathered) -> Requirements:
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


def _with_top(found: Requirements) -> Requirements:
    """Return the requirements with all files that they are found by, and the directory that holds everything."""
    words = [word for word in uv_table(found.directory).get("find-links", ()) if "://" not in word]
    links = dict.fromkeys((*found.links, *(Path(os.path.normpath(found.directory / word)) for word in words)))
    inside = [path for place in links if place.is_dir() for path in sorted(place.iterdir()) if _is_archive(path)]
    found = replace(found, links=tuple(links), files=tuple(dict.fromkeys((*found.files, *inside))))
    return replace(found, top=_top(found))


def _is_archive(path: Path) -> bool:
    return path.name.endswith(ARCHIVES) and path.is_file()


def uv_table(directory: Path) -> dict[str, Any]:
    """Return [tool.uv] of the project in `directory`, or of the workspace that it is a member of."""
    root = workspace_root(directory) or directory
    table: dict[str, Any] = read_toml(root / "pyproject.toml").get("tool", {}).get("uv", {})
    return {**table, **table.get("pip", {})}


# --- pyproject.toml


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
                yield package, _names(reference.extras)
            continue
        found = re.match(r"\s*([A-Za-z0-9._-]+)\s*(\[[^\]]*\])?", line)
        if found:
            named.setdefault(normalised(found[1]), []).extend(_names(found[2] or ""))
    yield from _uv_sources(directory, document, named)
    yield from _poetry_sources(directory, document, groups)


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
        for member in (root, *_members(root, workspace)):
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


def _read_pyproject(found: Requirements, _project: Path) -> Requirements:
    document = found.project
    if "project" not in document and document.get("tool", {}).get("poetry", {}).get("package-mode") is False:
        raise ReleaseError(
            f"app.requirements: {found.main} is Poetry's, and there is no poetry.lock beside it: run `poetry lock`"
        )
    gathered = _Gathered(files=[found.main])
    asked = is_package(document) or is_of_setuptools(document, found.directory)
    if not is_clear(document) and (asked or "dynamic" in document.get("project", {})):
        gathered.unclear.append(found.directory)
    root = workspace_root(found.directory)
    if root is not None:
        gathered.files += _workspace_files(root)
    for package, extras in sources_of(found.directory, document, found.extras, found.groups):
        gathered.add(package, extras)
    return _collected(_with_itself(found, gathered), gathered)


def _workspace_files(root: Path) -> list[Path]:
    members = _members(root, read_toml(root / "pyproject.toml")["tool"]["uv"]["workspace"])
    return [path for member in (root, *members) if (path := member / "pyproject.toml").is_file()]


def _with_itself(found: Requirements, gathered: _Gathered) -> Requirements:
    """Add the project itself where it is a package; return `found`."""
    if is_package(found.project) or is_of_setuptools(found.project, found.directory):
        gathered.local.setdefault(found.directory, LocalPackage(path=found.directory, editable=True, itself=True))
    return found


# --- locks


def _read_uv(found: Requirements, _project: Path) -> Requirements:
    lock = _lock_of(Kind.UV, found.main)
    assert lock is not None  # noqa: S101 - by which the kind was found
    root, document = lock.parent.resolve(), read_toml(lock)
    gathered = _Gathered(files=[lock, found.main])
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
    return _collected(found, gathered)


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


def _read_poetry(found: Requirements, _project: Path) -> Requirements:
    lock = found.directory / Kind.POETRY
    gathered = _Gathered(files=[lock, found.main])
    wanted = {"main", *map(normalised, found.groups)}
    for package in read_toml(lock).get("package", ()):
        source = package.get("source", {})
        groups = {normalised(name) for name in package.get("groups", ())} or wanted
        if source.get("type") in ("directory", "file") and groups & wanted:
            _add_locked(gathered, found, source["url"], editable=bool(package.get("develop")))
    return _collected(_with_itself(found, gathered), gathered)


def _read_pdm(found: Requirements, _project: Path) -> Requirements:
    lock = found.directory / Kind.PDM
    gathered = _Gathered(files=[lock, found.main])
    wanted = {"default", *map(normalised, (*found.groups, *found.extras))}
    for package in read_toml(lock).get("package", ()):
        groups = {normalised(name) for name in package.get("groups", ())} or wanted
        if "path" in package and groups & wanted:
            _add_locked(gathered, found, package["path"], editable=bool(package.get("editable")))
    return _collected(_with_itself(found, gathered), gathered)


def _read_pipenv(found: Requirements, _project: Path) -> Requirements:
    gathered = _Gathered(
        files=[path for name in ("Pipfile.lock", "Pipfile") if (path := found.directory / name).is_file()]
    )
    document = read_json(found.main)
    for category in ("default", *found.groups):
        for package in document.get(category, {}).values():
            path = package.get("path") or package.get("file", "")
            if path and "://" not in path:
                _add_locked(gathered, found, path, editable=bool(package.get("editable")))
    return _collected(found, gathered)


def _read_pylock(found: Requirements, _project: Path) -> Requirements:
    gathered = _Gathered(files=[found.main])
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
    return _collected(found, gathered)


def _add_locked(gathered: _Gathered, found: Requirements, where: str, *, editable: bool, marker: str = "") -> None:
    """Add a path that a lock names, from the lock's directory."""
    path = (found.directory / local_path(where.replace("${PROJECT_ROOT}", str(found.directory)))).resolve()
    if path.is_dir():
        gathered.files += [file for name in METADATA if (file := path / name).is_file()]
        gathered.local[path] = LocalPackage(path=path, editable=editable, marker=marker)
    elif path.is_file():
        gathered.files.append(path)
    else:
        raise ReleaseError(f"app.requirements: {found.kind} installs {where}, and there is nothing at {path}")
