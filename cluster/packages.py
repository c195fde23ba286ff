"""The packages of a project: what its requirements name, by uv."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import uv

from cluster.release import ReleaseError
from cluster_runtime.instance import die_with_parent

if TYPE_CHECKING:
    from pathlib import Path

#: Lines of uv's output that a message repeats.
LAST_LINES = 15


def run_uv(*arguments: str, cwd: Path | None = None, outlives: bool = False) -> str:
    """Run uv, without any of its configuration files, and return what it printed; ReleaseError has its own words.

    outlives: let it end by itself where the caller is killed. A program with threads that take part in every fork
    (gRPC's, in a Pulumi program) has no other choice.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    # A full disk or a vanished index is told by uv itself, better than by anything we could add.
    done = subprocess.run(
        [uv.find_uv_bin(), "--no-config", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=None if outlives else die_with_parent,  # the next `up` must not find it still writing
    )
    if done.returncode != 0:
        words = "\n".join(done.stderr.strip().splitlines()[-LAST_LINES:])
        raise ReleaseError(f"app.requirements: the packages can't be installed\n{words}")
    return done.stdout


def project_requirements(requirements: Path, temporary: Path, *, outlives: bool = False) -> Path:
    """Return the file to install from: the one given or, where a uv.lock stands beside it, its export."""
    lock = requirements.with_name("uv.lock")
    if requirements.name != "pyproject.toml" or not lock.is_file():
        return requirements
    exported = temporary / "requirements.txt"
    options = ("--quiet", "--frozen", "--no-dev", "--no-emit-project", "--project", str(lock.parent))
    run_uv("export", *options, "--output-file", str(exported), outlives=outlives)
    return exported
