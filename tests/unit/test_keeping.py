"""What is kept of a stack's maintenance, where something else stands in its place."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from cluster.maintenance import Maintenance
from platforms.local.maintaining import Keeping
from platforms.local.paths import LocalPaths

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WANTED = Maintenance(message="Back soon.", retry_after=600, allow=())

STRANGE: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to a file": lambda path: path.symlink_to("/etc/passwd"),
    "a directory": lambda path: path.mkdir(),
    "bytes": lambda path: path.write_bytes(b"\xff"),
}


@pytest.mark.parametrize("which", ["fact", "file"])
@pytest.mark.parametrize("what", STRANGE)
def test_what_else_stands_there_is_replaced_and_nobody_waits_for_it(tmp_path: Path, which: str, what: str) -> None:
    keeping = Keeping(LocalPaths(tmp_path, "x"))
    keeping.fact.parent.mkdir(parents=True)
    STRANGE[what](getattr(keeping, which))
    assert not keeping.holds(WANTED)
    keeping.put(WANTED)
    assert keeping.load() == WANTED
    assert keeping.holds(WANTED)
    keeping.put(None)
    assert keeping.load() is None
    assert keeping.holds(None)
