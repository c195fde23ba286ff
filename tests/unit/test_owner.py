"""The user of the cluster's processes on this machine."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from cluster.machine.owner import Owner

if TYPE_CHECKING:
    from pathlib import Path

OWNER = Owner(uid=4321, gid=4321, name="somebody")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_is_below_a_directory_is_given_to_the_owner_while_instances_make_and_remove_files_there(
    tmp_path: Path,
) -> None:
    sessions = tmp_path / "sessions"
    sessions.mkdir()
    lasting = [sessions / f"lasting{number}" for number in range(20)]
    for path in lasting:
        path.touch()
    over, turns = threading.Event(), []

    def serve() -> None:
        while not over.is_set():
            new = [sessions / f".new-{number}" for number in range(200)]
            for path in new:
                path.touch()
            for path in new:
                path.unlink()
            turns.append(len(new))

    instance = threading.Thread(target=serve)
    instance.start()
    try:
        for _number in range(200):
            OWNER.own(tmp_path)
    finally:
        over.set()
        instance.join()
    assert turns
    assert {path.stat().st_uid for path in (tmp_path, sessions, *lasting)} == {OWNER.uid}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        OWNER.own(tmp_path / "data")
