"""Says what Pulumi's engine does, in words, by its events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from platforms.pulumi.engine import name_of
from platforms.pulumi.made import SHOW

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from cluster.topology import Topology
    from platforms.pulumi.running import Event

CONTAINER, COMMAND, IMAGE = "Container", "Command", "Image"


#: How the command is called that waits for a memcached node, the one by which an instance takes its name, and nginx's.
RESTORED, SERVE, NGINX_CONFIG = "-restored", "-serve", "nginx-config"

#: The input by which a command learns that its instance has the name already.
SERVED = "environment.SERVED"

#: Operations of Pulumi's that change nothing.
UNCHANGED = ("same", "read", "refresh")


#: What a command of the program does, in words.
COMMANDS = {
    "database-password": "giving the database its password",
    "prepare": "the release: static files, migrations, and one instance that proves it healthy",
    SHOW: "once its instances are healthy: nginx serves the release's static files",
    NGINX_CONFIG: "nginx: checking its configuration, one reload",
}


class Progress:
    """Says what the engine does, in words, as it is begun (and for a name taken, once it is done).

    say: is told a line each. served: called with the release once all of it serves as the stack file says, when only
    removals are left. begun: the steps that were begun, as their components call them. beginning: called as the engine
    begins, while it has little to do.
    """

    def __init__(
        self,
        topology: Topology,
        say: Callable[[str], None],
        served: Callable[[str], None] | None = None,
        beginning: Callable[[], object] | None = None,
    ) -> None:
        self.topology = topology
        self._say = say
        self._beginning = beginning
        self.told: set[str] = set()
        self._served = served
        self.begun: set[str] = set()
        self._releases: dict[str, str] = {}

    def take(self, event: Event) -> None:
        """Take one event of the engine's."""
        if self._beginning is not None:
            self._beginning()
            self._beginning = None
        before, after = event.get("resourcePreEvent"), event.get("resOutputsEvent")
        self._look_for_the_end(before, after)
        for line in begun(before["metadata"]) if before else ended(after["metadata"]) if after else ():
            if line not in self.told:
                self.told.add(line)
                self._say(line)

    def _look_for_the_end(self, before: dict[str, Any] | None, after: dict[str, Any] | None) -> None:
        """nginx's configuration is the last that is done; Pulumi removes what was replaced when all else is."""
        if before and before["metadata"]["op"] not in UNCHANGED:
            self.begun.add(part_of(before["metadata"])[1])
        if not after or not self._served:
            return
        kind, name = part_of(after["metadata"])
        if kind == COMMAND and name.endswith(SERVE):
            self._releases[name.removesuffix(SERVE)] = named_release(after["metadata"])[1]
        releases = set(self._releases.values())
        all_serve = len(releases) == 1 and self._releases.keys() == set(self.topology.names)
        if (kind, name) == (COMMAND, NGINX_CONFIG) and self.begun and all_serve:
            self._served(releases.pop())
            self._served = None


def part_of(step: Mapping[str, Any]) -> tuple[str, str]:
    """Return the type (its last word) of a step's resource, and what it is called within its component."""
    kind, name = name_of(step["urn"])
    component = name_of(((step.get("new") or step.get("old") or {}).get("parent")) or "")[1]
    return kind, name.removeprefix(f"{component}-")


def changed_by(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the paths of the inputs in which a step differs, as an event of the engine's says them."""
    return tuple(sorted(metadata.get("detailedDiff") or metadata.get("diffs") or ()))


def finds_it_done(kind: str, name: str, changed: Collection[str]) -> bool:
    """Tell whether a step is a command that is only told that another one has given its instance the name again."""
    return kind == COMMAND and name.endswith(SERVE) and set(changed) == {SERVED}


def begun(step: dict[str, Any]) -> list[str]:
    """Return what to say when the engine begins a step."""
    kind, name = part_of(step)
    operation = step["op"]
    if operation in (*UNCHANGED, "replace"):
        return []
    if operation in ("delete", "delete-replaced"):
        return [_removed(name, former=operation != "delete")] if kind == CONTAINER else []
    if kind == IMAGE:
        return [f"building the image of {'the release' if name == 'app-image' else name.removesuffix('-image')}"]
    if kind == CONTAINER:
        return [f"changing {name} in place" if operation == "update" else f"starting {name}"]
    return _told_of_command(name) if kind == COMMAND else []


def _told_of_command(name: str) -> list[str]:
    if name.endswith(RESTORED):
        return [f"waiting until {name.removesuffix(RESTORED)} has its sessions again"]
    return [COMMANDS[name]] if name in COMMANDS else []


def _removed(name: str, *, former: bool) -> str:
    if not former:
        return f"draining and removing {name}"
    if name == "nginx":
        return "replacing nginx: connections are refused until the new one listens"
    return f"draining and removing the former {name}"


def ended(step: dict[str, Any]) -> list[str]:
    """Return what to say when the engine has ended a step."""
    taken = name_taken(step)
    return [f"{taken[0]} serves release {taken[1]}"] if taken else []


def name_taken(step: dict[str, Any]) -> tuple[str, str] | None:
    """Return the instance and the release where a step has let one take its name."""
    kind, name = part_of(step)
    if step["op"] in (*UNCHANGED, "delete", "delete-replaced") or kind != COMMAND or not name.endswith(SERVE):
        return None
    if finds_it_done(kind, name, changed_by(step)):
        return None
    return named_release(step)


def named_release(step: dict[str, Any]) -> tuple[str, str]:
    """Return the instance and the release of the step of a command that gives an instance its name."""
    environment = ((step.get("new") or {}).get("inputs") or {}).get("environment") or {}
    return environment.get("INSTANCE", part_of(step)[1]), environment.get("RELEASE", "")
