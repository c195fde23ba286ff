"""What runs in a cluster, one description a process, the same on every platform: a platform only knows how to run one.

Pure: where sockets and data are, is the platform's.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from cluster.config.hosts import Role
from cluster.config.models import Replacement
from cluster.endpoints import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from cluster.config.models import Broker, ClusterConfig, Schedule, Worker

#: Seconds that nginx's connections to an instance live. After twice this, a process that lost its name holds none.
UPSTREAM_CONNECTION_AGE = 0.25

#: Seconds between giving a name up and stopping.
DRAIN_SECONDS = 2 * UPSTREAM_CONNECTION_AGE + 0.25

#: What tells the project where its broker is: as Celery (kombu) writes it, and the socket alone; and, of one that is
#: asked by TLS, whose URL is a secret, the file by which its certificate is checked.
BROKER_URL, BROKER_SOCKET, BROKER_AUTHORITY = "CLUSTER_BROKER_URL", "CLUSTER_BROKER_SOCKET", "CLUSTER_BROKER_AUTHORITY"

#: Where a service is asked by TLS on its own host.
LOOPBACK = "127.0.0.1"

MEGABYTE = 1024**2

#: Bytes that a program which keeps things in memory needs beside them.
OVERHEAD = 64 * MEGABYTE

#: Hexadecimal digits of what tells one description of a service from another.
SPEC_LENGTH = 6

#: Seconds beyond those that a process takes to stop until it is killed.
GRACE_MARGIN = 15


class Kind(StrEnum):
    """What a service is."""

    INSTANCE = "instance"
    WORKER = "worker"
    SCHEDULE = "schedule"
    MEMCACHED = "memcached"
    DATABASE = "database"
    BROKER = "broker"
    ACME = "acme"
    ADDRESS = "address"
    NGINX = "nginx"


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """A program of the distribution's that a kind of service is.

    names: those that it is looked for under, the first that is there; Debian's packages that bring it are called so.
    missing: what to say where it is not installed.
    kept: what it keeps, in words, where it has a directory for that, which must outlive it.
    """

    names: tuple[str, ...]
    missing: str
    kept: str = ""


PACKAGED: Mapping[Kind, Packaged] = {
    Kind.MEMCACHED: Packaged(
        names=("memcached",),
        missing="memcached is not installed: apt-get install --no-install-recommends memcached",
    ),
    # Debian 12 has only the second one, whose protocol it speaks.
    Kind.BROKER: Packaged(
        names=("valkey-server", "redis-server"),
        missing="broker: valkey is not installed: apt-get install --no-install-recommends valkey-server (Debian 12: "
        "redis-server), and `systemctl disable --now` what that starts by itself",
        kept="jobs",
    ),
}


def kept_by(kind: Kind | None) -> str:
    """Return what a kind of service keeps, in words; empty where nothing of it must outlive it."""
    return PACKAGED[kind].kept if kind is not None and kind in PACKAGED else ""


@dataclass(frozen=True, kw_only=True)
class Daemon:
    """A program of the distribution's, as a service: what it is started with, the same on every platform.

    options: its words, in which {socket}, {mode} (of the socket, octal) and {data} stand for what a platform gives.
    as_root: its first words where it is root's.
    ping: a line that it is sent, and how its answer begins once it is ready; None: it is as soon as it listens.
    is_given: whether it is given a certificate, a key and its users, whose paths begin with {given}.
    """

    options: tuple[str, ...]
    as_root: tuple[str, ...] = ()
    ping: tuple[str, str] | None = None
    is_given: bool = False

    def words(self, *, socket: str, mode: str, data: str = "", given: str = "", root: bool = False) -> tuple[str, ...]:
        """Return its words after its name."""
        said = {"{socket}": socket, "{mode}": mode, "{data}": data}
        words = (said.get(word, word).replace("{given}", given) for word in self.options)
        return (*(self.as_root if root else ()), *words)


@dataclass(frozen=True, kw_only=True)
class Service:
    """One process of the cluster.

    kind, name: what it is, and what it is called; the name outlives its releases.
    endpoint: where it is reached, a socket by its path in its kind's directory; None where nobody asks it anything.
    memory: limit in bytes. processes: limit of all processes of its user.
    grace: seconds that it has to stop, from the signal to the kill.
    start_seconds: those that it has to do what it is for.
    replacement: how another one takes its place.
    daemon: the program of the distribution's that it is; None where the platform has its own, or the release.
    variables: what tells the project of it; {socket} stands for where it is reached, {authority} for the file by which
    its certificate is checked.
    runs: the words for `cluster_runtime.service`, of what runs the project's code beside the instances; else empty.
    command: the program's own words.
    """

    kind: Kind
    name: str
    endpoint: Endpoint | None = None
    memory: int = 0
    processes: int = 256
    grace: float = 10
    replacement: Replacement = Replacement.ALONE
    runs: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    start_seconds: float = 60
    daemon: Daemon | None = None
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def kept(self) -> str:
        """What it keeps, in words; empty where nothing of it must outlive it."""
        return kept_by(self.kind)

    @property
    def is_of_release(self) -> bool:
        """Whether it runs the project's code, beside the instances."""
        return bool(self.runs)

    def generation(self, release: str) -> str:
        """Return what tells its process in a release from others: by another command it is another one too."""
        told = json.dumps([self.runs, self.command, self.memory, self.processes, self.replacement])
        return f"{release}.{hashlib.sha256(told.encode()).hexdigest()[:SPEC_LENGTH]}"

    def words(self, release: str, config: str, sockets: str, *, container: bool = False) -> tuple[str, ...]:
        """Return the command line, after `python`, of its process in a release."""
        kind, *options = self.runs
        return (
            *("-P", "-m", "cluster_runtime.service", kind, *options, "--name", self.name),
            *("--generation", self.generation(release), "--config", config, "--sockets", sockets),
            *(["--container"] if container else []),
            *("--", *self.command),
        )


def services(config: ClusterConfig, memcached_nodes: int) -> Iterator[Service]:
    """Yield all that runs of a stack."""
    app = config.app
    for server in config.upstream.servers:
        yield Service(
            kind=Kind.INSTANCE,
            name=server.name,
            endpoint=Endpoint(path=f"{server.name}/http.sock"),
            memory=int(app.memory),
            processes=app.processes,
            grace=instance_grace(app.graceful_timeout.seconds),
            replacement=Replacement.BESIDE,
            start_seconds=app.health.start_timeout.seconds,
        )
    for worker in config.workers:
        yield from _worker(worker)
    for schedule in config.schedule:
        yield _schedule(schedule)
    for number in range(1, memcached_nodes + 1):
        yield memcached_node(config, number)
    if config.makes_postgres:
        yield Service(
            kind=Kind.DATABASE,
            name="postgres",
            endpoint=Endpoint(path=".s.PGSQL.5432"),
            memory=1024 * MEGABYTE,
            processes=512,
            grace=60,
            start_seconds=120,
        )
    if config.broker is not None:
        yield _broker(config.broker, _broker_addresses(config))
    if config.site.acme is not None:
        yield Service(kind=Kind.ACME, name="acme", memory=256 * MEGABYTE)
    yield Service(
        kind=Kind.NGINX,
        name="nginx",
        endpoint=Endpoint(port=config.site.listen),
        memory=512 * MEGABYTE,
        grace=60,
    )


def memcached_node(config: ClusterConfig, number: int) -> Service:
    """Return a node of the session store; numbers begin at 1."""
    size = int(config.sessions.memcached.memory)
    name = f"{Kind.MEMCACHED}{number}"
    return Service(
        kind=Kind.MEMCACHED,
        name=name,
        endpoint=Endpoint(path=f"{name}.sock"),
        memory=size + OVERHEAD,
        daemon=Daemon(
            options=("-s", "{socket}", "-a", "{mode}", "-m", str(max(1, size // MEGABYTE))),
            as_root=("-u", "root"),  # it refuses to be root unless told
        ),
    )


#: What a broker that is asked by TLS is given, beside each other: its certificate, its key, and who may do what.
BROKER_CERTIFICATE, BROKER_KEY, BROKER_USERS = "certificate.pem", "certificate.key", "users.acl"


def _broker_addresses(config: ClusterConfig) -> tuple[str, ...]:
    """Return where a broker that is asked by TLS listens; none where it has a socket alone."""
    if not config.broker_is_asked_by_tls:
        return ()
    (internal, *_others) = (host.internal for host in config.hosts if Role.BROKER in host.roles)
    return (LOOPBACK, *([] if internal is None else [internal]))


def _broker(broker: Broker, addresses: tuple[str, ...]) -> Service:
    """Return the broker: no port without TLS, and each job on disk before it is acknowledged.

    addresses: at which it is asked by TLS. Source: https://valkey.io/topics/persistence/ and
    https://valkey.io/topics/encryption/
    """
    size = int(broker.memory)
    own = {BROKER_URL: "redis+socket://{socket}", BROKER_SOCKET: "{socket}"}
    return Service(
        kind=Kind.BROKER,
        name="broker",
        endpoint=Endpoint(path="broker.sock"),
        # While it writes its file anew, each of its pages may be there twice.
        memory=2 * size + OVERHEAD,
        grace=60,
        start_seconds=120,
        variables={BROKER_AUTHORITY: "{authority}"} if addresses else own,
        daemon=Daemon(
            options=(
                *("--port", "0", "--unixsocket", "{socket}", "--unixsocketperm", "770", "--dir", "{data}"),
                # No snapshots beside that: an option without a value is an empty one, which a container's command
                # can't have.
                *("--save", "--appendonly", "yes", "--appendfsync", "always"),
                *("--maxmemory", str(size), "--maxmemory-policy", "noeviction", "--set-proc-title", "no"),
                *("--daemonize", "no"),
                *(_tls_options(broker.port, addresses) if addresses else ()),
            ),
            is_given=bool(addresses),
            # Until it has read what it keeps it accepts connections, and answers nothing else.
            ping=("PING", "+PONG"),
        ),
    )


def _tls_options(port: int, addresses: tuple[str, ...]) -> Iterator[str]:
    yield from ("--tls-port", str(port), "--bind", *addresses)
    yield from ("--tls-auth-clients", "no", "--tls-protocols", "TLSv1.2 TLSv1.3")  # who asks shows a password
    given = {"--tls-cert-file": BROKER_CERTIFICATE, "--tls-key-file": BROKER_KEY, "--aclfile": BROKER_USERS}
    for option, name in given.items():
        yield from (option, f"{{given}}{name}")


def instance_grace(graceful_timeout: float) -> float:
    """Return the seconds that an instance has to drain and to end its requests."""
    return DRAIN_SECONDS + graceful_timeout + GRACE_MARGIN


def _worker(worker: Worker) -> Iterator[Service]:
    for number in range(1, worker.count + 1):
        yield Service(
            kind=Kind.WORKER,
            name=f"{worker.name}{number}",
            memory=int(worker.memory),
            processes=worker.processes,
            grace=worker.graceful_timeout.seconds + GRACE_MARGIN,
            replacement=worker.replacement,
            runs=(
                *("worker", "--graceful-timeout", f"{worker.graceful_timeout.seconds:g}"),
                *("--startsecs", f"{worker.startsecs.seconds:g}", "--stop-signal", worker.stop_signal.value),
            ),
            command=tuple(shlex.split(worker.command)),
            start_seconds=worker.startsecs.seconds + 30,
        )


def _schedule(schedule: Schedule) -> Service:
    return Service(
        kind=Kind.SCHEDULE,
        name=schedule.name,
        memory=int(schedule.memory),
        processes=schedule.processes,
        grace=schedule.graceful_timeout.seconds + GRACE_MARGIN,
        # Its processes see to it themselves that only one of them runs the command.
        replacement=Replacement.BESIDE,
        runs=(
            *("schedule", "--graceful-timeout", f"{schedule.graceful_timeout.seconds:g}", "--at", schedule.at),
            *("--starting-deadline", f"{schedule.starting_deadline.seconds:g}"),
        ),
        command=tuple(shlex.split(schedule.command)),
    )


def refused_without(config: ClusterConfig, release: str, runtime: Mapping[str, Any]) -> str | None:
    """Return why a former release must not serve again: what its jobs go into is not there any more.

    runtime: its configuration file.
    """
    told = {BROKER_SOCKET, BROKER_AUTHORITY} & {*runtime.get("environment", {})}
    if not told:
        return None
    if config.broker is not None:
        by_tls = BROKER_AUTHORITY in told
        if by_tls == config.broker_is_asked_by_tls:
            return None
        how = "TLS, and it has a socket" if by_tls else "a socket, and it is asked by TLS"
        return f"broker: release {release} asks the broker by {how} now: put the hosts' roles back for that release"
    return (
        f"broker: release {release} puts its jobs into the broker, which the stack file does not name any more: put it "
        "back for as long as that release serves"
    )


def asked_by(process: str) -> list[str]:
    """Return by which words a service's process is asked for: mail11 by mail, and by mail1, whose first it may be."""
    digits = len(process) - len(process.rstrip("0123456789"))
    return [process[: len(process) - last] for last in range(digits + 1)]
