"""What the commands ask of a platform, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cluster.lint import Facts
    from cluster.render.nginx import NginxConfig
    from cluster.stack.opened import Stack
    from cluster.stack.rotation import Keys
    from cluster.verify import Check


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process of an instance.

    state: its own word (starting, ready, serving, draining), or the platform's where it says none. since: seconds since
    the epoch. container: the container that it is in, where it is in one. sessions: what it says of them.
    """

    release: str
    state: str
    since: float | None
    pid: int
    container: str | None
    message: str
    sessions: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class InstanceStatus:
    """An instance: its share of new requests (0 to 1), the release that holds its name, and whether all is well."""

    instance: str
    share: float
    release: str | None
    ok: bool
    processes: Sequence[Process]


@dataclass(frozen=True, kw_only=True)
class ServiceStatus:
    """Whatever else runs: a worker, a schedule, a memcached node, a broker, a database, nginx where it is a container.

    kind: as the topology calls it (cluster.services.Kind). state: its own word where it has one (starting, running,
    waiting, crashed, draining), else the platform's. release: of a worker and a schedule. message: what is wrong with
    it. since: of the state, seconds since the epoch.
    """

    service: str
    kind: str
    state: str
    ok: bool
    release: str | None = None
    message: str = ""
    since: float | None = None


@dataclass(frozen=True, kw_only=True)
class NginxStatus:
    """nginx: the digest of the configuration that it says it runs, and whether that is the stack file's.

    runs: whether its process does. version: of the process, where it is known.
    """

    digest: str | None
    current: bool
    runs: bool
    version: str | None = None


@dataclass(frozen=True, kw_only=True)
class Status:
    """What runs of a stack.

    ok: whether all is as the stack file says. release: the one that serves; None where none does, or not one alone.
    releases: those that are still here, the latest last. store: what an instance says of the session store.
    troubles: what is wrong beside that, a line each. notes: what is worth knowing.
    """

    ok: bool
    release: str | None
    releases: Sequence[str]
    nginx: NginxStatus
    store: dict[str, Any] | None
    instances: Sequence[InstanceStatus]
    services: Sequence[ServiceStatus]
    troubles: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class LogSource:
    """A log: whose it is, as it is shown, the words by which it is asked for, and the command that prints it."""

    name: str
    words: frozenset[str]
    command: Sequence[str]
    environment: Mapping[str, str] | None = None


class Commands(Protocol):
    """What each platform's module of commands has."""

    def facts(self, stack: Stack) -> Facts:
        """Return what the lints may look at beside the stack file."""
        ...

    def set_up(self, stack: Stack) -> None:
        """Make what a stack file alone needs before its first `up`."""
        ...

    def run_up(self, stack: Stack, *, pull: bool = False) -> None:
        """Make the cluster what its stack file says; `pull`: on images that are pulled anew."""
        ...

    def run_rollback(self, stack: Stack, to: str | None) -> None:
        """Let a former release serve."""
        ...

    def keys(self, stack: Stack) -> Keys:
        """Return where the stack's keys are."""
        ...

    def sessions(self, stack: Stack) -> dict[str, Any] | None:
        """Return what an instance says of the session store; None where none says it."""
        ...

    def data(self, stack: Stack) -> str:
        """Return in words what there is of a stack's data, and where: what `down --delete-data` deletes."""
        ...

    def down(self, stack: Stack, *, delete_data: bool) -> bool:
        """Stop everything; with `delete_data` remove the data too. False where the stack was never up."""
        ...

    def status(self, stack: Stack) -> Status:
        """Look at what runs."""
        ...

    def verify(self, stack: Stack) -> list[Check]:
        """Check what serves with real requests; CommandError where nothing does."""
        ...

    def nginx_config(self, stack: Stack) -> NginxConfig:
        """Return nginx's configuration as `up` would put it in place; for a new nginx where none is known."""
        ...

    def logs(self, stack: Stack, *, lines: int, follow: bool) -> list[LogSource]:
        """Return all logs, with commands that print their last `lines` lines, and go on with `follow`."""
        ...

    def run_program(self, stack: Stack, words: list[str]) -> int:
        """Run a program once in the serving release (`manage.py NAME` for one); return its exit status."""
        ...
