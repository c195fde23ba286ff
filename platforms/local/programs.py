"""What Supervisor keeps running for a stack on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cluster.kept import HurtFile
from cluster.packages import base_python
from cluster.services import Kind, instance_grace
from platforms.local.daemons import programs as daemon_programs
from platforms.local.daemons import wanted as wanted_daemons
from platforms.local.plan import WantedDaemon
from platforms.local.release import Release
from platforms.local.renewing import Renewing
from platforms.local.state import WATCH, is_service, program_name
from platforms.local.supervisor_files import Program

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster.services import Service
    from platforms.local.site import Site
    from platforms.local.supervisor import Process


class Programs:
    """Supervisor's programs of a stack."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.renewing = Renewing(site)

    def lost(self, processes: Mapping[str, Process]) -> list[str]:
        """Return the programs that run, and whose files Supervisor could not read another time."""
        running = [name for name, process in processes.items() if process.state in ("RUNNING", "STARTING")]
        return [name for name in running if not self.site.supervisor.is_readable(name)]

    def named(self, name: str) -> Program | None:
        """Return the program of an instance or a service by what Supervisor calls it.

        None where its release can't tell it, or the stack file says something else of the service by now.
        """
        if is_service(name):
            digest = name.partition("@")[2].partition(".")[0]
            release = Release(digest=digest, directory=self.site.paths.releases / digest)
            try:
                return next((one for one in self.of_services(release) if one.name == name), None)
            except HurtFile:
                return None
        instance, _dash, digest = name.rpartition("-")
        try:
            return self.of_instance(instance, Release(digest=digest, directory=self.site.paths.releases / digest))
        except HurtFile:
            return None

    def of_instance(self, instance: str, release: Release) -> Program:
        """Return the program of an instance of a release."""
        run = ("-P", "-m", "cluster_runtime.instance", "run", "--instance", instance)
        # Nothing serves before it was looked at, the first release of all included.
        words = (*run, "--told", "--config", str(release.config), "--sockets", str(self.site.paths.run))
        grace = instance_grace(release.runtime()["graceful_timeout"])
        return self._of_project(program_name(instance, release.digest), words, release, grace, priority=500)

    def of_services(self, release: Release) -> list[Program]:
        """Return the workers and schedules of a release."""
        config, sockets = str(release.config), str(self.site.paths.run)
        return [
            self._of_project(name, service.words(release.digest, config, sockets), release, service.grace, priority=400)
            for name, service in self.site.beside(release.digest).items()
        ]

    def _of_project(
        self, name: str, words: tuple[str, ...], release: Release, grace: float, *, priority: int
    ) -> Program:
        """Return what runs the project's code: `words` after Python, `grace` seconds to stop."""
        command = (release.python, *words)
        # Supervisor would give it all of the user's groups: sudo's caller may be in docker's, which is as good as root.
        alone = self.site.owner.alone(release.project) if self.site.owner.changed else ()
        return Program(
            name=name,
            command=(*alone, *command),
            directory=str(release.directory if alone else release.project),
            log=str(self.site.paths.logs / f"{name}.log"),
            priority=priority,
            user=self.site.owner.name if self.site.owner.changed and not alone else None,
            environment={"PYTHONPATH": str(release.directory / "runtime"), "PYTHONDONTWRITEBYTECODE": "1"},
            stop_seconds=grace,
        )

    def watch(self) -> Program:
        """Return what lets stopped processes go on; it may signal whatever Supervisor has started."""
        return Program(
            name=WATCH,
            command=(base_python(), "-I", str(Path(__file__).with_name("watch.py"))),
            directory=str(self.site.paths.state),
            log=str(self.site.paths.logs / f"{WATCH}.log"),
            priority=50,
        )

    def daemons(self, release: Release | None) -> dict[str, tuple[Service, Program]]:
        """Return what runs beside the project and is none of its code, by Supervisor's names."""
        services = wanted_daemons(self.site.topology, release.memcached_nodes if release else 0)
        renewers = {one.name: (one, self.renewing.program(one)) for one in self.site.topology.of_kind(Kind.ACME)}
        return daemon_programs(services, self.site.paths, self.site.owner, self.site.supervisor) | renewers

    def daemons_wanted(self, release: Release | None) -> dict[str, WantedDaemon]:
        """Return the daemons that are wanted beside a release, by Supervisor's names."""
        found = self.daemons(release).items()
        return {
            name: WantedDaemon(service, self.site.supervisor.is_current(program)) for name, (service, program) in found
        }
