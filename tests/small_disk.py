"""A small file system of its own, which can be filled up, or broken so that the kernel makes it read-only."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MEGABYTES = 16


class SmallDisk:
    """An ext4 of a few megabytes in a file, mounted at `path`."""

    def __init__(self, image: Path, path: Path) -> None:
        self.image, self.path = image, path
        self.filling = path / "filling"

    def make(self) -> None:
        with self.image.open("wb") as file:
            file.truncate(MEGABYTES * 1024 * 1024)
        run("mkfs.ext4", "-q", "-m", "0", str(self.image))
        self.path.mkdir(exist_ok=True)
        self.mount()

    def mount(self) -> None:
        run("mount", "-o", "loop", str(self.image), str(self.path))

    def fill(self) -> None:
        """Leave no block free."""
        descriptor = os.open(self.filling, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            for size in (65536, 4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        os.write(descriptor, bytes(size))
            with pytest.raises(OSError, match="No space left") as found:
                os.write(descriptor, bytes(4096))
            assert found.value.errno == errno.ENOSPC
        finally:
            os.close(descriptor)

    def free(self) -> None:
        self.filling.unlink()

    def break_down(self) -> None:
        """Let the kernel meet an error: it takes nothing more, also from who had a file open."""
        run("mount", "-o", "remount,abort", str(self.path))
        with pytest.raises(OSError, match="Read-only"):
            (self.path / "trial").touch()

    def repair(self) -> None:
        """Mount it again, when nobody uses it any more."""
        run("umount", str(self.path))
        subprocess.run(["fsck.ext4", "-fy", str(self.image)], capture_output=True, check=False, timeout=60)
        self.mount()


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)


@contextlib.contextmanager
def small_disk(image: Path, path: Path) -> Iterator[SmallDisk]:
    """Make one; skips the test where that is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    if shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
        pytest.skip("mkfs.ext4 is missing, for a small disk")
    disk = SmallDisk(image, path)
    try:
        disk.make()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no small disk can be mounted here: {error.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True, capture_output=True, timeout=60)
