"""Lets this host be one of those that hold the site's address in turn: a keepalived of the stack's own.

It has its own unit and files. The distribution's service and its keepalived.conf, which may be somebody else's, stay.
Hosts tell each other by VRRP, from address to address (RFC 9568), who holds it; nobody else is heard.

Source: keepalived.conf(5).
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platforms.remote.host.asking import ask
from platforms.remote.host.installing import install, nothing_starts
from platforms.remote.host.paths import NGINX_USER
from platforms.remote.host.running import HostError, digest_of, is_active, output, put, run

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from platforms.remote.host.paths import HostPaths

#: Seconds between two times that a host says that it holds the address. Another one takes it where three of these have
#: gone by, and a little more, so that hosts come one after another.
ADVERTISED = 0.3

#: How keepalived asks whether nginx answers: seconds between, and how often no answer or an answer count.
ASKED_EVERY, FAILED_AFTER, WELL_AFTER = 1, 2, 2

#: Seconds that who asks may take: where he waits for a processor himself, that says nothing of nginx. How long nginx
#: may take is his to say (`answers`).
ASKED_WITHIN = 5

#: Seconds that a host has to take an address that nobody holds, and to read its configuration again.
SETTLED_WITHIN, READ_WITHIN = 4.0, 1.5

#: In the stack's directory: what keepalived reads, what it asks nginx by, and what this host was told.
CONFIG, ANSWERS, TOLD = "keepalived.conf", "answers", "told.json"

#: Heard by nobody: keepalived without any other host would tell the whole network.
NOBODY = {4: "127.0.0.1", 6: "::1"}

#: Of instances of VRRP in a keepalived's configuration.
_ROUTER = re.compile(r"^\s*virtual_router_id\s+([0-9]+)", re.MULTILINE)

PROGRAM = 0o755


def hold(places: HostPaths, wanted: dict[str, Any]) -> None:
    """Let this host take the address where no other one holds it; HostError where it can't.

    wanted: `addresses`, the first of the kind by which hosts hear each other; `own`, this host's, and those of the
    others, `peers`; `priority`, which another host does not have; `router`, the number that tells this from other
    addresses; `interface` (null: by its routes); `unit`, `answers`: texts. A change moves no address.
    """
    if shutil.which("keepalived") is None:
        with nothing_starts():
            install("keepalived")
    _check_others(places, wanted)
    before = _told(places)
    # One that is to hold it no more does so until it has let go.
    left = [one for one in [*before["peers"], *before["left"]] if one not in {*wanted["peers"], wanted["own"]}]
    told = {**{key: value for key, value in wanted.items() if key not in {"unit", "answers"}}, "left": sorted({*left})}
    put(places.address / ANSWERS, wanted["answers"], PROGRAM)
    changed = _write(places, told)
    unit, started = places.address_unit, places.started(places.address_unit.name)
    if put(unit, wanted["unit"]):
        run("systemctl", "daemon-reload")
    run("systemctl", "enable", "--quiet", unit.name)
    same = started.is_file() and started.read_text(encoding="utf-8") == wanted["unit"]
    if not same or not is_active(unit.name):
        run("systemctl", "restart", unit.name, problem="keepalived can't be started")
        _await_holder(told["addresses"], SETTLED_WITHIN)
    elif changed:
        run("systemctl", "reload", unit.name, problem="keepalived does not read its configuration")
        time.sleep(READ_WITHIN)
    if not is_active(unit.name):
        log = output("journalctl", "--unit", unit.name, "--output=cat", "--lines", "5").stdout.strip()
        raise HostError(f"keepalived does not run:\n{log}")
    put(started, wanted["unit"])
    for gone in {*before["addresses"]} - {*told["addresses"]}:
        _take_off(gone)
    files = {str(path): digest_of(path) for path in (places.address / CONFIG, places.address / ANSWERS, unit)}
    put(places.address / TOLD, json.dumps({**told, "digest": digest(wanted), "files": files}))


def _check_others(places: HostPaths, wanted: Mapping[str, Any]) -> None:
    """Refuse what somebody else has on this host."""
    for path, text in _others(places):
        if str(wanted["router"]) in _ROUTER.findall(text):
            raise HostError(f"virtual_router_id {wanted['router']} is {path}'s; say `up` again")
        for one in wanted["addresses"]:
            if re.search(rf"(?<![\w.:]){re.escape(one)}(?![\w.:])", text):
                raise HostError(f"site.address: {one} is held by {path} already: choose another one")
    own = places.address / CONFIG
    kept = own.read_text(encoding="utf-8") if own.is_file() else ""
    for one in wanted["addresses"]:
        if f"{_alone(one)} dev" not in kept and is_held(one):
            raise HostError(f"site.address: {one} is this host's already, and not by keepalived: take it off there")


def part(places: HostPaths) -> None:
    """Hear hosts no more that are to hold the address no more: by now they have let go."""
    told = _told(places)
    if not told["left"] or not is_active(places.address_unit.name):
        return
    told["left"] = []
    _write(places, told)
    run("systemctl", "reload", places.address_unit.name, problem="keepalived does not read its configuration")
    told["files"][str(places.address / CONFIG)] = digest_of(places.address / CONFIG)
    put(places.address / TOLD, json.dumps(told))


def leave(places: HostPaths) -> None:
    """Give the address up, and be none of its hosts any more. Where it is held, clients' connections close before."""
    unit = places.address_unit
    if unit.is_file():
        run("systemctl", "disable", "--now", "--quiet", unit.name)
        unit.unlink()
        run("systemctl", "daemon-reload")
    for one in _told(places)["addresses"]:
        _take_off(one)
    places.started(unit.name).unlink(missing_ok=True)
    shutil.rmtree(places.address, ignore_errors=True)


def found(places: HostPaths) -> dict[str, Any] | None:
    """Return what there is of it; None where this host is none of those that hold an address."""
    if not places.address_unit.is_file() and not places.address.is_dir():
        return None
    told, name = _told(places), places.address_unit.name
    started = places.started(name)
    text = started.read_text(encoding="utf-8") if started.is_file() else ""
    return {
        "digest": told["digest"],
        "router": told["router"],
        "left": told["left"],
        "active": is_active(name),
        "enabled": (places.started_at_boot / name).is_symlink(),
        "unit": hashlib.sha256(text.encode()).hexdigest(),
        "edited": [path for path, digest_ in told["files"].items() if digest_of(Path(path)) != digest_],
        "held": [one for one in told["addresses"] if is_held(one)],
        "answers": ask(places.internal, "/-/config") is not None,
    }


def digest(wanted: Mapping[str, Any]) -> str:
    """Return what tells one wish from another."""
    return hashlib.sha256(json.dumps(dict(wanted), sort_keys=True).encode()).hexdigest()


def others_routers(places: HostPaths) -> dict[str, str]:
    """Return the numbers of what else holds addresses here, each with the file that says it."""
    return {number: str(path) for path, text in _others(places) for number in _ROUTER.findall(text)}


def _others(places: HostPaths) -> Iterator[tuple[Path, str]]:
    """Yield what other keepalived read here: the distribution's, and those of other stacks."""
    files = sorted((places.root / "etc/keepalived").rglob("*.conf"))
    files += sorted(places.state.parent.glob(f"cluster-*/{places.address.name}/{CONFIG}"))
    own = places.address / CONFIG
    yield from (
        (path, path.read_text(encoding="utf-8", errors="replace")) for path in files if path != own and path.is_file()
    )


def is_held(address: str) -> bool:
    """Tell whether this host has an address."""
    return bool(_interface_of(address))


def _told(places: HostPaths) -> dict[str, Any]:
    """Return what this host was told the last time."""
    kept: dict[str, Any] = {"digest": "", "router": 0, "addresses": [], "peers": [], "left": [], "files": {}}
    with contextlib.suppress(OSError, ValueError):
        kept |= json.loads((places.address / TOLD).read_text(encoding="utf-8"))
    return kept


def _write(places: HostPaths, told: Mapping[str, Any]) -> bool:
    """Write what keepalived reads, once that has accepted it; tell whether it is another one than before."""
    text = "\n".join(_text(places, told, _network_interface(told))) + "\n"
    tried = places.address / f"{CONFIG}.new"
    put(tried, text)
    try:
        checked = output("keepalived", "--config-test", f"--use-file={tried}")
    finally:
        tried.unlink()
    said = (checked.stdout + checked.stderr).strip()
    if checked.returncode != 0 and said:  # Debian 12's ends a check with a signal, and says nothing, where all is well
        raise HostError(f"keepalived refuses its configuration:\n{said}")
    return put(places.address / CONFIG, text)


def _text(places: HostPaths, told: Mapping[str, Any], interface: str) -> Iterator[str]:
    """Yield the lines of keepalived's configuration. None of the hosts takes the address back: a move has its price."""
    by = _interface_of(told["own"])
    if not by:
        raise HostError(f"{told['own']}, by which other hosts know this one, is no address of its own")
    first, *more = told["addresses"]
    others = [*told["peers"], *told["left"]] or [NOBODY[ipaddress.ip_address(told["own"]).version]]
    yield from (
        "# Made by django-cluster: what is changed here is put back by the next `cluster up`.",
        "global_defs {",
        f"    router_id {places.name}",
        "    vrrp_version 3",
        "    enable_script_security",
        f"    script_user {NGINX_USER} {NGINX_USER}",
        "}",
        "vrrp_script answers {",
        f'    script "{places.address / ANSWERS} {places.internal}"',
        *(f"    interval {ASKED_EVERY}", f"    timeout {ASKED_WITHIN}"),
        *(f"    fall {FAILED_AFTER}", f"    rise {WELL_AFTER}"),
        "    init_fail",
        "}",
        f"vrrp_instance {places.table} {{",
        *("    state BACKUP", "    nopreempt"),
        f"    interface {by}",
        f"    virtual_router_id {told['router']}",
        f"    priority {told['priority']}",
        f"    advert_int {ADVERTISED}",
        "    check_unicast_src",
        f"    unicast_src_ip {told['own']}",
        *("    unicast_peer {", *(f"        {one}" for one in others), "    }"),
        *("    virtual_ipaddress {", f"        {_alone(first)} dev {interface}", "    }"),
    )
    if more:
        held = [f"        {_alone(one)} dev {interface}" for one in more]
        yield from ("    virtual_ipaddress_excluded {", *held, "    }")
    if interface != by:
        yield from ("    track_interface {", f"        {interface}", "    }")
    yield from ("    track_script {", "        answers", "    }", "}")


def _alone(address: str) -> str:
    """Return an address with the prefix of its own alone: the network is there already, by the host's own address."""
    return str(ipaddress.ip_interface(address))


def _network_interface(told: Mapping[str, Any]) -> str:
    """Return the interface that gets the address: the one that is said, or the one on whose network it is."""
    if told["interface"] is not None:
        if not _routes("link", "show", "dev", told["interface"]):
            raise HostError(f"hosts[].interface: there is no interface {told['interface']}")
        return str(told["interface"])
    found = {_on_its_network(one) for one in told["addresses"]}
    if len(found) > 1:
        raise HostError("the two addresses are on two networks of this host: say hosts[].interface")
    return found.pop()


def _on_its_network(address: str) -> str:
    family = f"-{ipaddress.ip_address(address).version}"
    routes = [one for one in _routes(family, "route", "show", "match", address) if "dst" in one]
    nearest = max(routes, key=_prefix, default={})
    if "dev" not in nearest or "gateway" in nearest or "via" in nearest:
        way = nearest.get("gateway") or "nothing"
        raise HostError(
            f"site.address: {address} is on no network of this host's (what leads there is {way}): hosts that share an "
            "address are on its network, or say by which interface it is reached (hosts[].interface)"
        )
    return str(nearest["dev"])


def _prefix(route: Mapping[str, Any]) -> int:
    return 0 if route["dst"] == "default" else ipaddress.ip_network(route["dst"]).prefixlen


def _interface_of(address: str) -> str:
    """Return the interface that has an address; empty where none has."""
    found = [one for one in _routes("address", "show", "to", address) if one.get("ifname")]
    return str(found[0]["ifname"]) if found else ""


def _routes(*words: str) -> Sequence[Mapping[str, Any]]:
    done = output("ip", "-json", *words)
    if done.returncode != 0:
        return ()
    found: Sequence[Mapping[str, Any]] = json.loads(done.stdout or "[]")
    return found


def _take_off(address: str) -> None:
    """See that this host does not have an address that a keepalived which was killed has left."""
    interface = _interface_of(address)
    if interface:
        output("ip", "address", "del", _alone(address), "dev", interface)


def _await_holder(addresses: Collection[str], seconds: float) -> None:
    """Wait until this host holds the address, or has left it to another one."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not all(map(is_held, addresses)):
        time.sleep(0.1)
