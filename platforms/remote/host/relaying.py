"""What a host's nginx does for other hosts: its files, which are put in place as the site's are."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

from platforms.remote.host import site
from platforms.remote.host.asking import ask
from platforms.remote.host.paths import AUTHORITY, CERTIFICATE
from platforms.remote.host.ports import check_relay_ports
from platforms.remote.host.running import certificates_in

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from platforms.remote.host.paths import HostPaths

#: Stands in the text for the digest while it is being computed (cluster.render.internal).
DIGEST_PLACE = "0" * 64

_TOLD = re.compile(r"[0-9a-f]{64}")


def deliver(places: HostPaths, wanted: dict[str, Any]) -> None:
    """Put it in place. Ports that are not named stay as they are: who asks there is told later.

    wanted: `files`, `private` and `polite`, as `site.swap` has them; the digest is made here.
    """
    check_relay_ports(places, wanted["files"].values())
    kept = {str(path): path.read_text(encoding="utf-8") for path in _files(places)}
    _swap(places, {**kept, **wanted["files"]}, wanted["private"], polite=wanted["polite"], gone=())


def trim(places: HostPaths, ports: Collection[str], *, polite: bool) -> None:
    """Let go of other ports than these; of all that is done for other hosts where none is named."""
    if not ports:
        site.take_away(places, places.relay_site.name)
        for path in _files(places):
            path.unlink()
        return
    gone = [path for path in _files(places) if path.stem not in ports]
    if gone:
        files = {name: text for name, text in _texts(places).items() if name not in map(str, gone)}
        _swap(places, files, {}, polite=polite, gone=map(str, gone))


def _swap(places: HostPaths, files: Mapping[str, str], private: Mapping[str, str], *, polite: bool, gone: Any) -> None:
    shown = dict(private) or _shown(places)
    digest = _digest({**files, **shown})
    name = f"sites-enabled/{places.relay_site.name}"
    wanted = {
        "files": {path: text.replace(DIGEST_PLACE, digest) for path, text in files.items()},
        "private": shown,
        "links": {name: f"../sites-available/{places.relay_site.name}"},
        "digest": digest,
        "polite": polite,
        "gone": list(gone),
    }
    site.swap(places, wanted, places.relay_internal)


def _files(places: HostPaths) -> list[Path]:
    return sorted(places.relay_files.glob("*.conf"))


def _shown(places: HostPaths) -> dict[str, str]:
    return {str(path): path.read_text(encoding="ascii") for path in sorted(places.shown.glob("*"))}


def _texts(places: HostPaths) -> dict[str, str]:
    """Return its files as they were before the digest was put in, by their paths as a configuration has them."""
    main = places.relay_site
    found = {str(path): path.read_text(encoding="utf-8") for path in _files(places)}
    if main.is_file():
        text = _TOLD.sub(DIGEST_PLACE, main.read_text(encoding="utf-8"))
        found[str(main.relative_to(places.nginx))] = text
    return found


def _digest(texts: Mapping[str, str]) -> str:
    told = [f"{path}\0{text}" for path, text in sorted(texts.items())]
    return hashlib.sha256("\0".join(told).encode()).hexdigest()


def between(places: HostPaths) -> dict[str, Any]:
    """Return digests of what this host shows other hosts and whom it believes, as far as nginx or instances use it."""
    sites = [places.nginx / "sites-enabled" / name for name in (places.relay_site.name, f"zz-{places.name}")]
    texts = [path.read_text(encoding="utf-8") for path in (*sites, *_files(places)) if path.exists()]
    used = any(str(places.shown) in text for text in texts)
    return {
        "shown": next(iter(certificates_in(places.shown / CERTIFICATE)), "") if used else "",
        "believed": certificates_in(places.shown / AUTHORITY) if used else [],
        "instances": certificates_in(places.authority) if places.unit.is_file() else [],
    }


def found(places: HostPaths) -> dict[str, Any]:
    """Return a digest of each of its files, and whether nginx runs just these and would do so again."""
    texts = _texts(places)
    link = places.nginx / "sites-enabled" / places.relay_site.name
    runs = (
        bool(texts)
        and link.exists()
        and ask(places.relay_internal, "/-/config") == _digest({**texts, **_shown(places)})
    )
    return {"files": {path: hashlib.sha256(text.encode()).hexdigest() for path, text in texts.items()}, "runs": runs}
