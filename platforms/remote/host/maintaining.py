"""Keeps visitors out: a file that nginx looks things up in, and one reload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from platforms.remote.host.asking import ask
from platforms.remote.host.running import HostError, output, put
from platforms.remote.host.site import reload_until

if TYPE_CHECKING:
    from platforms.remote.host.paths import HostPaths

#: Where nginx tells which maintenance it has read.
LOCATION = "/-/maintenance"


def maintain(places: HostPaths, wanted: dict[str, Any]) -> None:
    """Let nginx do what is wanted: `text` of the file (null: no maintenance), its `digest`, `kept` and `polite`."""
    former = places.maintenance_file.read_text(encoding="utf-8") if places.maintenance_file.is_file() else None
    _write(places, wanted["text"], wanted["kept"])
    if ask(places.internal, LOCATION) == wanted["digest"]:
        return
    checked = output("nginx", "-t", "-q")
    if checked.returncode == 0:
        taken = reload_until(
            places, lambda: ask(places.internal, LOCATION) == wanted["digest"], polite=wanted["polite"]
        )
        if taken:
            return
    _write(places, former, None)
    raise HostError(f"nginx does not take it:\n{checked.stderr.strip()}".rstrip(":\n"))


def _write(places: HostPaths, text: str | None, kept: str | None) -> None:
    for path, said in ((places.maintenance_file, text), (places.maintenance_kept, kept)):
        if said is None:
            path.unlink(missing_ok=True)
        else:
            put(path, said)


def found(places: HostPaths) -> dict[str, str | None]:
    """Return what is kept of a maintenance, and which one nginx has read."""
    kept = places.maintenance_kept.read_text(encoding="utf-8") if places.maintenance_kept.is_file() else None
    return {"kept": kept, "told": ask(places.internal, LOCATION)}
