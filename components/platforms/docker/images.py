"""What images are built of: a Dockerfile a service, and the context of a release's image."""

from __future__ import annotations

import hashlib
import os
import shutil
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.docker.places import SHARED, base_image, runtime_places
from cluster.packages import project_requirements
from cluster.release import (
    RUNTIME,
    ReleaseError,
    requirements_files,
    runtime_config,
    runtime_requirements,
)
from cluster.source import Source, check_shared, project_place, write_tree
from cluster_runtime.paths import LEFT_OUT

if TYPE_CHECKING:
    from cluster.config.models import ClusterConfig
    from cluster.release import ReleaseSpec
    from cluster.topology import Topology

FILES = Path(__file__).resolve().parent

DIRECTORY_MODE, FILE_MODE, PROGRAM_MODE = 0o755, 0o644, 0o755


def platform_digest(config: ClusterConfig, container: str) -> str:
    """Return what else an instance is made of on this platform: `container` stands for how its container is made."""
    digest = hashlib.sha256(f"{base_image(config, 'app')}\0{container}\0".encode())
    for path in sorted((FILES / "app").iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def write_context(directory: Path, topology: Topology, spec: ReleaseSpec) -> None:
    """Write the build context of a release's image where it is not there yet, whole or not at all."""
    if directory.exists():
        return
    import json  # noqa: PLC0415 - only where a release is new

    new = directory.with_name(f".{directory.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    for path in sorted((FILES / "app").iterdir()):
        _copy(path, new / path.name)
    for shared in spec.source.shared:
        check_shared(shared, spec.source.project / shared)
    write_tree(spec.source.tree(SHARED), new / project_place(topology.config), _copy)
    _write(new / LEFT_OUT, json.dumps(spec.source.listing.left_out))
    write_tree(Source(project=RUNTIME, root=RUNTIME).tree(""), new / "runtime" / RUNTIME.name, _copy)
    _write_requirements(new / "requirements", topology.config, spec)
    config = runtime_config(topology.config, runtime_places(topology, spec.digest), spec.digest)
    _write(new / "config.json", json.dumps(config, indent=1))
    for path in (new, *new.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(DIRECTORY_MODE)  # whatever the umask: the engine copies modes too
    # Docker would leave out what a project's own .dockerignore names; here the project is not the context's root.
    new.rename(directory)


def _write_requirements(directory: Path, config: ClusterConfig, spec: ReleaseSpec) -> None:
    """Write what packages are installed from: a change of code must not change it."""
    tree = directory / "tree"
    tree.mkdir(parents=True)
    exported = project_requirements(spec.requirements, tree, outlives=True)
    if exported != spec.requirements:
        main = Path(exported.name)
    elif _needs_source(spec.requirements):
        write_tree(Source(project=spec.requirements.parent, root=spec.source.root).tree(""), tree, _copy)
        main = Path(spec.requirements.name)
    else:
        files = {
            (spec.requirements.parent / name).resolve(): text
            for name, text in requirements_files(spec.requirements).items()
        }
        top = Path(os.path.commonpath([path.parent for path in files]))
        for path, text in files.items():
            _write(tree / path.relative_to(top), text)
        main = spec.requirements.resolve().relative_to(top)
    _write(directory / "main", main.as_posix())
    _write(directory / "runtime", "\n".join([*runtime_requirements(config), ""]))


def _needs_source(requirements: Path) -> bool:
    """Tell whether a pyproject.toml lets its build backend say what it depends on."""
    if requirements.name != "pyproject.toml":
        return False
    try:
        project = tomllib.loads(requirements.read_text(encoding="utf-8")).get("project", {})
    except tomllib.TOMLDecodeError as error:
        raise ReleaseError(f"app.requirements: {requirements}: {error}") from error
    return "dependencies" in project.get("dynamic", ())


def _copy(source: Path, target: Path) -> None:
    """Copy a file with a mode that is the same wherever the repository was cloned."""
    target.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    shutil.copy2(source, target)
    target.chmod(PROGRAM_MODE if source.stat().st_mode & 0o100 else FILE_MODE)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(FILE_MODE)


def uv_version() -> str:
    """Return the version of uv that installs packages on every platform: the tool's own."""
    import importlib.metadata  # noqa: PLC0415 - only where an image is built

    return importlib.metadata.version("uv")


__all__ = ["uv_version", "write_context"]
