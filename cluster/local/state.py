"""What runs on this machine, read from what runs: Supervisor, the instances' names and words, nginx's own digest."""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster_runtime.names import Name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cluster.local.nginx import Nginx
    from cluster.local.places import Places
    from cluster.local.supervisor import Process, Supervisor

MEMCACHED = "memcached"


class Busy(Exception):  # noqa: N818 - a state, not a mistake
    """Another `up` is changing the stack."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """One process of an instance: which release, and its last word of itself."""

    instance: str
    release: str
    process: Process
    status: dict[str, Any] | None

    @property
    def program(self) -> str:
        """Supervisor's name of it."""
        return self.process.name

    @property
    def state(self) -> str:
        """Its own word where it lives (starting, ready, serving, draining), else Supervisor's."""
        said = self.status.get("state") if self.status else None
        return self.process.state.lower() if self.process.state != "RUNNING" or said is None else str(said)


@dataclass(frozen=True, kw_only=True)
class Observed:
    """The cluster as it is.

    holders: the release that holds each instance's name; None where none does.
    nginx: the digest of the configuration that nginx runs; None where it does not answer.
    static: the release whose static files are served first.
    """

    supervisor: bool
    processes: Mapping[str, Process]
    running: tuple[Running, ...]
    holders: Mapping[str, str | None]
    nginx: str | None
    static: str | None

    def of(self, instance: str) -> list[Running]:
        """Return the processes of an instance."""
        return [running for running in self.running if running.instance == instance]


def program_name(instance: str, release: str) -> str:
    """Return Supervisor's name for a process of an instance."""
    return f"{instance}-{release}"


def observe(places: Places, supervisor: Supervisor, nginx: Nginx) -> Observed:
    """Look at everything that runs."""
    processes = supervisor.processes()
    running, holders = [], {}
    for process in processes.values():
        instance, dash, release = process.name.rpartition("-")
        if not dash:
            continue  # nginx, memcached
        name = Name(places.run, instance)
        running.append(
            Running(instance=instance, release=release, process=process, status=_own_status(name, release, process))
        )
        holders[instance] = name.holder()
    current = places.static / "current"
    return Observed(
        supervisor=bool(processes) or supervisor.is_running(),
        processes=processes,
        running=tuple(running),
        holders=holders,
        nginx=nginx.live_digest(),
        static=current.readlink().parent.name if current.is_symlink() else None,
    )


def _own_status(name: Name, release: str, process: Process) -> dict[str, Any] | None:
    """Return the process's word of itself; one that another, ended process left is not its word."""
    status = name.status(release)
    return status if status is not None and status.get("pid") == process.pid else None


@dataclass(kw_only=True)
class History:
    """The releases that have served, oldest first, and the one that serves."""

    releases: list[str] = field(default_factory=list)
    current: str | None = None

    @classmethod
    def load(cls, places: Places) -> History:
        """Read it; empty where nothing has served yet."""
        try:
            return cls(**json.loads(places.history.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return cls()

    def save(self, places: Places) -> None:
        """Write it atomically."""
        new = places.history.with_suffix(".new")
        new.write_text(json.dumps({"releases": self.releases, "current": self.current}), encoding="utf-8")
        new.rename(places.history)

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


@contextmanager
def locked(places: Places, what: str) -> Iterator[None]:
    """Hold the stack's lock; Busy tells who holds it. The kernel lets go of it when its holder dies."""
    places.state.mkdir(parents=True, exist_ok=True)
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
