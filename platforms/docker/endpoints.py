"""Endpoints here that lead to the sockets inside a stack's containers, wherever their engine is."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.endpoints import Endpoint
from cluster.services import Kind
from cluster.verify import Endpoints
from platforms.docker.container_paths import NGINX_INTERNAL, sockets_of
from platforms.docker.engine import Engine, EngineError
from platforms.pulumi.relays import Relays

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cluster.topology import Topology

#: What leads to all of them at once, in nginx's container.
RELAYS = Path(__file__).with_name("relays.pl")

#: Looks at containers that go on side by side: each is a process there, and most of it waits.
LOOKS = 4

#: Where the kernel tells a process which sockets its network has, below /proc or the process's directory there.
TABLES = ("net/tcp", "net/tcp6")

#: Runtimes whose containers have their sockets in this kernel; that of a sandbox (gVisor, Kata) has its own.
RUNTIMES = ("runc", "crun")

#: How a line of /proc/net/tcp begins that is of a socket.
ENTRY = re.compile(r"\s*\d+: ")

#: What /proc/net/tcp calls a socket that listens.
LISTENING = "0A"

#: The engine's own resolver, in every container of a network of the user's.
RESOLVER = "0B00007F"


@contextlib.contextmanager
def endpoints(engine: Engine, stack: str, topology: Topology, release: str, authority: str) -> Iterator[Endpoints]:
    """Give verify the endpoints of a stack; EngineError where nginx does not run.

    authority: signs the site's certificate, PEM, where that is the stack's own.
    """
    running = engine.containers(stack, "nginx")
    if not running:
        raise EngineError("nginx is not running")

    def start() -> subprocess.Popen[bytes]:
        # Not a file of nginx's image: another image would replace nginx. The `relay` there is of former versions.
        return subprocess.Popen(
            ["docker", "exec", "--interactive", running[0], "perl", "-e", RELAYS.read_text(encoding="utf-8")],
            env={**os.environ, **engine.environment()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    with contextlib.closing(Relays(start)) as relays:
        there = topology.endpoints(sockets_of, Kind.INSTANCE)
        yield Endpoints(
            internal=relays.to(NGINX_INTERNAL),
            instances={name: relays.to(endpoint.path) for name, endpoint in there.items()},
            site=Endpoint(host=engine.address(), port=topology.config.site.listen),
            release=release,
            intruders=lambda: intruders(engine, stack),
            authority=authority,
        )


def intruders(engine: Engine, stack: str) -> list[str]:
    """Return what listens on a port though it is not nginx, and what the engine publishes for it, a line each."""
    with ThreadPoolExecutor(max_workers=LOOKS) as side_by_side:
        found = side_by_side.map(partial(_intruding, engine), engine.inspect(engine.containers(stack)))
        return [line for lines in found for line in lines]


def _intruding(engine: Engine, container: Mapping[str, Any]) -> list[str]:
    """Return the lines of one container."""
    name = container["Name"].lstrip("/")
    if container["Config"]["Labels"]["django-cluster.role"] == "nginx":
        return []
    published = [f"{name} has port {port} published" for port in container["HostConfig"]["PortBindings"] or {}]
    if container["HostConfig"]["NetworkMode"] == "none":
        return published
    return [*published, *(f"{name} listens on port {port}" for port in _listening(engine, container))]


def _listening(engine: Engine, container: Mapping[str, Any]) -> list[int]:
    said = _tables_here(container)
    if said is None:
        # One table is missing where the kernel has no IPv6; both where the container has gone.
        said = engine.output("exec", container["Id"], "cat", *(f"/proc/{table}" for table in TABLES))
    ports = set()
    for line in filter(ENTRY.match, said.splitlines()):
        address, state = line.split()[1], line.split()[3]
        if state == LISTENING and not address.startswith(RESOLVER):
            ports.add(int(address.rpartition(":")[2], 16))
    return sorted(ports)


def _tables_here(container: Mapping[str, Any], processes: Path = Path("/proc")) -> str | None:
    """Return the tables of sockets of a container whose processes are this machine's; None where they are not seen.

    A command in each container takes as long as all the requests of a check.
    """
    if container["HostConfig"].get("Runtime") not in RUNTIMES:
        return None
    process = processes / str(container["State"]["Pid"])
    try:
        first, *more = [process / table for table in TABLES]
        found = [first.read_text(), *(table.read_text() for table in more if table.exists())]
        # Afterwards: a process of that number that is still the container's was it before.
        return "".join(found) if container["Id"] in (process / "cgroup").read_text() else None
    except OSError:
        return None
