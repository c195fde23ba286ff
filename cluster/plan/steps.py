"""The words for what a plan does, the same on every platform."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.plan.compare import PARTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: What nginx does where only its configuration is another.
RELOADED = "nginx: one reload"


def release_line(former: str | None, release: str, parts: Iterable[str], *, migrate: bool) -> str:
    """Return the line of a release that takes the place of `former`. parts: what differs, by its names in PARTS."""
    if former is None:
        line = f"release {release}: the first one"
    else:
        why = ", ".join(PARTS[part] for part in parts) or "by your choice"
        line = f"release {former} -> {release} ({why})"
    return f"{line}; migrations run first" if migrate else line


def in_which_order(names: Sequence[str], batch: int | str) -> str:
    """Return in which order instances start; `batch` as in app.rollout."""
    if len(names) == 1:
        return ""
    return f", {names[0]} first, then " + ("the others together" if batch == "all" else f"{batch} at a time")


def reloaded(*, touches_instances: bool) -> str:
    """Return the line of nginx's one reload."""
    return RELOADED if touches_instances else f"{RELOADED}; no process of the app is touched by it"


__all__ = ["in_which_order", "release_line", "reloaded"]
