"""What is sent to hosts, made here once: the archive of a release, and of an environment of Python packages.

An environment is made for another machine's Python without that Python: uv chooses the wheels that fit it. A package
that has none is built here where it is Python alone; what else has none can't be made so, and is said by its name.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import uv

from cluster.machine.environments import not_installed
from cluster.packages import INSTALL_PACKAGES, base_python, last_lines, run_program, write_installation
from cluster.release import ReleaseError, check_copied, local_lines, runtime_config, runtime_requirements
from cluster.source import shared_paths, shared_place
from platforms.pulumi.code import write, write_code
from platforms.remote.paths import runtime_paths

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster.release import ReleaseSpec
    from cluster.topology import Topology
    from platforms.remote.host.places import Places

#: The C library that an environment is made for, by the word for a distribution's release: its own, or the newest
#: that uv knows.
LIBRARIES = {"bookworm": "2_36", "trixie": "2_40", "forky": "2_40", "noble": "2_39", "resolute": "2_40"}

#: What uv says of a package that it could not build, or that fits another Python alone than it is for.
_NOT_BUILT = re.compile(
    r"[Tt]he built wheel `([A-Za-z0-9._]+)-|Failed to (?:download and )?build `([A-Za-z0-9._-]+?)[=` ]"
)

OLDEST_LIBRARY = "2_35"

PRIVATE = 0o600


def target_of(machine: dict[str, object]) -> tuple[str, str]:
    """Return for which Python and which platform a host's packages are, as uv calls them."""
    python = machine["python"]
    assert isinstance(python, list)  # noqa: S101 - what a look says
    library = LIBRARIES.get(str(machine["codename"]), OLDEST_LIBRARY)
    return f"{python[0]}.{python[1]}", f"{machine['architecture']}-manylinux_{library}"


def check(spec: ReleaseSpec) -> None:
    """Refuse a release that can't be made here for a host; ReleaseError says why."""
    if local_lines(spec, "", ""):
        raise ReleaseError(
            "app.requirements: a package comes from a directory: on platform remote that is not possible yet; let it "
            "be a wheel that is published, or let the project find it by app.include"
        )


def make_environment(path: Path, topology: Topology, spec: ReleaseSpec, python: str, platform: str) -> None:
    """Write the archive of an environment of packages where it is not there yet; ReleaseError where that fails."""
    if path.exists():
        return
    with tempfile.TemporaryDirectory() as temporary:
        made_from, made = Path(temporary) / "from", Path(temporary) / "made"
        packages = made / "lib" / f"python{python}" / "site-packages"
        packages.mkdir(parents=True)
        write_installation(
            *(made_from, spec.requirements),
            runtime=runtime_requirements(topology.config),
            python=spec.python_request,
            place=str(made_from),
            outlives=True,
        )
        for_another = {"UV": uv.find_uv_bin(), "FOR_PYTHON": python, "FOR_PLATFORM": platform}
        done = run_program(
            [str(INSTALL_PACKAGES), str(made_from), str(packages), base_python()],
            outlives=True,
            environment=for_another,
        )
        if done.returncode != 0:
            raise ReleaseError(without_wheel(done.stderr, python, platform) or not_installed(done.stderr))
        for name in built_for_this_machine(packages):
            raise ReleaseError(_has_no_wheel(name, python, platform))
        scripts = packages / "bin"
        if scripts.is_dir():
            scripts.rename(made / "bin")
        _archive(path, made)


def make_renewer(path: Path, lock: Path, code: Mapping[str, bytes], python: str, platform: str) -> None:
    """Write the archive of what keeps certificates by ACME where it is not there yet; ReleaseError where that fails.

    lock: its packages, with hashes. code: its own, by its paths beside them.
    """
    if path.exists():
        return
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary)
        packages = made / "lib" / f"python{python}" / "site-packages"
        packages.mkdir(parents=True)
        words = ("--quiet", "--system-certs", "--no-deps", "--only-binary", ":all:", "--require-hashes")
        target = ("--python-version", python, "--python-platform", platform, "--target", str(packages))
        done = run_program(
            [
                uv.find_uv_bin(),
                "--no-config",
                "pip",
                "install",
                "--python",
                base_python(),
                *words,
                *target,
                "-r",
                str(lock),
            ],
            outlives=True,
        )
        if done.returncode != 0:
            raise ReleaseError(f"site.tls.acme: what keeps the certificate can't be made:\n{last_lines(done.stderr)}")
        shutil.rmtree(packages / "bin", ignore_errors=True)
        for place, text in code.items():
            (packages / place).parent.mkdir(parents=True, exist_ok=True)
            (packages / place).write_bytes(text)
        _archive(path, made)


def without_wheel(words: str, python: str, platform: str) -> str:
    """Return in a line which package has no wheel; empty where something else is the matter."""
    found = _NOT_BUILT.search(" ".join(words.split()))
    return "" if found is None else _has_no_wheel(found[1] or found[2], python, platform)


def _has_no_wheel(name: str, python: str, platform: str) -> str:
    return (
        f"app.requirements: {name} has no wheel for Python {python} on {platform}, and what is more than Python is not "
        "built for a host yet: choose a version that has one"
    )


def built_for_this_machine(packages: Path) -> list[str]:
    """Return which packages were built here of more than Python: they need this machine's libraries.

    What is published for many machines says so in its tag (PEP 600); a wheel that is just built is `linux_x86_64`.
    """
    return sorted(
        path.parent.name.partition("-")[0]
        for path in packages.glob("*.dist-info/WHEEL")
        if re.search(r"(?m)^Tag: \S+-linux_\w+\s*$", path.read_text(encoding="utf-8"))
    )


def make_release(path: Path, topology: Topology, spec: ReleaseSpec, places: Places, environment: str) -> None:
    """Write the archive of a release where it is not there yet; ReleaseError where it can't be made."""
    if path.exists():
        return
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary)
        write_code(made, topology.config, spec, str(places.shared))
        for shared in shared_paths(topology.config):
            _seed(made / "seed" / shared_place(shared), spec.project / shared)
        check_copied(spec)
        config = runtime_config(topology.config, runtime_paths(topology, places, spec.digest), spec.digest)
        write(made / "config.json", json.dumps(config, indent=1))
        write(made / "environment", f"{environment}\n")
        _archive(path, made)


def _seed(there: Path, held: Path) -> None:
    """Take along what the project holds of what it writes: where a host has none of it yet, it begins with that."""
    there.parent.mkdir(parents=True, exist_ok=True)
    if held.is_dir():
        shutil.copytree(held, there, symlinks=True)
    elif held.is_file():
        shutil.copy2(held, there)
    elif there.parent.name == "seed":
        there.mkdir()


def _archive(path: Path, made: Path) -> None:
    """Write a directory as an archive, whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    # What is short is the processor's time, and not the network's.
    with gzip.open(new, "wb", compresslevel=1) as packed, tarfile.open(fileobj=packed, mode="w|") as archive:
        archive.add(made, arcname=".", filter=lambda member: None if "__pycache__" in member.name else member)
    new.chmod(PRIVATE)
    new.replace(path)
