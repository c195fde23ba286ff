"""What a project wrote into a release is kept when the release goes; nothing else is."""

from __future__ import annotations

import os
import subprocess
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import Mock

import pytest

from cluster_runtime.secret_files import hold, is_held
from platforms.local.paths import LocalPaths
from platforms.local.retention import forget_old
from platforms.local.written import note_files, retire

if TYPE_CHECKING:
    from pathlib import Path

MADE = ("manage.py", "core/views.py", "core/__pycache__/views.pyc", "static/deep/down/x.css", "notes.txt")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    found = tmp_path / "releases" / "0123456789ab"
    for path in MADE:
        (found / "tree" / path).parent.mkdir(parents=True, exist_ok=True)
        (found / "tree" / path).write_text(path)
    note_files(found, "tree")
    return found


def held(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def test_a_release_that_nobody_wrote_into_goes_whole(release: Path, tmp_path: Path) -> None:
    (release / "tree" / "core" / "__pycache__" / "more.pyc").write_text("x")
    assert retire(release, "tree", tmp_path / "kept") == []
    assert not release.exists()
    assert not (tmp_path / "kept").exists()


def test_what_was_written_or_changed_is_kept_and_all_else_goes(release: Path, tmp_path: Path) -> None:
    (release / "tree" / "uploads").mkdir()
    (release / "tree" / "uploads" / "photo.jpg").write_text("a visitor's")
    (release / "tree" / "notes.txt").write_text("changed")
    os.utime(release / "tree" / "manage.py", ns=(0, 0))
    assert retire(release, "tree", tmp_path / "kept") == ["manage.py", "notes.txt", "uploads/photo.jpg"]
    assert not release.exists()
    kept = tmp_path / "kept" / release.name
    assert held(kept) >= {"notes.txt", "uploads", "uploads/photo.jpg"}
    assert not held(kept) & {"core/views.py", "static", "static/deep/down/x.css"}


def test_links_lead_nowhere(release: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "x").write_text("mine")
    (release / "tree" / "link").symlink_to(canary)
    (release / "tree" / "new.txt").write_text("x")
    assert retire(release, "tree", tmp_path / "kept") == ["new.txt"]
    assert (canary / "x").read_text() == "mine"


def test_what_was_kept_before_stays(release: Path, tmp_path: Path) -> None:
    (tmp_path / "kept" / release.name).mkdir(parents=True)
    (tmp_path / "kept" / release.name / "older.txt").write_text("x")
    (release / "tree" / "new.txt").write_text("x")
    retire(release, "tree", tmp_path / "kept")
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {release.name, f"{release.name}.2"}


def test_a_release_that_was_never_whole_has_nothing_to_keep(tmp_path: Path) -> None:
    half = tmp_path / "releases" / "half"
    (half / "tree").mkdir(parents=True)
    (half / "tree" / "x").write_text("x")
    assert retire(half, "tree", tmp_path / "kept") == []


def test_of_a_release_that_does_not_say_what_it_is_made_of_all_is_kept(tmp_path: Path) -> None:
    former = tmp_path / "releases" / "former"
    (former / "project" / "media").mkdir(parents=True)
    (former / "project" / "manage.py").write_text("x")
    (former / "project" / "media" / "photo.jpg").write_text("a visitor's")
    (former / "complete").touch()
    assert retire(former, "tree", tmp_path / "kept") == ["manage.py", "media/photo.jpg"]
    assert (tmp_path / "kept" / "former" / "media" / "photo.jpg").read_text() == "a visitor's"


def test_a_command_keeps_its_release_as_long_as_it_runs(release: Path) -> None:
    secrets = release / "secrets"
    assert not is_held(secrets), "there are none"
    secrets.mkdir()
    (secrets / "secret_key").touch(mode=0o400)
    assert not is_held(secrets)
    one, other = hold(secrets), hold(secrets)
    assert is_held(secrets)
    os.close(one)
    assert is_held(secrets), "one of two commands has ended"
    os.close(other)
    assert not is_held(secrets)


def test_a_release_that_can_t_be_removed_stays_and_is_named(tmp_path: Path) -> None:
    """Its project's code may have made directories in each other, more than can be walked through."""
    paths = LocalPaths(tmp_path, "t")
    for path in (paths.releases / "0123456789ab" / "tree", paths.static, paths.environments, paths.logs):
        path.mkdir(parents=True)
    note_files(paths.releases / "0123456789ab", "tree")
    directory = os.open(paths.releases / "0123456789ab" / "tree", os.O_RDONLY)
    for _level in range(1500):
        os.mkdir("d", dir_fd=directory)
        below = os.open("d", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(directory)
    said: list[str] = []
    site = SimpleNamespace(
        paths=paths,
        say=said.append,
        topology=SimpleNamespace(names=("app1",)),
        nginx=Mock(),
    )
    history = SimpleNamespace(releases=[], current=None, former=lambda: None, save=lambda _places: None)
    try:
        forget_old(cast("Any", site), cast("Any", history), cast("Any", SimpleNamespace(digest="x")))
        assert [line for line in said if line.startswith("release 0123456789ab can't be removed, and stays: ")]
        assert (paths.releases / "0123456789ab").is_dir()
    finally:
        subprocess.run(["rm", "-rf", str(paths.releases)], check=True)
