"""Programs of the distribution's that run beside the instances on this machine: memcached nodes, the broker."""

from __future__ import annotations

import shutil
import socket
import time
from typing import TYPE_CHECKING

from cluster.errors import ClusterError
from cluster.machine.nginx import search_path
from cluster.services import PACKAGED, Kind, memcached_node
from platforms.local.supervisor import accepts
from platforms.local.supervisor_files import Program

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cluster.machine.owner import Owner
    from cluster.services import Service
    from cluster.topology import Topology
    from platforms.local.paths import LocalPaths
    from platforms.local.supervisor import Supervisor

#: Supervisor's priorities: what keeps something for others ends after them.
KEEPS, FORGETS = 90, 100

#: Seconds that one has to take a question's bytes, and to answer.
PATIENCE = 1.0


class MissingProgramError(ClusterError):
    """A program that the stack file asks for is not installed; the text says how to get it."""


class SilentError(ClusterError):
    """A program does not answer; the text says where it tells why."""


def wanted(topology: Topology, memcached_nodes: int) -> list[Service]:
    """Return the daemons of a stack; memcached_nodes: how many a release keeps sessions in, which may be more."""
    nodes = max(topology.memcached_nodes, memcached_nodes)
    more = [memcached_node(topology.config, number) for number in range(topology.memcached_nodes + 1, nodes + 1)]
    return [service for service in topology.services if service.daemon is not None] + more


def kind_of(program: str) -> Kind | None:
    """Return the kind of a daemon by Supervisor's name of it, which may have a number; None where it is none."""
    return next((kind for kind in PACKAGED if program.rstrip("0123456789") == kind), None)


def programs(
    services: Iterable[Service], paths: LocalPaths, owner: Owner, supervisor: Supervisor
) -> dict[str, tuple[Service, Program]]:
    """Return Supervisor's programs of daemons, by their names; MissingProgramError where one is not installed."""
    found = {}
    for service in services:
        now = _program(service, paths, owner, paths.listens(service))
        if service.kind is Kind.MEMCACHED:
            # One that a former version started is found at the same place, and keeps what it holds.
            there = paths.run / paths.listens(service).name
            former = _program(service, paths, owner, there)
            now = former if supervisor.is_current(former) and accepts(there) else now
        found[service.name] = (service, now)
    return found


def _program(service: Service, paths: LocalPaths, owner: Owner, listens: Path) -> Program:
    daemon = service.daemon
    assert daemon is not None  # noqa: S101 - whoever asks has one
    words = daemon.words(socket=str(listens), mode="0700", data=str(paths.kept_by(service.kind)), root=owner.uid == 0)
    return Program(
        name=service.name,
        command=(_path(service.kind), *words),
        directory=str(paths.state),
        log=str(paths.logs / f"{service.name}.log"),
        priority=KEEPS if service.kept else FORGETS,
        user=owner.name if owner.changed else None,
        stop_seconds=service.grace,
    )


def _path(kind: Kind) -> str:
    found = next(filter(None, (shutil.which(name, path=search_path()) for name in PACKAGED[kind].names)), None)
    if found is None:
        raise MissingProgramError(PACKAGED[kind].missing)
    return found


def await_ready(service: Service, paths: LocalPaths) -> None:
    """Wait until a daemon that says when does what it is for; SilentError where it does not in time."""
    daemon = service.daemon
    if daemon is None or daemon.ping is None:
        return
    deadline = time.monotonic() + service.start_seconds
    while not _answers(daemon.ping, paths.listens(service)):
        if time.monotonic() > deadline:
            log = paths.logs / f"{service.name}.log"
            raise SilentError(f"the {service.kind} does not answer within {service.start_seconds:g} s; {log} says why")
        time.sleep(0.05)


def _answers(ping: tuple[str, str], path: Path) -> bool:
    """Tell whether what listens answers as it should (platforms/docker/daemon/answers is the same in a container)."""
    question, answer = ping
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE)
        try:
            connection.connect(str(path))
            connection.sendall(f"{question}\r\n".encode())
            return connection.recv(100).startswith(answer.encode())
        except OSError:
            return False
