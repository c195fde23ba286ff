"""What a killed or failed `up` has left on an engine, and how it is cleared away."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from cluster_runtime.migrations import lacking_url
from platforms.docker.engine import (
    INSTANCE_LABEL,
    RELEASE_LABEL,
    ROLE_LABEL,
    SERVICE_LABEL,
    SHORT_ID,
    STACK_LABEL,
    EngineError,
    mounting,
)
from platforms.docker.observe import Observed, release_of
from platforms.pulumi.engine import name_of
from platforms.pulumi.progress import CONTAINER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from platforms.docker.stack import DockerStack

#: Seconds that a container which serves nobody has to end.
ORPHAN_SECONDS = 60


def lost(docker: DockerStack, resources: list[dict[str, Any]]) -> list[str]:
    """Return the names of containers that Pulumi believes to run and that do not: it would not notice.

    Those of another site of the program have another label, and are not looked for.
    """
    running = set(docker.engine.containers(docker.label))
    wanted = {
        resource["id"]: name_of(resource["urn"])[1]
        for resource in resources
        if name_of(resource["urn"])[0] == CONTAINER and resource.get("id") and not resource.get("delete")
        if _label(resource) in (None, docker.label)
    }
    return sorted(name for found, name in wanted.items() if found not in running)


def _label(resource: dict[str, Any]) -> str | None:
    """Return the label of the stack that a container was made with; None where its state does not say."""
    labels = (resource.get("inputs") or {}).get("labels") or []
    return next((label["value"] for label in labels if label["label"] == STACK_LABEL), None)


def unknown(
    resources: list[dict[str, Any]], containers: Iterable[dict[str, Any]], *, tasks: bool = False
) -> list[dict[str, Any]]:
    """Return those of a stack's containers that a killed run left and no state knows.

    containers: what the engine says of all that have the stack's label. tasks: those too that run a task, or a
    management command.
    """
    known = {resource.get("id") for resource in resources}
    volumes = {resource["id"] for resource in resources if name_of(resource["urn"])[0] == "Volume"}
    return [
        container
        for container in mounting(containers, volumes)
        if container["Id"] not in known and (tasks or not _runs_task(container))
    ]


def _runs_task(container: dict[str, Any]) -> bool:
    return container["Config"]["Labels"].get(ROLE_LABEL) == "task" and bool(container["State"]["Running"])


def lacking_migrations(docker: DockerStack) -> dict[str, list[str]]:
    """Return the migrations that the databases of the serving release lack, by alias; none where nobody says it."""
    wanted = docker.stack.config.app.migrate
    said = None
    with contextlib.suppress(EngineError):  # what keeps it from answering is told by what follows
        said = docker.engine.ask(docker.label, lacking_url(wanted)) if wanted else None
    return (said or {}).get("lacking") or {}


def remove_orphans(
    docker: DockerStack, resources: list[dict[str, Any]], say: Callable[[str], None], *, tasks: bool = False
) -> list[str]:
    """Remove what `unknown` returns, and `say` so; return the names."""
    names = []
    there = docker.engine.inspect(docker.engine.containers(docker.label, stopped=True))
    for container in unknown(resources, there, tasks=tasks):
        name = container["Name"].lstrip("/")
        say(f"removing {name}: {'its command ends' if _runs_task(container) else 'a killed run left it'}")
        docker.engine.remove(container["Id"], grace=_grace(container))
        names.append(name)
    return names


def stop_what_never_served(docker: DockerStack, say: Callable[[str], None]) -> None:
    """Stop the containers that a failed release has started, and `say` so: they would take memory until the next one.

    They are not removed, since Pulumi's state knows them: a release that follows starts them again, or replaces them.
    """
    observed = docker.observe()
    volumes = {mount["Name"] for one in observed.of("nginx") for mount in one["Mounts"] if "Name" in mount}
    for container in docker.engine.mounting(docker.label, volumes, "instance"):
        labels = container["Config"]["Labels"]
        process = f"{labels[RELEASE_LABEL]}.{container['Id'][:SHORT_ID]}"
        name = labels[INSTANCE_LABEL]
        given = observed.live.given.get(name)
        # Nobody knows who serves where nginx can't be asked.
        if container["State"]["Running"] and given not in (None, process) and _is_new(observed, container, given):
            say(f"stopping {name} of release {labels[RELEASE_LABEL]}, which does not serve")
            _stop(docker, container)
    for container in _jobless(observed, volumes):
        labels = container["Config"]["Labels"]
        say(f"stopping {labels[ROLE_LABEL]} of release {labels[RELEASE_LABEL]}, which takes no jobs")
        _stop(docker, container)


def _stop(docker: DockerStack, container: dict[str, Any]) -> None:
    grace = _grace(container)
    docker.engine.run("stop", "--time", str(grace), container["Id"], timeout=2 * grace)


def _grace(container: dict[str, Any]) -> int:
    """Return the seconds that a container has to end: of a worker, as long as its job may take."""
    own = container["Config"].get("StopTimeout") if SERVICE_LABEL in container["Config"]["Labels"] else None
    return int(own or ORPHAN_SECONDS)


def _jobless(observed: Observed, volumes: set[str]) -> list[dict[str, Any]]:
    """Return the workers and schedules that a failed release has started: beside each is one that was there before.

    Of two of the release that serves (their command was changed), the newer one was started for nothing.
    """
    serving = {release_of(holder) for holder in observed.live.holders.values()} - {None}
    running: dict[str, list[dict[str, Any]]] = {}
    for container in observed.containers:
        mounted = {mount.get("Name") for mount in container["Mounts"]}
        if SERVICE_LABEL in container["Config"]["Labels"] and container["State"]["Running"] and mounted & volumes:
            running.setdefault(container["Config"]["Labels"][ROLE_LABEL], []).append(container)
    found = []
    for containers in running.values():
        ours = [one for one in containers if one["Config"]["Labels"][RELEASE_LABEL] in serving]
        ours.sort(key=lambda one: one["Created"])
        # Nobody knows who serves where nginx can't be asked.
        found += [one for one in containers if serving and one not in ours] + ours[1:]
    return found


def _is_new(observed: Observed, container: dict[str, Any], given: str | None) -> bool:
    """Tell whether a container was made after the one to which its instance's name was given."""
    made = {one["Id"][:SHORT_ID]: one["Created"] for one in observed.containers}
    former = made.get((given or "").rpartition(".")[2])
    return former is not None and container["Created"] > former
