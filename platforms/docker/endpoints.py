"""Endpoints here that lead to the sockets inside a stack's containers, wherever their engine is."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.endpoints import Endpoint
from cluster.services import Kind
from cluster.verify import Endpoints
from platforms.docker.container_paths import NGINX_INTERNAL, sockets_of
from platforms.docker.engine import Engine, EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.topology import Topology

#: What /proc/net/tcp calls a socket that listens.
LISTENING = "0A"

#: The engine's own resolver, in every container of a network of the user's.
RESOLVER = "0B00007F"

CHUNK = 65536


class Relay:
    """Sockets here that lead to sockets in nginx's container: each connection is a `docker exec` of its own."""

    def __init__(self, engine: Engine, container: str) -> None:
        self.engine = engine
        self.container = container
        self.directory = Path(tempfile.mkdtemp(prefix="cluster-"))
        self.listeners: list[socket.socket] = []
        self.processes: list[subprocess.Popen[bytes]] = []

    def to(self, path: str) -> Endpoint:
        """Return a socket here that leads to the one at `path` there."""
        here = self.directory / f"{len(self.listeners)}.sock"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(here))
        listener.listen()
        self.listeners.append(listener)
        threading.Thread(target=self._accept, args=(listener, path), daemon=True).start()
        return Endpoint(path=str(here))

    def _accept(self, listener: socket.socket, path: str) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection, _ = listener.accept()
                process = subprocess.Popen(
                    ["docker", "exec", "--interactive", self.container, "/usr/local/lib/cluster/relay", path],
                    env={**os.environ, **self.engine.environment()},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
                self.processes.append(process)
                threading.Thread(target=_pump_out, args=(connection, process), daemon=True).start()
                threading.Thread(target=_pump_in, args=(connection, process), daemon=True).start()

    def close(self) -> None:
        """Close all ways."""
        for listener in self.listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for process in self.processes:
            process.kill()
            process.wait()
        for path in self.directory.iterdir():
            path.unlink()
        self.directory.rmdir()


def _pump_out(connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None  # noqa: S101 - a pipe was asked for
    with contextlib.suppress(OSError):
        while data := connection.recv(CHUNK):
            process.stdin.write(data)
            process.stdin.flush()
    with contextlib.suppress(OSError):
        process.stdin.close()


def _pump_in(connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    with contextlib.suppress(OSError):
        while data := os.read(process.stdout.fileno(), CHUNK):
            connection.sendall(data)
    connection.close()


@contextlib.contextmanager
def endpoints(engine: Engine, stack: str, topology: Topology, release: str, authority: str) -> Iterator[Endpoints]:
    """Give verify the endpoints of a stack; EngineError where nginx does not run.

    authority: signs the site's certificate, PEM, where that is the stack's own.
    """
    running = engine.containers(stack, "nginx")
    if not running:
        raise EngineError("nginx is not running")
    with contextlib.closing(Relay(engine, running[0])) as relay:
        there = topology.endpoints(sockets_of, Kind.INSTANCE)
        yield Endpoints(
            internal=relay.to(NGINX_INTERNAL),
            instances={name: relay.to(endpoint.path) for name, endpoint in there.items()},
            site=Endpoint(host=engine.address(), port=topology.config.site.listen),
            release=release,
            intruders=lambda: intruders(engine, stack),
            authority=authority,
        )


def intruders(engine: Engine, stack: str) -> list[str]:
    """Return what listens on a port though it is not nginx, and what the engine publishes for it, a line each."""
    found = []
    for container in engine.inspect(engine.containers(stack)):
        name = container["Name"].lstrip("/")
        if container["Config"]["Labels"]["django-cluster.role"] == "nginx":
            continue
        found += [f"{name} has port {port} published" for port in container["HostConfig"]["PortBindings"] or {}]
        if container["HostConfig"]["NetworkMode"] != "none":
            found += [f"{name} listens on port {port}" for port in _listening(engine, container["Id"])]
    return found


def _listening(engine: Engine, container: str) -> list[int]:
    ports = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = engine.run("exec", container, "cat", f"/proc/net/{table}").splitlines()[1:]
        except EngineError:
            continue  # no IPv6 in this kernel, or the container has gone
        for line in lines:
            address, state = line.split()[1], line.split()[3]
            if state == LISTENING and not address.startswith(RESOLVER):
                ports.add(int(address.rpartition(":")[2], 16))
    return sorted(ports)
