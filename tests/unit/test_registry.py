"""What begins before a command line is read."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from platforms import registry

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("line", "stack"),
    [
        ("up", "local"),
        ("up docker", "docker"),
        ("up --pull docker", "docker"),
        ("plan docker prod", "docker"),
        ("rollback docker --to abc", "docker"),
        ("plan", "local"),
        ("up docker --help", None),
        ("status docker", None),
        ("", None),
        ("--help", None),
    ],
)
def test_what_changes_a_stack_is_glanced_at(
    line: str, stack: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[Path, str]] = []
    monkeypatch.setattr(registry, "begin", lambda root, name: begun.append((root, name)))
    (tmp_path / "stacks").mkdir()
    with contextlib.chdir(tmp_path):
        registry.begin_early(line.split())
    assert begun == ([] if stack is None else [(tmp_path, stack)])


def test_nothing_is_said_where_there_is_no_repository(tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        registry.begin_early(["up", "docker"])


def test_a_directory_that_may_not_be_searched_is_told_of_by_who_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> Path:
        raise PermissionError(13, "Permission denied", "/closed/in/stacks")

    monkeypatch.setattr(registry, "find_root", refused)
    registry.begin_early(["up", "docker"])
