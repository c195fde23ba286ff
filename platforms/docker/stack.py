"""A stack on its engine."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import yaml

from cluster.errors import CommandError
from cluster.tls.certificates import named
from cluster.topology import Topology, build_topology
from platforms.docker.engine import Engine
from platforms.docker.observe import Observed, observe
from platforms.docker.paths import DockerPaths
from platforms.pulumi.keys import stack_keys

if TYPE_CHECKING:
    from cluster.stack.opened import Stack
    from cluster.tls.certificates import Certificate


class DockerStack:
    """A stack on its engine."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.topology: Topology = build_topology(stack.config)
        self.engine = Engine(engine_host(stack))
        self.label = f"{project_name(stack)}/{stack.name}"

    @property
    def certificate(self) -> Certificate | None:
        """The site's, as far as it is known without secrets. CertificateError where its file can't be read."""
        return named(self.stack.config, self.stack.root, dt.datetime.now(dt.UTC))

    def look(self) -> str:
        """Look at what runs, for `observe` and programs; EngineError where the engine is away."""
        return self.engine.look(self.label)

    def observe(self, handed: str | None = None) -> Observed:
        """Look at what runs; EngineError where the engine is away. handed: what another process has seen of it."""
        return observe(self.engine, self.label, self.topology, self.certificate, handed)

    def instance_container(self, name: str) -> str:
        """Return the container that holds an instance's name; CommandError where none does."""
        holder = self.observe().live.holders.get(name)
        if holder is None:
            raise CommandError(f"{name} does not serve; `cluster status {self.stack.name}` says what runs")
        return holder.rpartition(".")[2]


def paths(stack: Stack) -> DockerPaths:
    """Return where what is kept of the stack lies on this machine."""
    return DockerPaths(stack.root, stack.name)


def engine_host(stack: Stack) -> str:
    """Return the stack's docker:host; empty for the engine of the environment."""
    return str(stack_keys(stack.root, stack.name).get("docker:host") or "")


def project_name(stack: Stack) -> str:
    """Return the Pulumi project's name."""
    path = stack.root / "Pulumi.yaml"
    if not path.is_file():
        raise CommandError(f"{path} is missing: platform {stack.config.platform} is a Pulumi program")
    return str(yaml.safe_load(path.read_text(encoding="utf-8"))["name"])
