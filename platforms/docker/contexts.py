"""Releases by their build contexts, which are kept: what two of them differ in."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cluster.plan.compare import PARTS, compare_code, compare_secrets
from cluster.plan.releases import Side, packages_in, same_settings, tree_in
from cluster.source import TREE
from platforms.docker.releases import FETCHED, parts_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cluster.config.models import App

CONFIG = "config.json"

#: What of a build context each part of a release is that its image does not show.
PLACES = {"requirements": ("requirements",), "packages": ("sources", "local")}
INSTALLED = tuple(PLACES)


def config_of(context: Path) -> dict[str, Any]:
    """Return the configuration file of a release; OSError where its context is gone, ValueError where it is hurt."""
    found: dict[str, Any] = json.loads((context / CONFIG).read_text(encoding="utf-8"))
    return found


def side_of(context: Path, app: App, secrets: Mapping[str, str]) -> Side:
    """Return a release for a comparison; OSError and ValueError as above."""
    runtime = config_of(context)
    project = context / runtime["place"]
    return Side(
        tree=tree_in(context / TREE, project),
        packages=packages_in(app, project),
        secrets=secrets,
        runtime=runtime,
    )


def changed_parts(former: Path, wanted: Path, old: Side, new: Side) -> tuple[str, ...]:
    """Return which parts of two releases differ, by their names in PARTS."""
    found = {
        "code": bool(compare_code(old.tree, new.tree)),
        "settings": not same_settings(old, new),
        "secrets": bool(compare_secrets(old.secrets, new.secrets)),
        "runtime": _differ(former, wanted, "runtime"),
    }
    if any((context / FETCHED).exists() for context in (former, wanted)):
        before, after = parts_of(former), parts_of(wanted)
        # "python" is not among those that a context tells apart: it is what a release runs on.
        found |= {part: before.get(part) != after.get(part) for part in INSTALLED} if before else {}
        platform = any(before.get(part) != after.get(part) for part in ("python", "platform"))
        return _told(found, platform=platform)
    found |= {part: _differ(former, wanted, *PLACES[part]) for part in INSTALLED}
    return _told(found, platform=bool(compare_code(_own(former), _own(wanted))))


def _told(found: Mapping[str, bool], *, platform: bool) -> tuple[str, ...]:
    """Return the names of parts. platform: whether all else that a release's digest is of differs."""
    parts = tuple(part for part in PARTS if found.get(part))
    # All else that a release's digest is of: its base, the scripts that build on it, how its containers are made.
    return (*parts, "platform") if platform or not parts else parts


def _differ(former: Path, wanted: Path, *places: str) -> bool:
    return any(compare_code(_files(former / place), _files(wanted / place)) for place in places)


def _files(directory: Path) -> dict[str, Path | str]:
    return {
        path.relative_to(directory).as_posix(): str(path.readlink()) if path.is_symlink() else path
        for path in (sorted(directory.rglob("*")) if directory.is_dir() else ())
        if path.is_symlink() or path.is_file()
    }


def _own(context: Path) -> dict[str, Path | str]:
    """Return the files that are of the build itself: its scripts, and the time of its base."""
    return {path.name: path for path in context.iterdir() if path.is_file() and path.suffix != ".json"}


__all__ = ["changed_parts", "config_of", "side_of"]
