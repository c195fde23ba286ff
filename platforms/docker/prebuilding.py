"""The image of a release, built from when Pulumi's preview says what it is made of.

A preview goes on for about a second after that, and what carries it out begins anew: the provider, when it comes to
build the image, finds it in the engine's cache. That alone is filled: which image a release has is the provider's to
say. Nothing is said here of what goes wrong: the provider builds it in its turn, and says it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platforms.docker.api import cache
from platforms.docker.engine import LOOK_SECONDS
from platforms.pulumi.beside import beside
from platforms.pulumi.preview import APP_IMAGE, OPERATIONS
from platforms.pulumi.progress import part_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from platforms.docker.engine import Engine
    from platforms.pulumi.running import Event

#: The operations after which there is an image.
MAKING = ("create", "update", "replace")

#: The type of an image that the provider builds.
TYPE = "docker:index/image:Image"


@contextmanager
def prebuilding(engine: Engine, root: Path) -> Iterator[Callable[[Event], object]]:
    """Yield what is to be told each event of a preview; what it builds is given up at the end.

    root: where the program runs. Nothing is built ahead where the engine is not asked at its own socket.
    """
    with contextlib.ExitStack() as stack:
        tell: Callable[[Event], object] = _nothing
        if engine.socket() is not None:
            with contextlib.suppress(OSError):
                tell = stack.enter_context(_begun(engine, root))
        yield tell


def _nothing(_event: Event) -> None:
    """Do nothing."""


@contextmanager
def _begun(engine: Engine, root: Path) -> Iterator[Callable[[Event], object]]:
    """Let a process wait for what is to be built: who tells has threads by then, and it is a fork."""
    reading, writing = os.pipe()
    with contextlib.ExitStack() as stack:
        told = stack.enter_context(os.fdopen(writing, "wb", buffering=0))

        def work() -> None:
            told.close()
            line = orders.readline()
            if line:
                build_ahead(engine, json.loads(line))

        with os.fdopen(reading, encoding="utf-8") as orders:
            stack.enter_context(beside(work))

        def tell(event: Event) -> None:
            order = None if told.closed else ordered(event, root)
            if order is not None:
                with told, contextlib.suppress(OSError):  # it was killed
                    told.write(f"{json.dumps(order)}\n".encode())

        yield tell


def ordered(event: Event, root: Path) -> dict[str, Any] | None:
    """Return what is to be built by an event: what the provider will be told; None where that is nothing."""
    metadata = (event.get("resourcePreEvent") or {}).get("metadata") or {}
    if OPERATIONS.get(metadata.get("op", "")) not in MAKING or metadata.get("type") != TYPE:
        return None
    if part_of(metadata)[1] != APP_IMAGE:
        return None
    try:
        inputs = metadata["new"]["inputs"]
        made = inputs["build"]
        return {
            "name": inputs["imageName"],
            "context": str(root / made["context"]),
            "base": made["args"]["BASE"],
            "arguments": dict(made["args"]),
            "platform": made.get("platform", ""),
        }
    except (KeyError, TypeError, ValueError):  # a program's own, of another form
        return None


def build_ahead(engine: Engine, order: Mapping[str, Any]) -> None:
    """Build what was ordered, where it is not there and what it is built on is."""
    # The base may have to be pulled, by who may, or be made as of a time.
    there = engine.creation_times([order["name"], order["base"]], LOOK_SECONDS)
    socket = engine.socket()
    if socket is not None and there.keys() == {order["base"]}:
        with contextlib.suppress(OSError, http.client.HTTPException):
            cache(socket, Path(order["context"]), order["arguments"], order["platform"])


__all__ = ["build_ahead", "ordered", "prebuilding"]
