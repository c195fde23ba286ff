"""Takes over what a project has in use: its sqlite database, and the key that signed its sessions and links."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import ClusterError
from cluster.stack.secrets import DIRECTORY_MODE, write_secret
from cluster_runtime.gather import back_up

if TYPE_CHECKING:
    from collections.abc import Mapping

    from platforms.local.places import Places

#: Where the database of `engine: sqlite` lies in a stack's data.
DATABASE = "db.sqlite3"

#: Django's own tables that hold something in a project that nobody has used yet.
NOT_IN_USE = ("django_migrations", "django_content_type", "auth_permission", "sqlite_sequence", "django_site")


class AdoptError(ClusterError):
    """What a project has can't be taken over; the text says why."""


def rows_in(database: Path) -> dict[str, int]:
    """Return the tables of an sqlite file that hold something of users', with their numbers of rows."""
    if not database.is_file() or database.stat().st_size == 0:
        return {}
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            counts = {}
            for name in names:
                quoted = name.replace('"', '""')
                (counts[name],) = connection.execute(f'SELECT count(*) FROM "{quoted}"').fetchone()  # noqa: S608
    except sqlite3.Error as error:
        raise AdoptError(f"{database}: {error}") from error
    return {name: count for name, count in counts.items() if count and name not in NOT_IN_USE}


def in_words(rows: Mapping[str, int]) -> str:
    """Return what a database holds, in a few words."""
    shown = [
        f"{rows[table]:,} {what}"
        for table, what in (("auth_user", "users"), ("django_session", "sessions"))
        if table in rows
    ]
    return ", ".join([*shown, f"{sum(rows.values()):,} rows in {len(rows)} tables"])


def project_database(facts: Mapping[str, Any]) -> Path | None:
    """Return the project's own sqlite file, by what describe said; None where its default database is another."""
    engine, name = (*facts.get("own_databases", {}).get("default", ()), "", "")[:2]
    return Path(name) if "sqlite" in engine and name.startswith("/") else None


def adopt(places: Places, database: Path, keys: Mapping[str, Any]) -> None:
    """Copy the database into the stack's data, and make the project's keys the stack's."""
    target, key = places.data / DATABASE, places.secrets / "secret_key"
    for path in (target, key):
        if path.exists():
            raise AdoptError(
                f"--adopt: {path} is there already, and would be lost; this stack has been up. Choose another name, or "
                "`cluster down --delete-data` first"
            )
    if not keys["secret_key"]:
        raise AdoptError("--adopt: the project's settings have no SECRET_KEY, so nothing that it signed can stay valid")
    places.data.mkdir(parents=True, exist_ok=True)
    places.secrets.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.new")
    new.unlink(missing_ok=True)
    try:
        back_up(database, new)
    except sqlite3.Error as error:
        raise AdoptError(f"--adopt: {database}: {error}") from error
    write_secret(key, str(keys["secret_key"]))
    if keys["secret_key_fallbacks"]:
        write_secret(places.secrets / "secret_key_fallbacks", json.dumps(keys["secret_key_fallbacks"]))
    new.rename(target)


def left_behind(places: Places, project: Path, copied: Path, facts: Mapping[str, Any]) -> str | None:
    """Return the line that says that the project's database is in use, and this stack begins with an empty one.

    copied: where the project was when it was described, to find the same file in `project`.
    """
    database = project_database(facts)
    if database is None or (places.data / DATABASE).exists():
        return None
    if database.is_relative_to(copied):
        database = project / database.relative_to(copied)
    rows = rows_in(database)
    if not rows:
        return None
    return (
        f"database: {database} is in use ({in_words(rows)}), and this stack begins with an empty one and a key of "
        f"its own; `cluster down {places.stack} --delete-data`, then `cluster init {places.stack} --project … --adopt "
        "--force` takes it over"
    )
