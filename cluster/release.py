"""What a release is, and its digest: known before anything is built, and the same on every platform."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cluster_runtime
from cluster.config.models import SECRET_KEYS, DatabaseEngine, Platform
from cluster.source import ReleaseError as ReleaseError  # noqa: PLC0414 - whoever makes releases meets it here
from cluster.source import Source, project_place, shared_paths, shared_place, source_of
from cluster.topology import uses_memcached

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster.config.models import ClusterConfig

#: Hexadecimal digits of a digest: enough to tell releases apart, short enough for the path of a socket.
DIGEST_LENGTH = 12

#: Where a project may list its packages, in the order looked for.
REQUIREMENTS = ("requirements.txt", "pyproject.toml")

#: What the runtime needs in the project's environment; it never changes a version that the project has.
RUNTIME_REQUIREMENTS = ("gunicorn>=20.1",)
MEMCACHED_REQUIREMENTS = ("pymemcache>=4",)
POSTGRES_REQUIREMENTS = ("psycopg[binary]>=3.1.18",)
ASGI_REQUIREMENTS = ("uvicorn>=0.30", "uvicorn-worker>=0.2", "websockets>=12")

#: Seconds between giving a name up and stopping: twice the age of nginx's connections, and a bit.
DRAIN_SECONDS = 1.25

RUNTIME = Path(cluster_runtime.__file__).resolve().parent


@dataclass(frozen=True, kw_only=True)
class ReleaseSpec:
    """A release before it is made.

    source: what its code is copied from. project: the directory that holds manage.py.
    requirements: the file that lists its packages.
    parts: a digest of each part (code, requirements, …), so that a change can be named.
    secrets: the secrets' values by their names; never shown.
    """

    digest: str
    parts: Mapping[str, str]
    environment_digest: str
    source: Source
    project: Path
    requirements: Path
    secrets: Mapping[str, str]

    def __repr__(self) -> str:
        return f"ReleaseSpec({self.digest})"


def specify(
    config: ClusterConfig, root: Path, secrets: Mapping[str, str], python: str, platform: str | None = None
) -> ReleaseSpec:
    """Return the release that `config` asks for; `python` is the interpreter's version, `root` the repository.

    `platform` stands for what else of the platform an instance is made of (its base image, say): with another one it
    is another release.

    ReleaseError where the project or its requirements can't be found.
    """
    project = (root / config.app.project).resolve()
    if not project.is_dir():
        raise ReleaseError(f"app.project: {config.app.project}: no such directory")
    if not (project / "manage.py").is_file():
        raise ReleaseError(f"app.project: {config.app.project} has no manage.py: name the directory that holds it")
    requirements = find_requirements(config, project)
    source = source_of(config, root)
    parts = {
        "code": source.digest(),
        "runtime": tree_digest(RUNTIME),
        "requirements": _requirements_digest(requirements),
        "settings": _digest_of(_what_instances_run(config)),
        "secrets": _digest_of(keyed_hashes(secrets)),
        **({} if platform is None else {"platform": platform}),
    }
    environment = {
        "requirements": parts["requirements"],
        "python": python,
        "runtime": runtime_requirements(config),
    }
    return ReleaseSpec(
        digest=_digest_of(parts)[:DIGEST_LENGTH],
        parts=parts,
        environment_digest=_digest_of(environment)[:DIGEST_LENGTH],
        source=source,
        project=project,
        requirements=requirements,
        secrets=secrets,
    )


def find_requirements(config: ClusterConfig, project: Path) -> Path:
    """Return the file that lists the project's packages."""
    if config.app.requirements.file is not None:
        path = project / config.app.requirements.file
        if not path.is_file():
            raise ReleaseError(f"app.requirements: {path}: no such file")
        return path
    for name in REQUIREMENTS:
        if (project / name).is_file():
            return project / name
    raise ReleaseError(
        f"app.requirements: {config.app.project} has neither {' nor '.join(REQUIREMENTS)}: name the file"
    )


def runtime_requirements(config: ClusterConfig) -> list[str]:
    """Return what the runtime adds to the project's packages."""
    wanted = list(RUNTIME_REQUIREMENTS)
    if uses_memcached(config):
        wanted += MEMCACHED_REQUIREMENTS
    if config.database is not None and config.database.engine is DatabaseEngine.POSTGRES:
        wanted += POSTGRES_REQUIREMENTS
    if config.app.interface == "asgi":
        wanted += ASGI_REQUIREMENTS
    return wanted


def keyed_hashes(secrets: Mapping[str, str]) -> dict[str, str]:
    """Return a hash of each secret, keyed with the SECRET_KEY: it tells a change, and nothing else."""
    key = secrets.get("secret_key", "").encode()
    return {
        name: hmac.new(key, f"{name}\0{value}".encode(), hashlib.sha256).hexdigest()
        for name, value in sorted(secrets.items())
    }


def tree_digest(directory: Path) -> str:
    """Return a digest of the names, contents and executable bits of a tree."""
    return Source(project=directory, root=directory).digest()


def runtime_config(config: ClusterConfig, places: RuntimePlaces, digest: str) -> dict[str, Any]:
    """Return the contents of the release's configuration file (cluster_runtime.config.RuntimeConfig)."""
    app, health = config.app, config.app.health
    database: dict[str, Any] | None = None
    if config.database is not None:
        database = {"engine": config.database.engine.value}
        if config.database.engine == "sqlite":
            database["path"] = places.database
            if config.database.replace:
                database["replace"] = True
    return {
        "release": digest,
        "project": places.project,
        "place": project_place(config),
        "tree": places.tree,
        "shared": {path: shared_place(path) for path in shared_paths(config)},
        "shared_root": places.shared,
        "media": None if app.media is None else app.media.root or "",
        "databases": places.databases,
        "settings": app.settings,
        "secrets": places.secrets,
        "application": app.application or "",
        "interface": app.interface.value,
        "workers": app.workers,
        "threads": app.threads,
        "preload": app.preload,
        "health": {
            "path": health.path,
            "retries": health.retries,
            "interval": health.interval.seconds,
            "timeout": health.timeout.seconds,
            "start_timeout": health.start_timeout.seconds,
            "busy_timeout": health.busy_timeout.seconds,
        },
        "graceful_timeout": app.graceful_timeout.seconds,
        "drain": DRAIN_SECONDS,
        "environment": dict(app.environment),
        "hosts": allowed_hosts(config),
        "origins": trusted_origins(config),
        "sessions": {
            "engine": config.sessions.engine.value,
            "memcached": list(places.memcached) if uses_memcached(config) else [],
            "path": config.sessions.path or places.sessions,
            "previous": former_engine(config),
            "replace": config.sessions.replace,
        },
        "database": database,
        "static_root": places.static_root,
    }


@dataclass(frozen=True, kw_only=True)
class RuntimePlaces:
    """Where a platform keeps what a release's configuration names; absolute paths as the instances see them."""

    project: str
    tree: str
    shared: str
    databases: str
    secrets: str
    database: str
    sessions: str
    static_root: str
    memcached: tuple[str, ...]


def former_engine(config: ClusterConfig) -> str:
    """Return the engine whose sessions stay valid; empty where there is none but the engine itself."""
    previous = config.sessions.previous
    return "" if previous is None or previous is config.sessions.engine else previous.value


def allowed_hosts(config: ClusterConfig) -> list[str]:
    """Return Django's ALLOWED_HOSTS for nginx's server names; the first is the one that health checks use."""
    hosts = ["*" if name == "_" else name.removeprefix("*") for name in config.site.server_names]
    if config.site.instance_ports is not None:
        hosts += [host for host in ("127.0.0.1", "localhost") if host not in hosts]
    if hosts[0] == "*":
        hosts.insert(0, "localhost")
    return hosts


def trusted_origins(config: ClusterConfig) -> list[str]:
    """Return what is added to Django's CSRF_TRUSTED_ORIGINS."""
    port = config.site.listen
    origins = []
    for name in config.site.server_names:
        if name == "_":
            continue
        host = f"*{name}" if name.startswith(".") else name
        origins += [f"http://{host}" if port == 80 else f"http://{host}:{port}", f"https://{host}"]  # noqa: PLR2004
    return origins


def _what_instances_run(config: ClusterConfig) -> dict[str, Any]:
    """Return the part of the configuration that makes another release; weights and nginx's matters are not in it."""
    nowhere = RuntimePlaces(
        project="", tree="", shared="", databases="", secrets="", database="", sessions="", static_root="", memcached=()
    )
    nodes = config.sessions.memcached.nodes if uses_memcached(config) else 0
    limits = {
        "memory": str(config.app.memory),
        "processes": config.app.processes,
        "read_only": config.app.read_only,
    }
    uses_limits = config.platform is not Platform.LOCAL
    return {
        **runtime_config(config, nowhere, ""),
        "memcached_nodes": nodes,
        "static_url": config.site.static_url,
        "collectstatic": config.app.collectstatic,
        **(limits if uses_limits else {}),
    }


def _requirements_digest(path: Path) -> str:
    """Return a digest of a requirements file and those that it includes; for pyproject.toml of its lock as well."""
    return _digest_of(requirements_files(path))


def requirements_files(path: Path) -> dict[str, str]:
    """Return the text of a requirements file, and of those that it includes, by their paths from its directory."""
    seen: dict[str, str] = {}
    waiting = [path]
    if path.name == "pyproject.toml" and path.with_name("uv.lock").is_file():
        waiting.append(path.with_name("uv.lock"))
    while waiting:
        here = waiting.pop()
        name = os.path.relpath(here, path.parent)
        if name in seen:
            continue
        try:
            text = here.read_text(encoding="utf-8")
        except OSError as error:
            raise ReleaseError(f"app.requirements: {here}: {error.strerror}") from error
        seen[name] = text
        for line in text.splitlines() if here.suffix == ".txt" else ():
            words = line.replace("=", " ", 1).split() if line.startswith("--") else line.split()
            if len(words) > 1 and words[0] in ("-r", "--requirement", "-c", "--constraint"):
                waiting.append(here.parent / words[1])
    return seen


def _digest_of(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def known_secrets(values: Mapping[str, str]) -> dict[str, str]:
    """Return the secrets among `values`, by the stack file's names."""
    return {name: values[name] for name in SECRET_KEYS if values.get(name)}
