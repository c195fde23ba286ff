"""Which Python a project runs on: what it asks for, and an interpreter of this machine's that is so."""

from __future__ import annotations

import glob
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uv
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from cluster.packages import base_python, run_program
from cluster.requirements import Kind, Requirements, read_json, read_toml, workspace_root
from cluster.source import ReleaseError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from cluster.config.models import App

#: What the runtime itself runs on.
LEAST = SpecifierSet(">=3.11")

#: Directories that are looked through before those in PATH.
SYSTEM = ("/usr/bin", "/usr/local/bin")

#: The version as platform.python_version() has it, whose module takes as long to import as Python to start.
ASK = "import sys; print(sys.implementation.name, sys.version.split()[0])"


@dataclass(frozen=True, kw_only=True)
class Need:
    """A version of Python that something asks for; one of `allows` must hold."""

    allows: tuple[SpecifierSet, ...]
    source: str

    def __str__(self) -> str:
        return f"{' or '.join(str(one) for one in self.allows)} ({self.source})"

    def holds(self, version: str) -> bool:
        """Tell whether a version is allowed."""
        return any(one.contains(version, prereleases=True) for one in self.allows)


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """An interpreter of this machine's."""

    path: str
    version: str

    def __str__(self) -> str:
        return f"{self.version} ({self.path})"


def needs_of(app: App, found: Requirements, project: Path) -> list[Need]:
    """Return what is asked of Python by the stack file, or else by the project, and what the project can run on."""
    root = workspace_root(found.directory)
    directories = dict.fromkeys((project.resolve(), found.directory, *([root] if root else ())))
    if app.python is not None:
        needs = [Need(allows=(_exactly(app.python),), source="app.python")]
    else:
        needs = list(_pinned(directories))[:1]
    for directory in dict.fromkeys((*directories, *(package.path for package in found.local))):
        needs += _required(directory / "pyproject.toml")
    needs += _of_lock(found)
    unique = {str(need.allows): need for need in reversed(needs)}
    return list(reversed(unique.values()))


def _exactly(version: str) -> SpecifierSet:
    return SpecifierSet(f"=={version}" if version.count(".") > 1 else f"=={version}.*")


def _pinned(directories: Iterable[Path]) -> Iterator[Need]:
    """Yield the minor version that a .python-version names; the name of a virtual environment there says nothing."""
    for directory in directories:
        path = directory / ".python-version"
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        for line in text.split():
            version = re.fullmatch(r"(?:cpython[-@])?(3\.\d+)(?:\.\d+)?", line)
            if version:
                yield Need(allows=(_exactly(version[1]),), source=".python-version")
                break


def _required(pyproject: Path) -> Iterator[Need]:
    document = read_toml(pyproject)
    required = document.get("project", {}).get("requires-python")
    if required:
        yield _need(str(required), f"requires-python in {pyproject.name} of {pyproject.parent.name}")
    poetry = document.get("tool", {}).get("poetry", {}).get("dependencies", {}).get("python")
    if isinstance(poetry, str):
        yield _need(poetry, f"python in {pyproject.name} of {pyproject.parent.name}")


def _of_lock(found: Requirements) -> Iterator[Need]:
    if found.kind is Kind.UV:
        for path in found.files:
            if path.name == Kind.UV and "requires-python" in (lock := read_toml(path)):
                yield _need(lock["requires-python"], "requires-python in uv.lock")
    elif found.kind is Kind.PYLOCK and "requires-python" in (lock := read_toml(found.main)):
        yield _need(lock["requires-python"], f"requires-python in {found.main.name}")
    elif found.kind is Kind.PIPENV:
        requires: Mapping[str, Any] = read_json(found.main).get("_meta", {}).get("requires", {})
        version = requires.get("python_full_version") or requires.get("python_version")
        if version:
            yield Need(allows=(_exactly(version),), source="requires in Pipfile.lock")


def _need(text: str, source: str) -> Need:
    """Return a requirement in packaging's words, or in Poetry's (^3.11, ~3.11, 3.11, alternatives by ||)."""
    try:
        allows = tuple(
            SpecifierSet(",".join(map(_plain, re.split(r"[,\s]+(?=[\^~<>=!\d*])", one.strip()))))
            for one in text.split("||")
        )
    except InvalidSpecifier as error:
        raise ReleaseError(f"app.requirements: {source}: {text!r} is no version of Python") from error
    return Need(allows=allows, source=source)


def _plain(word: str) -> str:
    """Return one of Poetry's constraints as packaging writes it."""
    word = word.strip()
    caret = re.fullmatch(r"\^\s*(\d+)(\.\d+)*", word)
    if caret:
        return f">={word[1:].strip()},<{int(caret[1]) + 1}"
    tilde = re.fullmatch(r"~\s*(\d+)(?:\.(\d+))?(\.\d+)*", word)
    if tilde:
        above = f"{tilde[1]}.{int(tilde[2]) + 1}" if tilde[2] else str(int(tilde[1]) + 1)
        return f">={word[1:].strip()},<{above}"
    if re.fullmatch(r"\d+(\.\d+)*(\.\*)?", word):
        return f"=={word}" if word.count(".") > 1 or word.endswith("*") else f"=={word}.*"
    return "" if word == "*" else word


def request(needs: Iterable[Need]) -> str:
    """Return what is needed as uv takes it; of alternatives the last."""
    return ",".join(str(need.allows[-1]) for need in (Need(allows=(LEAST,), source=""), *needs) if str(need.allows[-1]))


def requested(text: str) -> list[Need]:
    """Return what `request` said."""
    return [Need(allows=(SpecifierSet(text),), source="what the release was made with")]


class NoInterpreterError(ReleaseError):
    """No interpreter is there that is as needed, and nobody has asked uv for one yet."""


def find_interpreter(
    needs: list[Need], pythons: Path, options: Mapping[str, Any], user: str, *, bring: bool = True
) -> Interpreter:
    """Return the first interpreter that is as needed and that the instances' user can run.

    pythons: where uv puts those that it brings. options: what subprocess needs to run a program as that user.
    bring: let uv bring one where none is there; else NoInterpreterError says what is needed.
    ReleaseError is one line, with what is there.
    """
    wanted = [Need(allows=(LEAST,), source="the cluster's own runtime"), *needs]
    here, refused = dict[str, None](), list[str]()
    for path in candidates(pythons):
        found = _ask(path, options)
        if found is None:
            if _ask(path, {}) is not None:
                refused.append(path)
            continue
        here[str(found)] = None
        if all(need.holds(found.version) for need in wanted):
            return found
    if not bring:
        raise NoInterpreterError(f"app.python: Python {request(needs)} is not here: `up` lets uv bring it if it can")
    brought = _bring(request(needs), pythons)
    if brought is not None:
        return find_interpreter(needs, pythons, options, user)
    asked = ", ".join(str(need) for need in (needs or wanted))
    others = f" ({user} can't run {', '.join(refused)})" if refused else ""
    raise ReleaseError(
        f"app.python: Python {asked} is needed; here are {', '.join(here) or 'none'}{others}, and uv can't bring "
        'another: install one where everybody can run it, or say which in app.python ("3.13")'
    )


def candidates(pythons: Path) -> Iterator[str]:
    """Yield the interpreters of this machine: the system's first, then the tool's own, and others by where they are."""
    home = Path.home()
    directories = [
        *map(Path, SYSTEM),
        *(Path(directory) for directory in os.environ.get("PATH", "").split(os.pathsep) if directory),
        *reversed(_below(Path("/opt"), "*/bin")),
        *_below(Path(os.environ.get("PYENV_ROOT") or home / ".pyenv"), "versions/*/bin"),
        *_below(home / ".local/share/uv/python", "*/bin"),
        *_below(pythons, "*/bin"),
    ]
    seen = set[str]()
    for directory in (*directories[:2], None, *directories[2:]):
        for path in [Path(base_python())] if directory is None else _pythons_in(directory):
            real = os.path.realpath(path)
            if real not in seen:
                seen.add(real)
                yield real


def _below(directory: Path, pattern: str) -> list[Path]:
    """Return what matches below a directory, the last name first; nothing where it is another user's."""
    return [directory / name for name in sorted(glob.glob(pattern, root_dir=directory), reverse=True)]  # noqa: PTH207 - pathlib raises


def _pythons_in(directory: Path) -> list[Path]:
    """Return the interpreters in a directory, `python3` first, then the newest; none of a virtual environment."""
    if directory.name == "shims":
        return []
    try:
        if (directory.parent / "pyvenv.cfg").exists() or not directory.is_dir():
            return []
        found = [path for path in directory.glob("python3*") if re.fullmatch(r"python3(\.\d+)?", path.name)]
    except PermissionError:  # another user's
        return []
    return sorted(found, key=lambda path: -int(path.name.partition(".")[2] or 999))


def _ask(path: str, options: Mapping[str, Any]) -> Interpreter | None:
    """Return the interpreter at `path` as a user finds it; None where that user can't run it."""
    try:
        done = subprocess.run(
            [path, "-I", "-c", ASK], cwd="/", capture_output=True, text=True, check=False, timeout=30, **options
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    name, _, version = done.stdout.strip().partition(" ")
    return Interpreter(path=path, version=version) if done.returncode == 0 and name == "cpython" else None


def _bring(asked: str, pythons: Path) -> Path | None:
    """Let uv bring an interpreter; None where it can't."""
    pythons.parent.mkdir(parents=True, exist_ok=True)
    words = [
        "--no-config",
        "--system-certs",
        "--quiet",
        "python",
        "install",
        "--no-bin",
        "--install-dir",
        str(pythons),
        asked,
    ]
    before = set(pythons.glob("*")) if pythons.is_dir() else set()
    done = run_program([uv.find_uv_bin(), *words], environment={"UV_HTTP_RETRIES": "1"})
    new = set(pythons.glob("*")) - before if done.returncode == 0 else set()
    return next(iter(new), None)


def python_too_old(words: str) -> str | None:
    """Return one line for what a resolver says of a Python that is too old for a package; None where it says none."""
    text = " ".join(words.split())
    found = re.search(
        r"current Python version \(([\d.]+)\) does not satisfy Python([<>=!~][^\s]*) and (\S+) depends on Python", text
    )
    if found is not None:
        package, needed, here = found[3], found[2], f"the environment has {found[1]}"
    else:
        # Where an index does not say it, and only the package does.
        of_package = re.search(r"Because (\S+) requires Python ([<>=!~]\S*) and ", text)
        if of_package is None:
            return None
        package, needed, here = of_package[1], of_package[2], "the environment's is another"
    return (
        f"app.python: {package} needs Python {needed}, and {here}: set app.python to a version that fits, or ask for "
        "another version of the package"
    )
