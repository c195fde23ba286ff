"""The stack that the last `up` of a checkout has made, without its secrets: by it a plan tells which lints are new."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from cluster.config.models import dump
from cluster.kept import HurtFile, read_kept, write_kept
from cluster.plan.judged import former_config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster.config import ClusterConfig
    from cluster.stack.paths import StackPaths

#: It, by the digest of nginx's configuration that was put in place.
KEPT_STACK: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


def keep_stack(paths: StackPaths, config: ClusterConfig, outputs: Mapping[str, Any]) -> None:
    """Keep the stack that an `up` has made. outputs: those of the program."""
    made = {"nginx": outputs.get("nginx"), "stack": dump(config)}
    if made["nginx"] and _kept(paths) != made:
        write_kept(paths.made, made)


def kept_stack(paths: StackPaths, nginx: object) -> ClusterConfig | None:
    """Return the stack of which the configuration of nginx with this digest was made; None where it is not kept."""
    kept = _kept(paths)
    return former_config(kept.get("stack")) if kept.get("nginx") == nginx else None


def _kept(paths: StackPaths) -> dict[str, Any]:
    try:
        return read_kept(paths.made, KEPT_STACK) or {}
    except HurtFile:
        return {}


__all__ = ["keep_stack", "kept_stack"]
