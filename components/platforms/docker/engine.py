"""The Docker engine, and what of a stack runs on it."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Labels of everything that belongs to a stack.
STACK_LABEL, ROLE_LABEL = "django-cluster.stack", "django-cluster.role"
INSTANCE_LABEL, RELEASE_LABEL = "django-cluster.instance", "django-cluster.release"
CLUSTER_LABEL = "django-cluster.cluster"

#: Seconds that the engine may take to say what runs.
LOOK_SECONDS = 20.0


class EngineError(Exception):
    """The engine is away or refuses; the text says what to do."""


@dataclass(frozen=True, kw_only=True)
class Live:
    """What a stack's nginx and instances really run, whatever Pulumi's state believes.

    nginx: the digest of the configuration that nginx runs; None where it does not answer.
    nginx_turn: how often a configuration was delivered; None where that can't be read.
    holders: the process that holds each instance's name, as `release.container`.
    turns: how often each name was given.
    """

    nginx: str | None = None
    nginx_turn: int | None = 0
    holders: Mapping[str, str | None] = field(default_factory=dict)
    turns: Mapping[str, int] = field(default_factory=dict)

    def next_nginx_turn(self, digest: str) -> int:
        """Return the turn of a delivery of `digest`: the last one where nginx runs it already, else another.

        The turn is an input of the delivery, so that it is done again wherever nginx runs something else, even if the
        state believes that it was done.
        """
        return self._turn(self.nginx_turn, same=self.nginx == digest)

    def next_turn(self, instance: str, process: str) -> int:
        """Return the turn in which `process` gets the name of `instance`: the last one where it holds it."""
        turn = self.turns.get(instance, 0) if self.nginx_turn is not None else None
        return self._turn(turn, same=self.holders.get(instance) == process)

    @staticmethod
    def _turn(turn: int | None, *, same: bool) -> int:
        if turn is None:
            return int(time.time())  # nobody can say which was the last
        return turn if same else turn + 1


@dataclass(frozen=True)
class Engine:
    """A Docker engine: `host` as in docker:host (unix://, ssh://, tcp://), empty for the one of the environment."""

    host: str = ""

    def environment(self) -> dict[str, str]:
        """Return what a `docker` command needs to reach this engine."""
        return {"DOCKER_HOST": self.host} if self.host else {}

    def run(self, *arguments: str, timeout: float = LOOK_SECONDS) -> str:
        """Run a `docker` command and return what it printed; EngineError has its words."""
        try:
            done = subprocess.run(
                ["docker", *arguments],
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except FileNotFoundError as error:
            raise EngineError(
                "docker is not installed: apt-get install docker.io, or docs.docker.com/engine"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise EngineError(
                f"the Docker engine {self.host or 'here'} does not answer within {timeout:g} s"
            ) from error
        if done.returncode != 0:
            raise EngineError(self._explain(done.stderr.strip()))
        return done.stdout

    def _explain(self, words: str) -> str:
        where = self.host or "here"
        if "permission denied" in words.lower():
            return (
                f"no right to use the Docker engine {where}: add yourself to the group docker "
                "(sudo usermod -aG docker $USER, then log in again)"
            )
        if "cannot connect" in words.lower() or "error during connect" in words.lower():
            return (
                f"the Docker engine {where} does not answer: start it (sudo systemctl start docker), or set docker:host"
            )
        return f"docker: {words}"

    def containers(self, stack: str, role: str | None = None, *, stopped: bool = False) -> list[str]:
        """Return the ids of a stack's containers, the newest first."""
        filters = ["--filter", f"label={STACK_LABEL}={stack}"]
        if role is not None:
            filters += ["--filter", f"label={ROLE_LABEL}={role}"]
        return self.run("ps", "--quiet", "--no-trunc", *(["--all"] if stopped else []), *filters).split()

    def live(self, stack: str) -> Live:
        """Look at what runs; EngineError where the engine is away."""
        running = self.containers(stack, "nginx")
        if not running:
            return Live(nginx_turn=None if self.containers(stack, "nginx", stopped=True) else 0)
        try:
            return read_live(self.run("exec", running[0], "/usr/local/lib/cluster/live"))
        except EngineError:
            return Live(nginx_turn=None)


def read_live(text: str) -> Live:
    """Read what nginx's `live` printed."""
    nginx, turn = None, 0
    holders: dict[str, str | None] = {}
    turns = {}
    for line in text.splitlines():
        what, *words = line.split(" ")
        if what == "nginx":
            nginx, turn = (None if words[0] == "-" else words[0]), int(words[1])
        elif what == "instance":
            holders[words[0]] = None if words[1] == "-" else words[1]
            turns[words[0]] = int(words[2])
    return Live(nginx=nginx, nginx_turn=turn, holders=holders, turns=turns)
