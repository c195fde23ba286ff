"""A broker that instances on other hosts ask by TLS, and who of the network gets to it.

It asks for a password, and the kernel lets nobody in but the hosts that run instances. systemd gives it its key, which
only root reads where it lies. What it is otherwise, `daemons` says: one that other hosts don't ask has a socket alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from typing import TYPE_CHECKING, Any

from cluster_runtime.secret_files import BROKER_SECRET
from platforms.remote.host import credentials, daemons, guarding, leaving
from platforms.remote.host.running import certificates_in, is_active, is_so, put

if TYPE_CHECKING:
    from platforms.remote.host.paths import HostPaths

#: Of what it is given: its certificate.
CERTIFICATE = "certificate.pem"


def make(places: HostPaths, wanted: dict[str, Any]) -> None:
    """Let the broker be as it should; HostError where it can't.

    wanted: as `daemons.start` has it of one, and `port`, `listen` (addresses beside the host's own), `allowed`
    (addresses of hosts that run instances; none: this host alone), and `given`, texts by the names of their files.
    """
    before = _told(places)
    if not (is_active(places.daemon(wanted["name"]).name) and before["port"] == wanted["port"]):
        guarding.check_port(wanted["port"], "broker.port")
    # What still serves on a host that is to have no instances any more asks until `shut_out`.
    left = [one for one in [*before["allowed"], *before["left"]] if one not in wanted["allowed"]]
    told = {key: wanted[key] for key in ("name", "port", "listen", "allowed")}
    told |= {"digest": digest(wanted), "given": given_digest(wanted), "left": sorted({*left})}
    leaving.use_again(places, wanted["name"])
    _give(places, wanted)
    _guard(places, told)
    daemons.start(places, [{**wanted, "filled": False}])
    put(places.broker_told, json.dumps(told))


def _give(places: HostPaths, wanted: dict[str, Any]) -> None:
    """Put what it is given in place; it reads that when it starts."""
    directory, files = places.broker_given, wanted["given"]
    if all(is_so(directory / name, text, credentials.FILE) for name, text in files.items()):
        return
    credentials.check(places)
    places.started(wanted["name"]).unlink(missing_ok=True)  # it is started again, by whoever comes next too
    directory.parent.parent.mkdir(mode=0o755, exist_ok=True)
    for path in (directory.parent, directory):
        path.mkdir(mode=credentials.DIRECTORY, exist_ok=True)
        path.chmod(credentials.DIRECTORY)
    for name, text in files.items():
        put(directory / name, text, credentials.FILE)


def shut_out(places: HostPaths) -> None:
    """Let hosts get there no more that had instances before the last `make`, and have none now."""
    told = _told(places)
    if places.broker_told.is_file() and told["left"]:
        told |= {"left": []}
        _guard(places, told)
        put(places.broker_told, json.dumps(told))


def _guard(places: HostPaths, told: dict[str, Any]) -> None:
    admitted = [*told["allowed"], *told["left"]]
    if admitted or told["listen"]:
        guarding.guard(places.broker_guard, told["port"], admitted)
    else:
        guarding.unguard(places.broker_guard)


def _told(places: HostPaths) -> dict[str, Any]:
    """Return what was made the last time: nothing of it is a secret."""
    found: dict[str, Any] = {"name": "", "digest": "", "given": "", "port": 0, "listen": [], "allowed": [], "left": []}
    with contextlib.suppress(OSError, ValueError):
        found |= json.loads(places.broker_told.read_text(encoding="utf-8"))
    return found


def digest(wanted: dict[str, Any]) -> str:
    """Return what tells one wish from another, with none of its secrets."""
    shown = {key: value for key, value in wanted.items() if key not in {"given", "ping"}}
    return _digest({**shown, "given": given_digest(wanted)})


def given_digest(wanted: dict[str, Any]) -> str:
    """Return what tells what it is given from something else, without secrets: it is started again for that."""
    return _digest({name: text for name, text in wanted["given"].items() if not name.endswith(".key")})


def _digest(told: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def found(places: HostPaths) -> dict[str, Any] | None:
    """Return what is to be said of it; None where none was made to be asked by TLS."""
    if not places.broker_told.is_file():
        return None
    told = _told(places)
    guarded = not (told["allowed"] or told["left"] or told["listen"]) or guarding.holds(places.broker_guard)
    shown = next(iter(certificates_in(places.broker_given / CERTIFICATE)), "")
    whole = _given_now(places) == told["given"]
    return {"digest": told["digest"], "safe": guarded, "whole": whole, "left": told["left"], "shown": shown}


def is_asked(places: HostPaths) -> bool:
    """Tell whether instances here ask for a broker by TLS, as far as they have secrets."""
    return any((places.credentials / release / BROKER_SECRET).is_file() for release in credentials.there(places))


def port(places: HostPaths) -> int:
    """Return the port at which it is asked by TLS; 0 where there is none."""
    return int(_told(places)["port"])


def _given_now(places: HostPaths) -> str:
    """Return the digest of what it is given, as it is there; empty where something else or nothing is."""
    files = [*places.broker_given.iterdir()] if places.broker_given.is_dir() else []
    texts = {path.name: path.read_text(encoding="utf-8") for path in files}
    modes = {path.stat().st_mode & 0o777 for path in files}
    is_whole = any(name.endswith(".key") for name in texts) and modes == {credentials.FILE}
    return given_digest({"given": texts}) if is_whole else ""


def forget(places: HostPaths) -> None:
    """Let nobody ask for it by TLS any more; what it keeps stays."""
    guarding.unguard(places.broker_guard)
    places.broker_told.unlink(missing_ok=True)
    if places.broker_given.is_dir():
        shutil.rmtree(places.broker_given)
        credentials.leave_nothing(places)
