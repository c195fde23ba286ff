"""What is kept on a host and was let be left behind: nobody asks for it again, until it is used again here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from platforms.remote.host.running import put

if TYPE_CHECKING:
    from collections.abc import Collection

    from platforms.remote.host.paths import HostPaths


def found(places: HostPaths) -> list[str]:
    """Return the kinds of what was left behind here."""
    return places.let_go.read_text(encoding="utf-8").split() if places.let_go.is_file() else []


def leave(places: HostPaths, kinds: Collection[str]) -> None:
    """Say that these are left behind, too."""
    put(places.let_go, "".join(f"{one}\n" for one in sorted({*found(places), *kinds})))


def use_again(places: HostPaths, *kinds: str) -> None:
    """Say that these are used here; all, where none is named."""
    left = {*found(places)} - {*kinds} if kinds else set()
    if left:
        put(places.let_go, "".join(f"{one}\n" for one in sorted(left)))
    else:
        places.let_go.unlink(missing_ok=True)
