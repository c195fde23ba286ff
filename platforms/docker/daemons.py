"""How services that run none of the project's code are put into containers: memcached, PostgreSQL, broker, nginx."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.acme.kept import MAP
from cluster.services import PACKAGED, Kind
from platforms.docker.container_paths import ACME, sockets_of
from platforms.docker.containers import (
    BROKER_USER,
    MEMCACHED_USER,
    NGINX_USER,
    OTHER_USER,
    POSTGRES_USER,
    Health,
    Spec,
    watching,
)

if TYPE_CHECKING:
    from cluster.services import Service

#: Seconds between two looks at the health of a daemon that was made when its look did not wait.
HEALTH_SECONDS = 2

#: Where each keeps what must outlive it, in its own container.
KEPT = "/var/lib/cluster"

#: Where the programs are that the images add.
LIBRARY = "/usr/local/lib/cluster"

#: The program of an image that makes more ready than its service's own words say.
START = f"{LIBRARY}/start"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What Docker adds to a kind of service.

    user: its own, so that no other container's process may touch what is its.
    sockets: what the volume of its sockets is called.
    image: the directory of its image, where it has one of its own. command: what that begins with.
    health: asks whether it is ready; empty: nobody asks. starts: seconds for which a look that fails does not count,
    where that is another time than it may take to start.
    """

    user: int
    sockets: str
    image: str = "daemon"
    command: tuple[str, ...] = (f"{LIBRARY}/program",)
    health: tuple[str, ...] | None = None
    starts: int = 0
    stop_signal: str = "SIGTERM"
    shared_memory: int = 64


PLACEMENTS = {
    Kind.MEMCACHED: Placement(
        user=MEMCACHED_USER, sockets="sessions", command=("memcached",), starts=30, image="memcached"
    ),
    Kind.DATABASE: Placement(
        user=POSTGRES_USER,
        sockets="database-sockets",
        image="postgres",
        command=(START,),
        health=("CMD", "pg_isready", "-q", "-h", sockets_of(Kind.DATABASE), "-U", "cluster", "-d", "cluster"),
        stop_signal="SIGINT",
        shared_memory=256,
    ),
    Kind.BROKER: Placement(user=BROKER_USER, sockets="broker-sockets"),
    # It writes what nginx alone reads.
    Kind.ACME: Placement(
        user=NGINX_USER,
        sockets="",
        image="acme",
        command=("/opt/renewer/bin/python", "-P", "-m", "cluster.acme"),
        health=("CMD", "test", "-s", f"{ACME}/{MAP}"),
    ),
    # Its configuration is delivered while it waits for one: its health is what is asked of it then.
    Kind.NGINX: Placement(
        user=NGINX_USER, sockets="", image="nginx", command=(START,), health=(), stop_signal="SIGQUIT"
    ),
}


def placement(kind: Kind) -> Placement:
    """Return what Docker adds to a kind of service."""
    return PLACEMENTS.get(kind, Placement(user=OTHER_USER, sockets=f"{kind}-sockets"))


def daemon_spec(service: Service) -> Spec:
    """Return what is peculiar to the container of a service that runs none of the project's code."""
    placed, start = placement(service.kind), int(service.start_seconds)
    words: tuple[str, ...] = ()
    if service.daemon is not None:
        words = service.daemon.words(socket=_listens(service), mode="0770", data=KEPT)
    health = _health(service) if placed.health is None else placed.health
    starts = placed.starts or start
    looks = watching(shlex.join(health[1:]), starts) if health else None
    return Spec(
        role=service.name,
        user=placed.user,
        command=(*placed.command, *words),
        memory=service.memory,
        processes=service.processes,
        grace=int(service.grace),
        stop_signal=placed.stop_signal,
        start_seconds=start,
        shared_memory=placed.shared_memory,
        health=looks,
        # A database that is made again is away for a moment.
        known_by=Health(test=health, interval=HEALTH_SECONDS, start_period=starts) if health else None,
    )


def build_arguments(service: Service) -> dict[str, str]:
    """Return what the image of a service is built with, beside its base."""
    if service.daemon is None or placement(service.kind).image != "daemon":
        return {}
    return {
        "PROGRAMS": " ".join(PACKAGED[service.kind].names),
        "KIND": service.kind.value,
        "IDENTITY": str(placement(service.kind).user),
    }


def _listens(service: Service) -> str:
    assert service.endpoint is not None  # noqa: S101 - whoever asks has one that listens
    return str(service.endpoint.below(sockets_of(service.kind)))


def _health(service: Service) -> tuple[str, ...]:
    """Return what asks a daemon whether it is ready."""
    if service.daemon is None or service.daemon.ping is None:
        return ("CMD", "test", "-S", _listens(service))
    return ("CMD", f"{LIBRARY}/answers", _listens(service), *service.daemon.ping)
