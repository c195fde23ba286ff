"""The release that serves beside the one that is wanted: what a plan says of the two, on every platform."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cluster.plan import compare
from cluster.plan.migrations import new_migrations
from cluster.release import ReleaseError
from cluster.requirements import read_requirements
from cluster.source import DATABASE_SUFFIXES
from cluster.stack.history import KEPT_RELEASES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from cluster.config.models import App
    from cluster.plan.planned import PackageChange, Release, SettingChange
    from cluster.stack.history import History

#: What of a release's configuration is a key of the stack file, by its path there.
KEYS = {
    "app": (
        *("settings", "application", "interface", "workers", "threads", "preload", "health", "graceful_timeout"),
        *("environment", "release_commands"),
    ),
    "sessions": ("engine", "previous", "path"),
}


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of two releases. packages: None where they are not kept with it. secrets: their values, never shown."""

    tree: Mapping[str, Path | str]
    packages: Mapping[str, str] | None
    secrets: Mapping[str, str]
    runtime: Mapping[str, Any]


def compare_releases(
    release: Release, old: Side, new: Side, parts: Collection[str], *, migrate: bool
) -> tuple[Release, tuple[SettingChange, ...], tuple[str, ...]]:
    """Return what changes of the release, of the keys of the stack file, and what is not known of it.

    parts: those that differ, by their names in compare.PARTS. migrate: whether migrations run.
    """
    unknown = []
    packages: tuple[PackageChange, ...] = ()
    if "requirements" in parts:
        if old.packages is None or new.packages is None:
            unknown.append("which packages change: the former requirements are not kept with their release")
        else:
            packages = compare.compare_packages(old.packages, new.packages)
            unknown.append("versions that the requirements leave open, and the migrations of packages")
    told = replace(
        release,
        code=compare.compare_code(old.tree, new.tree) if "code" in parts else (),
        requirements=packages,
        secrets=compare.compare_secrets(old.secrets, new.secrets),
        migrations=new_migrations(old.tree, new.tree) if migrate else (),
    )
    return told, compare.compare_settings(_keys(old.runtime), _keys(new.runtime)), tuple(unknown)


def same_settings(old: Side, new: Side) -> bool:
    """Tell whether two releases have the same configuration, but for their digests, which are in paths."""
    return _plain(old.runtime) == _plain(new.runtime)


def _plain(runtime: Mapping[str, Any]) -> str:
    return json.dumps(runtime, sort_keys=True).replace(str(runtime.get("release")), "")


def tree_in(tree: Path, project: Path, known: Collection[str] | None = None) -> dict[str, Path | str]:
    """Return what a release is made of, by paths from its project's directory.

    known: the paths below `tree` that it was made of; None for all that is there.
    """
    found = dict[str, "Path | str"]()
    for path in sorted(tree.rglob("*")):
        place = path.relative_to(tree).as_posix()
        if path.is_symlink():
            found[compare.from_project(place, tree, project)] = str(path.readlink())
        elif path.is_file() and (known is None or place in known) and not place.endswith(DATABASE_SUFFIXES):
            found[compare.from_project(place, tree, project)] = path
    return {place: one for place, one in found.items() if "__pycache__" not in place.split("/")}


def packages_in(app: App, project: Path) -> dict[str, str] | None:
    """Return what the requirements of a release that is kept say; None where they are not kept with it."""
    try:
        return compare.packages_of(read_requirements(app, project))
    except ReleaseError:
        return None


def _keys(runtime: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a release's configuration are keys of the stack file, under the names that they have there."""
    plain = json.loads(json.dumps(runtime, default=str))
    found: dict[str, Any] = {
        "app": {key: plain.get(key) for key in KEYS["app"]},
        "sessions": {key: (plain.get("sessions") or {}).get(key) or None for key in KEYS["sessions"]},
        "database": {"engine": (plain.get("database") or {}).get("engine")},
        "site": {"server_names": plain.get("hosts")},
    }
    found["app"]["shared"] = sorted(plain.get("shared") or {})
    return found


def retired(history: History, release: str) -> list[str]:
    """Return in words which releases go for good once `release` serves."""
    after = [one for one in history.releases if one != release] + [release]
    gone = after[:-KEPT_RELEASES] if release != history.current else []
    return [f"release {one}: {KEPT_RELEASES} are kept" for one in gone if one != history.current]
