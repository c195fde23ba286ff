"""What really runs of a stack, whatever Pulumi's state believes, and by that which step is to be done again."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster_runtime.status import STARTING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from cluster.acme.kept import Said


#: Since when seconds are counted where a generation is a time, in seconds since 1970: nginx/live reads nine digits. No
#: generation that was counted gets so far.
SINCE = 1_700_000_000


@dataclass(frozen=True, kw_only=True)
class Live:
    """What a stack's nginx and instances really run, whatever Pulumi's state believes.

    nginx: the digest of the configuration that nginx runs; None where it does not answer.
    nginx_generation: how often a configuration was delivered; None where that can't be read.
    holders: the process that holds each instance's name, as `release.container`.
    generations: how often each name was given. given: the process that got it the last time. answers: what listens
    behind it.
    statuses: what each instance's processes last said of themselves, by instance and process.
    static: the release whose static files are served first. static_generation: how often that was said.
    certificate: which one by ACME nginx has read, and for which account. renewal: what its renewer says.
    """

    nginx: str | None = None
    nginx_generation: int | None = 0
    holders: Mapping[str, str | None] = field(default_factory=dict)
    generations: Mapping[str, int] = field(default_factory=dict)
    given: Mapping[str, str | None] = field(default_factory=dict)
    answers: Mapping[str, bool] = field(default_factory=dict)
    statuses: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    static: str | None = None
    static_generation: int = 0
    certificate: str | None = None
    renewal: Said | None = None

    def sessions(self, instance: str) -> Mapping[str, str] | None:
        """Return what the process that holds an instance's name says of its sessions; None where it says nothing."""
        status = self.statuses.get((instance, self.holders.get(instance) or ""), {})
        found: Mapping[str, str] | None = status.get("sessions")
        return found

    def served(self, names: Collection[str]) -> list[Mapping[str, str] | None]:
        """Return what each instance that serves says of its sessions; `names`: those that the stack file has.

        Of one that was removed by hand, what its last process said is still there.
        """
        return [self.sessions(name) for name in self.holders if name in names or self.answers.get(name)]

    def next_static_generation(self, release: str) -> int:
        """Return the generation in which the static files of `release` are served first."""
        generation = self.static_generation if self.nginx_generation is not None else None
        return self._generation(generation, same=self.static == release)

    def next_nginx_generation(self, digest: str) -> int:
        """Return the generation of a delivery of `digest`: the last one where nginx runs it already, else another.

        The generation is an input of the delivery, so that it is done again wherever nginx runs something else, even if
        the state believes that it was done.
        """
        return self._generation(self.nginx_generation, same=self.nginx == digest)

    def next_generation(self, instance: str, process: str) -> int:
        """Return the generation in which `process` gets the name of `instance`: the last one where it was given it.

        One that was given the name and is starting again will take it by itself, as soon as it is healthy. One that
        took it by itself while it was free is given it.
        """
        generation = self.generations.get(instance, 0) if self.nginx_generation is not None else None
        holder, given = self.holders.get(instance), self.given.get(instance)
        status = self.statuses.get((instance, process), {})
        returning = holder is None and status.get("state") == STARTING
        return self._generation(generation, same=given == process and (holder == process or returning))

    @staticmethod
    def _generation(generation: int | None, *, same: bool) -> int:
        if generation is None:
            return int(time.time()) - SINCE  # nobody can say which was the last
        return generation if same else generation + 1
