"""Whom the processes run as: the user who says `up`; where that is root, an unprivileged one if it can be."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Debian's user for web servers.
WEB_USER = "www-data"


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

    def own(self, *paths: Path) -> None:
        """Give the paths, and all below them, to this user. Instances that serve may make and remove files there."""
        if not self.changed:
            return
        for path in paths:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)
            if path.is_dir() and not path.is_symlink():
                for directory, directories, files in os.walk(path):
                    for name in (*directories, *files):
                        with contextlib.suppress(FileNotFoundError):  # a session that has just been written or ended
                            os.chown(Path(directory) / name, self.uid, self.gid, follow_symlinks=False)


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
    return _owner(entry)


def base_python() -> str:
    """Return the interpreter below the tool's own virtual environment, from which releases' environments are made."""
    return str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())


def _owner(entry: pwd.struct_passwd) -> Owner:
    return Owner(uid=entry.pw_uid, gid=entry.pw_gid, name=entry.pw_name)


def _root(reason: str) -> Owner:
    return Owner(uid=0, gid=0, name="root", warning=f"the instances run as root: {reason}")


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
