"""The difference between what a stack file asks for and what runs on this machine: the plan of an `up`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from cluster.plan.compare import compare_shares
from cluster.plan.judged import former_config
from cluster.plan.nginx import OTHER_USERS, difference
from cluster.topology import Topology, shares
from platforms.local.plan import Plan
from platforms.local.state import WATCH, is_daemon, is_instance, is_service, program_name

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from cluster.plan.planned import Share
    from cluster.render.nginx import NginxConfig
    from cluster.services import Service
    from platforms.local.nginx import Nginx
    from platforms.local.plan import WantedDaemon
    from platforms.local.state import Observed


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is wanted, and what is there.

    parts, former_parts: digests of what makes the release and the former one, by their names. made, migrated: whether
    the release is here, and its databases have all of its migrations. daemons, and the workers and schedules `beside`:
    those that are wanted, by Supervisor's names. hurt, orphans: as the plan has them. watched: whether Supervisor's
    program of `watch` is as it should be. config: nginx's, as it is wanted.
    """

    topology: Topology
    release: str
    parts: Mapping[str, str]
    former: str | None
    former_parts: Mapping[str, str]
    made: bool
    migrated: bool
    observed: Observed
    daemons: Mapping[str, WantedDaemon]
    beside: Mapping[str, Service]
    hurt: tuple[str, ...]
    orphans: int
    watched: bool
    nginx: Nginx
    config: NginxConfig

    def plan(self) -> Plan:
        """Return what is to be done."""
        other, observed = self._other, self.observed
        return Plan(
            topology=self.topology,
            release=self.release,
            former=self.former,
            changed_parts=self._changed_parts(),
            make=not self.made,
            migrate=bool(self.topology.config.app.migrate) and not self.migrated,
            start=self._start(),
            serve=self._serve(),
            stop=self._stop(),
            daemons=self._daemons(),
            emptied=tuple(name for name in other if not self.daemons[name].service.kept),
            again=tuple(name for name in other if self.daemons[name].service.kept),
            beside=tuple(name for name in self.beside if not (observed.kept and self._is_there(name))),
            unable=tuple(one.name for one in self.topology.beside if one not in self.beside.values()),
            hurt=self.hurt,
            orphans=self.orphans,
            watch=not (self.watched and observed.kept and self._runs(WATCH)),
            static=observed.static != self.release,
            nginx=self._nginx,
            nginx_lines=self._nginx_lines(),
            traffic=self._traffic(),
        )

    def _changed_parts(self) -> tuple[str, ...]:
        if not self.former_parts:
            return ()
        return tuple(part for part in self.parts if self.former_parts.get(part) != self.parts[part])

    # --- processes

    def _start(self) -> tuple[str, ...]:
        # What Supervisor does not keep is ended, and started again.
        kept = self.observed.running if self.observed.kept else ()
        there = {running.program for running in kept if running.process.state in ("RUNNING", "STARTING")}
        return tuple(name for name in self.topology.names if program_name(name, self.release) not in there)

    def _serve(self) -> tuple[str, ...]:
        observed, release = self.observed, self.release
        return tuple(
            name
            for name in self.topology.names
            if (observed.holders.get(name), observed.given.get(name)) != (release, release)
            or not any(running.release == release and running.state == "serving" for running in observed.of(name))
        )

    def _stop(self) -> tuple[str, ...]:
        wanted = {program_name(name, self.release) for name in self.topology.names}
        wanted |= {*self.daemons, *self.beside}
        there = sorted(self.observed.processes) if self.observed.kept else ()
        return tuple(name for name in there if name not in wanted and _is_ours(name))

    def _daemons(self) -> tuple[str, ...]:
        kept = self.observed.kept
        return tuple(name for name, one in self.daemons.items() if not (one.current and kept and self._runs(name)))

    @cached_property
    def _other(self) -> list[str]:
        """The daemons that run with other options than they should."""
        observed = self.observed
        return [
            name
            for name, one in self.daemons.items()
            if observed.kept and name in observed.processes and not one.current
        ]

    def _is_there(self, program: str) -> bool:
        processes = self.observed.processes
        return program in processes and processes[program].state in ("RUNNING", "STARTING")

    def _runs(self, program: str) -> bool:
        processes = self.observed.processes
        return program in processes and processes[program].state == "RUNNING"

    # --- nginx

    @cached_property
    def _nginx(self) -> str | None:
        """What is done with nginx, by what it runs, and what it would load if it were started again."""
        observed = self.observed
        if observed.nginx is None or not observed.kept:
            return "restart" if observed.kept and observed.silent else "start"
        current = observed.nginx == self.config.digest and self.nginx.is_in_place(self.config)
        return None if current and not self.nginx.reload_wanted else "reload"

    def _nginx_lines(self) -> tuple[str, ...]:
        if self._nginx != "reload":
            return ()
        paths = self.nginx.paths
        return tuple(nginx_difference(self.nginx, self.config, [*map(str, (paths.state, paths.run))]))

    def _traffic(self) -> tuple[Share, ...]:
        running = self.observed.nginx is not None or self._nginx == "restart"
        # What is lost of the configuration in place does not tell what was before.
        if not self._nginx or (running and not self.nginx.current_stack()):
            return ()
        former = former_config(self.nginx.current_stack())
        before = {} if former is None else shares(former.upstream.servers)
        after = {instance.name: instance.share for instance in self.topology.instances}
        return compare_shares(before, after)


def _is_ours(program: str) -> bool:
    """Tell whether Supervisor's program of this name goes where the stack file does not ask for it."""
    return is_daemon(program) or is_instance(program) or is_service(program)


def nginx_difference(nginx: Nginx, config: NginxConfig, places: Collection[str] = ()) -> list[str]:
    """Return nginx's lines that go and come. places: directories that are said by their names alone."""
    users = [] if nginx.has_users(config) else [OTHER_USERS]
    return [*users, *difference(nginx.current_text, config.files, config.digest, places=places)]


__all__ = ["Comparison", "nginx_difference"]
