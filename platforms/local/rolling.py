"""How a release comes into service on this machine: a rolling restart that loses no request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.config.models import Replacement
from cluster.kept import point_at
from cluster.topology import batches
from cluster_runtime.checks import Unhealthy
from cluster_runtime.gate import serving_socket
from cluster_runtime.handover import serve
from cluster_runtime.instance_link import InstanceLink
from platforms.local.site import UpError
from platforms.local.written import SERVED

if TYPE_CHECKING:
    from platforms.local.ending import Ending
    from platforms.local.plan import Plan
    from platforms.local.release import Release
    from platforms.local.site import Site
    from platforms.local.starting import Starting


class Rolling:
    """Brings releases into service."""

    def __init__(self, site: Site, starting: Starting, ending: Ending) -> None:
        self.site = site
        self.starting = starting
        self.ending = ending

    def start_alone(self, plan: Plan, release: Release) -> None:
        """Start what had to wait until its former process had ended; UpError says what serves where one does not."""
        try:
            self.starting.start_beside(plan, release, Replacement.ALONE)
        except UpError as error:
            back = (
                f"; `cluster rollback {self.site.paths.stack} --to {plan.former}` takes it back" if plan.former else ""
            )
            raise UpError(f"{error}\nRelease {release.digest} serves already, without it{back}") from error

    def roll(self, plan: Plan, release: Release) -> None:
        """Bring the release into service, batch by batch; a batch that never gets healthy takes no name."""
        names = tuple(name for name in self.site.topology.names if name in plan.start or name in plan.serve)
        done: list[str] = []
        if not names:
            self.starting.start_beside(plan, release, Replacement.BESIDE)
        for batch in batches(names, self.site.config.app):
            try:
                self._release_batch(batch, plan, release, done)
            except UpError as error:
                if done and plan.former:
                    back = f"`cluster rollback {self.site.paths.stack} --to {plan.former}` takes them back"
                    raise UpError(
                        f"{error}\n{', '.join(done)} serve release {release.digest} already; {back}"
                    ) from error
                raise
            finally:
                if not done:  # whatever happened, an interrupt too: they would take jobs of a release that never served
                    self.starting.withdraw_beside(plan.beside, release)
            if len(batch) < len(names):
                self.ending.stop_other_releases(batch, release)

    def _release_batch(self, batch: tuple[str, ...], plan: Plan, release: Release, done: list[str]) -> None:
        """Let a batch get healthy, and take its names; `done` gets those that are taken."""
        started: list[str] = []
        first = not done
        try:
            for group in (batch[:1], batch[1:]):
                self._bring_up(group, plan, release, started)
                if first and group == batch[:1]:
                    self._judge(batch[0], release)
            if first:
                self.starting.start_beside(plan, release, Replacement.BESIDE)
            self.serve_static(release)
            for name in batch:
                self._take_name(name, release)
                done.append(name)
        except UpError:
            self.starting.withdraw(started, release)
            raise

    def _bring_up(self, names: tuple[str, ...], plan: Plan, release: Release, started: list[str]) -> None:
        """Let these be healthy, without any name yet; `started` gets those that were not there before."""
        new = [name for name in names if name in plan.start]
        started += new
        self.starting.start(new, release)
        self.starting.restart_silent([name for name in names if name not in new], release)
        self.starting.await_ready(names, release)

    def _judge(self, name: str, release: Release) -> None:
        """Let no release serve that does less for a visitor than the one that does.

        Where nothing serves, one that has served before may do so again, whatever its pages answer by now.
        """
        run = self.site.paths.run
        holders = [(other, InstanceLink(run, other).holder()) for other in self.site.topology.names]
        if any(holder == release.digest and InstanceLink(run, other).alive(holder) for other, holder in holders):
            return
        former = serving_socket(run, release.digest)
        if former is None and (release.directory / SERVED).exists():
            return
        self.site.say("looking at its pages as a visitor")
        problems = self.site.builder.judge(release, InstanceLink(run, name).socket(release.digest), former)
        if problems:
            raise UpError(f"release {release.digest} does not do for visitors what it should:\n{problems}")

    def serve_static(self, release: Release) -> None:
        """Let nginx find the release's static files first, and the former release's after them."""
        current, previous = self.site.paths.static / "current", self.site.paths.static / "previous"
        target = f"../releases/{release.digest}/public"
        former = str(current.readlink()) if current.is_symlink() else None
        if former == target:
            return
        for link, where in ((previous, former), (current, target)):
            if where is not None:
                point_at(link, where)

    def _take_name(self, name: str, release: Release) -> None:
        try:
            serve(self.site.paths.run, name, release.digest)
        except Unhealthy as error:
            raise UpError(f"{error}; run `cluster up` again") from error
        self.site.say(f"{name} serves release {release.digest}")
