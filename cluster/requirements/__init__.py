"""What a project's packages are read from: requirements files, pyproject.toml, locks; and the local ones among them.

All of it is read from files alone: nothing is resolved, built or asked of an index here.
"""

from cluster.requirements.described import (
    REQUIREMENTS,
    Kind,
    LocalPackage,
    Requirements,
    normalised,
    outermost,
    read_json,
    read_toml,
)
from cluster.requirements.lines import find_reference, local_path, logical_lines
from cluster.requirements.metadata import wanted_lines
from cluster.requirements.optional import optional_lines
from cluster.requirements.reading import read_requirements
from cluster.requirements.workspace import uv_table, workspace_root

__all__ = [
    "REQUIREMENTS",
    "Kind",
    "LocalPackage",
    "Requirements",
    "find_reference",
    "local_path",
    "logical_lines",
    "normalised",
    "optional_lines",
    "outermost",
    "read_json",
    "read_requirements",
    "read_toml",
    "uv_table",
    "wanted_lines",
    "workspace_root",
]
