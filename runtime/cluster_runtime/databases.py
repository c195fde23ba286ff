"""Django's DATABASES entry for what the stack file says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from cluster_runtime.config import ConfigError

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from cluster_runtime.config import RuntimeConfig

#: Django's engines by the scheme of a database URL.
ENGINES = {
    "postgres": "django.db.backends.postgresql",
    "postgresql": "django.db.backends.postgresql",
    "mysql": "django.db.backends.mysql",
    "mariadb": "django.db.backends.mysql",
    "oracle": "django.db.backends.oracle",
    "sqlite": "django.db.backends.sqlite3",
}

#: Seconds that a connection is kept: reconnecting for each request costs three quarters of the throughput.
CONNECTION_AGE = 600


UNREADABLE = "not a URL; in a user's name or password, characters such as / # ? @ must be percent-encoded"


def settings_of(config: RuntimeConfig) -> dict[str, Any] | None:
    """Return the entry `default` of DATABASES, or None where the project's own is to stay."""
    if config.database is None:
        return None
    if config.database["engine"] == "sqlite":
        entry = sqlite(config.database["path"])
    else:
        url = config.secret("database_url")
        if not url:
            raise ConfigError(f"{config.secrets}/database_url: missing or empty, but database.engine asks for it")
        entry = from_url(url)
    if config.interface == "asgi":
        entry["CONN_MAX_AGE"] = 0  # Django: persistent connections should be disabled under ASGI
    return entry


def sqlite(path: str) -> dict[str, Any]:
    """Return sqlite as several processes need it: readers beside a writer, and no read-then-write that fails."""
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": path,
        "CONN_MAX_AGE": CONNECTION_AGE,
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }


def from_url(url: str) -> dict[str, Any]:
    """Read `postgres://user:password@host:port/name?option=value`. An error does not repeat the URL: it is a secret."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its text holds parts of the URL
        raise ConfigError(f"database_url: {UNREADABLE}") from None
    if parts.fragment:
        raise ConfigError(f"database_url: {UNREADABLE}")
    if parts.scheme not in ENGINES:
        raise ConfigError(f"database_url: the scheme must be one of {', '.join(sorted(ENGINES))}")
    if parts.scheme == "sqlite":
        return sqlite(unquote(parts.path))
    entry: dict[str, Any] = {
        "ENGINE": ENGINES[parts.scheme],
        "NAME": unquote(parts.path.removeprefix("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": _host(parts),
        "PORT": str(port or ""),
        "CONN_MAX_AGE": CONNECTION_AGE,
        "CONN_HEALTH_CHECKS": True,
    }
    options = dict(parse_qsl(parts.query))
    if "host" in options:  # a directory of sockets can't stand where a host name stands
        entry["HOST"] = options.pop("host")
    if options:
        entry["OPTIONS"] = options
    return entry


def _host(parts: SplitResult) -> str:
    """Return the host; a directory of sockets (%2Frun%2FPostgres) keeps its case, which a host name loses."""
    host = parts.hostname or ""
    if host.startswith("%2f"):
        host = parts.netloc.rpartition("@")[2].partition(":")[0]
    return unquote(host)
