"""Which paths of a project's settings are written, and must not lie in a release."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from cluster_runtime import paths
from cluster_runtime.failure import explain
from cluster_runtime.paths import Opened, Stored, how_to_keep, look, refusals, why_written

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cluster_runtime.config import RuntimeConfig


def written(
    tree: Path, stored: Iterable[Stored] = (), opened: Opened | None = None, **settings: Any
) -> list[dict[str, Any]]:
    config = cast("RuntimeConfig", SimpleNamespace(tree=str(tree), project=str(tree / "site"), shared=(), media=None))
    (tree.parent / paths.LEFT_OUT).write_text("[]")
    found: list[dict[str, Any]] = look(config, opened or Opened(config), SimpleNamespace(**settings), stored)["written"]
    return found


@pytest.mark.parametrize(
    ("name", "value", "path"),
    [
        ("HAYSTACK_CONNECTIONS", {"default": {"ENGINE": "whoosh", "PATH": "{site}/whoosh_index"}}, "whoosh_index"),
        ("HUEY", {"huey_class": "huey.SqliteHuey", "filename": "{site}/data/tasks.sqlite3"}, "data/tasks.sqlite3"),
        ("STORAGES", {"default": {"OPTIONS": {"location": "{site}/files"}}}, "files"),
        ("DBBACKUP_STORAGE_OPTIONS", {"location": "{site}/dumps"}, "dumps"),
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


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return the directory of a project in a release."""
    project = tmp_path / "tree" / "site"
    project.mkdir(parents=True)
    return project


FILES = "django.core.cache.backends.filebased.FileBasedCache"


@pytest.mark.parametrize(
    ("settings", "paths"),
    [
        ({"LOGGING": {"handlers": {"file": {"class": "logging.FileHandler", "filename": "debug.log"}}}}, ["debug.log"]),
        ({"CACHES": {"default": {"BACKEND": FILES, "LOCATION": "var/cache"}}}, ["var/cache"]),
        ({"CACHES": {"default": {"BACKEND": "x.PyMemcacheCache", "LOCATION": "127.0.0.1:11211"}}}, []),
        ({"HUEY": {"filename": "tasks.sqlite3"}, "SESSION_FILE_PATH": "sessions"}, ["tasks.sqlite3", "sessions"]),
        ({"DATABASES": {"default": {"ENGINE": "x.postgresql", "NAME": "site"}}}, []),
    ],
)
def test_a_path_may_be_relative_to_the_project(settings: dict[str, Any], paths: list[str], site: Path) -> None:
    assert sorted(one["path"] for one in written(site.parent, **settings)) == sorted(paths)


def test_a_storage_is_found_whoever_made_it(site: Path) -> None:
    stored = [
        Stored("STORAGES['private']", f"{site}/private"),
        Stored("core.Doc.file", f"{site}/media", "docs", of_field=True),
        Stored("core.Scan.file", f"{site}/media", "scans", of_field=True),
        Stored("core.Bill.file", "/srv/bills", of_field=True),
    ]
    found = written(site.parent, stored, MEDIA_ROOT="")
    assert [(one["setting"], one["path"], one["data"]) for one in found] == [
        ("STORAGES['private']", "private", True),
        ("core.Doc.file", "media", True),
    ]
    assert [one["setting"] for one in written(site.parent, stored, MEDIA_ROOT=f"{site}/media")] == [
        *("MEDIA_ROOT", "STORAGES['private']"),
    ]


def test_without_a_media_root_uploads_go_to_where_each_field_says(site: Path) -> None:
    stored = [
        Stored("STORAGES['default']", str(site)),
        Stored("core.Doc.file", str(site), "docs", of_field=True),
        Stored("core.Any.file", str(site), "", of_field=True),
    ]
    docs, anywhere = written(site.parent, stored, MEDIA_ROOT="")
    assert how_to_keep(docs) == "Add docs to app.shared."
    assert (anywhere["setting"], anywhere["share"], anywhere["data"]) == ("core.Any.file", "", False)


def test_what_the_import_itself_writes_is_told(site: Path) -> None:
    opened = Opened(cast("RuntimeConfig", SimpleNamespace(tree=str(site.parent))))
    (site / "core").mkdir()
    for name in ("core/__init__.py", "fernet.key", "core/stamp.json", "core/token"):
        (site / name).write_text("x")
    flags = os.O_WRONLY | os.O_CREAT
    for name in ("fernet.key", f"{site}/core/stamp.json", "core/token", "gone.tmp", "/tmp/elsewhere", "debug.log"):
        opened._hear("open", (name, "w", flags))
    logging = {"handlers": {"file": {"filename": "debug.log"}}}
    first, *others = written(site.parent, (), opened, LOGGING=logging)
    assert first["setting"] == "LOGGING['handlers']['file']['filename']"
    assert [(one["path"], one["share"]) for one in others] == [
        ("fernet.key", "fernet.key"),
        ("core/stamp.json", "core/stamp.json"),
        ("core/token", ""),
    ]
    assert why_written(others[0]).startswith("The import writes fernet.key, and each release replaces that")
    assert not refusals({"missing": [], "written": others}), "it is a warning"


def test_a_directory_that_holds_code_is_not_the_one_to_share(site: Path) -> None:
    (site / "core").mkdir()
    (site / "core" / "views.py").write_text("")
    for path, advice in (
        ("core/app.log", "Add core/app.log to app.shared."),
        ("log/app.log", "Add its directory, log, to app.shared."),
    ):
        (found,) = written(site.parent, LOGGING={"handlers": {"file": {"filename": f"{site}/{path}"}}})
        assert how_to_keep(found) == advice


#: Prints where the storages of a project are, whose models keep files in several.
STORAGES = """
import json, django
from django.conf import settings
settings.configure(
    INSTALLED_APPS=["core"],
    STORAGES={
        "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
        "private": {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": "private"}},
        "memory": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
        "broken": {"BACKEND": "nothing.Here"},
    },
)
django.setup()
from cluster_runtime.paths import storages_of_project
print(json.dumps([[one.name, one.location, one.below, one.of_field] for one in storages_of_project()]))
"""

MODELS = """
from django.core.files.storage import FileSystemStorage
from django.db import models
class Doc(models.Model):
    id = models.AutoField(primary_key=True)
    file = models.FileField(upload_to="docs/%Y/%m")
    scan = models.ImageField(upload_to=lambda instance, name: name, storage=FileSystemStorage(location="/srv/scans"))
    dated = models.FileField(upload_to="docs/old%Y")
    class Meta:
        app_label = "core"
"""


def test_storages_of_settings_and_of_fields_are_asked_where_they_write(tmp_path: Path) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "__init__.py").write_text("")
    (tmp_path / "core" / "models.py").write_text(MODELS)
    runtime = Path(paths.__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", STORAGES],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{runtime}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    here = str(tmp_path)
    assert json.loads(done.stdout) == [
        ["STORAGES['default']", here, "", False],
        ["STORAGES['private']", f"{here}/private", "", False],
        ["core.Doc.file", here, "docs", True],
        ["core.Doc.scan", "/srv/scans", "", True],
        ["core.Doc.dated", here, "docs", True],
    ]
