"""What `up` will do on this machine, and how it says so first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.config.models import SessionEngine
from cluster.plan.shown import listed
from cluster.plan.steps import in_which_order, release_line, reloaded
from cluster.services import Kind
from platforms.local.daemons import kind_of
from platforms.local.state import is_daemon, is_instance, is_service

if TYPE_CHECKING:
    from cluster.plan.planned import Share
    from cluster.services import Service
    from cluster.topology import Topology

#: How many hurt files a plan names.
SHOWN = 3


@dataclass(frozen=True)
class WantedDaemon:
    """A daemon that is wanted; `current`: whether Supervisor's program of it is as it should be."""

    service: Service
    current: bool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be done; empty where nothing is.

    start: instances whose process of the release is not there yet.
    serve: instances whose name the release does not hold yet.
    stop: Supervisor's names of processes that are no longer wanted.
    daemons: memcached nodes, the broker: those that are to be started (or, with other options, started again).
    emptied: those of them that run, and lose what they hold. again: those that run, and keep it on the disk.
    beside: Supervisor's names of the workers and schedules that are to be started.
    unable: the names of those that the release can't run.
    hurt: what of the release is not as it was made, and is put back.
    watch: whether what lets stopped processes go on is to be started.
    orphans: processes that a killed Supervisor left; they are ended before anything is started.
    nginx_lines: the difference between the configuration in place and the new one, in nginx's own words.
    traffic: each instance's share before and after, where it changes.
    """

    topology: Topology
    release: str
    former: str | None
    changed_parts: tuple[str, ...]
    make: bool
    migrate: bool
    start: tuple[str, ...]
    serve: tuple[str, ...]
    stop: tuple[str, ...]
    daemons: tuple[str, ...]
    emptied: tuple[str, ...]
    again: tuple[str, ...]
    beside: tuple[str, ...]
    unable: tuple[str, ...]
    hurt: tuple[str, ...]
    orphans: int
    watch: bool
    static: bool
    nginx: str | None
    nginx_lines: tuple[str, ...]
    traffic: tuple[Share, ...]

    @property
    def is_empty(self) -> bool:
        """Whether everything is as it should be."""
        return not (
            self.make
            or self.migrate
            or self.start
            or self.serve
            or self.stop
            or self.daemons
            or self.beside
            or self.static
            or self.nginx
            or self.hurt
            or self.watch
            or self.orphans
        )

    def steps(self) -> list[str]:
        """Return what will be done, in order, for a person."""
        return [*self._release_lines(), *self._process_lines(), *self._nginx_steps()]

    def _release_lines(self) -> list[str]:
        if self.former == self.release:
            if self.make and not self.hurt:
                return [f"~ release {self.release} is not here any more: it is made again"]
            return [f"~ the migrations of release {self.release} run again"] if self.migrate and not self.make else []
        return [release_line(self.former, self.release, self.changed_parts, migrate=self.migrate)]

    def _process_lines(self) -> list[str]:
        lines = []
        if self.hurt:
            more = f" and {len(self.hurt) - SHOWN} more" if len(self.hurt) > SHOWN else ""
            what = f"{', '.join(self.hurt[:SHOWN])}{more}"
            lines.append(f"~ release {self.release} was hurt ({what}): what is missing is put back")
        if self.orphans:
            lines.append(
                f"- {self.orphans} processes whose Supervisor was killed or can't be reached; "
                "the site is away until all is started again"
            )
        if self.watch:
            lines.append("+ watch: lets processes go on that a signal has stopped")
        lines += self._daemon_lines()
        lines += self._beside_lines()
        if self.start:
            how = in_which_order(self.start, self.topology.config.app.rollout.batch)
            lines.append(f"+ {listed(self.start)}: start release {self.release}{how}")
        waiting = [name for name in self.serve if name not in self.start]
        if waiting:
            lines.append(f"~ {listed(waiting)}: release {self.release} takes the name")
        return [*lines, *self._stop_lines()]

    def _stop_lines(self) -> list[str]:
        """Return what is stopped: instances that another process takes the place of, and what goes for good."""
        wanted = {service.name for service in self.topology.services}
        instances = [name.rpartition("-")[0] for name in self.stop if is_instance(name)]
        former = [name for name in dict.fromkeys(instances) if name in wanted]
        others = [name.partition("@")[0] for name in self.stop if is_service(name)]
        gone = [name for name in dict.fromkeys([*instances, *others]) if name not in wanted]
        daemons = [name for name in self.stop if is_daemon(name)]
        lines = [f"- {', '.join(daemons)}: stop"] if daemons else []
        lines += [f"- the former {listed(former)}: stop, once no request needs them"] if former else []
        return [*lines, *([f"- {listed(gone)}: stop, once no request or job needs it"] if gone else [])]

    def _daemon_lines(self) -> list[str]:
        lines = []
        new = [name for name in self.daemons if name not in (*self.emptied, *self.again)]
        if new:
            lines.append(f"+ {', '.join(new)}")
        sessions = self.topology.config.sessions
        alone = SessionEngine.CACHE in (sessions.engine, sessions.previous) and self.topology.memcached_nodes > 1
        filled = [name for name in self.emptied if alone and kind_of(name) is Kind.MEMCACHED]
        lost = [name for name in self.emptied if name not in filled]
        if filled:
            lines.append(f"~ {', '.join(filled)}: started again one after another, each filled from the other")
        if lost:
            lines.append(f"~ {', '.join(lost)}: started again; what it holds is lost")
        if self.again:
            lines.append(f"~ {', '.join(self.again)}: started again; what it keeps is on disk")
        return lines

    def _beside_lines(self) -> list[str]:
        lines = []
        if self.beside:
            names = listed([name.partition("@")[0] for name in self.beside])
            former = "; those of before end what they are at" if any(map(is_service, self.stop)) else ""
            lines.append(f"+ {names}: start in release {self.release}{former}")
        if self.unable:
            names = ", ".join(self.unable)
            lines.append(f"! {names}: release {self.release} was made before the stack had it, and can't run it")
        return lines

    def _nginx_steps(self) -> list[str]:
        if self.nginx is None:
            return []
        words = {
            "start": "nginx: start",
            "restart": "nginx: started again, since its own socket does not answer; it refuses connections meanwhile",
            "reload": reloaded(touches_instances=bool(self.start or self.stop)),
        }
        return [words[self.nginx]]


__all__ = ["SHOWN", "Plan", "WantedDaemon"]
