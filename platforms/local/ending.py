"""How what runs on this machine ends: drained, in its order, or left by a Supervisor that was killed."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

from cluster.kept import remove_tree
from cluster.services import Kind as ServiceKind
from cluster.services import kept_by
from cluster_runtime.instance_link import SERVICES, InstanceLink
from cluster_runtime.service import end_left
from platforms.local.daemons import kind_of
from platforms.local.nginx import PROGRAM as NGINX
from platforms.local.orphans import PATIENCE, Kind, end_processes, orphaned_nginx, orphaned_processes, stack_processes
from platforms.local.site import UpError
from platforms.local.state import is_daemon, is_instance, is_service, program_name
from platforms.local.supervisor import not_ours

if TYPE_CHECKING:
    from collections.abc import Iterable

    from platforms.local.programs import Programs
    from platforms.local.release import Release
    from platforms.local.site import Site

#: Seconds that nginx's old workers have, after a reload, to see the names of instances that are about to go.
SETTLE_SECONDS = 1.0

#: Seconds that what was stopped by a signal has to go on.
WAKE_SECONDS = 5.0


class Ending:
    """Ends what runs of a stack."""

    def __init__(self, site: Site, programs: Programs) -> None:
        self.site = site
        self.programs = programs

    def wake(self) -> None:
        """Let what a signal has stopped go on; UpError where it is another user's, or Supervisor hangs even so."""
        stopped = [process for process in stack_processes(self.site.paths) if process.stopped]
        for process in stopped:
            try:
                os.kill(process.pid, signal.SIGCONT)
            except PermissionError as error:
                raise UpError(not_ours([process.pid])) from error
            except ProcessLookupError:
                continue
            self.site.say(f"{process} was stopped by a signal: it goes on")
        deadline = time.monotonic() + WAKE_SECONDS
        while stopped and time.monotonic() < deadline and any(one.stopped for one in stack_processes(self.site.paths)):
            time.sleep(0.05)

    def stop_other_releases(self, names: Iterable[str], release: Release) -> None:
        """Drain and remove what runs of other releases of these instances."""
        observed = self.site.observe()
        old = [(r.instance, r.release) for name in names for r in observed.of(name) if r.release != release.digest]
        if old:
            self.site.say(f"draining {', '.join(program_name(*pair) for pair in old)}")
            self.remove(old)

    def stop_stale(self, release: Release, *, settle: bool) -> None:
        """Stop instances, workers, schedules and memcached nodes that are no longer wanted."""
        observed = self.site.observe()
        beside = self.site.beside(release.digest)
        former = [name for name in observed.processes if is_service(name) and name not in beside]
        old = [
            (running.instance, running.release)
            for running in observed.running
            if running.instance not in self.site.topology.names or running.release != release.digest
        ]
        if old or former:
            if old and settle:
                time.sleep(SETTLE_SECONDS)
            self.site.say(f"draining {', '.join([*(program_name(*pair) for pair in old), *former])}")
            self.remove(old, former)
        self._forget_services()
        daemons = self.programs.daemons(release)
        unwanted = [name for name in observed.processes if is_daemon(name) and name not in daemons]
        for name in unwanted:
            kind = kind_of(name)
            if kind is not None and kept_by(kind):
                self.site.say(f"stopping the {kind}; what it keeps stays in {self.site.paths.kept_by(kind)}")
        self.site.supervisor.remove(unwanted)
        for name in unwanted:
            if kind_of(name) is ServiceKind.MEMCACHED:
                self.site.paths.forget_memcached(name)

    def remove(self, pairs: list[tuple[str, str]], services: Iterable[str] = ()) -> None:
        """Remove processes of instances, each with its release, and those of services, by Supervisor's names."""
        self.site.supervisor.remove([*(program_name(*pair) for pair in pairs), *services])
        for instance, digest in pairs:
            name = InstanceLink(self.site.paths.run, instance)
            files = (name.socket, name.status_file, name.beat_socket, name.stage_file)
            for path in (file(digest) for file in files):
                path.unlink(missing_ok=True)
            if instance not in self.site.topology.names and name.holder() in (None, digest):
                self._forget_name(name)

    def _forget_name(self, name: InstanceLink) -> None:
        """Remove the directory of an instance that has ended, in which what it started may write for a moment more."""
        try:
            remove_tree(name.directory)
        except OSError as error:  # it is its user's directory, who may do there whatever they like
            self.site.say(f"{name.directory} can't be removed: {error.strerror}")

    def _forget_services(self) -> None:
        """Remove what workers and schedules have left that are no more."""
        named = {service.name for service in self.site.topology.beside}
        directory = self.site.paths.run / SERVICES
        for path in directory.iterdir() if directory.is_dir() else ():
            if path.name not in named:
                self._forget_name(InstanceLink(directory, path.name))

    def _end_orphaned_services(self) -> None:
        """Let workers and schedules of a killed Supervisor end what they are at; the instances serve meanwhile."""
        services = [process for process in stack_processes(self.site.paths) if process.kind is Kind.SERVICE]
        if services:
            self.site.say(f"ending {len(services)} workers and schedules that a killed Supervisor left")
            patience = max([PATIENCE, *(service.grace for service in self.site.topology.beside)])
            try:
                end_processes([process.pid for process in services], patience=patience)
            except PermissionError as error:
                raise UpError(not_ours([process.pid for process in services])) from error
        end_left(str(self.site.paths.run / SERVICES))

    def end_orphans(self) -> None:
        """End a Supervisor that can't be reached, and what one that was killed left: a new one can't adopt them."""
        condition, pids = self.site.supervisor.condition(), self.site.supervisor.pids()
        if pids:
            self.site.say(f"ending Supervisor (process {', '.join(map(str, pids))}), which {condition}")
            self.site.supervisor.shutdown()
        self._end_orphaned_services()
        orphans = orphaned_processes(self.site.paths)
        keepers = [process.pid for process in stack_processes(self.site.paths) if kept_by(process.daemon)]
        if orphans:
            self.site.say(f"ending {len(orphans)} processes that a killed Supervisor left")
            try:
                end_processes(pid for pid in orphans if pid not in keepers)
                end_processes(keepers)  # the last: what ends before may have jobs for it
            except PermissionError as error:
                raise UpError(not_ours(orphans)) from error
        workers = orphaned_nginx(self.site.paths)
        if workers:
            end_processes(workers, signal.SIGQUIT)

    def down(self) -> None:
        """Stop everything; data, releases and logs stay."""
        self.wake()
        if not self.site.supervisor.is_running():
            self.end_orphans()
            return
        names = list(self.site.supervisor.processes())
        nginx = [name for name in names if name == NGINX]
        daemons = [name for name in names if is_daemon(name)]
        instances = [name for name in names if is_instance(name)]
        services = [name for name in names if is_service(name)]
        # Forgotten as well: at its own end Supervisor takes a second for each program that it knows, ended or not.
        self.site.say("stopping nginx")
        self.site.supervisor.remove(nginx, keep_files=True)
        self.site.say(f"stopping the instances{', workers and schedules' * bool(services)}")
        self.site.supervisor.remove([*instances, *services], keep_files=True)
        end_left(str(self.site.paths.run / SERVICES))
        self.site.supervisor.remove([name for name in daemons if kept_by(kind_of(name))], keep_files=True)
        # What the others hold ends with them; asked to end memcached takes seven seconds for that.
        self.site.supervisor.remove(
            [name for name in daemons if not kept_by(kind_of(name))], keep_files=True, kill=True
        )
        self.site.supervisor.shutdown()
        self.end_orphans()
