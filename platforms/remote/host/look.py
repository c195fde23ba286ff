"""Says what there is on a host, of the machine and of one stack: a JSON object, and nothing is changed by it."""

from __future__ import annotations

import platform
import pwd
import re
import shutil
import socket
import sys
import time
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster_runtime import unfollowed
from cluster_runtime.instance_link import GENERATION, NAME, SERVICES, InstanceLink
from cluster_runtime.unfollowed import printable
from platforms.remote.host import address, broker, credentials, leaving, maintaining, postgres, relaying, renewing
from platforms.remote.host.asking import ask
from platforms.remote.host.releases import SERVED
from platforms.remote.host.running import digest_of, has_user, output, told_by
from platforms.remote.host.walking import holds_files, unless_kept

if TYPE_CHECKING:
    from platforms.remote.host.paths import HostPaths

#: What an instance may be called.
INSTANCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")

#: What a process may be called: by its release, or by its release and what tells it from others of that.
PROCESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

#: Instances, and processes of one, that are looked at: what a directory holds beyond that, no `up` has made.
MOST = 100

#: The distribution's.
NGINX_UNIT = "nginx.service"

#: Of a turn, which may be seconds since the epoch.
DIGITS = 12

DIGEST = re.compile(r"[0-9a-f]{64}")


def look(places: HostPaths, shared_filesystem: str = "") -> dict[str, Any]:
    """Return it. shared_filesystem: where one is to be mounted that the stack's hosts share; empty where none is."""
    machine = _machine(places)
    if shared_filesystem:
        from platforms.remote.host import filesystem  # noqa: PLC0415 - most stacks have none

        machine["filesystem"] = filesystem.found(places, shared_filesystem)
        machine["numbers"] = filesystem.numbers(places)
    stack = _stack(places)
    if stack is not None:
        stack["filesystem"] = _filesystem(places, shared_filesystem, machine)
    return {"machine": machine, "stack": stack}


def _machine(places: HostPaths) -> dict[str, Any]:
    release = platform.freedesktop_os_release()
    nginx = _said("nginx", "-V")
    version = re.search(r"nginx/([0-9]+)\.([0-9]+)\.([0-9]+)", nginx)
    free = {
        str(path): shutil.disk_usage(_there(path)).free for path in (places.state.parent, places.code.parent.parent)
    }
    fullest = min(free, key=lambda path: free[path])
    return {
        "distribution": release.get("ID", ""),
        "codename": release.get("VERSION_CODENAME", ""),
        "architecture": platform.machine(),
        "python": list(sys.version_info[:3]),
        "nginx": [int(one) for one in version.groups()] if version else None,
        "http3": "--with-http_v3_module" in nginx.split() if version else None,
        "systemd": Path("/run/systemd/system").is_dir(),
        "free": free[fullest],
        "fullest": fullest,
        "routers": address.others_routers(places),
        "clock": time.time(),
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
    }


def _there(path: Path) -> Path:
    return next(one for one in (path, *path.parents) if one.is_dir())


def _said(*command: str) -> str:
    try:
        done = output(*command)
    except FileNotFoundError:
        return ""
    return done.stdout + done.stderr


def _stack(places: HostPaths) -> dict[str, Any] | None:
    """Return what there is of the stack; None where it was never here, or its first set-up was killed."""
    if not places.owner.is_file() or not has_user(places):
        return None
    nginx = ask(places.internal, "/-/config")
    units = _units(places)
    its_own = units.pop(NGINX_UNIT, {"state": ""})
    releases = releases_there(places)
    return {
        "owner": places.owner.read_text(encoding="utf-8").strip(),
        "made_by": places.made_by.read_text(encoding="utf-8").strip() if places.made_by.is_file() else "",
        "nginx": nginx if nginx is not None and DIGEST.fullmatch(nginx) else None,
        "nginx_runs": its_own["state"] == "active",
        "nginx_turn": _number(places.turns / "site"),
        "turns": {path.name: _number(path) for path in places.turns.iterdir()} if places.turns.is_dir() else {},
        "maintenance": maintaining.found(places),
        **releases,
        "environments": _kept(places.environments),
        "secrets": credentials.there(places),
        "read_files": [name for name in releases["releases"] if credentials.reads_files(places, name)],
        "units": units,
        "files": {name: digest_of(path) for name, path in places.of_systemd.items()},
        "site": _site(places),
        "relay": relaying.found(places),
        "between": relaying.between(places),
        "database": postgres.found(places),
        "broker": broker.found(places),
        "asks_broker": broker.is_asked(places),
        "renewal": renewing.found(places),
        "address": address.found(places),
        "let_go": leaving.found(places),
        "daemons": {path.name: _daemon(places, path) for path in places.daemons()},
        **told_by(places, lambda: _said_by_processes(places)),
    }


def _filesystem(places: HostPaths, wanted: str, machine: dict[str, Any]) -> dict[str, Any] | None:
    """Return where this host has what the project writes; None where it has it itself.

    wanted: what was looked at for the machine already: one whose server is away takes its time.
    """
    path = places.shared_filesystem()
    if not path:
        return None
    from platforms.remote.host import filesystem  # noqa: PLC0415 - as above

    said = machine["filesystem"] if path == wanted else filesystem.found(places, path)
    token = places.token.read_text(encoding="utf-8").strip() if places.token.is_file() else ""
    return {"path": path, "token": token, "seen": said["token"] == token, "holds": said["holds"]}


def _said_by_processes(places: HostPaths) -> dict[str, Any]:
    """Return what instances and services say, in directories that are their user's: to be read as that user."""
    return {
        "static": unless_kept(lambda: printable(str((places.static / "current").readlink()))),
        "static_turn": _number(places.static / GENERATION),
        "statics": [one.name for one in _directories(places.static)],
        "kept": [path.name for path in _kept_here(places) if holds_files(path)],
        "services": _services(places),
        "instances": {one.name: _instance(places, one) for one in _directories(places.sockets)},
    }


def _kept_here(places: HostPaths) -> tuple[Path, ...]:
    """Return the directories of what outlives releases and is on this host alone."""
    return (places.data, places.shared, places.sessions, places.kept_by("broker"))


def _directories(top: Path) -> list[Path]:
    """Return the directories of instances or services in a directory, which their user may have made anything of."""

    def found() -> list[Path]:
        if top.is_symlink():
            return []
        named = islice((one for one in top.iterdir() if INSTANCE.fullmatch(one.name)), MOST)
        return sorted(one for one in named if one.is_dir() and not one.is_symlink())

    return unless_kept(found) or []


def _instance(places: HostPaths, directory: Path) -> dict[str, Any]:
    """Return what an instance's directory says; nothing where its own user keeps it from being read.

    Whatever that user makes of it, the next release must be able to replace it.
    """
    link = InstanceLink(places.sockets, directory.name)
    return {
        "holder": unless_kept(link.holder),
        "turn": _number(directory / GENERATION),
        "given": unless_kept(link.given),
        "answers": _answers(directory / NAME),
        "said": _said_in(link),
    }


def _said_in(link: InstanceLink) -> dict[str, Any]:
    """Return what processes say of themselves; no more of them are asked than there can be."""
    found = islice(link.directory.glob("*.json"), MOST)
    names = [path.name.removesuffix(".json") for path in unless_kept(lambda: list(found)) or ()]
    told = {name: unless_kept(partial(link.status, name)) for name in names if PROCESS.fullmatch(name)}
    return {name: said for name, said in told.items() if said is not None}


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (TimeoutError, BlockingIOError):
            return True  # its backlog is full: it hangs, or has much to do
        except OSError:
            return False
    return True


def _number(path: Path) -> int:
    try:
        text = unfollowed.read(path).strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() and len(text) <= DIGITS else 0


def releases_there(places: HostPaths) -> dict[str, list[str]]:
    """Return the releases that are there, and those of them that have served, the latest last.

    All of them, where none has a mark: a host that had releases before there were marks.
    """
    there = _kept(places.releases)
    served = [name for name in there if (places.releases / name / SERVED).is_file()]
    return {"releases": there, "served": served or there}


def _kept(directory: Path) -> list[str]:
    """Return what was made here whole, the latest last."""
    made = [one for one in directory.iterdir() if not one.name.startswith(".")] if directory.is_dir() else []
    return [one.name for one in sorted(made, key=lambda one: one.stat().st_mtime)]


def _units(places: HostPaths) -> dict[str, dict[str, Any]]:
    """Return what systemd says of the stack's units and of nginx's, by their names."""
    names = "Id,ActiveState,SubState,MainPID,StatusText,NRestarts"
    listed = _said("systemctl", "show", NGINX_UNIT, *places.patterns, f"--property={names}", "--all")
    found: dict[str, dict[str, Any]] = {}
    for block in listed.split("\n\n"):
        said = dict(line.partition("=")[::2] for line in block.splitlines() if "=" in line)
        if said.get("Id"):
            found[said["Id"]] = {
                "state": said.get("ActiveState", ""),
                "sub": said.get("SubState", ""),
                "pid": int(said.get("MainPID") or 0),
                "told": printable(said.get("StatusText", "")),
                "restarts": int(said.get("NRestarts") or 0),
            }
    for unit in places.enabled():
        found.setdefault(unit, {"state": "inactive", "sub": "", "pid": 0, "told": "", "restarts": 0})
        found[unit]["enabled"] = True
    return found


def _daemon(places: HostPaths, unit: Path) -> dict[str, Any]:
    """Return what is to be said of a program of the distribution's: its state, and by which unit it was started."""
    name = unit.name.removeprefix(f"{places.name}.").removesuffix(".service")
    state = _said("systemctl", "is-active", unit.name).strip()
    return {"state": state, "unit": digest_of(unit), "started": digest_of(places.started(name))}


def _services(places: HostPaths) -> dict[str, dict[str, Any]]:
    """Return what each process beside the instances says of itself, by its service and its generation."""
    top = places.sockets / SERVICES
    return {one.name: _said_in(InstanceLink(top, one.name)) for one in _directories(top)}


def _site(places: HostPaths) -> dict[str, str]:
    """Return a digest of each of nginx's files of the stack, and where its links lead, by their paths."""
    enabled, available = places.nginx / "sites-enabled", places.nginx / "sites-available"
    found = [*enabled.glob(f"zz-{places.name}"), *available.glob(f"zz-{places.name}"), *places.own_nginx.rglob("*")]
    return {
        _called(places, path): str(path.readlink()) if path.is_symlink() else digest_of(path)
        for path in found
        if path.is_symlink() or path.is_file()
    }


def _called(places: HostPaths, path: Path) -> str:
    """Return the path of one of nginx's files as a configuration has it: what its site names is absolute."""
    return str(path if path.is_relative_to(places.own_nginx) else path.relative_to(places.nginx))


#: What /proc/net/tcp calls a socket that listens, and the columns of its address, its state and its user.
LISTENING, ADDRESS, STATE, USER = "0A", 1, 3, 7


def listening(places: HostPaths, asked: int) -> list[int]:
    """Return the ports on which the instances' user listens, but a broker's that others ask: only nginx should.

    asked: the broker's, where only root sees it; 0 where there is none.
    """
    if not has_user(places):
        return []
    user = str(pwd.getpwnam(places.name).pw_uid)
    ports = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text(encoding="ascii").splitlines()[1:] if table.exists() else ():
            words = line.split()
            if words[STATE] == LISTENING and words[USER] == user:
                ports.add(int(words[ADDRESS].rpartition(":")[2], 16))
    return sorted(ports - {asked})
