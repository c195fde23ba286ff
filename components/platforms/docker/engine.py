"""Moved to cluster.docker.engine."""

from cluster.docker.engine import *  # noqa: F403
from cluster.docker.engine import Engine, EngineError, Live, read_live

__all__ = ["Engine", "EngineError", "Live", "read_live"]
