"""Which migrations a stack's sqlite database has: a backup that was put back has fewer than the release was told of."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import quote

from pydantic import TypeAdapter

from cluster.kept import HurtFile, read_kept
from cluster.machine.confined import clean_environment
from cluster.packages import base_python

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.machine.owner import Owner

APPLIED: TypeAdapter[list[str]] = TypeAdapter(list[str])

#: What may be waited for, seconds: the file is on this machine.
PATIENCE = 10.0

#: Run as the database's user, isolated: whatever is in the file, it is read with that user's rights. It imports no more
#: than it needs: json and urllib.parse take as long as Python to start, and an `up` looks two or three times.
CONNECT = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], uri=True, timeout=5)
"""
LOOK = """
import json
print(json.dumps([f"{app}.{name}" for app, name in connection.execute("SELECT app, name FROM django_migrations")]))
"""
COUNT = """
print(*connection.execute("SELECT count(*) FROM sqlite_master").fetchone())
"""


def applied_in(database: Path, owner: Owner) -> list[str] | None:
    """Return the migrations that a database has, as `app.name`; None where it can't be said."""
    done = _look(LOOK, database, owner)
    if done is not None and done.returncode == 0:
        return APPLIED.validate_python(json.loads(done.stdout))
    return [] if done is not None and "no such table" in done.stderr else None


def holds_tables(database: Path, owner: Owner) -> bool:
    """Tell whether an sqlite file is there and holds any table, or can't be read, which is another matter.

    Whoever connects makes a new one in the place of one that is gone.
    """
    if not database.is_file() or not database.stat().st_size:
        return False
    done = _look(COUNT, database, owner)
    return done is None or done.stdout.strip() != "0"


def _look(code: str, database: Path, owner: Owner) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(
            [base_python(), "-I", "-c", f"{CONNECT}{code}", f"file:{quote(os.fsencode(database))}?mode=ro"],
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            **owner.subprocess_options(),
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def were_lost(mark: Path, database: Path, owner: Owner) -> bool:
    """Tell whether a database lacks migrations that it had when the mark was written."""
    try:
        known = read_kept(mark, APPLIED)
    except HurtFile:
        return False  # of a former version, which wrote none down
    if not known:
        return False
    there = applied_in(database, owner)
    return there is not None and not set(known) <= set(there)


__all__ = ["APPLIED", "applied_in", "holds_tables", "were_lost"]
