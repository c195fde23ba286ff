"""Code that runs as the instances' user, and does its worst beside what root does."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster.machine.owner import WEB_USER, Owner

if TYPE_CHECKING:
    from collections.abc import Iterator

try:
    ATTACKER: pwd.struct_passwd | None = pwd.getpwnam(WEB_USER)
except KeyError:
    ATTACKER = None

only_root = pytest.mark.skipif(
    os.geteuid() != 0 or ATTACKER is None, reason=f"only root, where there is a {WEB_USER}, has anything to lose to it"
)

#: How often an attack is tried at least, beside as many turns of what root does.
TRIES = 1000

CONTENT = "root's own\n"

#: Runs `attack()` again and again, whatever becomes of it, and says at the end how often.
LOOP = """
import os, signal, socket, sys, time
tries = over = 0
def end(*_):
    global over
    over = 1
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
while not over:
    tries += 1
    try:
        attack()
    except OSError:
        pass
print(tries, flush=True)
"""


@dataclass
class Ground:
    """A directory that everybody reaches, with something of root's in it that nobody else may change or read."""

    root: Path

    @property
    def roots(self) -> Path:
        return self.root / "roots"

    @property
    def canary(self) -> Path:
        return self.roots / "canary"

    def of_attacker(self, name: str) -> Path:
        """Make a directory that the attacker owns."""
        path = self.root / name
        path.mkdir(mode=0o755)
        shutil.chown(path, WEB_USER, WEB_USER)
        return path

    def untouched(self) -> bool:
        """Tell whether what is root's is as it was."""
        try:
            found = [path.lstat() for path in (self.roots, self.canary)]
            same = self.canary.read_text() == CONTENT
        except OSError:
            return False
        modes = [(one.st_uid, one.st_gid, stat.S_IMODE(one.st_mode), one.st_nlink) for one in found]
        return (
            same
            and modes == [(0, 0, 0o711, 2), (0, 0, 0o600, 1)]
            and [path.name for path in self.roots.iterdir()] == ["canary"]
        )


@pytest.fixture
def ground() -> Iterator[Ground]:
    root = Path(tempfile.mkdtemp(prefix="at"))
    root.chmod(0o755)
    found = Ground(root)
    found.roots.mkdir(mode=0o711)
    found.canary.touch(mode=0o600)
    found.canary.write_text(CONTENT)
    assert found.untouched()
    yield found
    shutil.rmtree(root)


@contextmanager
def attack(code: str, *arguments: object) -> Iterator[list[int]]:
    """Let `attack()` of `code` be done again and again beside the block; the list says afterwards how often it was."""
    assert ATTACKER is not None
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", code + LOOP, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        user=ATTACKER.pw_uid,
        group=ATTACKER.pw_gid,
        extra_groups=[],
        cwd="/",
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    tries: list[int] = []
    try:
        yield tries
    finally:
        process.terminate()
        tries.append(int(process.communicate(timeout=60)[0]))


def owner() -> Owner:
    assert ATTACKER is not None
    return Owner(uid=ATTACKER.pw_uid, gid=ATTACKER.pw_gid, name=WEB_USER)
