"""What images are built of: a Dockerfile a service, and the context of a release's image."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import acme
from cluster.config.units import moment_text
from cluster.packages import INSTALL_LOCAL, INSTALL_PACKAGES, UV_CONFIG, write_installation
from cluster.release import (
    RUNTIME,
    check_copied,
    local_lines,
    package_files,
    runtime_config,
    runtime_requirements,
    sources,
)
from cluster.source import write_tree
from platforms.docker.bases import AS_OF, base_of
from platforms.docker.container_paths import SHARED, SOURCES, base_image, project_directory, runtime_paths
from platforms.docker.releases import PARTS_FILE
from platforms.pulumi.code import DIRECTORY_MODE, FILE_MODE, PROGRAM_MODE, copy, write, write_code

if TYPE_CHECKING:
    from cluster.config.models import ClusterConfig
    from cluster.release import ReleaseSpec
    from cluster.topology import Topology

FILES = Path(__file__).resolve().parent

PRIVATE_MODE = 0o700

#: Parts of a release that its image does not show by files.
UNSEEN_PARTS = ("requirements", "python", "packages", "platform")


def _scripts() -> list[Path]:
    return [*sorted((FILES / "app").iterdir()), INSTALL_LOCAL, INSTALL_PACKAGES]


def platform_digest(config: ClusterConfig, container: str) -> str:
    """Return what else an instance is made of on this platform: `container` stands for how its container is made."""
    digest = hashlib.sha256(f"{base_image(config, 'app')}\0{container}\0".encode())
    base = base_of(config, "app", config.images.as_of)
    if base is not None:
        digest.update(base.name("").encode())
    for path in _scripts():
        digest.update(path.read_bytes())
    return digest.hexdigest()


def write_context(directory: Path, topology: Topology, spec: ReleaseSpec) -> None:
    """Write the build context of a release's image where it is not there yet, whole or not at all."""
    if directory.exists():
        return
    import json  # noqa: PLC0415 - only where a release is new

    new = directory.with_name(f".{directory.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    # The passwords of private indexes are in it: nobody else reads it, and the final image has none of them.
    new.parent.mkdir(parents=True, exist_ok=True)
    new.parent.chmod(PRIVATE_MODE)
    new.mkdir()
    for path in _scripts():
        copy(path, new / path.name)
    write_code(new, topology.config, spec, SHARED)
    (new / "sources").mkdir()
    for place, source in sources(spec).items():
        write_tree(package_files(source, spec), new / "sources" / place, copy)
    check_copied(spec)
    lines = local_lines(spec, project_directory(topology.config), SOURCES)
    write(new / "local" / "list", "".join(f"{line}\n" for line in lines))
    write(new / "certificates" / "ca.pem", _trusted())
    _write_requirements(new / "requirements", topology.config, spec)
    config = runtime_config(topology.config, runtime_paths(topology, spec.digest), spec.digest)
    if topology.config.images.as_of is not None:
        write(new / AS_OF, moment_text(topology.config.images.as_of))
    write(new / "config.json", json.dumps(config, indent=1))
    write(new / PARTS_FILE, json.dumps({part: spec.parts[part] for part in UNSEEN_PARTS if part in spec.parts}))
    for path in (new, *new.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(DIRECTORY_MODE)  # whatever the umask: the engine copies modes too
    # Docker would leave out what a project's own .dockerignore names; here the project is not the context's root.
    new.rename(directory)


def renewer_files() -> dict[str, Path]:
    """Return what the image of the renewer is built of, by the places in its context."""
    packages = Path(acme.__file__).resolve().parent
    runtime = RUNTIME / "unfollowed.py"
    return {
        "Dockerfile": FILES / "acme" / "Dockerfile",
        "requirements.lock": packages / "requirements.lock",
        "install-python": FILES / "app" / "install-python",
        "trusting": FILES / "app" / "trusting",
        "renewer/cluster/__init__.py": packages.parent / "__init__.py",
        **{f"renewer/cluster/acme/{path.name}": path for path in sorted(packages.glob("*.py"))},
        "renewer/cluster_runtime/__init__.py": RUNTIME / "__init__.py",
        "renewer/cluster_runtime/unfollowed.py": runtime,
    }


def write_renewer(directory: Path) -> None:
    """Write the build context of the renewer's image where it is not there yet, whole or not at all."""
    if directory.exists():
        return
    new = directory.with_name(f".{directory.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    for place, path in renewer_files().items():
        copy(path, new / place)
    write(new / "certificates" / "ca.pem", _trusted())
    for path in (new, *new.rglob("*")):
        if path.is_dir():
            path.chmod(DIRECTORY_MODE)
    new.rename(directory)


def runnable(context: Path) -> frozenset[str]:
    """Return the kinds of services that the release of a build context can run beside its instances."""
    import json  # noqa: PLC0415 - as above

    return frozenset(json.loads((context / "config.json").read_text(encoding="utf-8")).get("services", ()))


def _write_requirements(directory: Path, config: ClusterConfig, spec: ReleaseSpec) -> None:
    """Write what packages are installed from: a change of code must not change it."""
    write_installation(
        *(directory, spec.requirements),
        runtime=runtime_requirements(config),
        python=spec.python_request,
        place="/requirements",
        outlives=True,
    )
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(PROGRAM_MODE if path.stat().st_mode & 0o100 else FILE_MODE)
    inner = spec.requirements.directory.relative_to(spec.requirements.top)
    write(directory / "config", f"{(Path('tree') / inner / UV_CONFIG).as_posix()}\n")


def _trusted() -> str:
    """Return the certificates that the caller trusts by SSL_CERT_FILE, as a company's proxy needs them; or none."""
    path = os.environ.get("SSL_CERT_FILE")
    return Path(path).read_text(encoding="utf-8") if path and Path(path).is_file() else ""


def uv_version() -> str:
    """Return the version of uv that installs packages on every platform: the tool's own."""
    import importlib.metadata  # noqa: PLC0415 - only where an image is built

    return importlib.metadata.version("uv")


__all__ = ["uv_version", "write_context"]
