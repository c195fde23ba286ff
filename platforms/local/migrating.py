"""Runs a release's migrations on this machine, once, and notes what databases were like then."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cluster.kept import HurtFile, read_kept, sync_tree, write_durably
from cluster.release import ReleaseError
from platforms.local.migrations import APPLIED, applied_in, holds_tables, were_lost
from platforms.local.release import DATABASES, MIGRATED, Release

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cluster.machine.owner import Owner
    from platforms.local.paths import LocalPaths
    from platforms.local.project_code import ProjectCode


class Migrating:
    """Runs the migrations of a stack's releases. `say` is told what they do."""

    def __init__(self, paths: LocalPaths, owner: Owner, code: ProjectCode, say: Callable[[str], None]) -> None:
        self.paths = paths
        self.owner = owner
        self.code = code
        self.say = say

    def migrate(self, release: Release, aliases: list[str] | None) -> None:
        """Run the release's migrations, once, for these databases (None: every one).

        ReleaseError has the last lines of what migrate said.
        """
        if release.migrated:
            return
        known = release.facts().get("databases")
        if known is None:
            raise ReleaseError(f"app.migrate: release {release.digest} does not say which databases it has")
        unknown = [alias for alias in aliases or () if alias not in known]
        if unknown:
            there = ", ".join(known) or "none"
            raise ReleaseError(f"app.migrate: no database {', '.join(unknown)}; those to migrate are: {there}")
        for alias in known if aliases is None else aliases:
            self.say("migrating the database" if alias == "default" else f"migrating the database {alias}")
            words = ("migrate", "--noinput", "-v", "1", "--database", alias)
            done = self.code.run(release, "cluster_runtime.manage", *words, say=self.say)
            if done.returncode != 0:
                shown = self.code.shown(release, done.stdout)
                raise ReleaseError(f"app.migrate: migrate failed in release {release.digest}\n{shown}")
        sync_tree(self.paths.state)  # what the mark says is on the disk before it
        self._note(release)

    def _note(self, release: Release) -> None:
        database = release.database
        applied = applied_in(database, self.owner) if database else None
        own = self.paths.data / "databases"
        names = sorted(path.name for path in own.glob("*.sqlite3") if holds_tables(path, self.owner))
        write_durably(release.directory / DATABASES, json.dumps(names))
        write_durably(release.directory / MIGRATED, json.dumps(applied or []))

    def own_databases(self, release: Release) -> list[Path]:
        """Return the project's own sqlite files that held something when the release's migrations had run."""
        try:
            names = read_kept(release.directory / DATABASES, APPLIED) or []
        except HurtFile:
            names = []
        return [self.paths.data / "databases" / name for name in names]

    def put_back(self, release: Release) -> None:
        """Write down again which migrations the database has, where the mark that they have run does not tell."""
        try:
            read_kept(release.directory / MIGRATED, APPLIED)
        except HurtFile:
            if release.migrated:
                self._note(release)

    def was_set_back(self, release: Release) -> bool:
        """Tell whether an older database was put back since the release's migrations ran: they run again then."""
        database = release.database
        return database is not None and were_lost(release.directory / MIGRATED, database, self.owner)
