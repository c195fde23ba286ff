"""Shows what a stack has on a host: the files of a release, and the site's as nginx reads them. It changes nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platforms.remote.host.receiving import ENVIRONMENT, RUNTIME
from platforms.remote.host.releases import config_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from platforms.remote.host.paths import HostPaths

#: Bytes of a file beyond which nobody reads what is in it.
LARGEST = 400_000

#: What of a release was made of the project and of the runtime.
MADE_OF = ("tree", RUNTIME)

#: In a release: the digest of its local packages that do not lie in the project.
ABOVE = "above"


def release(places: HostPaths, digest: str, known: Mapping[str, str]) -> dict[str, Any]:
    """Return what a release was made of, as JSON has it; HostError where it is not here.

    `config` is its configuration file, `environment` names its packages, `above` tells its local packages that do not
    lie in the project from others. `files` says of each path what it is: a
    `link`, or a file, `program` or not, with its `digest`, its `size` and its bytes (`text`, base64), but where `known`
    has that digest for the path, or it is larger than LARGEST.
    """
    directory = places.releases / digest
    return {
        "config": json.loads(config_of(places, digest)),
        "environment": os.path.basename(os.readlink(directory / ENVIRONMENT)),  # noqa: PTH115, PTH119 - only its words
        "above": _text(directory / ABOVE),
        "files": {path: _said(directory / path, known.get(path)) for path in sorted(_paths(directory))},
    }


def _text(path: Path) -> str:
    return path.read_text(encoding="ascii") if path.is_file() else ""


def _paths(directory: Path) -> Iterator[str]:
    """Yield what there is of the project and the runtime, links among it, without what Python compiled."""
    for top in MADE_OF:
        for place, directories, files in os.walk(directory / top):
            here = Path(place)
            links = [name for name in directories if (here / name).is_symlink()]
            directories[:] = [name for name in directories if name != "__pycache__"]
            yield from (str((here / name).relative_to(directory)) for name in (*links, *files))


def _said(path: Path, known: str | None) -> dict[str, Any]:
    if path.is_symlink():
        return {"link": os.readlink(path)}  # noqa: PTH115 - as it is written
    held = path.read_bytes()
    digest = hashlib.sha256(held).hexdigest()
    text = {} if digest == known or len(held) > LARGEST else {"text": base64.b64encode(held).decode("ascii")}
    return {"digest": digest, "size": len(held), "program": bool(path.stat().st_mode & 0o100), **text}


def site(places: HostPaths) -> dict[str, str]:
    """Return the texts of the site's file, of the one for other hosts, and of those that they name.

    By their paths, as a configuration has them. What not everybody may read there is none of it: a certificate's key,
    and who the site's users are.
    """
    own = {f"sites-available/{path.name}": path for path in (places.relay_site.with_suffix(""), places.relay_site)}
    beside = {str(path): path for path in sorted(places.own_nginx.rglob("*"))}
    return {
        name: path.read_text(encoding="utf-8", errors="replace")
        for name, path in {**own, **beside}.items()
        if _is_public(path)
    }


def _is_public(path: Path) -> bool:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    return stat.S_ISREG(mode) and bool(mode & stat.S_IROTH)
