"""How what a release needs is started on this machine, and found to be well."""

from __future__ import annotations

import time
from itertools import groupby
from typing import TYPE_CHECKING, Any

from cluster.asking import restore_sessions
from cluster.config.models import Replacement, SessionEngine
from cluster.services import Kind as ServiceKind
from cluster_runtime.instance_link import InstanceLink
from cluster_runtime.prepare import mask
from cluster_runtime.service import WELL
from cluster_runtime.status import CRASHED, READY, SERVING
from platforms.local.daemons import await_ready
from platforms.local.services import said_of
from platforms.local.site import UpError
from platforms.local.state import WITHOUT_SOCKET, program_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cluster.services import Service
    from platforms.local.ending import Ending
    from platforms.local.plan import Plan
    from platforms.local.programs import Programs
    from platforms.local.release import Release
    from platforms.local.site import Site
    from platforms.local.supervisor_files import Program

#: Lines of an instance's log that a failed release is told with.
LOG_LINES = 20

#: Seconds beyond start_timeout that an instance may take to say that it is healthy.
START_MARGIN = 10.0

#: Seconds between two looks at what an instance says of itself, and between two questions to Supervisor.
LOOK_SECONDS, ASK_SECONDS = 0.02, 0.2

#: Seconds that a process has to write its lost status again, or to be started again by itself.
SAID_SECONDS = 3.0


class Starting:
    """Starts what a release needs, and removes what was started for nothing."""

    def __init__(self, site: Site, programs: Programs, ending: Ending) -> None:
        self.site = site
        self.programs = programs
        self.ending = ending

    def make_nodes(self, *releases: Release | None) -> None:
        """Let the releases' memcached nodes be found: first of all, for Supervisor starts what it knows by itself."""
        for release in releases:
            for service, _program in self.programs.daemons(release).values():
                if service.kind is ServiceKind.MEMCACHED:
                    self.site.paths.make_memcached(self.site.owner, service)

    def ensure_daemons(self, plan: Plan, release: Release) -> None:
        """Start what is to be, and wait until it answers: what begins now may have jobs for it."""
        daemons = self.programs.daemons(release)
        self._ensure_memcached(plan, [one for one in daemons.values() if one[0].kind is ServiceKind.MEMCACHED])
        others = [one for one in daemons.values() if one[0].kind is not ServiceKind.MEMCACHED]
        for service, program in others:
            if program.name in plan.daemons:
                self.site.supervisor.ensure([program])
            await_ready(service, self.site.paths)

    def _ensure_memcached(self, plan: Plan, nodes: list[tuple[Service, Program]]) -> None:
        """Start the nodes; without a database one after another, each filled from the other before that goes."""
        programs = [program for _service, program in nodes]
        engines = (self.site.config.sessions.engine, self.site.config.sessions.previous)
        if not plan.emptied or SessionEngine.CACHE not in engines:
            self.site.supervisor.ensure(programs)
            return
        for program in programs:
            # Before as well as after: an `up` that was killed may have left the one before half filled.
            if program.name in plan.emptied:
                self._await_sessions(program.name)
            self.site.supervisor.ensure([program])
            if program.name in plan.emptied:
                self._await_sessions(program.name)

    def _await_sessions(self, node: str) -> None:
        if not restore_sessions(str(self.site.paths.nginx_socket)):
            raise UpError(
                f"{node} is to be started with other settings, and not all nodes have the sessions that they should; "
                "they are left as they are: `cluster status` says what is wrong with them"
            )

    def start_beside(self, plan: Plan, release: Release, replacement: Replacement) -> None:
        """Start those workers and schedules that are replaced so, and wait until they do what they are for.

        Where one does not, all of them are removed: they would take jobs.
        """
        services = self.site.beside(release.digest)
        names = [name for name in plan.beside if services[name].replacement is replacement]
        if not names:
            return
        self.site.say(f"starting {', '.join(services[name].name for name in names)} of release {release.digest}")
        self.site.supervisor.ensure(
            [program for program in self.programs.of_services(release) if program.name in names]
        )
        try:
            for name in names:
                self._await_service(name, services[name], release)
        except BaseException:
            self.withdraw_beside(names, release)
            raise

    def withdraw_beside(self, names: Iterable[str], release: Release) -> None:
        """Remove those of the workers and schedules that were started for nothing, by Supervisor's names."""
        meant = set(names)
        there = sorted(meant & self.site.supervisor.processes().keys()) if meant else []
        if there:
            self.site.say(f"removing {', '.join(name.partition('@')[0] for name in there)} of release {release.digest}")
            self.site.supervisor.remove(there)

    def _await_service(self, program: str, service: Service, release: Release) -> None:
        deadline = time.monotonic() + service.start_seconds + START_MARGIN
        first = self.site.process(program)
        while True:
            said = said_of(self.site.paths, self.site.process(program))
            if said.state in WELL:
                self.site.say(f"{service.name} is {said.state}")
                return
            gone = said.process.pid != first.pid or said.process.state not in ("RUNNING", "STARTING")
            if gone or said.state == CRASHED or time.monotonic() > deadline:
                late = f"not {WELL[0]} within {service.start_seconds:g} s"
                message = str(said.status.get("message", "")) or ("its process has ended" if gone else late)
                raise UpError(self._failed(f"{service.name} of release {release.digest}", program, release, message))
            time.sleep(0.05)

    def restart_silent(self, names: Iterable[str], release: Release) -> None:
        """Start processes again that run, and say nothing or can't be reached: what they lacked was put back."""

        def silent_now() -> list[str]:
            found = {one.instance: one for name in names for one in observed.of(name) if one.release == release.digest}
            return [name for name, one in found.items() if one.status is None or one.state == WITHOUT_SOCKET]

        names = list(names)
        deadline = time.monotonic() + SAID_SECONDS
        observed = self.site.observe()
        while (silent := silent_now()) and time.monotonic() < deadline:
            time.sleep(0.2)
            observed = self.site.observe()
        if silent:
            self.site.supervisor.stop([program_name(name, release.digest) for name in silent])
            self.start(silent, release)

    def start(self, names: Iterable[str], release: Release) -> None:
        """Start instances of a release; none of them has a name yet."""
        names = list(names)
        if not names:
            return
        self.site.say(f"starting {', '.join(names)} of release {release.digest}")
        self.site.supervisor.ensure([self.programs.of_instance(name, release) for name in names])

    def await_ready(self, names: Iterable[str], release: Release) -> None:
        """Wait until instances are healthy; UpError says why one is not."""
        for name in names:
            self._await_one(name, release)

    def _await_one(self, name: str, release: Release) -> None:
        program = program_name(name, release.digest)
        deadline = time.monotonic() + self.site.config.app.health.start_timeout.seconds + START_MARGIN
        first, ask_at = self.site.process(program).pid, 0.0
        said: dict[str, Any] = {}
        while True:
            own = InstanceLink(self.site.paths.run, name).status(release.digest) or {}
            # Its own word is a small file; Supervisor's costs both milliseconds.
            if own.get("state") not in (READY, SERVING) and time.monotonic() < ask_at:
                time.sleep(LOOK_SECONDS)
                continue
            process, ask_at = self.site.process(program), time.monotonic() + ASK_SECONDS
            if own.get("pid") == process.pid and own.get("state") in (READY, SERVING):
                self.site.say(f"{name} is healthy")
                return
            if own.get("pid") == first:
                said = own
            gone = process.state not in ("RUNNING", "STARTING") or process.pid != first
            # What the project does wrong by itself gets no better until start_timeout.
            if gone or said.get("sure") or time.monotonic() > deadline:
                raise UpError(self._unhealthy(name, release, said.get("message", ""), said.get("failure", "")))
            time.sleep(0.05)

    def _unhealthy(self, name: str, release: Release, message: str, failure: str) -> str:
        """Return why an instance did not get healthy: by what the project raised where that is known, else by its log.

        What a check says again and again would leave no room for why.
        """
        told = f"{name} of release {release.digest} did not get healthy"
        return self._failed(told, program_name(name, release.digest), release, message, failure)

    def _failed(self, told: str, program: str, release: Release, message: str, failure: str = "") -> str:
        log = self.site.paths.logs / f"{program}.log"
        told += f": {message}" if message else ""
        if failure:
            text, head = failure, f"What the project raised (more in {log.relative_to(self.site.paths.root)}):"
        else:
            text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
            head = f"The last lines of {log.relative_to(self.site.paths.root)}:"
        lines = [line for line, _same in groupby(mask(text, release.secrets()).splitlines())]
        last = "\n".join(f"    {line}" for line in lines[-LOG_LINES:])
        return f"{mask(told, release.secrets())}\n{head}\n{last}"

    def withdraw(self, names: list[str], release: Release) -> None:
        """Remove what was started, but for processes that hold their name: those serve."""
        gone = [name for name in names if InstanceLink(self.site.paths.run, name).holder() != release.digest]
        if gone:
            self.site.say(f"removing {', '.join(gone)} of release {release.digest}")
            self.ending.remove([(name, release.digest) for name in gone])
