"""What a release takes of the runtime that is compiled already."""

from __future__ import annotations

import compileall
import errno
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from platforms.local import builder
from platforms.local.builder import take_compiled

if TYPE_CHECKING:
    from pathlib import Path

VERSION = platform.python_version()


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime of two files that is compiled."""
    made = tmp_path / "checkout" / "runtime"
    (made / "inner").mkdir(parents=True)
    for name in ("one.py", "inner/two.py"):
        (made / name).write_text("value = 1\n")
    compileall.compile_dir(made, quiet=2)
    monkeypatch.setattr(builder, "RUNTIME", made)
    return made


@pytest.fixture
def release(runtime: Path, tmp_path: Path) -> Path:
    """Its copy in a release, as that is written: each file with its time, and nothing compiled."""
    copy = tmp_path / "release"
    shutil.copytree(runtime, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def compiled_of(source: Path) -> Path:
    return source.parent / importlib.util.cache_from_source(source.name)


def test_what_is_compiled_of_the_same_text_is_not_compiled_again(runtime: Path, release: Path) -> None:
    take_compiled(release, VERSION)
    taken = {
        path: path.stat().st_mtime_ns
        for path in (compiled_of(release / "one.py"), compiled_of(release / "inner/two.py"))
    }
    compileall.compile_dir(release, quiet=2)
    assert {path: path.stat().st_mtime_ns for path in taken} == taken
    assert compiled_of(release / "one.py").read_bytes() == compiled_of(runtime / "one.py").read_bytes()


def test_what_is_compiled_of_another_text_is_compiled_again_or_passed_over(runtime: Path, release: Path) -> None:
    """The checkout is older or newer than what was compiled in it."""
    os.utime(release / "one.py", (1, 1))
    (release / "one.py").write_text("value = 1000\n")
    os.utime(release / "one.py", (2, 2))
    take_compiled(release, VERSION)
    code = "import one; print(one.value, one.__cached__)"
    asked = [sys.executable, "-B", "-c", code]
    for _before_and_after in range(2):
        done = subprocess.run(asked, cwd=release, capture_output=True, text=True, check=True)
        assert done.stdout.startswith("1000 ")
        compileall.compile_dir(release, quiet=2)
    assert compiled_of(release / "one.py").read_bytes() != compiled_of(runtime / "one.py").read_bytes()


def test_only_what_is_of_a_file_there_for_that_python_and_no_link_is_taken(runtime: Path, release: Path) -> None:
    (release / "one.py").unlink()
    there = compiled_of(runtime / "inner/two.py")
    there.rename(there.with_name("elsewhere"))
    there.symlink_to("elsewhere")
    (runtime / "__pycache__" / "one.cpython-399.pyc").write_bytes(b"x")
    take_compiled(release, VERSION)
    assert list(release.rglob("*.pyc")) == []


def test_where_there_is_no_room_nothing_is_taken_and_nothing_is_left(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    take_compiled(release, VERSION)
    assert {path.name for path in release.rglob("*") if path.is_file()} == {"one.py", "two.py"}
