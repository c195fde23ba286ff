"""What is sent to hosts, made here once: the archive of a release, and of what keeps a certificate."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import uv

from cluster.machine.environments import SOURCES
from cluster.packages import base_python, last_lines, run_program
from cluster.release import ReleaseError, check_copied, package_files, runtime_config, sources
from cluster.source import project_place, shared_paths, shared_place, write_tree
from platforms.pulumi.code import copy, write, write_code
from platforms.remote.environments import install_local
from platforms.remote.host.showing import ABOVE
from platforms.remote.packed import archive
from platforms.remote.paths import runtime_paths

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster.release import ReleaseSpec
    from cluster.topology import Topology
    from platforms.remote.host.paths import HostPaths
    from platforms.remote.wheels import Wheels


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
        archive(path, made)


def make_release(  # noqa: PLR0913 - what it is made of
    path: Path, topology: Topology, spec: ReleaseSpec, places: HostPaths, environment: str, *, wheels: Wheels
) -> None:
    """Write the archive of a release where it is not there yet; ReleaseError where it can't be made."""
    if path.exists():
        return
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary).resolve()

        def write_all() -> None:
            write_code(made, topology.config, spec, str(places.shared))
            for place, source in sources(spec).items():
                write_tree(package_files(source, spec), made / SOURCES / place, copy)
            check_copied(spec)

        project = project_place(topology.config)
        install_local(made, places.releases / spec.digest, spec, project, wheels, write_all)
        for shared in shared_paths(topology.config):
            _seed(made / "seed" / shared_place(shared), spec.project / shared)
        config = runtime_config(topology.config, runtime_paths(topology, places, spec.digest), spec.digest)
        write(made / "config.json", json.dumps(config, indent=1))
        write(made / "environment", f"{environment}\n")
        write(made / ABOVE, spec.parts.get("packages", ""))
        archive(path, made)


def _seed(there: Path, held: Path) -> None:
    """Take along what the project holds of what it writes: where a host has none of it yet, it begins with that."""
    there.parent.mkdir(parents=True, exist_ok=True)
    if held.is_dir():
        shutil.copytree(held, there, symlinks=True)
    elif held.is_file():
        shutil.copy2(held, there)
    elif there.parent.name == "seed":
        there.mkdir()
