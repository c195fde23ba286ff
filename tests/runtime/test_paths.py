"""Which paths of a project's settings are written, and must not lie in a release."""

from __future__ import annotations

import json
import sqlite3
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from cluster_runtime import paths
from cluster_runtime.failure import explain
from cluster_runtime.paths import Opened, look, refusals

if TYPE_CHECKING:
    from pathlib import Path

    from cluster_runtime.config import RuntimeConfig


def written(tree: Path, **settings: Any) -> list[dict[str, Any]]:
    config = cast("RuntimeConfig", SimpleNamespace(tree=str(tree), project=str(tree / "site"), shared=(), media=None))
    (tree.parent / paths.LEFT_OUT).write_text("[]")
    found: list[dict[str, Any]] = look(config, Opened(config), SimpleNamespace(**settings))["written"]
    return found


@pytest.mark.parametrize(
    ("name", "value", "path"),
    [
        ("HAYSTACK_CONNECTIONS", {"default": {"ENGINE": "whoosh", "PATH": "{site}/whoosh_index"}}, "whoosh_index"),
        ("HUEY", {"huey_class": "huey.SqliteHuey", "filename": "{site}/data/tasks.sqlite3"}, "data/tasks.sqlite3"),
        ("STORAGES", {"default": {"OPTIONS": {"location": "{site}/files"}}}, "files"),
    ],
)
def test_what_a_well_known_package_writes_is_data(name: str, value: Any, path: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "site").mkdir(parents=True)
    inside = json.loads(json.dumps(value).replace("{site}", str(tree / "site")))
    found = written(tree, **{name: inside})
    assert [(one["path"], one["data"]) for one in found] == [(path, True)]
    assert refusals({"missing": [], "written": found})


def test_a_server_s_address_is_no_path(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "site").mkdir(parents=True)
    connections = {"default": {"ENGINE": "solr", "URL": "http://localhost:8983/solr"}}
    assert written(tree, HAYSTACK_CONNECTIONS=connections, HUEY={"url": "redis://localhost"}) == []


def test_what_sqlite_could_not_open_is_named_by_what_it_was_asked_for(tmp_path: Path) -> None:
    config = cast("RuntimeConfig", SimpleNamespace(tree=""))
    opened = Opened(config)
    opened.begin()
    for name in (str(tmp_path / "queue" / "tasks.db"), f"file:{tmp_path}/queue/tasks.db?mode=rwc"):
        with pytest.raises(sqlite3.OperationalError) as failed:
            sqlite3.connect(name, uri=name.startswith("file:"))
        assert explain(failed.value, str(tmp_path), [], opened.database)["absent"] == "queue/tasks.db"
    other = sqlite3.OperationalError("database is locked")
    assert explain(other, str(tmp_path), [], opened.database)["absent"] == ""
