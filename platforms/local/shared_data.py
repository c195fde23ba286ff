"""What a project writes on this machine: one for all releases and instances, outside of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from cluster.kept import HurtFile
from cluster.release import RUNTIME, ReleaseError
from cluster.source import Source, check_shared, is_file_name, shared_place
from cluster.stack.history import History
from cluster_runtime.gather import gather
from cluster_runtime.unfollowed import printable
from platforms.local.project_code import last_lines
from platforms.local.release import Release

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cluster.machine.owner import Owner
    from platforms.local.paths import LocalPaths


class SharedData:
    """What a stack's project writes. `say` is told what is copied."""

    def __init__(self, paths: LocalPaths, owner: Owner, say: Callable[[str], None]) -> None:
        self.paths = paths
        self.owner = owner
        self.say = say

    def make(self, source: Source, release: Release) -> None:
        """Make what the project writes, where it is not there yet, of what the project holds there."""
        self.owner.hold(self.paths.shared)
        self.owner.make_below(self.paths.data, "databases", 0o750)
        for path in source.shared:
            place, held = self.paths.shared / shared_place(path), source.project / path
            directory = place.parent if is_file_name(path) else place
            check_shared(path, held)
            if os.path.lexists(place):
                continue
            written = self._written_by_serving(path)
            if written is None and not held.exists():
                self.owner.make(directory, 0o750)
                continue
            self.say(f"copying {path}: from now on it is kept in {place.relative_to(self.paths.root)}")
            new = self.paths.shared / f".{directory.name}.new"
            shutil.rmtree(new, ignore_errors=True)
            copy = new / place.relative_to(directory)
            if written is not None:
                self.owner.make(new, 0o750)
                self._gather(written, copy, release)
            else:
                new.mkdir()
                gather(held, copy)
            self.owner.own(new)
            shutil.rmtree(directory, ignore_errors=True)  # empty: what it would hold is not there
            new.rename(directory)

    def take_written(self, former: str, release: Release) -> None:
        """Take what a former release's project wrote since the copy was made, when nothing of that release runs.

        It is where the former release did not share a path, or its project has put a file in the place of the link.
        """
        for path, place in release.runtime()["shared"].items():
            written = self._written_by(former, path)
            if written is not None:
                for left in self._gather(written, self.paths.shared / place, release):
                    self.say(f"{left}: a database that has another one in its place now, and is left where it is")

    def _written_by_serving(self, path: str) -> Path | None:
        """Return where the release that serves has a path that is to be shared from now on; None where it has not."""
        current = History.load(self.paths).current
        return None if current is None else self._written_by(current, path)

    def _written_by(self, digest: str, path: str) -> Path | None:
        """Return where a release has a path that is none of what it shares; None where it has not."""
        try:
            found = Release(digest=digest, directory=self.paths.releases / digest).project / path
        except (HurtFile, OSError):  # it is hurt: what it holds is not deleted with it, but kept aside
            return None
        return found if found.exists() and not found.is_symlink() else None

    def _gather(self, written: Path, target: Path, release: Release) -> list[str]:
        """Copy what a release's project wrote, as its user: it may lead anywhere at any moment."""
        program = release.directory / "runtime" / RUNTIME.name / f"{gather.__name__}.py"
        done = subprocess.run(
            [release.python, "-I", "-S", str(program), str(written), str(target)],
            cwd="/",
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            **self.owner.subprocess_options(),
        )
        if done.returncode != 0:
            raise ReleaseError(f"app.shared: {written} can't be copied: {last_lines(done.stderr)}")
        return [printable(line) for line in done.stdout.splitlines() if line]
