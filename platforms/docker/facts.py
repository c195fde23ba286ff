"""What the lints may look at of a stack on Docker."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from cluster.lint import Facts
from cluster.render.versions import version_in_image
from cluster.topology import build_topology
from platforms.docker.bases import ages
from platforms.docker.container_paths import base_image

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.config import ClusterConfig
    from platforms.docker.engine import Engine


def facts_of(config: ClusterConfig, root: Path, stack: str, engine: Engine, secrets: frozenset[str]) -> Facts:
    """Return them, with when the bases of its images were made as far as its engine says so."""
    return Facts(
        root=root,
        nginx=version_in_image(base_image(config, "nginx")),
        secrets=secrets,
        privileged=True,
        stack=stack,
        now=dt.datetime.now(dt.UTC),
        bases=ages(engine, build_topology(config)) if config.images.as_of is None else {},
    )
