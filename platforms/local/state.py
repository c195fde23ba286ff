"""What runs on this machine, read from what runs: Supervisor, the instances' names and words, nginx's own digest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from cluster_runtime.instance_link import InstanceLink
from cluster_runtime.status import READY, SERVING
from platforms.base import by_holder
from platforms.local.nginx import PROGRAM as NGINX
from platforms.local.orphans import Kind, stack_processes
from platforms.local.supervisor import Condition, Process
from platforms.local.written import SERVED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from platforms.local.nginx import Nginx
    from platforms.local.orphans import Found
    from platforms.local.paths import LocalPaths
    from platforms.local.supervisor import Supervisor

#: The program that lets stopped processes go on.
WATCH = "watch"

#: Supervisor's words for a process that has ended and is not started again.
ENDED = frozenset({"STOPPED", "EXITED", "FATAL"})

#: Said of an instance whose socket was removed: nobody reaches it.
WITHOUT_SOCKET = "without its socket"


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
    certificate: which one by ACME nginx has read, and for which account; None where it tells none.
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
    certificate: str | None = None
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

    @property
    def ended(self) -> list[str]:
        """What Supervisor keeps and does not run: instances, workers and daemons by their names."""
        if not self.kept:
            return []
        ended = [name for name, one in self.processes.items() if one.state in ENDED]
        return [name.rpartition("-")[0] if is_instance(name) else name.partition("@")[0] for name in sorted(ended)]

    def of(self, instance: str) -> list[Running]:
        """Return the processes of an instance."""
        return [running for running in self.running if running.instance == instance]


def program_name(instance: str, release: str) -> str:
    """Return Supervisor's name for a process of an instance."""
    return f"{instance}-{release}"


def is_instance(program: str) -> bool:
    """Tell whether it is Supervisor's name for a process of an instance."""
    return "-" in program and not is_service(program)


def is_service(program: str) -> bool:
    """Tell whether it is Supervisor's name for a process of a worker or a schedule: `name@generation`."""
    return "@" in program


def is_daemon(program: str) -> bool:
    """Tell whether it is Supervisor's name for a memcached node, a broker: what is none of the project's, nor ours."""
    return not (is_instance(program) or is_service(program) or program in (NGINX, WATCH))


def observe(paths: LocalPaths, supervisor: Supervisor, nginx: Nginx) -> Observed:
    """Look at everything that runs."""
    there = stack_processes(paths)
    condition = supervisor.condition(there)
    # What Supervisor can't tell any more runs all the same.
    processes = supervisor.processes() if condition is Condition.RUNNING else _unkept(there)
    running, holders, given = [], {}, {}
    for process in processes.values():
        if not is_instance(process.name):
            continue
        instance, _dash, release = process.name.rpartition("-")
        name = InstanceLink(paths.run, instance)
        holders[instance], given[instance] = name.holder(), name.given()
        status = own_status(name, release, process, holder=holders[instance])
        listens = name.alive(release)
        running.append(Running(instance=instance, release=release, process=process, status=status, listens=listens))
    return Observed(
        supervisor=condition,
        processes=processes,
        running=tuple(running),
        holders=holders,
        given=given,
        nginx=nginx.live_digest(),
        static=_static_release(paths),
        certificate=nginx.live_certificate(),
        stopped=tuple(process for process in there if process.stopped),
    )


def _unkept(there: list[Found]) -> dict[str, Process]:
    """Return the processes of services by what Supervisor would call them."""
    found = {}
    for process in there:
        if process.kind is Kind.INSTANCE:
            release = PurePath(process.argument("--config")).parent.name
            name = program_name(process.argument("--instance"), release)
        elif process.kind is Kind.DAEMON:
            name = process.daemon_name
        elif process.kind is Kind.SERVICE:
            name = f"{process.argument('--name')}@{process.argument('--generation')}"
        elif process.kind is Kind.NGINX:
            name = "nginx"
        else:
            continue
        found[name] = Process(name, "RUNNING", process.pid)
    return found


def _static_release(paths: LocalPaths) -> str | None:
    try:
        return (paths.static / "current").readlink().parent.name
    except OSError:
        return None


def own_status(name: InstanceLink, release: str, process: Process, *, holder: str | None) -> dict[str, Any] | None:
    """Return the process's word of itself; one that another, ended process left is not its word.

    holder: the release that holds the name.
    """
    status = name.status(release)
    if status is None or status.get("pid") != process.pid:
        return None
    return by_holder(status, holds=holder == release)


def mark_served(paths: LocalPaths, release: str) -> None:
    """Leave the mark by which the history can be made again."""
    (paths.releases / release / SERVED).touch()
