"""Django's DATABASES entry for what the stack file says."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from sqlite3 import connect
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from cluster_runtime.config import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
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

#: The same sqlite, of a Django that does not know what it needs for several processes; and the first that does.
IMMEDIATE_SQLITE, KNOWS_TRANSACTION_MODE = "cluster_runtime.sqlite_immediate", (5, 1)

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
            raise ConfigError(
                f"{config.secret_file('database_url')}: missing or empty, but database.engine asks for it"
            )
        entry = from_url(url)
    if config.interface == "asgi":
        entry["CONN_MAX_AGE"] = 0  # Django: persistent connections should be disabled under ASGI
    return entry


def all_of(config: RuntimeConfig, project: dict[str, Any]) -> dict[str, Any]:
    """Return DATABASES: the stack file's `default`, and the project's others, their sqlite files outside the release.

    `project` is its own DATABASES. An sqlite file in the release would be a new one with each release.
    """
    found = {alias: _kept(config, alias, entry) for alias, entry in project.items()}
    default = settings_of(config)
    if default is not None:
        # Where the database is, the stack file says; whether a request is one transaction stays the project's.
        default["ATOMIC_REQUESTS"] = project.get("default", {}).get("ATOMIC_REQUESTS", False)
        found["default"] = default
    return found


def is_of_files(engine: str) -> bool:
    """Tell whether an engine is sqlite's, or one of those over it: each of its databases is a file."""
    return "sqlite" in engine or "spatialite" in engine


def file_of(name: str) -> str:
    """Return the path in an sqlite's NAME, which may be a URI (`file:db.sqlite3?mode=rwc`).

    Empty where there is none, or none that is written: in memory, or opened for reading alone.
    """
    if not name.startswith("file:"):
        return "" if name == ":memory:" else name
    parts = urlsplit(name)
    options = dict(parse_qsl(parts.query))
    read_only = options.get("immutable") in {"1", "on", "yes", "true"} or options.get("mode") in {"ro", "memory"}
    return "" if read_only or parts.path == ":memory:" else unquote(parts.path)


def file_in_release(config: RuntimeConfig, entry: dict[str, Any]) -> Path | None:
    """Return the sqlite file of an entry of DATABASES where it lies in the release; None for any other database."""
    name = file_of(str(entry.get("NAME") or ""))
    if not is_of_files(str(entry.get("ENGINE", ""))) or not name or not config.tree:
        return None
    path = Path(os.path.normpath(Path(config.project) / name))
    return path if Path(config.tree) in path.parents else None


def _kept(config: RuntimeConfig, alias: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry of the project's with its sqlite file among the data, set up for several processes."""
    path = file_in_release(config, entry)
    if path is None or not config.databases:
        return entry
    relative = os.path.relpath(path, config.project)
    if any(relative == shared or relative.startswith(f"{shared}/") for shared in config.shared):
        if config.spread:
            raise ConfigError(
                f"app.shared_filesystem: {relative} is an sqlite database of the project's ({alias}), and on a "
                "filesystem of several hosts it loses what is written: use a database server"
            )
        where = path  # it is kept by app.shared
    else:
        where = Path(config.databases) / f"{alias}.sqlite3"
    ours = sqlite(str(where))
    if config.interface == "asgi":
        ours["CONN_MAX_AGE"] = 0
    found = {**ours, **entry, "NAME": ours["NAME"]}
    if entry["ENGINE"] == ENGINES["sqlite"]:
        found["ENGINE"] = ours["ENGINE"]
    elif ours["ENGINE"] != ENGINES["sqlite"]:
        # A backend of somebody else's, over one that would refuse these options.
        ours["OPTIONS"] = {"timeout": ours["OPTIONS"]["timeout"]}
    return {**found, "OPTIONS": {**ours["OPTIONS"], **entry.get("OPTIONS", {})}}


def begin_with_the_projects(config: RuntimeConfig, project: dict[str, Any]) -> list[str]:
    """Make databases that are not there yet of the files that the project has; return their aliases.

    Where an sqlite file lies in the project and not in a release, the release holds a copy of it, taken when it was
    made. Of several processes that do so at the same time, one wins, whole.
    """
    begun = []
    for alias, path, where in not_begun(config, project):
        if not _holds_something(path):
            continue
        new = where.with_name(f".{where.name}.{os.getpid()}.new")
        new.unlink(missing_ok=True)
        # By sqlite itself: what was not yet written back from its journal belongs to it.
        with closing(connect(f"{path.as_uri()}?mode=rw", uri=True)) as old, closing(connect(new)) as copy:
            old.backup(copy)
        try:
            os.link(new, where)
            begun.append(alias)
        except FileExistsError:
            pass  # another one was quicker
        finally:
            new.unlink()
    return begun


def not_begun(config: RuntimeConfig, project: dict[str, Any]) -> Iterator[tuple[str, Path, Path]]:
    """Yield the databases that are to be kept among the data and are not there yet.

    Each is its alias, the path that the project names in the release, and where it will be.
    """
    for alias, entry in project.items():
        path = file_in_release(config, entry)
        if path is None or not config.databases:
            continue  # no file, or it stays where it is; a server's entry may have no NAME at all
        where = Path(str(_kept(config, alias, entry)["NAME"]))
        replaced = alias == "default" and config.database is not None
        if not replaced and where != path and not where.exists():
            yield alias, path, where


def _holds_something(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def sqlite(path: str) -> dict[str, Any]:
    """Return sqlite as several processes need it: readers beside a writer, and no read-then-write that fails."""
    from django import VERSION  # noqa: PLC0415 - the project's

    return {
        "ENGINE": ENGINES["sqlite"] if VERSION >= KNOWS_TRANSACTION_MODE else IMMEDIATE_SQLITE,
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
