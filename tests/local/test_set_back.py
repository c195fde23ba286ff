"""A database that was put back from a backup older than its release is migrated again: a server.

A second sqlite: tests/local/test_written.py.
"""

from __future__ import annotations

import contextlib

import pytest

from tests.local.postgres import Postgres, missing
from tests.local.stand import Stand

AGAIN = "run again"


def unapplied(stand: Stand, *database: str) -> int:
    listed = stand.run("manage", stand.name, "--", "showmigrations", "--plan", *database)
    assert listed.status == 0, listed.output
    return listed.output.count("[ ]")


def set_back(stand: Stand, *words: str) -> None:
    done = stand.run("manage", stand.name, "--", "migrate", *words)
    assert done.status == 0, done.output


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_server_is_migrated_again_while_it_runs_and_after_it_was_down() -> None:
    with contextlib.closing(Postgres()) as database, contextlib.closing(Stand(database=database, instances=1)) as stand:
        assert stand.up().status == 0
        assert AGAIN not in stand.up().output
        # Each thread of an instance has a connection by now; what is asked right after a restart makes it anew.
        assert stand.verify().status == 0
        for _ in range(3):
            database.restart()
            verified = stand.verify()
            assert verified.status == 0, verified.output
        set_back(stand, "visits", "zero")
        assert unapplied(stand) == 1
        result = stand.up()
        assert (result.status, result.output.count(AGAIN)) == (0, 1), result.output
        assert unapplied(stand) == 0
        assert "no changes" in stand.up().output
        set_back(stand, "visits", "zero")
        assert stand.run("down", stand.name).status == 0
        result = stand.up()
        assert result.status == 0, result.output
        assert unapplied(stand) == 0
