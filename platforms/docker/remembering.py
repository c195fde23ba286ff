"""What is remembered of releases once one serves, and what is forgotten."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

from cluster.stack.history import KEPT_RELEASES
from platforms.docker.bases import Base, base_of, bases, context_as_of, forget
from platforms.docker.engine import EngineError, image_repository
from platforms.docker.releases import history_of, note_served
from platforms.docker.stack import paths

if TYPE_CHECKING:
    from pathlib import Path

    from platforms.docker.stack import DockerStack


def remember(docker: DockerStack, release: str, *, rolled_back: bool) -> None:
    """Write down which release serves, and forget what is older than the kept ones."""
    ours = paths(docker.stack)
    history = history_of(docker)
    history.served(release, rolled_back=rolled_back)
    keep = {*history.releases[-KEPT_RELEASES:], release, history.former()}
    history.releases = [digest for digest in history.releases if digest in keep]
    ours.state.mkdir(parents=True, exist_ok=True)
    history.save(ours)
    contexts = ours.images
    for context in contexts.iterdir() if contexts.is_dir() else ():
        if context.name not in keep:
            shutil.rmtree(context)
    forget(docker.engine, docker.label, _kept_bases(docker, contexts))
    note_served(docker.engine, docker.label, history.releases)
    repository = image_repository(docker.label, "app")
    for tag in docker.engine.tags(repository):
        if tag not in keep:
            with contextlib.suppress(EngineError):  # a container of it is still ending
                docker.engine.run("rmi", f"{repository}:{tag}")


def _kept_bases(docker: DockerStack, contexts: Path) -> list[Base]:
    """Return the bases of the stack file, and those that the releases which are kept were built on."""
    config = docker.stack.config
    kept = [] if config.images.as_of is None else bases(docker.topology, config.images.as_of)
    former = [context_as_of(context) for context in (contexts.iterdir() if contexts.is_dir() else ())]
    return [*kept, *(base for as_of in former if (base := base_of(config, "app", as_of)))]
