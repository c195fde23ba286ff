"""What a project has written is copied to where it is kept, more than once, and nothing of it is lost."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from cluster_runtime.gather import gather

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    (tmp_path / "old" / "docs" / "empty").mkdir(parents=True)
    (tmp_path / "old" / "docs" / "a.txt").write_text("a")
    (tmp_path / "old" / "docs" / "link").symlink_to("a.txt")
    return tmp_path / "old"


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return tmp_path / "new"


def names(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def fill(connection: sqlite3.Connection, value: int) -> None:
    with connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS t (x)")
        connection.execute("INSERT INTO t VALUES (?)", (value,))


def rows(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        return [value for (value,) in connection.execute("SELECT x FROM t")]


def test_the_second_time_takes_what_was_written_meanwhile(old: Path, new: Path) -> None:
    assert gather(old, new) == []
    assert names(new) == names(old)
    assert (new / "docs" / "link").is_symlink()
    (old / "docs" / "b.txt").write_text("b")
    (new / "docs" / "c.txt").write_text("c")
    assert gather(old, new) == []
    assert names(new) == {*names(old), "docs/c.txt"}


def test_of_two_of_the_same_name_the_newer_one_stays_and_the_other_is_kept(old: Path, new: Path) -> None:
    gather(old, new)
    for number in (1, 2):
        (old / "docs" / "a.txt").write_text(f"changed {number}")
        os.utime(old / "docs" / "a.txt", (2e9 + number, 2e9 + number))
        gather(old, new)
        gather(old, new)
    assert [(new / "docs" / name).read_text() for name in ("a.txt", "a.txt.2~", "a.txt.1~")] == [
        *("changed 2", "changed 1", "a"),
    ]
    assert not (new / "docs" / "a.txt.3~").exists()
    (new / "docs" / "a.txt").write_text("newer")
    os.utime(new / "docs" / "a.txt", (2e9 + 9, 2e9 + 9))
    gather(old, new)
    assert (new / "docs" / "a.txt").read_text() == "newer"


@pytest.mark.parametrize("whole", [True, False])
def test_a_database_is_copied_with_what_its_journal_holds_and_never_over_another(
    whole: bool, old: Path, new: Path
) -> None:
    source = old / "audit.sqlite3"
    old, new = (old, new) if whole else (source, new.with_name("audit.sqlite3"))
    target = new / "audit.sqlite3" if whole else new
    with closing(sqlite3.connect(source)) as open_meanwhile:
        fill(open_meanwhile, 1)
        assert gather(old, new) == []
        assert rows(target) == [1], "the row is in the journal alone"
        fill(open_meanwhile, 2)
        os.utime(source, (2e9, 2e9))
        assert gather(old, new) == [str(source)]
    assert rows(target) == [1]
    assert not [path for path in target.parent.iterdir() if path.name.startswith(".")]


def test_a_directory_that_is_a_link_is_followed(old: Path, new: Path, tmp_path: Path) -> None:
    (tmp_path / "media").symlink_to(old)
    gather(tmp_path / "media", new)
    assert names(new) == names(old)
