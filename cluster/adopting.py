"""What a project has in use, which a new stack could take over: its sqlite database, and what is in it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import ClusterError

if TYPE_CHECKING:
    from collections.abc import Mapping

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
