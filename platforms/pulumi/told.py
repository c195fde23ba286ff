"""What is done with what runs of a stack, in the words of every platform's plan, and what it costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from cluster.plan.costs import Cost
from cluster.plan.risk import empties_the_only_node
from cluster.plan.shown import listed
from cluster.plan.steps import in_which_order, release_line, reloaded
from cluster.services import Kind
from platforms.pulumi.preview import names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cluster.plan.planned import Release
    from cluster.topology import Topology
    from platforms.pulumi.preview import Preview

#: What keeps data that requests need, and can't be there twice.
NEEDED = (Kind.DATABASE, Kind.BROKER)

#: What is neither an instance nor nginx, and runs none of the project's code.
DAEMONS = (*NEEDED, Kind.MEMCACHED, Kind.ACME)


class Told(ABC):
    """What a preview does to one stack. serves: whether the site is up now.

    Operations are create (it is not there yet), replace (by another process) and delete (it goes for good).
    """

    #: What a daemon is in words that is replaced.
    another = "another container"

    def __init__(self, preview: Preview, topology: Topology, *, serves: bool) -> None:
        self.preview = preview
        self.topology = topology
        self.serves = serves

    # --- what the platform knows

    @abstractmethod
    def instances(self, *operations: str) -> list[str]:
        """Return the instances with whose processes that is done."""

    @abstractmethod
    def daemons(self, *operations: str, among: Sequence[Kind] = DAEMONS) -> list[str]:
        """Return what else runs of these kinds and with whose processes that is done."""

    @abstractmethod
    def beside(self, *operations: str) -> list[str]:
        """Return the workers and schedules with whose processes that is done."""

    @abstractmethod
    def named(self) -> list[str]:
        """Return the instances whose names processes take that run already."""

    @property
    @abstractmethod
    def nginx(self) -> str | None:
        """What is done with nginx: create, replace, reload; None: nothing."""

    @property
    def volumes(self) -> list[str]:
        """The volumes that are deleted."""
        return []

    @property
    def lost(self) -> list[str]:
        """Those of them that hold data."""
        return []

    # --- costs

    def costs(self) -> list[Cost]:
        """Return what is known to cost something; what a release costs by what is in it, no step tells."""
        deleted = [Cost.VOLUME_DELETED] if self.lost else []
        if not self.serves:
            return [Cost.START, *deleted]
        found = [Cost.NGINX_REPLACED] if self.nginx == "replace" else []
        found += [Cost.NGINX_STARTED] if self.nginx == "create" else []
        found += [Cost.SERVICE_REPLACED] if self.daemons("replace", among=NEEDED) else []
        nodes = self.daemons("replace", "delete", among=(Kind.MEMCACHED,))
        found += [Cost.LOGGED_OUT] if empties_the_only_node(self.topology, nodes) else []
        return [*found, *deleted]

    # --- words

    def steps(self, release: Release, parts: Sequence[str], *, migrate: bool) -> tuple[str, ...]:
        """Return what is done, in order. parts: what of the release differs."""
        lines = [*self._of_release(release, parts, migrate=migrate), *self._of_daemons()]
        lines += [*self._of_instances(release), *self._of_nginx()]
        if not lines:
            lines = [f"~ {listed(names(one.part for one in self.preview.steps))}"] if self.preview.steps else []
        return tuple(lines)

    @staticmethod
    def _of_release(release: Release, parts: Sequence[str], *, migrate: bool) -> list[str]:
        if release.after is None or release.before == release.after:
            return []
        return [release_line(release.before, release.after, parts, migrate=migrate)]

    def _of_daemons(self) -> Iterator[str]:
        new, again, gone = (self.daemons(operation) for operation in ("create", "replace", "delete"))
        if new:
            yield f"+ {', '.join(new)}"
        if again:
            yield f"~ {', '.join(again)}: {self.another}" + (", one after another" if len(again) > 1 else "")
        if gone:
            yield f"- {', '.join(gone)}: stop"

    def _of_instances(self, release: Release) -> Iterator[str]:
        wanted = release.after or release.before
        start, former, gone = self.instances("create", "replace"), self.instances("replace"), self.instances("delete")
        if start:
            yield f"+ {listed(start)}: start release {wanted}" + in_which_order(
                start, self.topology.config.app.rollout.batch
            )
        waiting = self.named()
        if waiting:
            yield f"~ {listed(waiting)}: release {wanted} takes the name"
        beside, ended = self.beside("create", "replace"), self.beside("replace", "delete")
        if beside:
            yield f"+ {listed(beside)}: start in release {wanted}"
        if former:
            yield f"- the former {listed(former)}: stop, once no request needs them"
        if gone or ended:
            yield f"- {listed([*gone, *ended])}: stop, once no request or job needs it"

    def _of_nginx(self) -> Iterator[str]:
        if self.nginx == "replace":
            yield "nginx: another container takes its place"
        elif self.nginx == "create":
            yield "nginx: start"
        elif self.nginx == "reload":
            yield reloaded(touches_instances=bool(self.instances("create", "replace", "delete")))

    def deleted(self) -> list[str]:
        """Return in words what is stopped or deleted for good."""
        found = [f"{name} drains and is stopped" for name in self.instances("delete")]
        found += [f"{name} is stopped" for name in names([*self.daemons("delete"), *self.beside("delete")])]
        return [*found, *(f"volume {name} is deleted" for name in self.volumes)]


__all__ = ["DAEMONS", "NEEDED", "Told"]
