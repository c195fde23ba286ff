"""Sessions on Docker: engines changed and taken back, the key rotated, memcached killed, all counted."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import pytest

from tests.e2e.stand import DockerStand
from tests.sessions import Matrix, load_of

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def stand() -> Iterator[DockerStand]:
    with contextlib.closing(DockerStand(name="m")) as found:
        result = found.up()
        assert result.status == 0, result.output
        yield found


def test_no_session_is_lost_by_changes_of_the_engine_and_of_the_key_nor_by_memcached(stand: DockerStand) -> None:
    with load_of(stand) as load:
        matrix = Matrix(stand, load)
        matrix.kill_memcached("memcached2")
        matrix.kill_memcached("memcached1", "memcached2")
        matrix.change("cache")
        matrix.kill_memcached("memcached1")
        time.sleep(3)  # it is filled from the other one in the background
        matrix.kill_memcached("memcached2")
        matrix.event("memcached's memory changed", lambda: matrix.set(memcached={"nodes": 2, "memory": "40m"}))
        matrix.take_back("file")
        matrix.change("signed_cookies")
        matrix.change("db")
        matrix.rotate_key()
    assert matrix.wrong() == []


def test_a_change_that_would_log_everybody_out_is_refused_by_pulumi_itself(stand: DockerStand) -> None:
    engine = stand.stack["sessions"]["engine"]
    stand.edit_stack(lambda stack: stack["sessions"].update(engine="file"))
    refused = stand.pulumi("preview")
    assert refused.returncode != 0
    assert f"sessions are in {engine} now" in refused.stdout
    assert stand.status()["store"]["engine"] == engine
    stand.edit_stack(lambda stack: stack["sessions"].update(engine=engine))
    assert "no changes" in stand.up().output
