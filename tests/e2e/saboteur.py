"""The program with a part of the protocol switched off; imported by a stand's program before the real one runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pulumi

from platforms.docker import scripts, serving, specs
from platforms.docker.family import Family
from platforms.docker.resources import Docker
from tests.local.saboteur import broken_rendering, no_appendonly, no_retry

if TYPE_CHECKING:
    from platforms.docker.bases import Base
    from platforms.docker.scripts import Variable

HERE = Path(__file__).parent


def _other_script(which: str, mine: str) -> None:
    original = scripts.script

    def script(name: str, *words: str | Variable) -> str:
        return (HERE / mine).read_text() if name == which else original(name, *words)

    scripts.script = script


def no_health_gate() -> None:
    """Names are taken as soon as the containers were started."""
    spec = specs.instance_spec

    def without_gate(*arguments: Any) -> Any:
        found = spec(*arguments)
        assert found.health is not None
        return replace(found, health=replace(found.health, test=("CMD", "true")))  # the policy refuses one without any

    serving.instance_spec = without_gate  # type: ignore[attr-defined,assignment]
    _other_script("serve.sh", "serve-without-gate.sh")
    original = scripts.script

    def script(name: str, *words: str | Variable) -> str:
        text = original(name, *(word for word in words if word != "--once-healthy"))
        return f"(\n{text}\n) || true\n" if "release" in words else text

    scripts.script = script


def no_drain() -> None:
    """The old release is killed before the new one has the names."""
    _other_script("serve.sh", "serve-without-drain.sh")
    original, together = scripts.script, '[ "${SERVE:-}" = yes ]'

    def script(name: str, *words: str | Variable) -> str:
        text = original(name, *words)
        assert name != "task.sh" or together in text
        return text.replace(together, "false")

    scripts.script = script


def no_turn() -> None:
    """Nobody looks at what nginx and the instances really run."""
    Docker.live = property(lambda _self: _Blind(), lambda _self, _value: None)  # type: ignore[assignment]


def no_pull() -> None:
    """The base as of a time is what the engine has: nothing is pulled."""

    def kept(self: Family, name: str, base: Base) -> pulumi.ResourceHook:
        def tag(_arguments: pulumi.ResourceHookArgs) -> None:
            self.target.engine.run("tag", base.image, base.name(self.target.stack))

        return pulumi.ResourceHook(name, tag)

    Family._pulled = kept  # type: ignore[method-assign]


class _Blind:
    @staticmethod
    def next_nginx_generation(_digest: str) -> int:
        return 1

    @staticmethod
    def next_static_generation(_release: str) -> int:
        return 1

    @staticmethod
    def next_generation(_instance: str, _process: str) -> int:
        return 1


__all__ = ["broken_rendering", "no_appendonly", "no_drain", "no_health_gate", "no_pull", "no_retry", "no_turn"]
