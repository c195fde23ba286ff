"""Sessions on this machine: every engine through releases, faults and changes of the engine and the key, under load."""

from __future__ import annotations

import contextlib
import stat
import time
from typing import TYPE_CHECKING

import pytest

from cluster.sessions import Fault
from tests.local.postgres import Postgres, missing
from tests.local.stand import Stand
from tests.sessions import CACHED, CYCLE, Matrix, load_of

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The example's settings with sessions that are over soon, so that the last step of a rotation need not be waited for
#: long; two releases under load take less.
SECONDS = 600
SHORT = f"\nSESSION_COOKIE_AGE = PASSWORD_RESET_TIMEOUT = {SECONDS}\n"


@contextlib.contextmanager
def standing(engine: str = "cached_db", settings: str = "") -> Iterator[Stand]:
    with contextlib.closing(Stand()) as found:
        found.edit_code("example/settings.py", settings)
        found.edit_stack(lambda stack: stack["sessions"].update(engine=engine))
        assert found.up().status == 0
        yield found


@pytest.fixture
def own() -> Iterator[Stand]:
    with standing() as found:
        yield found


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    """A stand whose sessions are in cached_db; each test that has it leaves them there, but the last."""
    with standing(settings=SHORT) as found:
        yield found


def memory(matrix: Matrix, size: str) -> None:
    matrix.set(memcached={"nodes": 2, "memory": size})


@pytest.mark.parametrize(
    "engines", [CYCLE[1:2], pytest.param(CYCLE[1:], marks=pytest.mark.wide)], ids=["the first change", "all changes"]
)
def test_no_session_is_lost_by_faults_and_by_changes_from_each_engine_to_the_next(
    own: Stand, engines: tuple[str, ...]
) -> None:
    with load_of(own) as load:
        matrix = Matrix(own, load)
        for number, engine in enumerate(engines):
            faults_of_engine(matrix, 2 + number)
            matrix.change(engine)
        faults_of_engine(matrix, 2 + len(engines))
    assert matrix.wrong() == []


def faults_of_engine(matrix: Matrix, weight: int) -> None:
    """Change a weight, and let memcached fail as the engine can survive it."""
    matrix.event("weight change", lambda: matrix.weight(weight))
    if matrix.engine in CACHED:
        matrix.kill_memcached("memcached1")
        matrix.event("memcached's memory changed", lambda: memory(matrix, f"{40 + len(matrix.rows)}m"))
    if matrix.engine == "cached_db":
        matrix.kill_memcached("memcached1", "memcached2")


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_restart_of_the_database_under_load_loses_no_session_and_is_over_within_five_seconds() -> None:
    with contextlib.closing(Postgres()) as database, contextlib.closing(Stand(database=database)) as stand:
        assert stand.up().status == 0
        with load_of(stand) as load:
            matrix = Matrix(stand, load)
            matrix.restart_database()
            matrix.change("db")
            matrix.restart_database()
        assert matrix.wrong() == []
        restarts = [row for row in matrix.rows if row.event == Fault.DATABASE]
        assert [bool(row.failed) for row in restarts] == [True, True], "nobody noticed the restarts"


def test_without_filling_a_node_a_change_of_memcached_logs_users_out() -> None:
    """The saboteur: the second node is started again before the first one was filled."""
    with standing("cache") as stand, load_of(stand) as load:
        matrix = Matrix(stand, load)
        with stand.sabotaged("no_filling"):
            # Whether it is verified depends on the moment: for as long as both nodes are away no session can be made.
            stand.edit_stack(lambda stack: stack["sessions"].update(memcached={"nodes": 2, "memory": "48m"}))
            row = matrix.event("memcached's memory changed", stand.up)
    assert row.lost, row


def test_a_change_of_the_engine_that_is_taken_back_loses_nothing(own: Stand) -> None:
    """It ends in a release with sessions in two engines, which the next one has to keep."""
    with load_of(own) as load:
        matrix = Matrix(own, load)
        own.edit_stack(lambda stack: stack["sessions"].update(engine="file"))
        refused = own.up()
        assert refused.status == 1
        assert "sessions are in cached_db now" in refused.output
        own.edit_stack(lambda stack: stack["sessions"].update(engine="cached_db"))
        matrix.take_back("file")
        rollback = own.rollback()
        assert rollback.status == 0, rollback.output
    assert matrix.wrong() == []


@pytest.mark.wide
def test_without_the_bridge_a_change_of_the_engine_logs_everybody_out(own: Stand) -> None:
    """The saboteur: the same change, with the sessions of the former engine given up."""
    with load_of(own) as load:
        matrix = Matrix(own, load)
        row = matrix.event("to file, discarding", lambda: matrix.set(engine="file", discard=True))
    assert len(row.lost) > len(matrix.idle.cookies), row


def test_a_rotated_key_logs_nobody_out_and_the_old_one_is_gone_in_the_end(stand: Stand) -> None:
    secrets = stand.paths.secrets
    old = (secrets / "secret_key").read_text()
    with load_of(stand) as load:
        matrix = Matrix(stand, load)
        matrix.event("key rotated, steps 1 and 2", matrix.rotate)
        assert (secrets / "secret_key").read_text() != old
        assert old in (secrets / "secret_key_fallbacks").read_text()
        waits = matrix.rotate()
        assert "the old one may go after" in waits
        assert "encrypted with SECRET_KEY" in waits
        assert "--keep-fallback" in waits
        matrix.event("time goes by", lambda: time.sleep(10))
        stand.end_waiting_of_rotation()
        matrix.event("key rotated, step 3", matrix.rotate)
    assert matrix.wrong() == []
    assert (secrets / "secret_key_fallbacks").read_text() == "[]"
    assert not (secrets.parent / "rotation.json").exists()
    assert old in (secrets / "dropped_secret_keys").read_text()
    assert stat.S_IMODE((secrets / "dropped_secret_keys").stat().st_mode) == 0o600
    assert "no changes" in stand.run("up", stand.name).output, "nothing reads what is kept aside"
    held = list(stand.paths.releases.rglob("dropped_secret_keys"))
    assert held == []


def test_a_key_that_is_just_replaced_logs_everybody_out(stand: Stand) -> None:
    """The saboteur of the test before."""
    with load_of(stand) as load:
        matrix = Matrix(stand, load)
        key = stand.paths.secrets / "secret_key"
        key.write_text("x" * 50)
        stand.edit_stack(lambda stack: stack["sessions"].update(discard=True))
        row = matrix.event("another key", matrix.up)
    stand.edit_stack(lambda stack: stack["sessions"].pop("discard"))
    assert len(row.lost) >= len(matrix.idle.cookies), row


def test_status_tells_how_many_sessions_there_are_and_when_previous_may_go(stand: Stand) -> None:
    with load_of(stand) as load:
        matrix = Matrix(stand, load)
        load.wait_for(50)
    store = stand.status()["store"]
    assert store["engine"] == "cached_db"
    assert store["cached_db"]["count"] >= len(matrix.idle.cookies)
    assert [node["node"] for node in store["cached_db"]["nodes"]] == ["memcached1", "memcached2"]
    matrix.set(engine="file", previous="cached_db")
    matrix.await_stage("move")
    told = stand.run("status", stand.name).output
    assert "still in cached_db: " in told
    assert "sessions.previous must stay" in told
    left = stand.status()["store"]["cached_db"]["count"]
    matrix.idle.come_back()
    found = stand.status()["store"]
    assert found["cached_db"]["count"] <= left - len(matrix.idle.cookies)
    assert found["file"]["count"] >= len(matrix.idle.cookies)
