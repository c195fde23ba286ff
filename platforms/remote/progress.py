"""Says what Pulumi's engine does on hosts, in words, by its events."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from platforms.pulumi.engine import name_of
from platforms.pulumi.progress import NGINX_CONFIG, UNCHANGED, part_of
from platforms.remote.wheels import said_of_building

if TYPE_CHECKING:
    from collections.abc import Callable

    from platforms.pulumi.running import Event

#: What is said when a step begins, by the end of its name.
STEPS = {
    "host": "setting {host} up",
    "postgres": "making the database",
    "daemons": "starting what keeps sessions and jobs",
    "broker": "starting the broker",
    "uploads": "copying what is written there to where all hosts have it",
    "sent": "sending the release",
    "prepare": "the release: static files, migrations, and one instance that proves it healthy",
    "static-files": "sending its static files on",
    "start": "starting instances of release {release} beside those that serve",
    "static": "letting nginx serve the release's static files",
    "serve": "letting release {release} serve",
    "renewer-sent": "sending what keeps the certificate",
    "address": "letting it hold the site's address, if no other host does",
    "renewer": "starting what keeps the certificate",
    "relays": "nginx: passing on what other hosts ask for",
    "nginx-config": "nginx: checking its configuration, one reload",
    "retire": "draining and stopping what serves no more",
}

#: A host, in what a step runs.
_ON = re.compile(r"/on ([a-z][a-z0-9-]*) ")


def host_of(inputs: dict[str, Any]) -> str:
    """Return the host of a step by what it runs, the last one where it asks two; empty where it is none."""
    found = _ON.findall(str(inputs.get("create", "")))
    return str(found[-1]) if found else ""


class Progress:
    """Says each step as it is begun. say: is told of the stack; say_of: of a host, whose name comes first.

    begun: the steps that were begun, removals among them, as their components call them. reloading: called once, where
    the first of them is an nginx's, which takes its time.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        say_of: Callable[[str, str], None],
        reloading: Callable[[], object] = lambda: None,
    ) -> None:
        self._say = say
        self._say_of = say_of
        self._reloading = reloading
        self.begun: set[str] = set()

    def take(self, event: Event) -> None:
        """Take one event of the engine's."""
        building = said_of_building(event)
        if building:
            self._say(building)
        step = (event.get("resourcePreEvent") or {}).get("metadata")
        if not step or step["op"] in UNCHANGED:
            return
        first, part = not self.begun, part_of(step)[1]
        self.begun.add(part)
        if first and part.endswith(NGINX_CONFIG):
            self._reloading()
        if step["op"] in ("delete", "delete-replaced"):
            return
        inputs = (step.get("new") or {}).get("inputs") or {}
        host = host_of(inputs)
        _kind, name = name_of(step["urn"])
        what = name.rpartition(f"-{host}-")[2].rstrip("0123456789") if host else ""
        words = STEPS.get(what, "").format(host=host, release=inputs.get("environment", {}).get("RELEASE", ""))
        if words:
            if what == "host":  # it names it already
                self._say(words)
            else:
                self._say_of(host, words)


__all__ = ["STEPS", "Progress", "host_of"]
