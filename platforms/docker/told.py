"""What a preview does with the containers and volumes of a stack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.services import Kind
from platforms.docker.engine import INSTANCE_LABEL, ROLE_LABEL, SERVICE_LABEL
from platforms.pulumi import told
from platforms.pulumi.preview import names
from platforms.pulumi.progress import COMMAND, CONTAINER, NGINX_CONFIG, SERVE
from platforms.pulumi.told import DAEMONS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cluster.topology import Topology
    from platforms.pulumi.preview import Preview, Step

#: Volumes whose content is made again whenever it is missing, by how they are called within their components.
MADE_AGAIN = frozenset(
    {
        *("sockets", "secrets", "static", "nginx", "database-secrets", "acme-account"),
        *("sessions", "database-sockets", "broker-sockets"),
    }
)

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


class Told(told.Told):
    """What the engine's steps do with containers and volumes."""

    def __init__(self, preview: Preview, topology: Topology, *, serves: bool) -> None:
        super().__init__(preview, topology, serves=serves)
        self.containers = [one for one in preview.steps if one.kind == CONTAINER]

    def _called(self, *operations: str, kinds: Callable[[Kind | None], bool]) -> list[str]:
        found = {
            one.part for one in self.containers if one.operation in operations and kinds(kind_of(one, self.topology))
        }
        return names(found)

    def instances(self, *operations: str) -> list[str]:
        """Return the instances with whose containers that is done."""
        return self._called(*operations, kinds=lambda kind: kind is Kind.INSTANCE)

    def daemons(self, *operations: str, among: Sequence[Kind] = DAEMONS) -> list[str]:
        """Return what else runs of these kinds and with whose containers that is done."""
        return self._called(*operations, kinds=lambda kind: kind in among)

    def beside(self, *operations: str) -> list[str]:
        """Return the workers and schedules with whose containers that is done."""
        return self._called(*operations, kinds=lambda kind: kind in (Kind.WORKER, Kind.SCHEDULE))

    def named(self) -> list[str]:
        """Return the instances whose names containers take that run already."""
        changed = {
            name.removesuffix(SERVE) for name in self.preview.of(COMMAND, "update", "create") if name.endswith(SERVE)
        }
        return names(changed - set(self.instances("create", "replace")))

    @property
    def nginx(self) -> str | None:
        """What is done with nginx's container, or with nginx in it."""
        found = [one.operation for one in self.containers if kind_of(one, self.topology) is Kind.NGINX]
        if found and found[0] in ("replace", "create"):
            return found[0]
        return "reload" if NGINX_CONFIG in self.preview.of(COMMAND, "create", "update", "replace") else None

    @property
    def volumes(self) -> list[str]:
        """The volumes that are deleted."""
        return names(self.preview.of("Volume", "delete", "replace"))

    @property
    def lost(self) -> list[str]:
        """Those of them that hold data."""
        return [name for name in self.volumes if name not in MADE_AGAIN]


__all__ = ["MADE_AGAIN", "Told", "kind_of"]
