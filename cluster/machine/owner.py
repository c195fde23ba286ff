"""Whom the processes run as: the user who says `up`; where that is root, an unprivileged one if it can be.

The project's code runs as this user, and may do whatever it likes wherever this user may write, at any moment. So that
it can't let root write, give away, read or remove what is not its own:

- what decides anything lies in directories that only root writes (`hold`);
- what is this user's is given at its creation, where nobody else can reach it yet (`make`, `own`);
- below what is this user's root follows no link, and gives no file away that it did not make.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import ClusterError
from cluster.packages import base_python

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Debian's user for web servers.
WEB_USER = "www-data"

#: Directories in each other that are given away.
DEEPEST = 200


class PathError(ClusterError):
    """A directory can't be used; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The user of instances, memcached and nginx's workers. `warning` says why it is root where it is."""

    uid: int
    gid: int
    name: str
    warning: str = ""

    @property
    def changed(self) -> bool:
        """Whether it is another than the one who runs this."""
        return self.uid != os.geteuid()

    def subprocess_options(self) -> dict[str, Any]:
        """Return what subprocess needs to run a program as this user."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.changed else {}

    def alone(self, directory: Path) -> tuple[str, ...]:
        """Return the words that let root run a command as this user, with no other groups; empty where they can't.

        They end in that command (setpriv of util-linux, env of coreutils): its process is the same. What leads to the
        directory may be the user's to change, so that it goes there by itself.
        """
        setpriv, env = shutil.which("setpriv", path=os.defpath), shutil.which("env", path=os.defpath)
        if setpriv is None or env is None:
            return ()
        identity = (f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups")
        return (setpriv, *identity, env, f"--chdir={directory}")

    def own(self, *paths: Path) -> None:
        """Give the paths, and all below them, to this user; they lie in directories that only root writes.

        Only what root has made is given away, and nothing that also has a name elsewhere.
        """
        for path in paths if self.changed else ():
            with _opened(path, os.O_PATH) as descriptor:
                _give(descriptor, self.uid, self.gid, of=0)

    def own_entry(self, name: str, directory: int) -> None:
        """Give what has a name in an open directory that anybody may write: only what root has just made there."""
        if self.changed:
            with _opened(name, os.O_PATH, directory) as descriptor:
                _give(descriptor, self.uid, self.gid, of=0)

    def let_read(self, path: Path, mode: int) -> None:
        """Let this user's group do with what is root's what `mode` says; it lies where only root writes."""
        with _opened(path, os.O_RDONLY) as descriptor:
            if self.changed:
                os.fchown(descriptor, os.geteuid(), self.gid)
            os.fchmod(descriptor, mode)

    def take(self, path: Path) -> None:
        """Take back what was given to this user: root's from now on, but for what has another name elsewhere."""
        with _opened(path, os.O_PATH) as descriptor:
            _give(descriptor, os.geteuid(), self.gid, of=self.uid)

    def make(self, path: Path, mode: int = 0o700) -> None:
        """Make a directory of this user's in one that only root writes; PathError where something else is there."""
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=mode)
        with open_directory(path) as descriptor:
            found = os.fstat(descriptor)
            if found.st_uid != self.uid:
                # Another user's stack before (root's, where there was no other user): all of its files go with it.
                with _opened(path, os.O_PATH) as top:
                    _give(top, self.uid, self.gid, of=found.st_uid)

    def make_below(self, directory: Path, name: str, mode: int = 0o700) -> None:
        """Make a directory of this user's in one of its own; nothing is changed that is there already."""
        with open_directory(directory) as above, contextlib.suppress(FileExistsError):
            os.mkdir(name, mode, dir_fd=above)
            if self.changed:
                with _opened(name, os.O_PATH, above) as descriptor:
                    _give(descriptor, self.uid, self.gid, of=0)

    def make_file(self, path: Path, mode: int = 0o660) -> None:
        """Make an empty file of this user's in a directory that only root writes, where none of its own is there."""
        with contextlib.suppress(FileNotFoundError):
            found = path.lstat()
            if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid == self.uid:
                return
            path.unlink()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            if self.changed:
                os.fchown(descriptor, self.uid, self.gid)
        finally:
            os.close(descriptor)

    def hold_own(self, path: Path) -> None:
        """See that a directory is of who runs this, and nobody else's to write; PathError where it is not."""
        with open_directory(path) as descriptor:
            found = os.fstat(descriptor)
            if found.st_uid != os.geteuid():
                raise PathError(f"{path}: belongs to {_name(found.st_uid)}; say this as {_name(found.st_uid)}")
            os.fchmod(descriptor, stat.S_IMODE(found.st_mode) & ~0o022)

    def hold(self, path: Path, mode: int = 0o755) -> None:
        """Make a directory that nobody writes but who runs this; this user's group reads it where `mode` says so.

        PathError where it belongs to neither, or is none. One that was this user's is taken back.
        """
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        me = os.geteuid()
        with open_directory(path) as descriptor:
            found = os.fstat(descriptor)
            if found.st_uid not in (me, self.uid):
                raise PathError(f"{path}: belongs to somebody else; remove it")
            if self.changed:
                os.fchown(descriptor, me, self.gid)
            os.fchmod(descriptor, mode)
            there = path.lstat()
            if (there.st_dev, there.st_ino) != (found.st_dev, found.st_ino):
                raise PathError(f"{path}: somebody has just put something else in its place; remove it")


@contextlib.contextmanager
def open_directory(path: Path) -> Iterator[int]:
    """Open a directory, and no link to one; PathError where it is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError as error:  # a link too
        raise PathError(f"{path}: not a directory; remove it") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _opened(path: Path | str, flags: int, directory: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _give(descriptor: int, uid: int, gid: int, *, of: int, depth: int = 0) -> None:
    """Give what is open, and all below it, to a user, from within outwards: until then nobody else gets at it.

    Only what belongs to `of`; a file with several names may be somebody else's under the other one.
    """
    found = os.fstat(descriptor)
    if stat.S_ISDIR(found.st_mode):
        if depth > DEEPEST:
            raise PathError(f"{Path(f'/proc/self/fd/{descriptor}').readlink()}: too many directories in each other")
        with _opened(".", os.O_RDONLY | os.O_DIRECTORY, descriptor) as inside:
            for name in os.listdir(inside):  # noqa: PTH208 - of a descriptor
                with contextlib.suppress(FileNotFoundError), _opened(name, os.O_PATH, inside) as entry:
                    _give(entry, uid, gid, of=of, depth=depth + 1)
    elif found.st_nlink > 1:
        return
    if found.st_uid == of:
        os.chown(f"/proc/self/fd/{descriptor}", uid, gid)  # what is open, whatever has its name now


def find_owner(state: Path) -> Owner:
    """Return whom the processes of the stack in `state` run as."""
    uid = os.geteuid()
    if uid != 0:
        return _owner(pwd.getpwuid(uid))
    caller = os.environ.get("SUDO_UID", "0")
    try:
        entry = pwd.getpwuid(int(caller)) if caller != "0" else pwd.getpwnam(WEB_USER)
    except KeyError:
        return _root(f"there is no user {WEB_USER}")
    if not _reaches(entry, state):
        return _root(f"{entry.pw_name} can't reach {state} or {base_python()}")
    above = _writable_above(entry, state)
    if above is None:
        return _owner(entry)
    if caller == "0":
        raise PathError(
            f"{above}: the instances run as {entry.pw_name}, who can write it, and so would decide what root does "
            f"here; let another user own it, root say: chown root {above}"
        )
    return replace(
        _owner(entry),
        warning=f"the instances run as {entry.pw_name}, who can write {above}: code in them could change what root "
        f"runs here next; say this without sudo, or let root own it",
    )


def _owner(entry: pwd.struct_passwd) -> Owner:
    return Owner(uid=entry.pw_uid, gid=entry.pw_gid, name=entry.pw_name)


def _root(reason: str) -> Owner:
    return Owner(uid=0, gid=0, name="root", warning=f"the instances run as root: {reason}")


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _writable_above(entry: pwd.struct_passwd, state: Path) -> Path | None:
    """Return a directory above `state` in which a user could put something else in its place."""
    path = state.resolve()
    for above in path.parents:
        if not above.exists():
            path = above
            continue
        found = above.stat()
        mode = stat.S_IMODE(found.st_mode)
        writable = mode & 0o002 or (mode & 0o020 and found.st_gid == entry.pw_gid)
        if mode & stat.S_ISVTX and path.exists() and path.stat().st_uid != entry.pw_uid:
            writable = False  # only its owner renames it there
        if found.st_uid == entry.pw_uid or writable:
            return above
        path = above
    return None


def _reaches(entry: pwd.struct_passwd, state: Path) -> bool:
    """Tell whether a user can run Python and read the nearest existing directory of `state`."""
    there = next(path for path in (state, *state.parents) if path.exists())
    try:
        done = subprocess.run(
            [base_python(), "-I", "-c", "import os, sys; os.listdir(sys.argv[1])", str(there)],
            user=entry.pw_uid,
            group=entry.pw_gid,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0
