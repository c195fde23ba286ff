"""Tells which ports other files of nginx listen on: of two servers of one name on a port, nginx leaves one out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from platforms.remote.host.running import HostError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from platforms.remote.host.paths import HostPaths

#: A port of the network; a socket's path has none.
_LISTEN = re.compile(r"^\s*listen\s+(?!unix:)(?:\S+:)?([0-9]+)[\s;]", re.MULTILINE)


def listened(texts: Iterable[str]) -> set[int]:
    """Return the ports on which these files listen, at whatever address."""
    return {int(port) for text in texts for port in _LISTEN.findall(text)}


def check_relay_ports(places: HostPaths, files: Iterable[str]) -> None:
    """Refuse ports for other hosts on which another site of this nginx listens: who asks it would get that one.

    files: the texts of what is to listen. HostError names the port and the site.
    """
    wanted = listened(files)
    for path in _others(places):
        taken = sorted(wanted & listened([path.read_text(encoding="utf-8", errors="replace")]))
        if taken:
            raise HostError(
                f"nginx listens on port {taken[0]} for {path.relative_to(places.nginx)} already: "
                "say other ones in upstream.relay_port"
            )


def _others(places: HostPaths) -> Iterator[Path]:
    """Return the files of what nginx does here beside the stack's own relay."""
    own = {places.relay_site.name}
    enabled = [path for path in sorted((places.nginx / "sites-enabled").glob("*")) if path.name not in own]
    yield from (path for path in (*enabled, *sorted((places.nginx / "conf.d").glob("*.conf"))) if path.is_file())
    for relay in enabled:
        if relay.name.startswith("zz-cluster-") and relay.suffix == ".relay":
            directory = places.nginx / relay.stem.removeprefix("zz-")
            yield from sorted(path for path in directory.rglob("*.conf") if path.is_file())
