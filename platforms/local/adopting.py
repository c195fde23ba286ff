"""Takes over what a project has in use: its sqlite database, and the key that signed its sessions and links."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING, Any

from cluster.adopting import AdoptError, in_words, project_database, rows_in
from cluster.stack.secrets import DIRECTORY_MODE, write_secret
from cluster_runtime.gather import back_up
from platforms.local.paths import LocalPaths

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def adopt(root: Path, stack: str, database: Path, keys: Mapping[str, Any]) -> None:
    """Copy the database into the stack's data, and make the project's keys the stack's."""
    paths = LocalPaths(root, stack)
    target, key = paths.database, paths.secrets / "secret_key"
    for path in (target, key):
        if path.exists():
            raise AdoptError(
                f"--adopt: {path} is there already, and would be lost; this stack has been up. Choose another name, or "
                "`cluster down --delete-data` first"
            )
    if not keys["secret_key"]:
        raise AdoptError("--adopt: the project's settings have no SECRET_KEY, so nothing that it signed can stay valid")
    paths.data.mkdir(parents=True, exist_ok=True)
    paths.secrets.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.new")
    new.unlink(missing_ok=True)
    try:
        back_up(database, new)
    except sqlite3.Error as error:
        raise AdoptError(f"--adopt: {database}: {error}") from error
    write_secret(key, str(keys["secret_key"]))
    if keys["secret_key_fallbacks"]:
        write_secret(paths.secrets / "secret_key_fallbacks", json.dumps(keys["secret_key_fallbacks"]))
    new.rename(target)


def left_behind(paths: LocalPaths, project: Path, copied: Path, facts: Mapping[str, Any]) -> str | None:
    """Return the line that says that the project's database is in use, and this stack begins with an empty one.

    copied: where the project was when it was described, to find the same file in `project`.
    """
    database = project_database(facts)
    if database is None or paths.database.exists():
        return None
    if database.is_relative_to(copied):
        database = project / database.relative_to(copied)
    rows = rows_in(database)
    if not rows:
        return None
    return (
        f"database: {database} is in use ({in_words(rows)}), and this stack begins with an empty one and a key of "
        f"its own; `cluster down {paths.stack} --delete-data`, then `cluster init {paths.stack} --project … --adopt "
        "--force` takes it over"
    )
