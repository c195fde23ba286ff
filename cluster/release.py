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
from cluster.config.models import SECRET_KEYS
from cluster.requirements import outermost, read_requirements
from cluster.services import DRAIN_SECONDS, Kind
from cluster.source import ReleaseError as ReleaseError  # noqa: PLC0414 - whoever makes releases meets it here
from cluster.source import Source, digest_of, project_place, shared_paths, shared_place, source_of
from cluster.topology import build_topology, served_static_url, site_origin, site_url, uses_memcached
from cluster_runtime.config import MADE_NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cluster.config.models import ClusterConfig, Health
    from cluster.endpoints import Endpoint
    from cluster.requirements import LocalPackage, Requirements
    from cluster.source import Entry
    from cluster.topology import Topology

#: Hexadecimal digits of a digest: enough to tell releases apart, short enough for the path of a socket.
DIGEST_LENGTH = 12


#: What the runtime needs in the project's environment; it never changes a version that the project has.
RUNTIME_REQUIREMENTS = ("gunicorn>=20.1",)
MEMCACHED_REQUIREMENTS = ("pymemcache>=4",)
POSTGRES_REQUIREMENTS = ("psycopg[binary]>=3.1.18",)
SCHEDULE_REQUIREMENTS = ("cronsim>=2.6",)
ASGI_REQUIREMENTS = ("uvicorn>=0.30", "uvicorn-worker>=0.2", "websockets>=12")

RUNTIME = Path(cluster_runtime.__file__).resolve().parent


@dataclass(frozen=True, kw_only=True)
class ReleaseSpec:
    """A release before it is made.

    source: what its code is copied from. project: the directory that holds manage.py.
    requirements: where its packages come from.
    parts: a digest of each part (code, requirements, …), so that a change can be named.
    secrets: the secrets' values by their names; never shown.
    python_request: the versions of Python that it can run on.
    """

    digest: str
    parts: Mapping[str, str]
    environment_digest: str
    source: Source
    project: Path
    requirements: Requirements
    secrets: Mapping[str, str]
    python_request: str

    def __repr__(self) -> str:
        return f"ReleaseSpec({self.digest})"

    def environment_for(self, target: str) -> str:
        """Return the name of its environment of packages on other machines; target: their Python and platform."""
        return f"{self.environment_digest}-{target}"


def find_project(config: ClusterConfig, root: Path) -> Path:
    """Return the directory that holds manage.py; ReleaseError where it does not."""
    project = (root / config.app.project).resolve()
    if not project.is_dir():
        raise ReleaseError(f"app.project: {config.app.project}: no such directory")
    if not (project / "manage.py").is_file():
        raise ReleaseError(f"app.project: {config.app.project} has no manage.py: name the directory that holds it")
    return project


def specify(  # noqa: PLR0913 - what a release is made of
    config: ClusterConfig,
    root: Path,
    secrets: Mapping[str, str],
    python: str,
    platform: str | None = None,
    *,
    python_request: str = ">=3.11",
    requirements: Requirements | None = None,
) -> ReleaseSpec:
    """Return the release that `config` asks for; `root` is the repository.

    `python` tells one interpreter from another: its path and version, or what is asked of an image's. `platform`
    stands for what else of the platform an instance is made of (its base image, say): with another one it is another
    release. `requirements` are the project's, where they are read already.

    ReleaseError where the project or its requirements can't be found.
    """
    project = find_project(config, root)
    found = requirements or read_requirements(config.app, project)
    source = source_of(config, root)
    above = _above_digest(found, project, source)
    parts = {
        "code": source.digest(),
        "runtime": tree_digest(RUNTIME),
        "requirements": _requirements_digest(found),
        "python": _digest_of(python),
        "settings": _digest_of(_what_instances_run(config)),
        "secrets": _digest_of(keyed_hashes(secrets)),
        **({"packages": above} if above else {}),
        **({} if platform is None else {"platform": platform}),
    }
    return ReleaseSpec(
        digest=_digest_of(parts)[:DIGEST_LENGTH],
        parts=parts,
        environment_digest=environment_digest(found, source, python, runtime_requirements(config)),
        source=source,
        project=project,
        requirements=found,
        secrets=secrets,
        python_request=python_request,
    )


def asked_for(config: ClusterConfig, root: Path, secrets: Mapping[str, str], platform: str | None) -> ReleaseSpec:
    """Return the release that `config` asks for on whichever Python its project asks for; arguments as of `specify`."""
    from cluster.interpreters import needs_of, request  # noqa: PLC0415 - looks at uv

    project = find_project(config, root)
    requirements = read_requirements(config.app, project)
    python = request(needs_of(config.app, requirements, project))
    return specify(config, root, secrets, python, platform, python_request=python, requirements=requirements)


def check_copied(spec: ReleaseSpec) -> None:
    """Refuse what was copied of a project that is not any more what the release's digest was made of."""
    changed = spec.source.changed()
    if _above_digest(spec.requirements, spec.project, spec.source) != spec.parts.get("packages", ""):
        changed.append("a local package")
    if changed:
        raise ReleaseError(
            f"app.project: {changed[0]} was changed while the release was made of it: say it again (what changes all "
            "the time is no code: let git ignore it, or name it in app.shared)"
        )


def _above_digest(found: Requirements, project: Path, source: Source) -> str:
    """Return the digest of the local packages that do not lie in the project; empty where there are none."""
    above = [package for package in found.local if not package.path.is_relative_to(project)]
    return _digest_of([_package_digest(package.path, source) for package in above]) if above else ""


def environment_digest(found: Requirements, source: Source, python: str, runtime: Sequence[str]) -> str:
    """Return the digest of an environment of packages: those of the project, and what the runtime adds."""
    environment = {
        "requirements": _requirements_digest(found),
        # What only their own code says is found out by running it.
        "unclear": [_package_digest(path, source) for path in found.unclear],
        "python": python,
        "runtime": list(runtime),
    }
    return _digest_of(environment)[:DIGEST_LENGTH]


def sources(spec: ReleaseSpec) -> dict[Path, Path]:
    """Return the local packages that a release holds beside the project, by where they lie below its `sources`.

    Those above the project; and of the project's own those that are built, which may write beside what they build.
    """
    paths = [package.path for package in spec.requirements.local if not _lies_in_project(package, spec)]
    return {path.relative_to(spec.requirements.top): path for path in outermost(paths)}


def local_lines(spec: ReleaseSpec, project: str, sources_: str) -> list[str]:
    """Return the lines of `install-local`'s list, for a release with its project and sources at these places."""
    lines = []
    for package in spec.requirements.local:
        base, top = (project, spec.project) if _lies_in_project(package, spec) else (sources_, spec.requirements.top)
        place = Path(base) / package.path.relative_to(top)
        lines.append(f"{'?' if package.itself else ''}{package.line(place)}")
    return lines


def _lies_in_project(package: LocalPackage, spec: ReleaseSpec) -> bool:
    return package.editable and package.path.is_relative_to(spec.project)


def package_files(directory: Path, spec: ReleaseSpec) -> list[Entry]:
    """Return the files of a local package; the stack files of a repository that is one itself are no part of it."""
    return _package_files(directory, spec.source)


def _package_files(directory: Path, source: Source) -> list[Entry]:
    entries = Source(project=directory, root=_root_of(directory, source)).tree("")
    return [entry for entry in entries if not entry.target.startswith("stacks/Pulumi.")]


def _root_of(directory: Path, source: Source) -> Path:
    return source.root if directory == source.root or source.root in directory.parents else directory


def _package_digest(directory: Path, source: Source) -> str:
    return digest_of(_package_files(directory, source))


def runtime_requirements(config: ClusterConfig) -> list[str]:
    """Return what the runtime adds to the project's packages."""
    wanted = list(RUNTIME_REQUIREMENTS)
    if uses_memcached(config):
        wanted += MEMCACHED_REQUIREMENTS
    if config.makes_postgres:
        wanted += POSTGRES_REQUIREMENTS
    if config.schedule:
        wanted += SCHEDULE_REQUIREMENTS
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


def runtime_config(config: ClusterConfig, paths: RuntimePaths, digest: str) -> dict[str, Any]:
    """Return the contents of the release's configuration file (cluster_runtime.config.RuntimeConfig)."""
    app = config.app
    topology = build_topology(config)
    return {
        "release": digest,
        "project": paths.project,
        "place": project_place(config),
        "tree": paths.tree,
        "shared": {path: shared_place(path) for path in shared_paths(config)},
        **({} if app.shared_filesystem is None else {"spread": True}),
        "media": None if app.media is None else app.media.root or "",
        "databases": paths.databases,
        "settings": app.settings,
        "secrets": paths.secrets,
        "application": app.application or "",
        "interface": app.interface.value,
        "workers": app.workers,
        "threads": app.threads,
        "preload": app.preload,
        "health": _runtime_health(app.health),
        "graceful_timeout": app.graceful_timeout.seconds,
        "drain": DRAIN_SECONDS,
        "environment": {**variables(topology, paths.endpoints, paths.authority), **app.environment},
        "hosts": allowed_hosts(config),
        "origins": trusted_origins(config),
        "sessions": _runtime_sessions(config, paths, topology),
        "database": _runtime_database(config, paths),
        # Where nothing is collected the project's own stays.
        "static_root": paths.static_root if app.collectstatic else "",
        "site": site_url(config).rstrip("/"),
        "static_url": served_static_url(config) or "",
        "release_commands": app.release_commands,
        # What a schedule needs is among its packages only where there is one.
        "schedules": paths.schedules,
        "services": [Kind.WORKER, *([Kind.SCHEDULE] if config.schedule else [])],
        "packages": paths.packages,
    }


def _runtime_health(health: Health) -> dict[str, Any]:
    return {
        "path": health.path,
        "retries": health.retries,
        "interval": health.interval.seconds,
        "timeout": health.timeout.seconds,
        "start_timeout": health.start_timeout.seconds,
        "busy_timeout": health.busy_timeout.seconds,
        "pages": health.pages,
    }


def _runtime_sessions(config: ClusterConfig, paths: RuntimePaths, topology: Topology) -> dict[str, Any]:
    nodes = [node.name for node in topology.of_kind(Kind.MEMCACHED) if node.name in paths.endpoints]
    return {
        "engine": config.sessions.engine.value,
        "memcached": [str(paths.endpoints[name]) for name in nodes],
        "path": config.sessions.path or paths.sessions,
        "previous": former_engine(config),
        "replace": config.sessions.replace,
    }


def _runtime_database(config: ClusterConfig, paths: RuntimePaths) -> dict[str, Any] | None:
    """Return what the runtime is told of the default database; None where it is the project's own."""
    if config.database is None:
        return None
    database: dict[str, Any] = {"engine": config.database.engine.value}
    if config.database.engine == "sqlite":
        database["path"] = paths.database
        if config.database.replace:
            database["replace"] = True
    return database


@dataclass(frozen=True, kw_only=True)
class RuntimePaths:
    """Where a platform keeps what a release's configuration names; absolute paths as the instances see them.

    endpoints: where they reach the services, by their names. authority: the file by which instances know the stack's
    other hosts; empty where there are none.
    """

    project: str
    tree: str
    databases: str
    secrets: str
    database: str
    sessions: str
    static_root: str
    packages: str
    endpoints: Mapping[str, Endpoint]
    schedules: str = ""
    authority: str = ""


def variables(topology: Topology, endpoints: Mapping[str, Endpoint], authority: str = "") -> dict[str, str]:
    """Return what tells the project where the services are that it may use."""
    return {
        name: text.replace("{socket}", str(endpoints.get(service.name, ""))).replace("{authority}", authority)
        for service in topology.services
        for name, text in service.variables.items()
    }


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
    origins = []
    for name in config.site.server_names:
        if name == "_":
            continue
        host = f"*{name}" if name.startswith(".") else name
        # Something before a plain site may speak https for it, on https's own port.
        origins += [site_origin(config, host), f"https://{host}"]
    return list(dict.fromkeys(origins))


def _what_instances_run(config: ClusterConfig) -> dict[str, Any]:
    """Return the part of the configuration that makes another release; weights and nginx's matters are not in it."""
    nowhere = RuntimePaths(
        **dict.fromkeys(("project", "tree", "databases", "secrets", "database", "sessions", "static_root"), ""),
        packages="",
        endpoints={},
    )
    nodes = config.sessions.memcached.nodes if uses_memcached(config) else 0
    limits = {
        "memory": str(config.app.memory),
        "processes": config.app.processes,
        "read_only": config.app.read_only,
    }
    uses_limits = config.platform.traits.limits
    return {
        **runtime_config(config, nowhere, ""),
        "memcached_nodes": nodes,
        "static_url": config.site.static_url,
        "collectstatic": config.app.collectstatic,
        **(limits if uses_limits else {}),
    }


def _requirements_digest(found: Requirements) -> str:
    """Return a digest of all that says what is installed: the same wherever the repository lies."""

    def name(path: Path) -> str:
        return os.path.relpath(path, found.directory)

    contents: dict[str, str] = {name(path): text for path, text in found.texts.items()}
    for path in found.files:
        try:
            contents[name(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise ReleaseError(f"app.requirements: {path}: {error.strerror}") from error
    local = sorted(package.line(name(package.path)) for package in found.local)
    return _digest_of([found.kind, contents, local, list(found.extras), list(found.groups)])


def _digest_of(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def known_secrets(values: Mapping[str, str]) -> dict[str, str]:
    """Return the secrets among `values` that a release is given, by their names."""
    return {name: values[name] for name in (*SECRET_KEYS, *MADE_NAMES) if values.get(name)}
