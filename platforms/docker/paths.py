"""Where what is kept of a stack on Docker lies on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.stack.paths import StackPaths

if TYPE_CHECKING:
    from pathlib import Path


#: Names the directory where a preview writes the build contexts that are not there yet.
ASIDE_VARIABLE = "CLUSTER_CONTEXTS"


def set_aside(aside: Path, place: Path) -> Path:
    """Return where the build context of `place` lies below `aside`: each has a place of its own."""
    return aside.joinpath(*place.parts[-3:])


@dataclass(frozen=True)
class DockerPaths(StackPaths):
    """The directories and files of one stack."""

    @property
    def images(self) -> Path:
        """The build contexts of releases, a directory each."""
        return self.state / "images"

    def served(self) -> tuple[list[str], str | None]:
        """Return the releases whose image was made, the latest last, which is taken for the one that serves."""
        made = [path for path in self.images.glob("*") if path.is_dir()]
        names = [path.name for path in sorted(made, key=lambda path: path.stat().st_mtime)]
        return names, names[-1] if names else None
