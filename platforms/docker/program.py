"""A site on Docker as a Pulumi program finds it: what runs, what a release is made of, and what makes it."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pulumi

from platforms.docker.container_paths import runtime_paths
from platforms.docker.engine import Engine
from platforms.docker.facts import facts_of
from platforms.docker.family import Target
from platforms.docker.images import platform_digest
from platforms.docker.paths import ASIDE_VARIABLE, DockerPaths
from platforms.docker.resources import Docker
from platforms.docker.specs import container_digest
from platforms.pulumi.looking import seen_by_another

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cluster.config import ClusterConfig
    from cluster.lint import Facts
    from cluster.release import RuntimePaths
    from cluster.tls.certificates import Certificate
    from cluster.tls.renewing import Account
    from cluster.topology import Topology
    from platforms.base import Ground
    from platforms.pulumi.live import Live


T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Looks:
    """Looks at the engine, each a process beside the program. images: in a preview alone, which asks for them."""

    live: Future[Live]
    images: Future[dict[str, str]] | None

    @classmethod
    def begun(cls, engine: Engine, label: str, *, handed: bool) -> Looks:
        """Begin them; EngineError comes with what is asked for. handed: another process may look at what runs."""

        def live() -> Live:
            return (engine.handed(seen_by_another(), label) if handed else None) or engine.live(label)

        images = _beside(lambda: engine.images_of(label)) if pulumi.runtime.is_dry_run() else None
        return cls(live=_beside(live), images=images)


def _beside(look: Callable[[], T]) -> Future[T]:
    """Let a look go on by itself: a program that ends before, refused by a lint, does not wait for it."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(look())
        except BaseException as error:  # noqa: BLE001 - whoever asks for it gets it
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


class DockerGround:
    """One site on one engine. label: the value of the label that all its containers have."""

    def __init__(self, root: Path, stack: str, site: str | None) -> None:
        self.root = root
        self.stack = stack
        self.site = site
        running = pulumi.get_stack()
        self.label = "/".join([pulumi.get_project(), running, *([site] if site else [])])
        self.engine = Engine(pulumi.Config("docker").get("host") or "")
        self.work = DockerPaths(root, f"{running}.{site}" if site else running).images

    @cached_property
    def target(self) -> Target:
        """The engine, and where build contexts are written."""
        aside = os.environ.get(ASIDE_VARIABLE)
        return Target(
            stack=self.label,
            work=self.work,
            engine=self.engine,
            aside=Path(aside) if aside else None,
            looked=self._looks.images,
        )

    @cached_property
    def _looks(self) -> Looks:
        """What the engine is asked while the program goes on, from when its stack file is judged."""
        return Looks.begun(self.engine, self.label, handed=self.site is None)

    @cached_property
    def live(self) -> Live:
        """What runs; EngineError where the engine is away."""
        return self._looks.live.result()

    def facts(self, config: ClusterConfig, secrets: frozenset[str]) -> Facts:
        """Return what the lints may look at."""
        _ = self._looks  # they begin
        return facts_of(config, self.root, self.stack, self.engine, secrets, lambda: self.label)

    def made_secrets(self, config: ClusterConfig) -> dict[str, str]:  # noqa: ARG002 - a database's URL is in its volume
        """Return none: what makes the database keeps its URL."""
        return {}

    def served(self, topology: Topology) -> Sequence[Mapping[str, str] | None]:
        """Return what each instance that serves says of its sessions."""
        return self.live.served(topology.names)

    def sessions(self) -> dict[str, Any] | None:
        """Return what an instance says of the session store; None where none says it."""
        return self.engine.sessions(self.label)

    def paths(self, topology: Topology) -> RuntimePaths:
        """Return where a release's configuration finds things, whatever the release is."""
        return runtime_paths(topology, "")

    def digest(self, topology: Topology) -> str:
        """Return a digest of the base image, the scripts of the build and how containers are made."""
        return platform_digest(topology.config, container_digest(topology))

    def former(self, release: str) -> dict[str, Any]:
        """Return the configuration file in a former release's build context; OSError where that is gone."""
        context = self.target.release_context(release)
        found: dict[str, Any] = json.loads((context / "config.json").read_text(encoding="utf-8"))
        return found

    def resources(
        self, secrets: pulumi.Output[str], certificate: Certificate | None, users: str, account: Account | None = None
    ) -> Docker:
        """Return what makes the images, containers, volumes and networks."""
        return Docker(
            target=self.target,
            live=self.live,
            secrets=secrets,
            certificate=certificate,
            users=users,
            account=account,
            # Before sites had names, a program had one.
            former=self.site is None,
        )


def ground(root: Path, stack: str, site: str | None) -> Ground:
    """Return where a site stands: on the engine of docker:host."""
    return DockerGround(root, stack, site)
