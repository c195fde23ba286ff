"""What the lints may look at of a stack on Docker."""

from __future__ import annotations

import contextlib
import datetime as dt
from typing import TYPE_CHECKING

from cluster.lint import Facts
from cluster.render.versions import version_in_image
from cluster.services import Kind
from cluster.topology import build_topology
from platforms.docker.bases import ages
from platforms.docker.container_paths import base_image
from platforms.docker.engine import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cluster.config import ClusterConfig
    from platforms.docker.engine import Engine


def facts_of(  # noqa: PLR0913, PLR0917 - what a stack is
    config: ClusterConfig,
    root: Path,
    stack: str,
    engine: Engine,
    secrets: frozenset[str],
    label: Callable[[], str],
) -> Facts:
    """Return them, with when the bases of its images were made as far as its engine says so.

    label: returns that of its containers.
    """
    issued: list[tuple[str, str]] = []
    if build_topology(config).of_kind(Kind.ACME):
        with contextlib.suppress(EngineError):  # one that is away is told by what needs it
            renewal = engine.live(label()).renewal
            issued = renewal.issued if renewal else []
    return Facts(
        root=root,
        nginx=version_in_image(base_image(config, "nginx")),
        secrets=secrets,
        privileged=True,
        stack=stack,
        now=dt.datetime.now(dt.UTC),
        issued=issued,
        bases=ages(engine, build_topology(config)) if config.images.as_of is None else {},
    )
