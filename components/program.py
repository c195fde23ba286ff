"""What a Pulumi program knows of its stack: the stack file, its secrets, the platform and the release."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pulumi

from cluster.config import Platform, StackFileError, load_stack
from cluster.config.models import SECRET_KEYS
from cluster.errors import CommandError
from cluster.interpreters import needs_of, request
from cluster.release import ReleaseError, find_project, runtime_config, specify
from cluster.requirements import read_requirements
from cluster.sessions import Lasting, refusal, refused_hiding, refused_loss, refused_rollback
from cluster.stack.judge import judge
from platforms.docker.engine import Engine, EngineError
from platforms.docker.facts import facts_of
from platforms.docker.images import platform_digest
from platforms.docker.paths import DockerPaths
from platforms.docker.places import runtime_places
from platforms.docker.resources import Docker, container_digest

if TYPE_CHECKING:
    from cluster.config import ClusterConfig
    from cluster.release import ReleaseSpec
    from cluster.topology import Topology


#: Names a former release that is to serve again (`cluster rollback`), instead of the one that the code asks for.
RELEASE_VARIABLE = "CLUSTER_RELEASE"


@dataclass(frozen=True)
class Program:
    """One stack, from the repository's directory."""

    root: Path
    stack: str
    config: ClusterConfig
    secrets: dict[str, str]

    @property
    def work(self) -> Path:
        """Where the build contexts of releases are kept."""
        return DockerPaths(self.root, self.stack).images

    def platform(self, topology: Topology) -> Docker:
        """Return the platform, with what runs on it now; RunError where its engine is away."""
        engine = engine_of()
        name = stack_label(self.stack)
        try:
            live = engine.live(name)
        except EngineError as error:
            raise pulumi.RunError(str(error)) from None
        # Of an instance that was removed by hand, what its last process said is still there.
        served = [live.sessions(name) for name in live.holders if name in topology.names or live.answers.get(name)]
        rollback = self._former()
        refused = (
            refused_rollback(*rollback, served) or refused_hiding(*rollback, served)
            if rollback
            else refusal(self.config, served, lambda: engine.sessions(name))
            or refused_loss(
                served,
                self._lasting(topology),
                discard_sessions=self.config.sessions.discard,
                discard_data=(self.config.database or self.config.sessions).discard,
            )
        )
        if refused:
            raise pulumi.RunError(refused)
        secrets = pulumi.Output.secret(json.dumps(self.secrets, sort_keys=True))
        return Docker(stack=name, work=self.work, engine=engine, live=live, secrets=secrets)

    def _lasting(self, topology: Topology) -> Lasting:
        """Return what sessions and data hang on in the release that the stack file asks for."""
        runtime = runtime_config(self.config, runtime_places(topology, ""), "")
        found = Lasting.of(runtime["sessions"]["path"], runtime["database"], self.secrets)
        return replace(found, shared=frozenset(runtime["shared"]))

    def release(self, topology: Topology) -> ReleaseSpec:
        """Return the release that the stack file and the code ask for; RunError where it can't be made."""
        own = platform_digest(self.config, container_digest(topology))
        try:
            project = find_project(self.config, self.root)
            found = read_requirements(self.config.app, project)
            python = request(needs_of(self.config.app, found, project))
            spec = specify(
                *(self.config, self.root, self.secrets, python, own), requirements=found, python_request=python
            )
        except ReleaseError as error:
            raise pulumi.RunError(str(error)) from None
        former = self._former()
        return replace(spec, digest=former[0]) if former else spec

    def _former(self) -> tuple[str, dict[str, Any]] | None:
        """Return the former release that is to serve again and its configuration file; RunError where it is gone."""
        former = os.environ.get(RELEASE_VARIABLE)
        if not former:
            return None
        try:
            config = json.loads((self.work / former / "config.json").read_text(encoding="utf-8"))
        except OSError as error:
            words = f"{RELEASE_VARIABLE}: release {former} is not here: its build context is gone"
            raise pulumi.RunError(words) from error
        return former, config


def stack_label(stack: str) -> str:
    """Return what marks everything of a stack on an engine."""
    return f"{pulumi.get_project()}/{stack}"


def engine_of() -> Engine:
    """Return the stack's engine."""
    return Engine(pulumi.Config("docker").get("host") or "")


def open_program() -> Program:
    """Read the stack's file and secrets, and judge them; RunError has a line for each problem."""
    root, stack = Path.cwd(), pulumi.get_stack()
    try:
        config = load_stack(root, stack)
    except StackFileError as error:
        raise pulumi.RunError(str(error)) from None
    if config.platform is Platform.LOCAL:
        raise pulumi.RunError(f"stack {stack} is for this machine alone: say `cluster up {stack}`")
    if config.platform is not Platform.DOCKER:
        raise pulumi.RunError(f"platform: {config.platform} is not there yet; local and docker are")
    secrets = _secrets()
    try:
        judge(config, facts_of(config, root, stack, engine_of(), frozenset(secrets)), tell=pulumi.log.warn)
    except CommandError as error:
        raise pulumi.RunError(str(error)) from None
    return Program(root, stack, config, secrets)


def _secrets() -> dict[str, str]:
    """Return the values of the stack's secrets: in plain, since the release's digest is made of them too."""
    found = {name: pulumi.runtime.get_config(f"cluster:{name}") for name in SECRET_KEYS}
    return {name: value for name, value in found.items() if value}
