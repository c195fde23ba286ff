"""sqlite files of the project lie among the data, whatever their alias and name, and begin as the project has them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from cluster_runtime.config import RuntimeConfig
from cluster_runtime.databases import all_of, begin_with_the_projects

if TYPE_CHECKING:
    from pathlib import Path

SQLITE = "django.db.backends.sqlite3"


@pytest.fixture
def config(tmp_path: Path) -> RuntimeConfig:
    project = tmp_path / "release" / "tree" / "above" / "site"
    project.mkdir(parents=True)
    (tmp_path / "databases").mkdir()
    return RuntimeConfig(
        release="r",
        project=str(project),
        settings="s",
        secrets="/none",
        tree=str(tmp_path / "release" / "tree"),
        databases=str(tmp_path / "databases"),
        shared={"var": "var"},
    )


def rows(path: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM t").fetchall()


def fill(path: Path, *values: int) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS t (x)")
        connection.executemany("INSERT INTO t VALUES (?)", [(value,) for value in values])


@pytest.mark.parametrize("name", ["audit.sqlite3", "audit.db", "audit", "sub/audit.sqlite3", "../audit.db"])
def test_a_file_in_the_release_is_kept_among_the_data(name: str, config: RuntimeConfig) -> None:
    found = all_of(config, {"audit": {"ENGINE": SQLITE, "NAME": name}})["audit"]
    assert found["NAME"] == f"{config.databases}/audit.sqlite3"
    assert found["OPTIONS"]["transaction_mode"] == "IMMEDIATE", "set up for several processes, as default is"


@pytest.mark.parametrize("name", [":memory:", "file:x?mode=memory", "/var/lib/x.sqlite3", ""])
def test_what_is_no_file_in_the_release_stays_as_it_is(name: str, config: RuntimeConfig) -> None:
    entry = {"ENGINE": SQLITE, "NAME": name}
    assert all_of(config, {"audit": entry}) == {"audit": entry}
    server = {"ENGINE": "django.db.backends.postgresql", "NAME": "audit"}
    assert all_of(config, {"audit": server}) == {"audit": server}


def test_the_projects_own_options_count_more(config: RuntimeConfig) -> None:
    entry = {"ENGINE": SQLITE, "NAME": "a.db", "OPTIONS": {"timeout": 3}, "ATOMIC_REQUESTS": True}
    found = all_of(config, {"audit": entry})["audit"]
    assert (found["OPTIONS"]["timeout"], found["ATOMIC_REQUESTS"]) == (3, True)


def test_a_file_that_the_stack_file_shares_stays_where_the_project_looks(config: RuntimeConfig) -> None:
    found = all_of(config, {"audit": {"ENGINE": SQLITE, "NAME": "var/audit.db"}})["audit"]
    assert found["NAME"] == f"{config.project}/var/audit.db"


def test_a_database_begins_once_with_what_the_project_has(config: RuntimeConfig, tmp_path: Path) -> None:
    own = {"audit": {"ENGINE": SQLITE, "NAME": "audit.db"}, "empty": {"ENGINE": SQLITE, "NAME": "none.db"}}
    source = tmp_path / "release" / "tree" / "above" / "site" / "audit.db"
    with closing(sqlite3.connect(source)) as kept_open:
        fill(source, 1, 2)  # the rows are in its journal alone while another connection is open
        kept_open.execute("SELECT * FROM t").fetchone()
        assert begin_with_the_projects(config, own) == ["audit"]
    target = f"{config.databases}/audit.sqlite3"
    assert rows(target) == [(1,), (2,)]
    fill(tmp_path / "databases" / "audit.sqlite3", 3)
    assert begin_with_the_projects(config, own) == [], "what is there is somebody's data"
    assert rows(target) == [(1,), (2,), (3,)]
    assert {path.name for path in (tmp_path / "databases").iterdir()} >= {"audit.sqlite3"}
    assert not list((tmp_path / "databases").glob(".*"))
