"""Wheels of packages that have none for a host: built on the first host of its kind, and kept here for all others.

What a package is built with is chosen here and sent along: a build has no network, and a host needs a compiler alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uv
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from cluster.packages import base_python, last_lines, run_program, uv_config
from cluster.release import ReleaseError
from cluster.requirements import uv_table
from cluster.sdists import OF_THE_PROJECT, build_requirements
from platforms.pulumi.plain import plain
from platforms.remote.packed import archive
from platforms.remote.targets import target_of
from platforms.remote.units import SANDBOX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from cluster.requirements import Requirements
    from cluster.sdists import Sdist, Unbuilt
    from platforms.pulumi.running import Event
    from platforms.remote.looked import Looked, Seen
    from platforms.remote.ssh import Ssh

#: Begins the line that is said where a package is built.
BUILDING = "building "

#: Hexadecimal digits that tell a package's source, and how it is built, from another.
DIGEST_LENGTH = 16

#: Characters of a compiler's line that are repeated.
LONGEST = 200

#: Times that a backend may ask for more to build with.
MOST_ASKED = 3

#: Of an instance's sandbox, what a compiler needs otherwise: it asks for a larger stack, and looks at the processors.
_OTHERWISE = {
    "ProcSubset=pid": (),
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6": ("RestrictAddressFamilies=AF_UNIX",),
    "SystemCallFilter=~@privileged @resources": ("SystemCallFilter=~@privileged",),
    "SystemCallFilter=@chown setpriority": ("SystemCallFilter=@chown", "SystemCallErrorNumber=EPERM"),
    "UMask=0027": ("UMask=0022",),
}

#: The sandbox of a build. The site on the host goes first, for its processors as for its memory.
PROPERTIES = (
    "DynamicUser=yes",
    "PrivateNetwork=yes",
    *(line for one in SANDBOX for line in _OTHERWISE.get(one, (one,))),
    *("CPUWeight=10", "IOWeight=10", "Nice=10", "OOMScoreAdjust=1000"),
    *("MemoryMax=4G", "MemorySwapMax=0", "TasksMax=512", "LimitCORE=0", "LimitFSIZE=2G"),
)

#: A copy of a package has no history of git, by which these tools number it: as `install-local` has it.
UNVERSIONED = {
    "SETUPTOOLS_SCM_PRETEND_VERSION": "0",
    "PDM_BUILD_SCM_VERSION": "0",
    "POETRY_DYNAMIC_VERSIONING_BYPASS": "0",
    "PBR_VERSION": "0",
}

#: A program that is looked for in vain, as setuptools, a shell, make, meson and autoconf say it.
_NO_PROGRAM = r"{0} failed: No such file|{0}: (?:command )?not found|No such file or directory: '{0}'"
_COMPILER = r"(?:[\w./-]*[/-])?(?:gcc|cc|clang)(?:-\d+)?"

#: What a build says where something of the distribution's is missing, and what has it.
_MISSING = (
    (r"Python\.h: No such file", "there are no headers of Python: apt-get install python3-dev"),
    (
        rf"{_NO_PROGRAM.format(_COMPILER)}|'{_COMPILER}' failed: No such|no acceptable C compiler|Unknown compiler",
        "there is no compiler: apt-get install gcc python3-dev",
    ),
    (
        rf"{_NO_PROGRAM.format('(?:g|c)[+][+]')}|'[\w.-]*[+][+]' failed: No such file",
        "there is no compiler of C++: apt-get install g++ python3-dev",
    ),
    (r"pg_config executable not found|libpq-fe\.h: No such file", "there is no libpq: apt-get install libpq-dev"),
    (_NO_PROGRAM.format("pkg-config"), "there is no pkg-config: apt-get install pkg-config"),
)


@dataclass(frozen=True, kw_only=True)
class Wheels:
    """The wheels for one kind of host.

    host: the first of them, on which they are built. kept: where they are kept on this machine. say: is told a line
    where one is built.
    """

    ssh: Ssh
    host: str
    kept: Path
    python: str
    platform: str
    codename: str
    say: Callable[[str], None]

    def wheel(self, found: Requirements, package: Unbuilt, sdist: Sdist, *, versioned: bool = True) -> Path:
        """Return the wheel of a package, built where it was not yet; ReleaseError says why it can't be.

        versioned: whether its source says its version by itself; a copy of a directory may not.
        """
        there = self.kept / f"{_tag(found, package, sdist)}-{self.python}-{self.platform}-{self.codename}"
        kept = sorted(there.glob("*.whl"))
        if kept:
            return kept[0]
        self.say(f"{BUILDING}{package} on {self.host}: it has no wheel for Python {self.python} on {self.platform}")
        said = self._built(found, package, sdist, {})
        if not versioned and re.search("(?i)version|git", said.get("failed", "")):
            again = self._built(found, package, sdist, UNVERSIONED)
            said = said if "failed" in again else again
        if "failed" in said:
            raise ReleaseError(self._why(package, said["failed"]))
        return self._keep(there, package, said)

    def _built(
        self, found: Requirements, package: Unbuilt, sdist: Sdist, variables: Mapping[str, str]
    ) -> dict[str, Any]:
        """Return what became of a build on the host, as `host.building` says it."""
        requires, constraints = build_requirements(found, sdist, package.name)
        sent = [*requires]
        for _time in range(MOST_ASKED):
            self._check(package, sent)
            how = {
                "backend": sdist.backend,
                "path": [*sdist.backend_path],
                "subdirectory": sdist.subdirectory,
                "settings": _settings(found),
                "variables": dict(variables),
                "properties": [*PROPERTIES],
                "sent": sent,
            }
            with tempfile.TemporaryDirectory() as temporary:
                made = Path(temporary)
                self._make_environment(made, found, package, sent, constraints)
                (made / "source").mkdir()
                shutil.copyfile(sdist.path, made / "source" / sdist.path.name)
                (made / "how.json").write_text(json.dumps(how), encoding="utf-8")
                packed = made.with_suffix(".tar.gz")
                try:
                    archive(packed, made)
                    said: dict[str, Any] = json.loads(self.ssh.send(self.host, "build", sent=packed))
                finally:
                    packed.unlink(missing_ok=True)
            if "requires" not in said:
                return said
            sent = list(dict.fromkeys((*sent, *said["requires"])))
        return {"failed": f"it asks for more and more to be built with: {', '.join(sent)}"}

    @staticmethod
    def _check(package: Unbuilt, requires: Iterable[str]) -> None:
        """Refuse what is no requirement: foreign code has said it, and uv is told it."""
        for line in requires:
            try:
                Requirement(line)
            except InvalidRequirement as error:
                raise ReleaseError(f"app.requirements: {package} is built with {line!r}: {error}") from error

    def _make_environment(
        self, made: Path, found: Requirements, package: Unbuilt, requires: Sequence[str], constraints: Sequence[str]
    ) -> None:
        """Make what a package is built with, for the host's Python."""
        packages = made / "environment" / "lib" / f"python{self.python}" / "site-packages"
        packages.mkdir(parents=True)
        with tempfile.TemporaryDirectory() as temporary:
            told = Path(temporary)
            config = uv_config(found, absolute=True, left_out=OF_THE_PROJECT)
            for name, text in (
                ("uv.toml", config),
                ("requires", "".join(f"{line}\n" for line in requires)),
                ("constraints", "".join(f"{line}\n" for line in constraints)),
            ):
                (told / name).write_text(text, encoding="utf-8")
            target = ("--python-version", self.python, "--python-platform", self.platform, "--target", str(packages))
            done = run_program(
                [
                    *(uv.find_uv_bin(), "--config-file", str(told / "uv.toml"), "--system-certs", "--quiet"),
                    *("pip", "install", "--python", base_python(), *target),
                    *("--constraints", str(told / "constraints"), "--requirements", str(told / "requires")),
                ],
                outlives=True,
            )
        if done.returncode != 0:
            raise ReleaseError(
                f"app.requirements: what {package} is built with ({', '.join(requires)}) can't be had for "
                f"{self.host}\n{last_lines(done.stderr)}"
            )
        if (packages / "bin").is_dir():
            (packages / "bin").rename(made / "environment" / "bin")

    def _keep(self, there: Path, package: Unbuilt, said: Mapping[str, Any]) -> Path:
        """Keep a wheel that a host says it has built; ReleaseError where it is another package's, or none."""
        try:
            name, _version, _build, _tags = parse_wheel_filename(said["wheel"])
            content = base64.b64decode(said["content"], validate=True)
        except (InvalidWheelFilename, binascii.Error) as error:
            raise ReleaseError(
                f"app.requirements: {package}: what {self.host} has built is no wheel: {error}"
            ) from error
        if Path(said["wheel"]).name != said["wheel"]:
            raise ReleaseError(f"app.requirements: {package}: what {self.host} has built is no wheel: {said['wheel']}")
        if not package.directory and name != canonicalize_name(package.name):
            raise ReleaseError(f"app.requirements: {package}: {self.host} has built {name} of it")
        there.mkdir(mode=0o700, parents=True, exist_ok=True)
        new, path = there / ".new", there / str(said["wheel"])
        new.write_bytes(content)
        new.replace(path)
        return path

    def _why(self, package: Unbuilt, words: str) -> str:
        """Return why a package can't be built there: in its first line what is to be done, where that is known."""
        known = next((told for pattern, told in _MISSING if re.search(pattern, words)), _first_error(words))
        return (
            f"app.requirements: {package} has no wheel for Python {self.python} on {self.platform}, and can't be built "
            f"on {self.host}: {known}\n" + "\n".join(f"    {line}" for line in last_lines(words).splitlines())
        )


def _settings(found: Requirements) -> Mapping[str, Any]:
    """Return what a project's backends are told."""
    settings: Mapping[str, Any] = uv_table(found.directory).get("config-settings", {})
    return settings


def _tag(found: Requirements, package: Unbuilt, sdist: Sdist) -> str:
    """Return what tells a package's wheel from others: built with something else it is another one."""
    told = [sdist.digest, _settings(found), *build_requirements(found, sdist, package.name)]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:DIGEST_LENGTH]


def said_of_building(event: Event) -> str:
    """Return what an event of the engine's says of a package that is being built; empty where it says something else.

    The program has no voice but its log.
    """
    diagnostic = event.get("diagnosticEvent") or {}
    text = plain(str(diagnostic.get("message", "")))
    return text if diagnostic.get("severity") == "info" and text.startswith(BUILDING) else ""


def _first_error(words: str) -> str:
    """Return what a compiler has complained of first."""
    found = re.search(r"(?m)^.*\b(?:fatal )?error: .*$", words)
    return "its build fails there" if found is None else f"its build fails there: {found[0].strip()[:LONGEST]}"


def wheels_for(host: str, ssh: Ssh, seen: Seen, kept: Path, say: Callable[[str], None]) -> Wheels:
    """Return the wheels for a host that has instances: they are built on the first of these that is of its kind."""
    kinds = {name: kind_of(seen.each[name]) for name in seen.placement.app}
    first = next(name for name, kind in kinds.items() if kind == kinds[host])
    python, platform, codename = kinds[host]
    return Wheels(ssh=ssh, host=first, kept=kept, python=python, platform=platform, codename=codename, say=say)


def kind_of(looked: Looked) -> tuple[str, str, str]:
    """Return what a wheel that is built on a host is for: its Python, its platform and its distribution."""
    return (*target_of(dict(looked.machine)), str(looked.machine["codename"]))


__all__ = ["Wheels", "kind_of", "wheels_for"]
