"""What lets a release serve on Docker: its instances, batch by batch, and what runs the project's code beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pulumi

from cluster.config.models import Replacement
from cluster.services import instance_grace
from cluster.topology import batches
from platforms.docker import scripts
from platforms.docker.container_paths import RUN, STATIC
from platforms.docker.containers import MARGIN, Mount
from platforms.docker.engine import SHORT_ID
from platforms.docker.made import Instances
from platforms.docker.scripts import Variable
from platforms.docker.specs import INSTANCE_STATES, instance_spec, service_spec
from platforms.docker.task import TASK_LOCK, task
from platforms.pulumi.made import SHOW

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pulumi_docker as docker
    from pulumi_command import local

    from cluster.services import Service
    from cluster.topology import Topology
    from platforms.docker.family import Family
    from platforms.docker.made import Prepared
    from platforms.pulumi.live import Live


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Makes a release's instances beside those that serve; once a batch is healthy it takes its names.

    release: its digest. live: what runs, as found when the program began.
    """

    topology: Topology
    release: str
    prepared: Prepared
    live: Live
    own: Family

    @property
    def _mounts(self) -> tuple[Mount, ...]:
        return (*self.prepared.mounts, Mount(volume=self.prepared.sockets, path=RUN))

    @property
    def _is_awaited_together(self) -> bool:
        """Whether what shows the static files waits for all instances: it gets ready itself while they do.

        Elsewhere each container is waited for by itself, since more is begun before the static files are shown.
        """
        return not self._is_alone and not self._known_beside(Replacement.BESIDE)

    @property
    def _is_alone(self) -> bool:
        """Whether those that held the names are stopped at once, since memory is short."""
        return isinstance(self.topology.config.app.rollout.batch, int)

    def instances(self) -> Instances:
        """Make them all."""
        prepared, release = self.prepared, self.release
        before: tuple[pulumi.Resource, ...] = prepared.ready
        shown: local.Command | None = None
        served: list[local.Command] = []
        for batch in batches(self.topology.names, self.topology.config.app):
            containers = self._started(batch, before)
            # Or just started, where what shows the static files waits for them.
            healthy: tuple[pulumi.Resource, ...] = tuple(containers.values())
            if shown is None:
                # They would take jobs of a release that does not get healthy.
                healthy = (*healthy, *self._beside(Replacement.BESIDE, healthy))
                shown = self._show_static(containers, healthy)
            taken = [self._serve(name, container, shown, healthy) for name, container in containers.items()]
            served += taken
            before = (*prepared.ready, *taken) if self._is_alone else prepared.ready
        last = self._beside(Replacement.ALONE, served)
        return Instances(
            release=pulumi.Output.all(*(command.stdout for command in served)).apply(lambda _: release),
            sockets=prepared.sockets,
            static=prepared.static,
            shared=prepared.shared,
            ready=(*served, *last),
        )

    def _started(self, batch: Sequence[str], after: Sequence[pulumi.Resource]) -> dict[str, docker.Container]:
        """Start a batch of instances, by their names."""
        return {
            instance: self.own.container(
                instance,
                instance_spec(self.topology, self.release, instance),
                image=self.prepared.image,
                mounts=self._mounts,
                network=self.prepared.network,
                after=after,
                awaited=not self._is_awaited_together,
            )
            for instance in batch
        }

    def _known_beside(self, replacement: Replacement) -> list[Service]:
        """Return the workers and schedules that are replaced so, and that the release knows."""
        return [
            one for one in self.topology.beside if one.replacement is replacement and one.kind in self.prepared.services
        ]

    def _beside(self, replacement: Replacement, after: Sequence[pulumi.Resource]) -> list[docker.Container]:
        """Start the workers and schedules that are replaced so; each has its own program's state for its health."""
        release, known = self.release, self._known_beside(replacement)
        for service in self.topology.beside:
            if service.replacement is replacement and service not in known:
                pulumi.log.warn(f"{service.name}: release {release} was made before the stack had it, and can't run it")
        return [
            self.own.container(
                service.name,
                service_spec(self.topology, service, release),
                image=self.prepared.image,
                mounts=self._mounts,
                network=self.prepared.network,
                after=after,
                alone=replacement is Replacement.ALONE,
            )
            for service in known
        ]

    def _show_static(self, awaited: Mapping[str, docker.Container], after: Sequence[pulumi.Resource]) -> local.Command:
        """Let nginx look in the release's static files first, once these instances are healthy; they take their names.

        So it is done again where one was made anew, as the gate of all of them. Where those that held the names are to
        be stopped with it, each name is taken by a command of its own.
        """
        prepared = self.prepared
        start = self.topology.config.app.health.start_timeout
        mounts = (
            *(mount for mount in prepared.mounts if mount.path != STATIC),
            Mount(volume=prepared.static, path=STATIC),
            Mount(volume=prepared.sockets, path=RUN, read_only=self._is_alone),
        )
        words = ("--once-healthy", "--lock", TASK_LOCK, "show", "--static", STATIC, "--turn", Variable("TURN"))
        return self.own.command(
            SHOW,
            scripts.script("task.sh", *words),
            environment={
                **task(self.topology, prepared.image, "none", mounts),
                "TURN": str(self.live.next_static_generation(self.release)),
                "RELEASE": self.release,
                "CONTAINERS": pulumi.Output.all(*(one.id for one in awaited.values())).apply(
                    lambda found: " ".join(f"{name}/{one[:SHORT_ID]}" for name, one in zip(awaited, found, strict=True))
                ),
                "RUN": RUN,
                "SERVE": "no" if self._is_alone else "yes",
                "STATES": "|".join(INSTANCE_STATES),
                "WAIT": str(math.ceil(start.seconds) + MARGIN),
            },
            after=after,
        )

    def _serve(
        self, instance: str, container: docker.Container, shown: local.Command, after: Sequence[pulumi.Resource]
    ) -> local.Command:
        """Let an instance take its name, unless it did as the static files were shown."""
        app, release = self.topology.config.app, self.release
        process = container.id.apply(lambda found: f"{release}.{found[:SHORT_ID]}")
        generation = process.apply(lambda found: str(self.live.next_generation(instance, found)))
        taken = pulumi.Output.format("{0}/{1}/{2}", instance, process, generation)
        environment: dict[str, pulumi.Input[str]] = {
            "CONTAINER": container.id,
            "INSTANCE": instance,
            "RELEASE": release,
            "TURN": generation,
            "SERVED": "" if self._is_alone else _taken(instance, shown, taken),
            "ALONE": "yes" if self._is_alone else "no",
            "GRACE": str(int(instance_grace(app.graceful_timeout.seconds))),
            "WAIT": str(int(app.health.start_timeout.seconds)),
            "SOCKETS": self.prepared.sockets,
        }
        return self.own.command(
            f"{instance}-serve", scripts.script("serve.sh"), environment=environment, after=(*after, shown)
        )


def _taken(instance: str, shown: local.Command, expected: pulumi.Output[str]) -> pulumi.Output[str]:
    """Return what a command has said of the name of an instance: "INSTANCE/PROCESS/GENERATION"; empty: nothing.

    expected: what it will say, which stands for it in a preview of one that is to run again.
    """

    def found(said: str | None) -> pulumi.Input[str]:
        if pulumi.contains_unknowns(said):
            return expected
        return next((line for line in (said or "").split() if line.startswith(f"{instance}/")), "")

    return shown.stdout.apply(found, run_with_unknowns=True)


__all__ = ["Serving"]
