"""The steps of a preview in the words of every platform's plan, and what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.plan.costs import Cost
from cluster.plan.risk import empties_the_only_node
from cluster.plan.shown import listed
from cluster.plan.steps import in_which_order, release_line, reloaded
from cluster.services import Kind
from platforms.docker.engine import INSTANCE_LABEL, ROLE_LABEL, SERVICE_LABEL
from platforms.pulumi.preview import names
from platforms.pulumi.progress import COMMAND, CONTAINER, NGINX_CONFIG, SERVE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cluster.plan.planned import Release
    from cluster.topology import Topology
    from platforms.pulumi.preview import Preview, Step

#: Volumes whose content is made again whenever it is missing, by how they are called within their components.
MADE_AGAIN = frozenset(
    {
        *("sockets", "secrets", "static", "nginx", "database-secrets", "acme-account"),
        *("sessions", "database-sockets", "broker-sockets"),
    }
)

#: What keeps data that requests need, and can't be there twice.
NEEDED = (Kind.DATABASE, Kind.BROKER)

#: What a container is, by the roles that are none of a service that the stack file has now.
FORMER_KINDS = {"postgres": Kind.DATABASE, "broker": Kind.BROKER, "acme": Kind.ACME, "nginx": Kind.NGINX}


def kind_of(step: Step, topology: Topology) -> Kind | None:
    """Return what a container is; None for what nobody knows."""
    labels = {one.get("label"): one.get("value") for one in (step.new or step.old).get("labels") or ()}
    if INSTANCE_LABEL in labels:
        return Kind.INSTANCE
    role = str(labels.get(ROLE_LABEL, step.part))
    known = {service.name: service.kind for service in topology.services}
    if SERVICE_LABEL in labels or role in known:
        return known.get(role) or Kind(str(labels[SERVICE_LABEL]))
    return Kind.MEMCACHED if role.startswith("memcached") else FORMER_KINDS.get(role)


class Told:
    """What a preview says of one stack. serves: whether the site is up now."""

    def __init__(self, preview: Preview, topology: Topology, *, serves: bool) -> None:
        self.preview = preview
        self.topology = topology
        self.serves = serves
        self.containers = [one for one in preview.steps if one.kind == CONTAINER]

    def _called(self, *operations: str, kinds: Callable[[Kind | None], bool]) -> list[str]:
        found = {
            one.part for one in self.containers if one.operation in operations and kinds(kind_of(one, self.topology))
        }
        return names(found)

    def instances(self, *operations: str) -> list[str]:
        """Return the instances with whose containers that is done."""
        return self._called(*operations, kinds=lambda kind: kind is Kind.INSTANCE)

    def daemons(self, *operations: str, among: Sequence[Kind] = (*NEEDED, Kind.MEMCACHED, Kind.ACME)) -> list[str]:
        """Return what else runs of these kinds and with whose containers that is done."""
        return self._called(*operations, kinds=lambda kind: kind in among)

    def beside(self, *operations: str) -> list[str]:
        """Return the workers and schedules with whose containers that is done."""
        return self._called(*operations, kinds=lambda kind: kind in (Kind.WORKER, Kind.SCHEDULE))

    @property
    def nginx(self) -> str | None:
        """What is done with nginx's container."""
        found = [one.operation for one in self.containers if kind_of(one, self.topology) is Kind.NGINX]
        return found[0] if found else None

    # --- costs

    def costs(self) -> list[Cost]:
        """Return what the engine's steps cost; what else does, no step tells."""
        if not self.serves:
            return [Cost.START, *self._deleted_data()]
        found = [Cost.NGINX_REPLACED] if self.nginx == "replace" else []
        found += [Cost.NGINX_STARTED] if self.nginx == "create" else []
        found += [Cost.SERVICE_REPLACED] if self.daemons("replace", among=NEEDED) else []
        nodes = self.daemons("replace", "delete", among=(Kind.MEMCACHED,))
        found += [Cost.LOGGED_OUT] if empties_the_only_node(self.topology, nodes) else []
        return [*found, *self._deleted_data()]

    def _deleted_data(self) -> list[Cost]:
        return [Cost.VOLUME_DELETED] if set(self._volumes()) - MADE_AGAIN else []

    def _volumes(self) -> list[str]:
        return names(self.preview.of("Volume", "delete", "replace"))

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
            yield f"~ {', '.join(again)}: another container" + (", one after another" if len(again) > 1 else "")
        if gone:
            yield f"- {', '.join(gone)}: stop"

    def _of_instances(self, release: Release) -> Iterator[str]:
        wanted = release.after or release.before
        start, former, gone = self.instances("create", "replace"), self.instances("replace"), self.instances("delete")
        if start:
            yield f"+ {listed(start)}: start release {wanted}" + in_which_order(
                start, self.topology.config.app.rollout.batch
            )
        changed = {
            name.removesuffix(SERVE) for name in self.preview.of(COMMAND, "update", "create") if name.endswith(SERVE)
        }
        waiting = names(changed - set(start))
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
        delivered = self.preview.of(COMMAND, "create", "update", "replace")
        if self.nginx == "replace":
            yield "nginx: another container takes its place"
        elif self.nginx == "create":
            yield "nginx: start"
        elif NGINX_CONFIG in delivered:
            yield reloaded(touches_instances=bool(self.instances("create", "replace", "delete")))

    def deleted(self) -> list[str]:
        """Return in words what is stopped or deleted for good."""
        found = [f"{name} drains and is stopped" for name in self.instances("delete")]
        found += [f"{name} is stopped" for name in names([*self.daemons("delete"), *self.beside("delete")])]
        return [*found, *(f"volume {name} is deleted" for name in self._volumes())]


__all__ = ["Told", "kind_of"]
