"""Keeps a host's certificate by ACME: the unit of its renewer, and what lets nginx load what that has put in place.

The renewer has a user that is there while it runs (DynamicUser), and that user's directory: systemd makes it, and gives
it to the renewer alone. nginx's master, which is root, reads it as well.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from typing import TYPE_CHECKING, Any

from cluster_runtime import unfollowed
from cluster_runtime.untrusted_json import object_in
from platforms.remote.host.asking import ask
from platforms.remote.host.running import HostError, alone, is_active, output, put, run
from platforms.remote.host.site import TAKEN_WITHIN, reload_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from platforms.remote.host.paths import HostPaths

#: Where nginx tells which certificate it has read (cluster.render.acme).
LOCATION = "/-/certificate"

#: In the renewer's directory: what nginx reads beside the certificate, and what the renewer says (cluster.acme.kept).
MAP, SAID = "acme.map", "renewal.json"

SECRET = 0o600


def renew(places: HostPaths, wanted: dict[str, Any]) -> None:
    """Let the renewer run as it should; return when nginx can start. HostError where that is not so in time.

    wanted: `renewer`, the digest of its packages; `units`, texts by their names as in `HostPaths.renewer_units`;
    `given`, what it alone is to read, texts by the files' names; `seconds` that it has.
    """
    _give(places, wanted["given"])
    units, told = places.renewer_units, digest_of_start(wanted["units"], wanted["given"])
    changed = [name for name, text in wanted["units"].items() if put(units[name], text)]
    if changed:
        run("systemctl", "daemon-reload")
    unit, path = units["renewer"].name, units["path"].name
    if not is_active(unit) or _started(places) != told:
        run("systemctl", "enable", "--quiet", unit)
        run("systemctl", "restart", unit, problem="what keeps the certificate can't be started")
    _await(places, unit, wanted["seconds"])
    # Now that there is what it looks at.
    run("systemctl", "enable", "--quiet", path)
    run("systemctl", "restart" if "path" in changed else "start", path)
    run("systemctl", "start", "--no-block", units["load"].name)
    put(places.started(unit), told)
    for one in places.renewers.iterdir():
        if one.name != wanted["renewer"]:
            shutil.rmtree(one)


def _give(places: HostPaths, given: dict[str, str]) -> None:
    """Write what systemd gives the renewer, and nobody else reads."""
    places.account.mkdir(mode=0o700, exist_ok=True)
    for name, text in given.items():
        put(places.account / name, text, SECRET)
    for path in places.account.iterdir():
        if path.name not in given:
            path.unlink()


def _await(places: HostPaths, unit: str, seconds: float) -> None:
    """Wait until the renewer has put a certificate in place, if it is one that nobody believes."""
    deadline = time.monotonic() + seconds
    while not (is_active(unit) and kept(places)):
        if time.monotonic() > deadline:
            log = output("journalctl", "--unit", unit, "--output=cat", "--lines", "5").stdout.strip()
            raise HostError(f"what keeps the certificate has made none within {seconds:g} s:\n{log}")
        time.sleep(0.1)


def _started(places: HostPaths) -> str:
    path = places.started(places.renewer_units["renewer"].name)
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def digest_of_start(units: Mapping[str, str], given: Mapping[str, str]) -> str:
    """Return what tells from others how a renewer was started. A key of an account is in it: nobody guesses that."""
    return hashlib.sha256(json.dumps([dict(units), dict(given)], sort_keys=True).encode()).hexdigest()


def kept(places: HostPaths) -> str:
    """Return what nginx tells once it has read the certificate that is there; empty where none is."""
    lines = _read(places.acme / MAP).splitlines()
    return " ".join(line.rpartition(" ")[2].rstrip(";") for line in lines)


def _read(path: Path) -> str:
    """Return a file of the renewer's; empty where there is none that can be read."""
    try:
        return unfollowed.read(path).decode()
    except (OSError, UnicodeDecodeError):
        return ""


def load(places: HostPaths, *, polite: bool) -> None:
    """Let nginx load the certificate that is there, where it runs; HostError where it does not."""
    with alone(places.lock):
        while (told := ask(places.internal, LOCATION)) is not None and (wanted := kept(places)) and told != wanted:
            if not reload_until(places, lambda: ask(places.internal, LOCATION) == kept(places), polite=polite):
                raise HostError(f"nginx has not loaded the certificate within {TAKEN_WITHIN:g} s")


def found(places: HostPaths) -> dict[str, Any]:
    """Return what there is of the renewer, what it says, and which certificate nginx has read."""
    units = places.renewer_units
    return {
        "units": {
            name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in units.items() if path.is_file()
        },
        "started": _started(places),
        "active": [name for name, path in units.items() if path.is_file() and is_active(path.name)],
        "enabled": [name for name, path in units.items() if (places.started_at_boot / path.name).is_symlink()],
        "sent": sorted(path.name for path in places.renewers.iterdir()) if places.renewers.is_dir() else [],
        **said(places),
    }


def said(places: HostPaths) -> dict[str, Any]:
    """Return what the renewer says, which is nobody's word but its own, and which certificate nginx has read."""
    told, found = ask(places.internal, LOCATION), object_in(_read(places.acme / SAID)) or {}
    return {
        "said": {name: unfollowed.printable(one) if isinstance(one, str) else one for name, one in found.items()},
        "told": None if told is None else unfollowed.printable(told),
    }


def forget(places: HostPaths) -> None:
    """Keep no certificate any more; those that are there stay, since authorities give few a week."""
    there = {name: path for name, path in places.renewer_units.items() if path.is_file()}
    if there:
        run("systemctl", "disable", "--now", "--quiet", *(path.name for path in there.values()))
        for path in there.values():
            path.unlink()
        run("systemctl", "daemon-reload")
    places.started(places.renewer_units["renewer"].name).unlink(missing_ok=True)
    for directory in (places.account, places.renewers):
        shutil.rmtree(directory, ignore_errors=True)


def forget_certificates(places: HostPaths) -> None:
    """Remove the certificates and their keys, too."""
    shutil.rmtree(places.acme_kept, ignore_errors=True)
