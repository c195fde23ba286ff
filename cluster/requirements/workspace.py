"""uv's workspaces: what belongs to one, and its lock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster.requirements.described import Kind, read_toml

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


def workspace_root(directory: Path) -> Path | None:
    """Return the root of the uv workspace that `directory` belongs to; None where it belongs to none."""
    for above in (directory, *directory.parents):
        workspace: Mapping[str, Any] | None = (
            read_toml(above / "pyproject.toml").get("tool", {}).get("uv", {}).get("workspace")
        )
        if workspace is not None:
            return above if above == directory or directory in members_of(above, workspace) else None
    return None


def members_of(root: Path, workspace: Mapping[str, Any]) -> list[Path]:
    """Return the directories of a workspace's members."""

    def matching(patterns: Iterable[str]) -> set[Path]:
        return {path.resolve() for pattern in patterns for path in root.glob(pattern) if path.is_dir()}

    return sorted(matching(workspace.get("members", ())) - matching(workspace.get("exclude", ())))


def workspace_files(root: Path) -> list[Path]:
    """Return the pyproject.toml files of a workspace."""
    members = members_of(root, read_toml(root / "pyproject.toml")["tool"]["uv"]["workspace"])
    return [path for member in (root, *members) if (path := member / "pyproject.toml").is_file()]


def lock_of(kind: Kind, pyproject: Path) -> Path | None:
    """Return the lock of a pyproject.toml: beside it, or at the root of the workspace that it is a member of."""
    beside = pyproject.with_name(kind.value)
    if beside.is_file():
        return beside
    root = workspace_root(pyproject.parent.resolve()) if kind is Kind.UV else None
    return root / kind if root is not None and (root / kind).is_file() else None


def uv_table(directory: Path) -> dict[str, Any]:
    """Return [tool.uv] of the project in `directory`, or of the workspace that it is a member of."""
    root = workspace_root(directory) or directory
    table: dict[str, Any] = read_toml(root / "pyproject.toml").get("tool", {}).get("uv", {})
    return {**table, **table.get("pip", {})}
