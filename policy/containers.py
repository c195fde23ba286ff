"""Rules of containers: those that the engine makes, those that a command's script makes, and systemd's units."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from policy.resources import COMMANDS, CONTAINER, INSTANCE_LABEL, Breach
from policy.scripts import engine_options, setting, told, units

if TYPE_CHECKING:
    from collections.abc import Iterator

    from policy.resources import Breaches, Resource, Site
    from policy.scripts import Option

#: The component whose nginx everybody may reach, and what that is called.
SITE, NGINX = "cluster:index:NginxSite", "nginx"

#: The component that makes the database, which on a host is told where to listen.
DATABASE = "cluster:index:Database"

#: What a store is called, in a container's role, name, image or command.
STORE = re.compile(
    r"(?<![a-z])(broker|memcached|memcache|postgres|postgresql|pgbouncer|mysql|mysqld|mariadb|mariadbd|redis|valkey|mongo|mongod)"
    r"(?:-server)?(?![a-z])"
)

#: Ports by which stores are known.
STORE_PORTS = frozenset({11211, 5432, 6432, 3306, 6379, 27017})

#: The address of the machine itself.
LOOPBACK = re.compile(r"^(127\.\d+\.\d+\.\d+|::1|\[::1\]|localhost)$")

ROOT = re.compile(r"^(0+|root)(:.*)?$")

#: Sockets by which whoever has them is root.
ENGINE_SOCKET = re.compile(r"/(docker|podman|containerd)\.sock$|/run/containerd\b")


def published_ports(resource: Resource, _site: Site) -> Breaches:
    """Look for ports that are published; nginx's are for everybody."""
    if resource.type == CONTAINER:
        if not _is_nginx(resource):
            yield from (Breach(f"publishes {words}") for words in _ports(resource))
        yield from _on_host(resource)
    for option in _asked(resource):
        if option.name in ("-p", "--publish"):
            yield Breach(f"publishes a port of a container ({option.text})", "--publish")
        elif option.name in ("-P", "--publish-all"):
            yield Breach("publishes all ports of a container", "--publish-all")
        elif option.name in ("--network", "--net") and option.value == "host":
            yield Breach("starts a container on the host's own network", "--network host")


def _is_nginx(resource: Resource) -> bool:
    return (resource.component, resource.part, resource.role) == (SITE, NGINX, NGINX)


def _ports(resource: Resource) -> Iterator[str]:
    for port in resource.entries("ports"):
        where = port.get("ip") or "every address"
        where = "every address" if where in ("0.0.0.0", "::") else where  # noqa: S104 - told, not listened on
        by = "" if port.get("protocol") in (None, "tcp") else f" by {str(port['protocol']).upper()}"
        yield f"port {_number(port.get('external') or port['internal'])}{by} on {where}"
    if resource.get("publishAllPorts"):
        yield "all its ports on every address"


def _number(port: float) -> str:
    return f"{port:g}" if isinstance(port, int | float) else str(port)


def _on_host(resource: Resource) -> Breaches:
    if resource.get("networkMode") == "host":
        yield Breach("is on the host's own network: whatever it listens on is published")


def _asked(resource: Resource) -> Iterator[Option]:
    """Yield the options with which a command's scripts make containers."""
    if resource.type in COMMANDS:
        for name in ("create", "update", "delete"):
            script = resource.get(name)
            if isinstance(script, str):
                yield from engine_options(script)


# --- privileged


def privileged(resource: Resource, _site: Site) -> Breaches:
    """Look for root, and for what only root may."""
    if resource.type == CONTAINER:
        yield from _container_of_root(resource)
    for option in _asked(resource):
        yield from _option_of_root(option)
    if resource.type in COMMANDS:
        for name, unit in units(resource):
            user = setting(unit, "User")
            if (not user and setting(unit, "DynamicUser") not in ("yes", "true", "1")) or ROOT.match(user):
                yield Breach(f"makes the unit {name} run as root", f"unit {name}")
            if setting(unit, "AmbientCapabilities"):
                yield Breach(f"gives the unit {name} capabilities", f"unit {name}")


def _container_of_root(resource: Resource) -> Breaches:
    if resource.get("privileged"):
        yield Breach("is privileged")
    user = resource.get("user")
    if not user or ROOT.match(str(user)):
        yield Breach("runs as root" if user else "runs as whatever user its image says")
    capabilities = resource.mapping("capabilities")
    added = [str(one) for one in capabilities.get("adds") or ()]
    if added:
        yield Breach(f"is given capabilities: {', '.join(added)}")
    if resource.role and "ALL" not in [str(one).upper() for one in capabilities.get("drops") or ()]:
        yield Breach("keeps the capabilities that an engine gives")
    options = [str(one) for one in resource.entries("securityOpts")]
    if resource.role and not any(re.fullmatch(r"no-new-privileges([:=]true)?", one) for one in options):
        yield Breach("may gain privileges by a program that is setuid")
    yield from (Breach(f"is not confined ({one})") for one in options if one.endswith("unconfined"))
    for name in ("pidMode", "ipcMode", "usernsMode"):
        if resource.get(name) == "host":
            yield Breach(f"shares the host's namespace ({name})")
    if resource.entries("devices"):
        yield Breach("is given devices of the host")
    mounted = [*resource.column("volumes", "hostPath"), *resource.column("mounts", "source")]
    yield from (Breach(f"has {path}: who has it is root") for path in mounted if _makes_root(path))


def _makes_root(path: object) -> bool:
    return isinstance(path, str) and (path == "/" or ENGINE_SOCKET.search(path) is not None)


def _option_of_root(option: Option) -> Breaches:
    name, value = option.name, option.value
    if name == "--privileged":
        yield Breach("starts a container that is privileged", name)
    elif name in ("-u", "--user") and ROOT.match(value):
        yield Breach("starts a container as root", "--user root")
    elif name == "--cap-add":
        yield Breach(f"starts a container with capabilities ({value})", f"--cap-add {value}")
    elif name == "--device":
        yield Breach("starts a container with devices of the host", name)
    elif name in ("--pid", "--ipc", "--userns") and value == "host":
        yield Breach(f"starts a container in the host's namespace ({name})", f"{name} host")
    elif name == "--security-opt" and value.endswith("unconfined"):
        yield Breach(f"starts a container that is not confined ({value})", f"{name} {value}")
    elif name in ("-v", "--volume", "--mount") and _makes_root(_source(value)):
        yield Breach(f"starts a container with {_source(value)}: who has it is root", name)


def _source(value: str) -> str:
    """Return what of the host's is mounted: `/a:/b`, or `type=bind,source=/a,target=/b`."""
    found = re.search(r"(?:^|,)(?:source|src)=([^,]*)", value)
    return found[1] if found else value.partition(":")[0]


# --- of a site's own containers


def health_check(resource: Resource, _site: Site) -> Breaches:
    """Look for containers of a site that nobody asks whether they are well."""
    if resource.type == CONTAINER and resource.role:
        tests = resource.mapping("healthcheck").get("tests") or []
        if not tests or tests == ["NONE"]:
            yield Breach("has no health check", "none")


def limits(resource: Resource, _site: Site) -> Breaches:
    """Look for containers and units of a site that may take all memory, or start any number of processes."""
    if resource.type == CONTAINER and resource.role:
        if not (resource.get("memory") or 0) > 0:
            yield Breach("has no limit of its memory")
        found = [one for one in resource.entries("ulimits") if one.get("name") == "nproc"]
        if not found or not all((one.get("hard") or 0) > 0 for one in found):
            yield Breach("has no limit of its processes")
    if resource.type in COMMANDS:
        for name, unit in units(resource):
            for key, what in (("MemoryMax", "memory"), ("TasksMax", "processes")):
                if setting(unit, key) in ("", "infinity"):
                    yield Breach(f"makes the unit {name} without a limit of its {what}", f"unit {name}")


# --- stores


def reachable_store(resource: Resource, _site: Site) -> Breaches:
    """Look for memcached, databases and brokers that anybody but the site can reach."""
    if resource.type == CONTAINER and _is_store(resource):
        yield from (Breach(f"is a store, and publishes {words}") for words in _ports(resource))
        yield from _on_host(resource)
    for option in _asked(resource):
        inside = re.search(r"(\d+)(?:/\w+)?$", option.value)
        if option.name in ("-p", "--publish") and inside and int(inside[1]) in STORE_PORTS:
            yield Breach(f"publishes the port of a store ({option.text})", "--publish")
    if resource.type in COMMANDS:
        for name, unit in units(resource):
            if STORE.search(f"{name} {setting(unit, 'ExecStart')}") and _listens(setting(unit, "ExecStart")):
                yield Breach(f"makes the unit {name}, a store, listen beyond its machine", f"unit {name}")
        if resource.component == DATABASE:
            public = [one for one in told(resource).get("listen") or () if _is_public(str(one))]
            yield from (Breach(f"lets the database listen on {one}, which is public", "listen") for one in public)


def _is_public(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return not LOOPBACK.match(address)  # a name, or all of them
    return found.is_global or found.is_unspecified


def _is_store(resource: Resource) -> bool:
    if INSTANCE_LABEL in resource.labels:
        return False
    command = resource.entries("command")
    told = [resource.role, resource.part, str(resource.inputs.get("image") or ""), *map(str, command[:1])]
    ports = {port.get("internal") for port in resource.entries("ports")}
    return any(STORE.search(one.lower()) for one in told) or bool(ports & STORE_PORTS)


def _listens(run: str) -> bool:
    """Tell whether the words that start a store let it listen on an address that is not the machine's own."""
    if re.search(r"listen_addresses\s*=\s*'?(?!'|localhost|127\.)\S", run):
        return True
    addresses = re.findall(r"(?:^|\s)(?:-l|--listen|--bind)[ =](\S+)", run)
    if addresses:
        return not all(LOOPBACK.match(one.strip("'\"")) for address in addresses for one in address.split(","))
    if "memcached" in run:
        return not re.search(r"(?:^|\s)(?:-s|--unix-socket)\b", run)
    if re.search(r"\b(valkey|redis)", run):
        return not re.search(r"--port[ =]0\b", run)
    return False
