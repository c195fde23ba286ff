"""The stack file: models, and reading one with every problem said at once."""

from cluster.config.load import Problem, StackFileError, load_stack, parse_config
from cluster.config.models import ClusterConfig, DatabaseEngine, Interface, Method, Server, SessionEngine
from cluster.config.units import Duration, Size
from cluster.platforms import Platform

__all__ = [
    "ClusterConfig",
    "DatabaseEngine",
    "Duration",
    "Interface",
    "Method",
    "Platform",
    "Problem",
    "Server",
    "SessionEngine",
    "Size",
    "StackFileError",
    "load_stack",
    "parse_config",
]
