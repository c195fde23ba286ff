"""Which migrations of a release its databases lack: after `migrate` none, until a backup is put back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def lacking_url(wanted: bool | Sequence[str]) -> str:
    """Return what an instance is asked for; wanted: app.migrate."""
    return f"/-/probe/migrations?databases={','.join(wanted) if not isinstance(wanted, bool) else ''}"


def is_to_migrate(alias: str) -> bool:
    """Tell whether a database is one that `migrate` is for: not a mirror, and one that takes some application's tables.

    Of a database that the project's routers keep migrations from, it would make a table of its own.
    """
    from django.apps import apps  # noqa: PLC0415 - after the settings
    from django.db import connections, router  # noqa: PLC0415

    entry = connections[alias].settings_dict
    if entry["ENGINE"] == "django.db.backends.dummy" or entry.get("TEST", {}).get("MIRROR"):
        return False
    return any(router.allow_migrate_model(alias, model) for model in apps.get_models(include_auto_created=True))


def lacking(aliases: Iterable[str]) -> dict[str, list[str]]:
    """Return {database: ["app.name", ...]} of what `migrate` would run; databases that lack nothing are left out.

    aliases: the databases that are asked; none: every one that `migrate` is for.
    """
    from django.db import connections  # noqa: PLC0415 - after the settings
    from django.db.migrations.executor import MigrationExecutor  # noqa: PLC0415 - imports all migrations

    found = {}
    for alias in list(aliases) or [alias for alias in connections if is_to_migrate(alias)]:
        executor = MigrationExecutor(connections[alias])
        plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
        if plan:
            found[alias] = [f"{migration.app_label}.{migration.name}" for migration, _backwards in plan]
    return found
