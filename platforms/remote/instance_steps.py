"""The steps that let a release serve: its instances, batch by batch, and what runs the project's code beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pulumi

from cluster.config.models import Replacement
from cluster.topology import batches
from platforms import base
from platforms.remote.steps import Steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pulumi_command import local

    from platforms.remote.release_steps import Prepared


@dataclass(frozen=True, kw_only=True)
class Instances(base.Instances):
    """Instances that hold their names."""

    digest: str
    ready: tuple[pulumi.Resource, ...]


@dataclass(frozen=True, kw_only=True)
class InstanceSteps(Steps):
    """Start the release's instances beside those that serve; once a batch is healthy it takes its names.

    A batch is healthy once it is on all hosts. release: its digest.
    """

    release: str

    def instances(self, prepared: Prepared) -> Instances:
        """Make them all."""
        release = self.release
        before: Sequence[pulumi.Resource] = prepared.ready
        served: list[local.Command] = []
        for number, batch in enumerate(batches(self.topology.names, self.topology.config.app), start=1):
            ready: list[pulumi.Resource] = list(self._started(number, batch, before))
            if number == 1:
                # They would take jobs of a release that does not get healthy.
                ready += self._beside(Replacement.BESIDE, ready)
                ready += [self._shown(host, ready) for host in self.placement.hosts]
            taken = self._served(number, batch, ready)
            served += taken
            before = [*prepared.ready, *taken]
        last = self._beside(Replacement.ALONE, served)
        return Instances(
            release=pulumi.Output.all(*(command.stdout for command in served)).apply(lambda _: release),
            digest=release,
            ready=(*served, *last),
        )

    def _started(self, number: int, batch: Sequence[str], after: Sequence[pulumi.Resource]) -> list[local.Command]:
        """Start a batch of instances, each on its host."""
        return [
            self.command(
                self.step(host, f"start{number}"),
                "start",
                ("$RELEASE", *own),
                after=after,
                environment={"RELEASE": self.release},
                done=self.seen.each[host].run(own, self.release),
                turn_of=f"start{number}",
            )
            for host in self.placement.app
            if (own := self.placement.on(host, batch))
        ]

    def _shown(self, host: str, after: Sequence[pulumi.Resource]) -> local.Command:
        """Let a host's nginx serve the release's static files first."""
        return self.command(
            self.step(host, "static"),
            "show",
            ("$RELEASE", "$TURN"),
            after=after,
            environment={"RELEASE": self.release},
            turn=str(self.seen.each[host].live.next_static_generation(self.release)),
        )

    def _served(self, number: int, batch: Sequence[str], after: Sequence[pulumi.Resource]) -> list[local.Command]:
        """Let a batch take its names, on all hosts at once."""
        alone = "alone" if isinstance(self.topology.config.app.rollout.batch, int) else "beside"
        return [
            self.command(
                self.step(host, f"serve{number}"),
                "serve",
                ("$RELEASE", alone, *(f"{one}=$TURN" for one in own)),
                after=after,
                environment={"RELEASE": self.release},
                done=self.seen.each[host].hold_names(own, self.release),
                turn_of=f"serve{number}",
            )
            for host in self.placement.app
            if (own := self.placement.on(host, batch))
        ]

    def _beside(self, replacement: Replacement, after: Sequence[pulumi.Resource]) -> list[local.Command]:
        """Start what runs the project's code beside the instances and is replaced so, each on its host."""
        step = f"services-{replacement.value}"
        started = []
        for host in self.placement.app:
            found = {
                one.name: one.generation(self.release)
                for one in self.placement.services(host, self.topology.beside)
                if one.replacement is replacement
            }
            if not found:
                continue
            units = [self.places.unit_of_service(*one) for one in found.items()]
            words = (replacement.value, *(f"{one}={of}" for one, of in found.items()))
            started.append(
                self.command(
                    self.step(host, step),
                    "start-services",
                    words,
                    after=after,
                    done=self.seen.each[host].are_active(units),
                    turn_of=step,
                )
            )
        return started


__all__ = ["InstanceSteps", "Instances"]
