"""What runs on this machine, read from what runs: Supervisor, the instances' names and words, nginx's own digest."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, TypeAdapter

from cluster.kept import HurtFile, make_way, read_kept, write_kept
from cluster.local.nginx import PROGRAM as NGINX
from cluster.local.orphans import Kind, stack_processes
from cluster.local.supervisor import Condition, Process
from cluster.local.written import SERVED
from cluster_runtime.instance import READY, SERVING
from cluster_runtime.names import Name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cluster.local.nginx import Nginx
    from cluster.local.orphans import Found
    from cluster.local.places import Places
    from cluster.local.supervisor import Supervisor

MEMCACHED = "memcached"

#: The program that lets stopped processes go on.
WATCH = "watch"

#: Said of an instance whose socket was removed: nobody reaches it.
WITHOUT_SOCKET = "without its socket"


class Busy(Exception):  # noqa: N818 - a state, not a mistake
    """Another `up` is changing the stack."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """One process of an instance: which release, and its last word of itself."""

    instance: str
    release: str
    process: Process
    status: dict[str, Any] | None
    listens: bool = True

    @property
    def program(self) -> str:
        """Supervisor's name of it."""
        return self.process.name

    @property
    def state(self) -> str:
        """Its own word where it lives (starting, ready, serving, draining), else Supervisor's."""
        said = self.status.get("state") if self.status else None
        if self.process.state != "RUNNING" or said is None:
            return self.process.state.lower()
        return WITHOUT_SOCKET if not self.listens and said in (READY, SERVING) else str(said)


@dataclass(frozen=True, kw_only=True)
class Observed:
    """The cluster as it is.

    holders: the release that holds each instance's name; None where none does.
    given: the release to which it was given, which takes it again when it is started again; None where none is known.
    nginx: the digest of the configuration that nginx runs; None where it does not answer.
    static: the release whose static files are served first.
    stopped: processes that a signal has stopped: they do nothing, and nobody is told.
    """

    supervisor: Condition
    processes: Mapping[str, Process]
    running: tuple[Running, ...]
    holders: Mapping[str, str | None]
    given: Mapping[str, str | None]
    nginx: str | None
    static: str | None
    stopped: tuple[Found, ...] = ()

    @property
    def kept(self) -> bool:
        """Whether Supervisor keeps what runs."""
        return self.supervisor is Condition.RUNNING

    @property
    def silent(self) -> bool:
        """Whether nginx runs and does not answer: its own socket was removed, or something else stands there."""
        process = self.processes.get(NGINX)
        return self.nginx is None and process is not None and process.state == "RUNNING"

    def of(self, instance: str) -> list[Running]:
        """Return the processes of an instance."""
        return [running for running in self.running if running.instance == instance]


def program_name(instance: str, release: str) -> str:
    """Return Supervisor's name for a process of an instance."""
    return f"{instance}-{release}"


def observe(places: Places, supervisor: Supervisor, nginx: Nginx) -> Observed:
    """Look at everything that runs."""
    there = stack_processes(places)
    condition = supervisor.condition()
    # What Supervisor can't tell any more runs all the same.
    processes = supervisor.processes() if condition is Condition.RUNNING else _unkept(there)
    running, holders, given = [], {}, {}
    for process in processes.values():
        instance, dash, release = process.name.rpartition("-")
        if not dash:
            continue  # nginx, memcached
        name = Name(places.run, instance)
        status, listens = _own_status(name, release, process), name.alive(release)
        running.append(Running(instance=instance, release=release, process=process, status=status, listens=listens))
        holders[instance], given[instance] = name.holder(), name.given()
    return Observed(
        supervisor=condition,
        processes=processes,
        running=tuple(running),
        holders=holders,
        given=given,
        nginx=nginx.live_digest(),
        static=_static_release(places),
        stopped=tuple(process for process in there if process.stopped),
    )


def _unkept(there: list[Found]) -> dict[str, Process]:
    """Return the processes of instances, nginx and memcached by what Supervisor would call them."""
    found = {}
    for process in there:
        if process.kind is Kind.INSTANCE:
            release = PurePath(process.argument("--config")).parent.name
            name = program_name(process.argument("--instance"), release)
        elif process.kind is Kind.MEMCACHED:
            name = PurePath(process.argument("-s")).stem
        elif process.kind is Kind.NGINX:
            name = "nginx"
        else:
            continue
        found[name] = Process(name, "RUNNING", process.pid)
    return found


def _static_release(places: Places) -> str | None:
    try:
        return (places.static / "current").readlink().parent.name
    except OSError:
        return None


def _own_status(name: Name, release: str, process: Process) -> dict[str, Any] | None:
    """Return the process's word of itself; one that another, ended process left is not its word."""
    status = name.status(release)
    return status if status is not None and status.get("pid") == process.pid else None


#: What a release may be called: it is a part of paths.
Digest = Annotated[str, Field(pattern="^[0-9a-z]{1,64}$")]


@dataclass(kw_only=True)
class History:
    """The releases that have served, oldest first, and the one that serves.

    found: how its file was hurt, where it was: then it is made again from the marks that releases have.
    """

    releases: list[str] = field(default_factory=list)
    current: str | None = None
    found: str = ""

    @classmethod
    def load(cls, places: Places) -> History:
        """Read it; empty where nothing has served yet."""
        try:
            kept = read_kept(places.history, KEPT_HISTORY)
        except HurtFile as error:
            return cls._from_releases(places, error.found)
        if kept is None:
            return cls._from_releases(places, "is gone")
        return cls(releases=list(kept.releases), current=kept.current)

    @classmethod
    def _from_releases(cls, places: Places, found: str) -> History:
        """Make it again: by what holds names, and by when releases served last."""
        served = _served(places)
        holders = [name.holder() for name in names_in(places)]
        current = next((one for one in holders if one in served), served[-1] if served else None)
        return cls(releases=served, current=current, found=found if served else "")

    def save(self, places: Places) -> None:
        """Write it atomically."""
        write_kept(places.history, {"releases": self.releases, "current": self.current})
        self.found = ""

    def served(self, release: str, *, rolled_back: bool = False) -> None:
        """Note that `release` serves; going back does not make it the newest."""
        if not rolled_back or release not in self.releases:
            self.releases = [known for known in self.releases if known != release] + [release]
        self.current = release

    def former(self) -> str | None:
        """Return the release that served before the current one."""
        if self.current not in self.releases:
            return None
        position = self.releases.index(self.current)
        return self.releases[position - 1] if position else None


@dataclass(kw_only=True)
class _Kept:
    releases: list[Digest]
    current: Digest | None


KEPT_HISTORY: TypeAdapter[_Kept] = TypeAdapter(_Kept)


def mark_served(places: Places, release: str) -> None:
    """Leave the mark by which the history can be made again."""
    (places.releases / release / SERVED).touch()


def _served(places: Places) -> list[str]:
    """Return the releases on this machine that have served, the latest last; on Docker those whose image was made."""
    marks = {path.parent.name: path for path in places.releases.glob(f"*/{SERVED}")}
    marks |= {path.name: path for path in (places.state / "images").glob("*") if path.is_dir()}
    return sorted(marks, key=lambda release: marks[release].stat().st_mtime)


def names_in(places: Places) -> list[Name]:
    """Return the names of all instances that have a directory, whether the stack file knows them or not."""
    if not places.run.is_dir():
        return []
    return [
        Name(places.run, path.name) for path in sorted(places.run.iterdir()) if path.is_dir() and path.name[0] != "."
    ]


@contextmanager
def locked(places: Places, what: str) -> Iterator[None]:
    """Hold the stack's lock; Busy tells who holds it. The kernel lets go of it when its holder dies."""
    for path in (places.state.parent, places.state):
        make_way(path, stat.S_IFDIR)
    places.state.mkdir(parents=True, exist_ok=True)
    make_way(places.lock, stat.S_IFREG)
    descriptor = os.open(places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another command"
            raise Busy(f"{holder} is changing this stack; wait until it has ended") from None
        os.ftruncate(descriptor, 0)
        stamp = time.strftime("%H:%M:%S")
        os.pwrite(descriptor, f"`cluster {what}` (process {os.getpid()}, since {stamp})".encode(), 0)
        yield
    finally:
        os.close(descriptor)
