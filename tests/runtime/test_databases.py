"""sqlite files of the project lie among the data, whatever their alias and name, and begin as the project has them."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import django
import pytest
import uv

from cluster_runtime.choices import refusals as refusals_of_choices
from cluster_runtime.config import ConfigError, RuntimeConfig
from cluster_runtime.databases import IMMEDIATE_SQLITE, all_of, begin_with_the_projects, not_begun
from cluster_runtime.paths import LEFT_OUT, Opened, look, refusals

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


def test_a_file_on_a_filesystem_of_several_hosts_is_refused(config: RuntimeConfig) -> None:
    kept = {"audit": {"ENGINE": SQLITE, "NAME": "var/audit"}}
    assert all_of(config, kept)["audit"]["NAME"] == f"{config.project}/var/audit"
    with pytest.raises(ConfigError, match=r"app\.shared_filesystem: var/audit is an sqlite database of the project's"):
        all_of(replace(config, spread=True), kept)


@pytest.mark.parametrize("name", ["audit.sqlite3", "audit.db", "audit", "sub/audit.sqlite3", "../audit.db"])
def test_a_file_in_the_release_is_kept_among_the_data(name: str, config: RuntimeConfig) -> None:
    found = all_of(config, {"audit": {"ENGINE": SQLITE, "NAME": name}})["audit"]
    assert found["NAME"] == f"{config.databases}/audit.sqlite3"
    assert found["OPTIONS"]["transaction_mode"] == "IMMEDIATE", "set up for several processes, as default is"


def test_spatialite_is_kept_as_it_is_and_never_replaced_by_a_plain_sqlite(config: RuntimeConfig) -> None:
    engine = "django.contrib.gis.db.backends.spatialite"
    found = all_of(config, {"default": {"ENGINE": engine, "NAME": "db.sqlite3"}})["default"]
    assert (found["ENGINE"], found["NAME"]) == (engine, f"{config.databases}/default.sqlite3")
    facts = {"own_session_engine": "", "own_database_engine": engine, "own_database_host": ""}
    replaced = replace(config, database={"engine": "sqlite", "path": "/tmp/x"})
    (refused,) = refusals_of_choices(replaced, {**facts, "script_name": "", "set_late": []})
    assert refused.startswith(f"database.engine: the project's DATABASES name an sqlite of another kind ({engine})")


@pytest.mark.parametrize(
    "name",
    [
        "file:audit.db",
        "file:audit.db?mode=rwc&cache=shared",
        "file:{project}/a%20b.db?mode=rw",
        "file://{project}/a.db",
    ],
)
def test_a_file_may_be_named_by_a_uri(name: str, config: RuntimeConfig) -> None:
    entry = {"ENGINE": SQLITE, "NAME": name.format(project=config.project), "OPTIONS": {"uri": True}}
    assert all_of(config, {"audit": entry})["audit"]["NAME"] == f"{config.databases}/audit.sqlite3"


@pytest.mark.parametrize(
    "name",
    [
        *(":memory:", "file:x?mode=memory", "file::memory:?cache=shared", "/var/lib/x.sqlite3", ""),
        *("file:/var/lib/x.sqlite3", "file:geo.db?mode=ro", "file:geo.db?immutable=1"),
    ],
)
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


def test_a_database_that_the_release_has_no_file_of_is_told_of_until_it_has_begun(config: RuntimeConfig) -> None:
    own = {"audit": {"ENGINE": SQLITE, "NAME": "file:audit.db"}, "shared": {"ENGINE": SQLITE, "NAME": "var/x.db"}}
    waiting = {alias: path for alias, path, _where in not_begun(config, own)}
    assert waiting == {"audit": Path(config.project) / "audit.db"}
    left_out = Path(config.tree).parent / LEFT_OUT
    left_out.write_text('["audit.db"]')
    assert refusals(look(config, Opened(config), None, (), waiting)) == [
        "app.include: DATABASES['audit'] looks for audit.db, which is not in the release: add audit.db to app.include"
    ]
    left_out.write_text("[]")
    assert refusals(look(config, Opened(config), None, (), waiting)) == [], "the project has none either"
    fill(Path(config.databases) / "audit.sqlite3", 1)
    assert list(not_begun(config, own)) == []


@pytest.mark.parametrize("name", ["audit.db", "file:audit.db?mode=rwc"])
def test_where_databases_stay_in_the_project_none_is_begun(name: str, config: RuntimeConfig) -> None:
    stays = replace(config, databases="")
    fill(Path(config.project) / "audit.db", 1)
    own = {"audit": {"ENGINE": SQLITE, "NAME": name}}
    assert all_of(stays, own) == own
    assert list(not_begun(stays, own)) == []


# --- Django before 5.1


OLD, NEW = (4, 2, 0, "final", 0), (5, 1, 0, "final", 0)


@pytest.mark.parametrize(
    ("version", "engine", "found", "immediate"),
    [
        (OLD, SQLITE, IMMEDIATE_SQLITE, True),
        (NEW, SQLITE, SQLITE, True),
        (OLD, "other.sqlite", "other.sqlite", False),
        (NEW, "other.sqlite", "other.sqlite", True),
    ],
)
def test_options_that_a_django_does_not_know_are_not_given_to_its_backend(  # noqa: PLR0917 - a table
    version: tuple[Any, ...],
    engine: str,
    found: str,
    immediate: bool,
    config: RuntimeConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(django, "VERSION", version)
    entry = all_of(config, {"audit": {"ENGINE": engine, "NAME": "audit.db"}})["audit"]
    assert entry["ENGINE"] == found
    assert ("transaction_mode" in entry["OPTIONS"]) is immediate
    assert entry["OPTIONS"]["timeout"] == 20


#: Adds to a number as often as it is told, each time after a look at it: what fails without BEGIN IMMEDIATE.
ADD = """
import json, sys, time, django
from django.conf import settings
from cluster_runtime.databases import sqlite
path, engine, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
entry = sqlite(path)
if engine:
    entry = {"ENGINE": engine, "NAME": path, "OPTIONS": {"timeout": 20}}
settings.configure(DATABASES={"default": entry}, USE_TZ=True)
django.setup()
from django.db import OperationalError, connection, transaction
failed = 0
print("ready", flush=True)
sys.stdin.readline()
for _ in range(times):
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT x FROM t")
            (found,) = cursor.fetchone()
            time.sleep(0.005)
            cursor.execute("UPDATE t SET x = %s", [found + 1])
    except OperationalError:
        failed += 1
with connection.cursor() as cursor:
    cursor.execute("PRAGMA journal_mode")
    (mode,) = cursor.fetchone()
print(json.dumps([django.VERSION[:2], connection.vendor, mode, failed]))
"""


@pytest.fixture(scope="module")
def django_42(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the Python of an environment with the last Django that is older than 5.0."""
    place = tmp_path_factory.mktemp("django42")
    python = str(place / "bin" / "python")
    for words in (
        ["venv", "--python", sys.executable, str(place)],
        ["pip", "install", "--python", python, "django~=4.2.0"],
    ):
        command = [uv.find_uv_bin(), "--no-config", "--system-certs", "--quiet", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"Django 4.2 can't be had here: {done.stderr.strip().splitlines()[-1]}")
    return python


def add(python: str, path: Path, engine: str = "") -> tuple[list[list[Any]], int]:
    """Let four processes, all begun, add to a number 40 times each; return what they say, and the number."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (0)")
    runtime = str(Path(__file__).resolve().parents[2] / "runtime")
    environment = {**os.environ, "PYTHONPATH": runtime}
    command = [python, "-c", ADD, str(path), engine, "40"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, env=environment, **pipes) for _ in range(4)]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [json.loads(process.communicate(timeout=120)[0]) for process in running]
    return said, rows(str(path))[0][0]


def test_a_django_4_2_reads_and_writes_in_several_processes_as_a_newer_one_does(django_42: str, tmp_path: Path) -> None:
    said, number = add(django_42, tmp_path / "db.sqlite3")
    assert said == [[[4, 2], "sqlite", "wal", 0]] * 4
    assert number == 160, "of 160 additions"
    # Its own backend, with which the same fails.
    said, number = add(django_42, tmp_path / "own.sqlite3", SQLITE)
    assert number == 160 - sum(failed for *_, failed in said)
    assert number < 160
