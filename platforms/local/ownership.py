"""Whose the files of a release are: the instances' user's, but for what the project must not change of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cluster_runtime import unfollowed
from platforms.local.release import CONFIG, KEPT_FILES, OURS, SECRETS

if TYPE_CHECKING:
    from cluster.machine.owner import Owner
    from platforms.local.paths import LocalPaths


class Ownership:
    """Gives releases to the instances' user, and takes back what must not be theirs."""

    def __init__(self, paths: LocalPaths, owner: Owner) -> None:
        self.paths = paths
        self.owner = owner

    def give(self, directory: Path) -> None:
        """Give the release to the instances' user, but for what it must not change of itself."""
        for path in directory.iterdir():
            if path.name == SECRETS:
                self.owner.own(*path.iterdir())
                self.owner.let_read(path, 0o710)
            elif path.name not in OURS:
                self.owner.own(path)
        self.owner.let_read(directory / CONFIG, 0o640)
        self.owner.let_read(directory, 0o750)

    def reclaim(self) -> None:
        """Take back what a former version gave to the instances' user: nothing below it could be believed."""
        releases = self.paths.releases
        for directory in releases.iterdir() if self.owner.changed and releases.is_dir() else ():
            if directory.is_symlink() or directory.lstat().st_uid != self.owner.uid:
                continue
            self.owner.hold(directory, 0o700)
            for path in directory.iterdir():
                if path.name in KEPT_FILES:
                    self._keep(path)
                elif path.name == "runtime":
                    self.owner.take(path)
                elif path.name == SECRETS:
                    self.owner.hold(path, 0o710)
                elif path.name == "environment":
                    self._keep_link(path)
            if (directory / CONFIG).exists():
                self.owner.let_read(directory / CONFIG, 0o640)
            self.owner.hold(directory, 0o750)

    def _keep(self, path: Path) -> None:
        """Write a file anew, as root's: who had it open for writing has the former one."""
        try:
            content = unfollowed.read(path)
        except unfollowed.NotAFileError:
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        else:
            unfollowed.replace(path, content)

    def _keep_link(self, path: Path) -> None:
        where = path.readlink() if path.is_symlink() else None
        if where is not None and where.parent == Path("../../environments") and where.name not in ("", "..", "."):
            unfollowed.link(path, str(where))
        elif where is not None:
            path.unlink()
