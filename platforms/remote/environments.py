"""The Python packages of releases on hosts, made here: those of an environment, and a release's own, from directories.

An environment is made for another machine's Python without that Python: uv chooses the wheels that fit it. A package
that has none is built here where it is Python alone, and else on the first host of its kind (`wheels`).
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import uv

from cluster.machine.environments import PACKAGES, SOURCES, not_installed
from cluster.packages import (
    INSTALL_LOCAL,
    INSTALL_PACKAGES,
    base_python,
    last_lines,
    run_program,
    uv_config,
    write_installation,
)
from cluster.release import ReleaseError, local_lines, package_files, runtime_requirements
from cluster.requirements import Kind, normalised, read_toml
from cluster.sdists import Unbuilt, digest_of, fetch, is_pinned, packed, pinned_texts, unbuilt
from cluster.source import write_tree
from platforms.pulumi.code import copy
from platforms.remote.packed import archive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from cluster.release import ReleaseSpec
    from cluster.topology import Topology
    from platforms.remote.wheels import Wheels

#: Packages of one project that have no wheel; more are a mistake of this program's.
MOST = 50


def make_environment(path: Path, topology: Topology, spec: ReleaseSpec, wheels: Wheels) -> None:
    """Write the archive of an environment of packages where it is not there yet; ReleaseError where that fails."""
    if path.exists():
        return
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary) / "made"
        packages = made / "lib" / f"python{wheels.python}" / "site-packages"
        _Environment(spec=spec, wheels=wheels, directory=Path(temporary)).install(
            packages, runtime_requirements(topology.config)
        )
        scripts = packages / "bin"
        if scripts.is_dir():
            scripts.rename(made / "bin")
        archive(path, made)


@dataclass(kw_only=True)
class _Environment:
    """An environment while it is made. directory: an empty one. built: packages that were built, and their wheels."""

    spec: ReleaseSpec
    wheels: Wheels
    directory: Path
    built: dict[str, Path] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)

    def install(self, packages: Path, runtime: Sequence[str]) -> None:
        """Install into `packages`, with what has no wheel built on a host; ReleaseError where that can't be."""
        made_from, links = self.directory / "from", self.directory / "wheels"
        links.mkdir()
        write_installation(
            *(made_from, self.spec.requirements),
            runtime=runtime,
            python=self.spec.python_request,
            place=str(made_from),
            outlives=True,
            wheels=links,
        )
        texts = pinned_texts(self.spec.requirements, made_from)
        for _time in range(MOST):
            shutil.rmtree(packages, ignore_errors=True)
            packages.mkdir(parents=True)
            lacking = self._try(made_from, packages)
            if lacking is None:
                _forget_places(packages, self.built)
                return
            if lacking.name in self.built:
                wheel, file = self.built[lacking.name], lacking.directory
                # uv asks the code of a file what it is called, and where that fails nothing can stand in its place.
                unnamed = None if file is None or lacking.name == _named(wheel) or not file.is_file() else file.name
                raise ReleaseError(_unfit(wheel, self.wheels) if unnamed is None else _UNNAMED.format(unnamed))
            self._build(lacking, texts, links)
        raise ReleaseError(f"app.requirements: more than {MOST} packages have no wheel: {', '.join(self.built)}")

    def _try(self, made_from: Path, packages: Path) -> Unbuilt | None:
        """Install; return which package can't be, since it has no wheel, and None where all is done."""
        overrides = self.directory / "overrides"
        overrides.write_text("".join(f"{line}\n" for line in self.overrides), encoding="utf-8")
        done = run_program(
            [str(INSTALL_PACKAGES), str(made_from), str(packages), base_python()],
            outlives=True,
            environment={
                "UV": uv.find_uv_bin(),
                "FOR_PYTHON": self.wheels.python,
                "FOR_PLATFORM": self.wheels.platform,
                **({"UV_OVERRIDE": str(overrides)} if self.overrides else {}),
            },
        )
        if done.returncode == 0:
            return next(built_for_this_machine(packages, self.built), None)
        lacking = unbuilt(done.stderr)
        if lacking is None:
            raise ReleaseError(not_installed(done.stderr))
        return lacking

    def _build(self, lacking: Unbuilt, texts: Sequence[str], links: Path) -> None:
        """Get a package's wheel, and let it be what is installed."""
        found = self.spec.requirements
        with tempfile.TemporaryDirectory() as temporary:
            target = (self.wheels.python, self.wheels.platform)
            sdist = fetch(found, texts, lacking, target, Path(temporary))
            wheel = self.wheels.wheel(found, lacking, sdist)
        # uv may not know the name of what has not said it.
        name = _named(wheel)
        self.built |= {lacking.name: wheel, name: wheel}
        if found.kind is Kind.PYLOCK:
            put_in_lock(self.directory / "from", name, wheel)
        elif is_pinned(found, texts, lacking):
            # Its hash is another one than those that are pinned, which its source has.
            self.overrides.append(f"{name} @ {wheel.resolve().as_uri()} --hash=sha256:{digest_of(wheel)}")
        else:
            shutil.copy2(wheel, links)


def _named(wheel: Path) -> str:
    """Return the name of a wheel's package."""
    return normalised(wheel.name.partition("-")[0])


#: Of a file that is installed by its path alone.
_UNNAMED = (
    "app.requirements: {0} has to be run to say what it is called, and that fails on this machine: let `--find-links` "
    "name its directory, and ask for the package by its name"
)


def _unfit(wheel: Path, wheels: Wheels) -> str:
    target = f"Python {wheels.python} on {wheels.platform}"
    return f"app.requirements: {wheel.name} was built on {wheels.host}, and is not for {target}"


def put_in_lock(made_from: Path, name: str, wheel: Path) -> None:
    """Let a pylock.toml have a wheel that was built in the place of a package's source."""
    lock = made_from / "tree" / (made_from / "main").read_text(encoding="utf-8").strip()
    head, *blocks = re.split(r"(?m)^(?=\[\[packages\]\])", lock.read_text(encoding="utf-8"))
    texts = [head]
    for block, package in zip(blocks, read_toml(lock)["packages"], strict=True):
        if normalised(package["name"]) != name:
            texts.append(block)
            continue
        kept = {key: package[key] for key in ("name", "version", "marker") if key in package}
        lines = [f"{key} = {_quoted(value)}" for key, value in kept.items()]
        made = f"{{name = {_quoted(wheel.name)}, path = {_quoted(str(wheel.resolve()))}"
        hashes = f"hashes = {{sha256 = {_quoted(digest_of(wheel))}}}"
        texts.append("\n".join(["[[packages]]", *lines, f"wheels = [{made}, {hashes}}}]", "", ""]))
    lock.write_text("".join(texts), encoding="utf-8")


def _quoted(text: str) -> str:
    return "'" + text + "'" if "'" not in text else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def built_for_this_machine(packages: Path, known: Iterable[str] = ()) -> Iterator[Unbuilt]:
    """Yield the packages that were built here of more than Python: they need this machine's libraries.

    What is published for many machines says so in its tag (PEP 600); a wheel that is just built is `linux_x86_64`.
    known: those that were built where they are to run.
    """
    for path in sorted(packages.glob("*.dist-info/WHEEL")):
        name, _, version = path.parent.name.removesuffix(".dist-info").partition("-")
        of_one = re.search(r"(?m)^Tag: \S+-linux_\w+\s*$", path.read_text(encoding="utf-8"))
        if of_one and normalised(name) not in known:
            said = path.with_name("direct_url.json")
            found = json.loads(said.read_text(encoding="utf-8")) if said.is_file() else {}
            yield Unbuilt(name=normalised(name), version=version, url=_url(found))


def _url(found: dict[str, object]) -> str:
    """Return where a package is from, as a requirement says it, of what its installation says (PEP 610)."""
    url, of_git, below = str(found.get("url", "")), found.get("vcs_info"), found.get("subdirectory")
    whole = f"git+{url}@{of_git['commit_id']}" if isinstance(of_git, dict) else url
    return f"{whole}#subdirectory={below}" if below and whole else whole


def _forget_places(packages: Path, built: Iterable[str]) -> None:
    """Forget where on this machine packages are from that were built elsewhere."""
    for path in packages.glob("*.dist-info/direct_url.json"):
        if normalised(path.parent.name.partition("-")[0]) in {*built}:
            record = path.with_name("RECORD")
            lines = record.read_text(encoding="utf-8").splitlines(keepends=True)
            record.write_text("".join(line for line in lines if "direct_url.json" not in line), encoding="utf-8")
            path.unlink()


# --- what comes from directories


def install_local(  # noqa: PLR0913, PLR0917 - what it is made of
    made: Path, there: Path, spec: ReleaseSpec, place: str, wheels: Wheels, write: Callable[[], None]
) -> None:
    """Install a release's local packages from its own copy of their source, as on any platform.

    made: the release's directory while it is made; there: what it will be. place: the project's, in it. write: writes
    the code, and the source of what does not lie in the project. ReleaseError where one can't be installed.
    """
    write()
    lines = local_lines(spec, str(made / place), str(made / SOURCES))
    if not lines:
        return
    built: dict[str, Path] = {}
    with tempfile.TemporaryDirectory() as temporary:
        local = _Local(spec=spec, wheels=wheels, made=made, work=Path(temporary), lines=lines)
        while (lacking := local.install(built)) is not None:
            number, package = lacking
            former = next((wheel for wheel in built.values() if str(wheel) == _place_of(local.lines[number])), None)
            if former is not None:
                raise ReleaseError(_unfit(former, wheels))
            local.lines[number], wheel = local.with_wheel(number, package)
            built[_named(wheel)] = wheel
            # A build may leave what it made beside its source.
            for name in (PACKAGES, SOURCES, place):
                shutil.rmtree(made / name, ignore_errors=True)
            write()
    _forget_places(made / PACKAGES, built)
    _lead(made / PACKAGES, made, there)


@dataclass(kw_only=True)
class _Local:
    """A release's local packages while they are installed. work: an empty directory. lines: as `local_lines`."""

    spec: ReleaseSpec
    wheels: Wheels
    made: Path
    work: Path
    lines: list[str]

    def install(self, built: Iterable[str]) -> tuple[int, Unbuilt] | None:
        """Install them; return the number of a line and its package that can't be built here, None where all can."""
        packages, config = self.made / PACKAGES, self.work / "uv.toml"
        target = {"python-version": self.wheels.python, "python-platform": self.wheels.platform}
        table = "".join(f"{name} = {_quoted(value)}\n" for name, value in target.items())
        config.write_text(f"{uv_config(self.spec.requirements, absolute=True)}[pip]\n{table}", encoding="utf-8")
        (self.work / "list").write_text("".join(f"{line}\n" for line in self.lines), encoding="utf-8")
        words = (str(self.work / "list"), str(packages), base_python(), str(config), str(self.made / SOURCES))
        done = run_program(
            [str(INSTALL_LOCAL), *words], cwd=self.made, outlives=True, environment={"UV": uv.find_uv_bin()}
        )
        if "is not compatible with the target Python" in done.stdout:
            raise ReleaseError(_ITSELF)
        if done.returncode == 0:
            found = next(built_for_this_machine(packages, built), None)
            return None if found is None else (self._number(str(found.directory)), found)
        lacking = unbuilt(done.stderr)
        if lacking is None:
            raise ReleaseError(f"app.requirements: a local package can't be installed\n{last_lines(done.stderr)}")
        # What it could not install is left there.
        return self.lines.index((packages / ".requirement").read_text(encoding="utf-8").rstrip("\n")), lacking

    def _number(self, place: str) -> int:
        """Return the number of the line that installs what lies at a place."""
        found = (number for number, line in enumerate(self.lines) if _place_of(line) == place)
        return next(found)

    def with_wheel(self, number: int, lacking: Unbuilt) -> tuple[str, Path]:
        """Return what installs a local package that has to be built on a host, and its wheel."""
        package, source = self.spec.requirements.local[number], self.work / f"source{number}"
        if package.itself:
            raise ReleaseError(_ITSELF)
        write_tree(package_files(package.path, self.spec), source, copy)
        sdist = packed(source, self.work / f"source{number}.tar")
        named = replace(lacking, url=package.path.as_uri())
        wheel = self.wheels.wheel(self.spec.requirements, named, sdist, versioned=False).resolve()
        return replace(package, editable=False).line(wheel), wheel


#: A project runs from its directory, to which no other machine's code belongs.
_ITSELF = (
    "app.requirements: the project itself is more than Python, and runs from its directory, where nothing is that was "
    "built for a host: let that part be a package of its own"
)


def _place_of(line: str) -> str:
    """Return what a line of `local_lines` installs from."""
    return line.removeprefix("?").removeprefix("-e ").partition(" ; ")[0]


def _lead(packages: Path, made: Path, there: Path) -> None:
    """Let packages lead to where a release will be: those that are editable, and their commands' Python."""
    old, new = str(made).encode(), str(there).encode()
    for path in packages.rglob("*"):
        if path.is_file() and not path.is_symlink():
            text = path.read_bytes()
            if old in text:
                path.write_bytes(text.replace(old, new))
    for path in (packages / "bin").iterdir() if (packages / "bin").is_dir() else ():
        first, end, rest = path.read_bytes().partition(b"\n")
        if first.startswith(b"#!") and b"python" in first:
            path.write_bytes(b"#!" + new + b"/environment/bin/python" + end + rest)


__all__ = ["install_local", "make_environment"]
