"""The power goes a moment after something was said to be whole: what was said is on the disk.

On a filesystem of its own (ext4 on a loop device) which is shut down without a flush, as a power cut does it:
ioctl(EXT4_IOC_SHUTDOWN, NOLOGFLUSH). What was not written by then is gone.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from cluster import kept
from cluster.kept import hurt, vouch, write_durably
from cluster.stack.history import History
from cluster.stack.secrets import ensure_secrets, read_secrets
from platforms.local.paths import LocalPaths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

EXT4_IOC_SHUTDOWN, NOLOGFLUSH = 0x8004587D, 2

#: Files of a release, as many as an ordinary project has.
FILES = 300


class Disk:
    """A filesystem whose power can be cut."""

    def __init__(self, directory: Path) -> None:
        self.image, self.place = directory / "disk", directory / "mounted"
        self.place.mkdir()
        with self.image.open("wb") as file:
            file.truncate(64 * 1024**2)
        self.run("mkfs.ext4", "-q", "-F", str(self.image))
        self.mount()

    @staticmethod
    def run(*command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"no filesystem to cut the power of: {' '.join(command)}: {done.stderr.strip()}")

    def mount(self) -> None:
        # Nothing is written by itself for a while: what the test sees is what was asked for.
        self.run("mount", "-o", "loop,commit=300", str(self.image), str(self.place))

    def cut(self) -> None:
        """Cut the power, and start again."""
        descriptor = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        except OSError as error:
            pytest.skip(f"the kernel can't shut a filesystem down: {error}")
        finally:
            os.close(descriptor)
        self.run("umount", str(self.place))
        self.mount()

    def close(self) -> None:
        subprocess.run(["umount", str(self.place)], check=False, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid() != 0 or shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/sbin:/usr/sbin") is None:
        pytest.skip("only root mounts a filesystem, and mkfs.ext4 makes it")
    found = Disk(tmp_path)
    yield found
    found.close()


def release(disk: Disk) -> Path:
    directory = disk.place / "release"
    for number in range(FILES):
        file = directory / "project" / f"package{number % 20}" / f"module{number}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"number = {number}\n" * 50)
    (directory / "config.json").write_text("{}")
    return directory


def test_what_a_mark_vouches_for_is_whole_after_a_power_cut(disk: Disk) -> None:
    vouch(release(disk), "complete", "project", "config.json")
    disk.cut()
    directory = disk.place / "release"
    assert hurt(directory, "complete") == []
    assert len(list(directory.rglob("*.py"))) == FILES
    print(f"power cut: 0 of {FILES} files were hurt")


def test_what_was_saved_is_there_after_a_power_cut(disk: Disk) -> None:
    paths = LocalPaths(disk.place, "t")
    key = ensure_secrets(paths.secrets)["secret_key"]
    History(releases=["a" * 12], current="a" * 12).save(paths)
    disk.cut()
    assert read_secrets(paths.secrets) == {"secret_key": key}
    assert History.load(paths) == History(releases=["a" * 12], current="a" * 12)


def test_a_file_that_is_replaced_is_the_former_or_the_new_one(disk: Disk) -> None:
    path = disk.place / "history.json"
    write_durably(path, "former")
    disk.cut()
    for text in ("second", "third"):
        write_durably(path, text)
    disk.cut()
    assert path.read_text() == "third"


def nothing(*_arguments: object) -> None:
    return None


@pytest.mark.parametrize("what", ["tree", "files"])
def test_without_the_flush_files_are_hurt(disk: Disk, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The saboteur: the mark alone reaches the disk, what it vouches for does not."""
    flush: Callable[[int], None] = os.fsync
    monkeypatch.setattr(kept, "sync_tree", nothing)
    if what == "files":
        monkeypatch.setattr(os, "fsync", nothing)
        monkeypatch.setattr(kept, "sync_directory", nothing)
    vouch(release(disk), "complete", "project", "config.json")
    monkeypatch.setattr(os, "fsync", flush)
    disk.cut()
    directory = disk.place / "release"
    found = hurt(directory, "complete") if directory.exists() else None
    print(f"without the flush: {'no release at all' if found is None else f'{len(found)} of {FILES} files were hurt'}")
    assert found != []
