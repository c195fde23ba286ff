"""What a release tells its instances: one JSON file, written by the platform, read by everything in this package."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from cluster_runtime import unfollowed
from cluster_runtime.secret_files import BROKER_SECRET, CREDENTIAL, HELD

#: The environment variable that holds the path of the release's configuration file.
CONFIG_VARIABLE = "CLUSTER_CONFIG"

#: Those that tell a process which instance's it is, of which release, and where gunicorn listens.
INSTANCE_VARIABLE, RELEASE_VARIABLE, SOCKET_VARIABLE = "CLUSTER_INSTANCE", "CLUSTER_RELEASE", "CLUSTER_SOCKET"

#: The names that the files of secrets may have.
SECRET_NAMES = ("secret_key", "secret_key_fallbacks", "database_url", "secret_environment")

#: Tells the project where its broker is.
BROKER_VARIABLE = "CLUSTER_BROKER_URL"

#: The names of secrets that no stack file has.
MADE_NAMES = (BROKER_SECRET,)

#: Says where systemd has put what a unit alone reads (systemd.exec(5), LoadCredential).
CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"


class ConfigError(Exception):
    """The release's configuration file can't be read, or lacks something."""


@dataclass(frozen=True, kw_only=True)
class Health:
    """How an instance is judged. Times are seconds; `pages` None: / and the project's page to log in."""

    path: str = "/-/health"
    interval: float = 1.0
    timeout: float = 2.0
    retries: int = 3
    start_timeout: float = 60.0
    busy_timeout: float = 60.0
    pages: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Sessions:
    """Where sessions are kept.

    `memcached` lists the nodes' sockets, `path` is the directory of the engine `file`, `previous` the engine whose
    sessions stay valid while the engine is changed, `replace` lets the engine stand for one of the project's own.
    """

    engine: str = "db"
    memcached: tuple[str, ...] = ()
    path: str = ""
    previous: str = ""
    replace: bool = False


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """The contents of a release's configuration file.

    project: the directory that holds manage.py, absolute.
    settings: the project's own settings module, which the overlay wraps.
    application: `module:callable`; empty means the project's WSGI_APPLICATION (ASGI_APPLICATION).
    hosts: Django's ALLOWED_HOSTS; the first is the Host header of health checks.
    origins: added to Django's CSRF_TRUSTED_ORIGINS.
    site: the address that visitors ask for, as http://localhost:8080.
    static_url: what nginx serves by itself, from the release's static files; empty where it serves none.
    release_commands: management commands, as a shell splits them, that run once before the release is proven.
    database: {"engine": "sqlite", "path": …}, {"engine": "external"} (its URL is a secret), or None: the project's.
        "replace": true lets it stand for a server that the project's DATABASES name.
    secrets: a directory of files: secret_key, secret_key_fallbacks (JSON list), database_url,
        secret_environment (JSON object), broker_url; all but the first may be missing. Empty: systemd gives them to
        each process.
    preload: load the project once for all workers, where that is safe.
    packages: a directory of what the release installs from its own copy of local packages; it may be missing.
    drain: seconds between giving the name up and stopping, in which nginx's connections wear out.
    tree: the directory of the release in which the project lies, at `place`, with what was included from above it; all
        in it is replaced with the release. Empty where there is no release.
    shared: what the project writes, by paths from its directory: each a link to this path among all that is shared.
    spread: what is shared lies on a filesystem of several hosts.
    media: the one of MEDIA_ROOT; empty where there is to be none, None where the stack file does not say.
    services: the kinds of processes that the release can run beside its instances (cluster_runtime.service).
    schedules: a directory for what is known of schedules' runs.
    databases: a directory for the sqlite files that the project has in its own; empty where they stay there.
    """

    release: str
    project: str
    settings: str
    secrets: str
    application: str = ""
    interface: str = "wsgi"
    workers: int = 1
    threads: int = 4
    preload: bool = True
    health: Health = field(default_factory=Health)
    graceful_timeout: float = 30.0
    drain: float = 3.0
    environment: dict[str, str] = field(default_factory=dict)
    hosts: tuple[str, ...] = ("localhost",)
    origins: tuple[str, ...] = ()
    sessions: Sessions = field(default_factory=Sessions)
    database: dict[str, Any] | None = None
    static_root: str = ""
    site: str = "http://localhost"
    static_url: str = ""
    place: str = ""
    tree: str = ""
    shared: dict[str, str] = field(default_factory=dict)
    spread: bool = False
    media: str | None = None
    databases: str = ""
    packages: str = ""
    release_commands: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    schedules: str = ""

    @classmethod
    def load(cls, path: str | Path) -> RuntimeConfig:
        """Read the file at `path`; a ConfigError names the file and what is wrong with it."""
        try:
            data = json.loads(unfollowed.read(Path(path)))
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: {error}") from error
        if not isinstance(data, dict):
            raise ConfigError(f"{path}: must be a JSON object")
        try:
            health = dict(data.get("health", {}))
            health["pages"] = tuple(health["pages"]) if health.get("pages") is not None else None
            data["health"] = Health(**health)
            sessions = dict(data.get("sessions", {}))
            sessions["memcached"] = tuple(sessions.get("memcached", ()))
            data["sessions"] = Sessions(**sessions)
            for name in data.keys() & {"hosts", "origins", "release_commands", "services"}:
                data[name] = tuple(data[name])
            config = cls(**data)
        except (TypeError, ValueError) as error:
            known = ", ".join(f.name for f in fields(cls))
            raise ConfigError(f"{path}: {error} (known keys: {known})") from error
        if not config.hosts:
            raise ConfigError(f"{path}: hosts: must name at least one, the Host header of health checks")
        if not config.secrets:
            _check_credentials(path, config.secret_file(HELD))
        return config

    @classmethod
    def from_environment(cls) -> RuntimeConfig:
        """Read the file that the environment names (CLUSTER_CONFIG)."""
        path = os.environ.get(CONFIG_VARIABLE)
        if not path:
            raise ConfigError(f"{CONFIG_VARIABLE} is not set: it names the release's configuration file")
        return cls.load(path)

    def secret_file(self, name: str) -> Path:
        """Return where the secret called `name` is, or would be."""
        if self.secrets:
            return Path(self.secrets) / name
        return Path(os.environ.get(CREDENTIALS_VARIABLE, "")) / f"{CREDENTIAL}_{name}"

    def secret(self, name: str) -> str | None:
        """Return the secret called `name`, or None where the release has none of that name."""
        path = self.secret_file(name)
        try:
            return path.read_text(encoding="utf-8").rstrip("\n")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error

    def secret_environment(self) -> dict[str, str]:
        """Return the project's secret variables; where its broker is, among them, if that is a secret."""
        broker = self.secret(BROKER_SECRET)
        own = {name: str(value) for name, value in json.loads(self.secret("secret_environment") or "{}").items()}
        return {**({BROKER_VARIABLE: broker} if broker else {}), **own}


def _check_credentials(config: str | Path, first: Path) -> None:
    """Refuse to go on without secrets: where systemd can't give them, it says nothing and gives none."""
    if not os.path.isfile(first):  # noqa: PTH113 - that of a path fails where systemd has left a directory of root's
        raise ConfigError(
            f"{config}: secrets: systemd has given this process none (LoadCredential; there is no {first}): start it "
            "by its unit; in a container, `mount --make-rshared /` before the first unit starts"
        )
