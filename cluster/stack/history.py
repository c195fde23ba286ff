"""Which releases of a stack have served, and the lock that one command at a time holds."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, TypeAdapter

from cluster.errors import ClusterError, CommandError
from cluster.kept import HurtFile, make_way, read_kept, write_kept

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cluster.stack.paths import StackPaths


class Busy(ClusterError):  # noqa: N818 - a state, not a mistake
    """Another `up` is changing the stack."""


#: Releases that are kept, the serving one included.
KEPT_RELEASES = 3

#: What a release may be called: it is a part of paths.
Digest = Annotated[str, Field(pattern="^[0-9a-z]{1,64}$")]


@dataclass(kw_only=True)
class History:
    """The releases that have served, oldest first, and the one that serves.

    found: how its file was hurt, where it was: then it is made again of what else tells of it.
    """

    releases: list[str] = field(default_factory=list)
    current: str | None = None
    found: str = ""

    @classmethod
    def load(cls, paths: StackPaths) -> History:
        """Read it; empty where nothing has served yet."""
        try:
            kept = read_kept(paths.history, KEPT_HISTORY)
        except HurtFile as error:
            return cls._from_releases(paths, error.found)
        if kept is None:
            return cls._from_releases(paths, "is gone")
        return cls(releases=list(kept.releases), current=kept.current)

    @classmethod
    def _from_releases(cls, paths: StackPaths, found: str) -> History:
        """Make it again, of what else tells of it."""
        served, current = paths.served()
        return cls(releases=served, current=current, found=found if served else "")

    def save(self, paths: StackPaths) -> None:
        """Write it atomically."""
        write_kept(paths.history, {"releases": self.releases, "current": self.current})
        self.found = ""

    def served(self, release: str, *, rolled_back: bool = False) -> None:
        """Note that `release` serves; going back does not make it the newest."""
        if not rolled_back or release not in self.releases:
            self.releases = [known for known in self.releases if known != release] + [release]
        self.current = release

    def join(self, served: Sequence[str]) -> None:
        """Take over which releases have served as another place knows it, the latest last: other checkouts made some.

        What is known here alone keeps its place among the others.
        """
        others = iter(served)
        joined = [next(others) if known in served else known for known in self.releases]
        self.releases = [*joined, *others]

    def back_to(self, release: str | None) -> str:
        """Return which release is to serve again; the one before for None, CommandError where there is none."""
        digest = release or self.former()
        if digest is None:
            raise CommandError("there is no release before the one that serves")
        return digest

    def not_here(self, release: str) -> CommandError:
        """Return what to raise where a release is not kept any more."""
        return CommandError(f"release {release} is not here; known: {', '.join(self.releases) or 'none'}")

    def former(self) -> str | None:
        """Return the release that served before the current one."""
        if self.current not in self.releases:
            return None
        position = self.releases.index(self.current)
        return self.releases[position - 1] if position else None


@dataclass(kw_only=True)
class _Kept:
    releases: list[Digest]
    current: Digest | None


KEPT_HISTORY: TypeAdapter[_Kept] = TypeAdapter(_Kept)


@contextmanager
def locked(paths: StackPaths, what: str) -> Iterator[None]:
    """Hold the stack's lock; Busy tells who holds it. The kernel lets go of it when its holder dies."""
    for path in (paths.state.parent, paths.state):
        make_way(path, stat.S_IFDIR)
    paths.state.mkdir(parents=True, exist_ok=True)
    make_way(paths.lock, stat.S_IFREG)
    descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another command"
            raise Busy(f"{holder} is changing this stack; wait until it has ended") from None
        os.ftruncate(descriptor, 0)
        stamp = time.strftime("%H:%M:%S")
        os.pwrite(descriptor, f"`cluster {what}` (process {os.getpid()}, since {stamp})".encode(), 0)
        yield
    finally:
        os.close(descriptor)
