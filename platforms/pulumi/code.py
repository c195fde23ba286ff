"""A release's code, as it is written where it is sent from: the same for an image as for a host."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from cluster.release import RUNTIME
from cluster.source import Source, check_shared, project_place, write_tree
from cluster_runtime.paths import LEFT_OUT

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.config.models import ClusterConfig
    from cluster.release import ReleaseSpec

DIRECTORY_MODE, FILE_MODE, PROGRAM_MODE = 0o755, 0o644, 0o755


def write_code(directory: Path, config: ClusterConfig, spec: ReleaseSpec, shared: str) -> None:
    """Write the project, what is known of what was left out of it, and the runtime; ReleaseError where that can't be.

    shared: where what the project writes will be, of all releases.
    """
    for path in spec.source.shared:
        check_shared(path, spec.source.project / path)
    write_tree(spec.source.tree(shared), directory / project_place(config), copy)
    write(directory / LEFT_OUT, json.dumps(spec.source.listing.left_out))
    write_tree(Source(project=RUNTIME, root=RUNTIME).tree(""), directory / "runtime" / RUNTIME.name, copy)


def copy(source: Path, target: Path) -> None:
    """Copy a file with a mode that is the same wherever the repository was cloned."""
    target.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    shutil.copy2(source, target)
    target.chmod(PROGRAM_MODE if source.stat().st_mode & 0o100 else FILE_MODE)


def write(path: Path, text: str) -> None:
    """Write a file that everybody may read."""
    path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(FILE_MODE)
