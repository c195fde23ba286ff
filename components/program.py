"""What a Pulumi program knows of its stack: the stack file, its secrets, the platform and the release."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pulumi

from cluster.config import load_stack
from cluster.config.models import SECRET_KEYS
from cluster.errors import ClusterError
from cluster.interpreters import needs_of, request
from cluster.release import find_project, runtime_config, specify
from cluster.requirements import read_requirements
from cluster.sessions import Lasting, refusal, refused_hiding, refused_loss, refused_rollback
from cluster.stack.judge import judge
from cluster.stack.opened import Stack
from platforms import registry
from platforms.base import RELEASE_VARIABLE

if TYPE_CHECKING:
    from cluster.config import ClusterConfig
    from cluster.release import ReleaseSpec
    from cluster.topology import Topology
    from platforms.base import Ground, Resources


@dataclass(frozen=True)
class Program:
    """One stack, from the repository's directory, and where it stands on its platform."""

    root: Path
    stack: str
    config: ClusterConfig
    secrets: dict[str, str]
    ground: Ground

    def platform(self, topology: Topology) -> Resources:
        """Return the platform, with what runs on it now; RunError where it is away, or would lose sessions or data."""
        try:
            served = self.ground.served(topology)
            rollback = self._former()
            refused = (
                refused_rollback(*rollback, served) or refused_hiding(*rollback, served)
                if rollback
                else refusal(self.config, served, self.ground.sessions)
                or refused_loss(
                    served,
                    self._lasting(topology),
                    discard_sessions=self.config.sessions.discard,
                    discard_data=(self.config.database or self.config.sessions).discard,
                )
            )
        except ClusterError as error:
            raise pulumi.RunError(str(error)) from None
        if refused:
            raise pulumi.RunError(refused)
        return self.ground.resources(pulumi.Output.secret(json.dumps(self.secrets, sort_keys=True)))

    def _lasting(self, topology: Topology) -> Lasting:
        """Return what sessions and data hang on in the release that the stack file asks for."""
        runtime = runtime_config(self.config, self.ground.places(topology), "")
        found = Lasting.of(runtime["sessions"]["path"], runtime["database"], self.secrets)
        return replace(found, shared=frozenset(runtime["shared"]))

    def release(self, topology: Topology) -> ReleaseSpec:
        """Return the release that the stack file and the code ask for; RunError where it can't be made."""
        try:
            project = find_project(self.config, self.root)
            found = read_requirements(self.config.app, project)
            python = request(needs_of(self.config.app, found, project))
            spec = specify(
                *(self.config, self.root, self.secrets, python, self.ground.digest(topology)),
                requirements=found,
                python_request=python,
            )
        except ClusterError as error:
            raise pulumi.RunError(str(error)) from None
        former = self._former()
        return replace(spec, digest=former[0]) if former else spec

    def _former(self) -> tuple[str, dict[str, Any]] | None:
        """Return the former release that is to serve again and its configuration file; RunError where it is gone."""
        former = os.environ.get(RELEASE_VARIABLE)
        if not former:
            return None
        try:
            return former, self.ground.former(former)
        except OSError as error:
            words = f"{RELEASE_VARIABLE}: release {former} is not here: its build context is gone"
            raise pulumi.RunError(words) from error


def open_program() -> Program:
    """Read the stack's file and secrets, and judge them; RunError has a line for each problem."""
    root, stack = Path.cwd(), pulumi.get_stack()
    try:
        config = load_stack(root, stack)
        ground = registry.ground(Stack(root, stack, config))
        secrets = _secrets()
        judge(config, ground.facts(config, frozenset(secrets)), tell=pulumi.log.warn)
    except ClusterError as error:
        raise pulumi.RunError(str(error)) from None
    return Program(root, stack, config, secrets, ground)


def _secrets() -> dict[str, str]:
    """Return the values of the stack's secrets: in plain, since the release's digest is made of them too."""
    found = {name: pulumi.runtime.get_config(f"cluster:{name}") for name in SECRET_KEYS}
    return {name: value for name, value in found.items() if value}
