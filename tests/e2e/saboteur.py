"""The program with a part of the protocol switched off; imported by a stand's program before the real one runs."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pulumi

from platforms.docker import resources as platform
from platforms.docker.resources import Docker
from tests.local.saboteur import broken_rendering, no_retry

if TYPE_CHECKING:
    from collections.abc import Callable

    from platforms.docker.bases import Base

HERE = Path(__file__).parent


def _other_script(name: str, mine: str) -> None:
    original: Callable[..., str] = Docker._script

    def script(called: str, *arguments: str) -> str:
        return shlex.join(["sh", str(HERE / mine)]) if called == name else original(called, *arguments)

    Docker._script = staticmethod(script)  # type: ignore[assignment]


def no_health_gate() -> None:
    """Names are taken as soon as the containers were started."""
    spec = platform.instance_spec

    def without_gate(*arguments: Any) -> Any:
        found = spec(*arguments)
        return replace(found, health=None)

    platform.instance_spec = without_gate  # type: ignore[assignment]
    original: Callable[..., str] = Docker._script

    def script(called: str, *arguments: str) -> str:
        if called == "serve.sh":
            return shlex.join(["sh", str(HERE / "serve-without-gate.sh")])
        words = original(called, *arguments)
        return f"{words} || true" if "release" in arguments else words

    Docker._script = staticmethod(script)  # type: ignore[assignment]


def no_drain() -> None:
    """The old release is killed before the new one has the names."""
    _other_script("serve.sh", "serve-without-drain.sh")


def no_turn() -> None:
    """Nobody looks at what nginx and the instances really run."""
    platform.Docker.live = property(lambda _self: _Blind(), lambda _self, _value: None)  # type: ignore[assignment]


def no_pull() -> None:
    """The base as of a time is what the engine has: nothing is pulled."""

    def kept(self: Docker, service: str, base: Base) -> pulumi.ResourceHook:
        def tag(_arguments: pulumi.ResourceHookArgs) -> None:
            self.engine.run("tag", base.image, base.name(self.stack))

        return pulumi.ResourceHook(f"{service}-base", tag)

    Docker._pulled = kept  # type: ignore[method-assign]


class _Blind:
    @staticmethod
    def next_nginx_turn(_digest: str) -> int:
        return 1

    @staticmethod
    def next_static_turn(_release: str) -> int:
        return 1

    @staticmethod
    def next_turn(_instance: str, _process: str) -> int:
        return 1


__all__ = ["broken_rendering", "no_drain", "no_health_gate", "no_pull", "no_retry", "no_turn"]
