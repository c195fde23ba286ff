"""What of a project belongs to a release: read from its files, never run."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from cluster.config import load_stack, parse_config
from cluster.source import ReleaseError, Source, check_shared, project_place, shared_place, source_of, write_tree
from tests.local.stand import ROOT, stack_of_case

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = """
from pathlib import Path
BASE_DIR = Path(__file__).resolve().parent.parent
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


def make(root: Path, *files: str, settings: str = "") -> None:
    """Make a project in site/ with a settings module; `files` are more of its files."""
    project = root / "site"
    written = {"manage.py": "", "requirements.txt": "", "pkg/__init__.py": "", "pkg/settings.py": SETTINGS + settings}
    for path, text in {**written, **dict.fromkeys(files, "x")}.items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(text)


def config_of(**app: Any) -> Any:
    return parse_config(
        {
            "platform": "local",
            "app": {"project": "./site", "settings": "pkg.settings", **app},
            "upstream": {"servers": 1},
            "site": {"server_names": ["localhost"]},
        }
    )


def source(root: Path, **app: Any) -> Source:
    return source_of(config_of(**app), root)


def taken(root: Path, **app: Any) -> set[str]:
    return {entry.target for entry in source(root, **app).listing.entries} - {
        *("manage.py", "requirements.txt", "pkg/__init__.py", "pkg/settings.py")
    }


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True)


def test_an_environment_inside_the_project_is_left_out_whatever_it_is_called(root: Path) -> None:
    make(root, "py313/pyvenv.cfg", "py313/lib/x.py", "kept/x.py")
    assert taken(root) == {"kept/x.py"}


def test_what_git_ignores_and_nothing_names_is_left_out(root: Path) -> None:
    make(
        root,
        *("junk.log", "dist/x.js", "pkg/_version.py", "pkg/locale/de/django.mo", "app/static/app/built.js", ".env"),
        *("bundles/x.js", "generated/__init__.py", "webpack-stats.json", "dump.sql"),
        settings='STATICFILES_DIRS = [BASE_DIR / "bundles"]\nSTATS = "webpack-stats.json"\n',
    )
    ignored = "*.log\ndist/\nbundles/\n_version.py\n*.mo\nbuilt.js\n.env\ngenerated/\nwebpack-stats.json\ndump.sql\n"
    (root / "site" / ".gitignore").write_text(ignored)
    git(root, "init", "-q")
    assert taken(root) == {
        *(".gitignore", "pkg/_version.py", "pkg/locale/de/django.mo", "app/static/app/built.js", ".env"),
        *("bundles/x.js", "generated/__init__.py", "webpack-stats.json"),
        "dist",  # empty: somebody may write into it
    }
    assert {"junk.log", "dist", "dump.sql"} <= set(source(root).listing.left_out)
    assert "dump.sql" in taken(root, include=["dump.sql"]), "the stack file names it"


def test_of_node_modules_only_what_a_setting_names_is_taken(root: Path) -> None:
    make(
        root,
        *("node_modules/bootstrap/dist/css/b.css", "node_modules/bootstrap/src/x.scss", "node_modules/react/index.js"),
        settings='STATICFILES_DIRS = [("b", BASE_DIR / "node_modules" / "bootstrap" / "dist")]\n',
    )
    assert taken(root) == {"node_modules/bootstrap/dist/css/b.css"}


def test_what_is_collected_anew_is_left_out_unless_nobody_collects_it(root: Path) -> None:
    make(root, "collected/x.css", settings='STATIC_ROOT = BASE_DIR / "collected"\n')
    (root / "site" / ".gitignore").write_text("collected/\n.gitignore\n")
    git(root, "init", "-q")
    # The word stands in the settings too: so what is taken is decided by who collects.
    assert "collected/x.css" in taken(root, collectstatic=False)


def test_empty_directories_are_taken_and_make_no_other_release(root: Path) -> None:
    make(root)
    before = source(root).digest()
    (root / "site" / "spool" / "in").mkdir(parents=True)
    assert taken(root) == {"spool/in"}
    assert source(root).digest() == before


def test_what_is_shared_is_no_part_of_a_release_but_a_link(root: Path) -> None:
    make(root, "media/a.txt", "var/audit.sqlite3", "logs/x.log")
    made = source(root, shared=["media", "var/audit.sqlite3", "logs"])
    assert {entry.target for entry in made.listing.entries} & {
        "media/a.txt",
        "var/audit.sqlite3",
        "logs/x.log",
    } == set()
    links = {entry.target: entry.link for entry in made.tree("/data") if entry.link}
    assert links == {
        "logs": "/data/logs",
        "media": "/data/media",
        "var/audit.sqlite3": "/data/var%2Faudit.sqlite3/audit.sqlite3",
    }


def test_code_is_not_to_be_shared(root: Path) -> None:
    make(root, "media/a.txt", "media/sample.py")
    check_shared("media", root / "site" / "media")
    for path in ("pkg", "pkg/settings.py"):
        with pytest.raises(ReleaseError, match=f"app.shared: {path} is code"):
            check_shared(path, root / "site" / path)


def test_what_is_shared_below_a_link_of_the_project_is_a_link_where_that_leads(root: Path) -> None:
    make(root, "data/media/a.txt", "data/b.txt")
    (root / "site" / "var").symlink_to("data")
    entries = source(root, shared=["var/media"]).tree("/kept")
    write_tree(entries, root / "release", shutil.copy2)
    assert str((root / "release" / "data" / "media").readlink()) == "/kept/var%2Fmedia"
    assert str((root / "release" / "var").readlink()) == "data"
    assert (root / "release" / "var" / "b.txt").read_text() == "x"


def test_two_shared_paths_never_lie_in_one_place() -> None:
    paths = ["a/b", "a%2Fb", "../a/b", "..%2Fa/b", "a.b", "a/b.c", "a%2Fb.c"]
    assert len({shared_place(path) for path in paths}) == len(paths)


def test_a_database_of_the_project_is_seed_and_never_code(root: Path) -> None:
    databases = 'DATABASES = {"default": {"ENGINE": "x.spatialite", "NAME": BASE_DIR / "data.db"}, '
    databases += '"audit": {"ENGINE": "x.sqlite3", "NAME": str(BASE_DIR / "audit")}}\n'
    make(root, "data.db", "audit", "audit-wal", "audit-shm", settings=databases)
    before = source(root).digest()
    assert taken(root) == {"data.db", "audit", "audit-wal"}
    (root / "site" / "audit").write_text("another row")
    assert source(root).digest() == before, "each visit of the development server would make another release"


def test_a_database_may_be_named_by_a_uri_or_by_the_stack_file(root: Path) -> None:
    database = '{"ENGINE": "x.sqlite3", "NAME": f"file:{BASE_DIR}/audit.sqlite3?mode=rwc"}'
    make(root, "audit.sqlite3", settings=f'DATABASES = {{"audit": {database}}}\n')
    with contextlib.closing(sqlite3.connect(root / "site" / "site.sqlite3")) as connection, connection:
        connection.execute("CREATE TABLE t (x)")
    (root / "site" / "site.sqlite3-wal").write_text("")
    assert taken(root) == {"audit.sqlite3"}
    # Where settings compute it, only its maker can say so; what is not yet written back belongs to it.
    assert taken(root, include=["site.sqlite3"]) == {"audit.sqlite3", "site.sqlite3", "site.sqlite3-wal"}


def test_a_link_that_stays_in_the_project_stays_a_link(root: Path) -> None:
    make(root, "pkg/a.txt")
    (root / "site" / "b.txt").symlink_to("pkg/a.txt")
    [link] = [entry for entry in source(root).listing.entries if entry.target == "b.txt"]
    assert link.link == "pkg/a.txt"


def test_a_link_to_elsewhere_in_the_repository_is_resolved(root: Path) -> None:
    make(root)
    (root / "lib" / "inner").mkdir(parents=True)
    (root / "lib" / "inner" / "code.py").write_text("v1")
    (root / "site" / "lib").symlink_to("../lib")
    (root / "site" / "one.py").symlink_to(root / "lib" / "inner" / "code.py")
    made = source(root)
    assert {"lib/inner/code.py", "one.py"} <= taken(root)
    write_tree(made.tree("/data"), root / "release", lambda old, new: new.write_bytes(old.read_bytes()))
    assert not (root / "release" / "lib").is_symlink()
    before = made.digest()
    (root / "lib" / "inner" / "code.py").write_text("v2")
    assert source(root).digest() != before, "what is read through a link is part of the release"


@pytest.mark.parametrize("target", ["/etc/hostname", "/etc"])
def test_a_link_out_of_the_repository_is_refused(target: str, root: Path) -> None:
    make(root)
    (root / "site" / "x").symlink_to(target)
    with pytest.raises(ReleaseError, match=r"^app\.project: the link x leads to /etc\S*, outside of the repository"):
        source(root).digest()


@pytest.mark.parametrize("targets", [{"a": "."}, {"a": "../other", "../other/b": "../site"}, {"a": "a"}])
def test_links_in_a_circle_end(targets: dict[str, str], root: Path) -> None:
    make(root)
    (root / "other").mkdir()
    for link, target in targets.items():
        (root / "site" / link).symlink_to(target)
    with contextlib.suppress(ReleaseError):  # a mistake is said, and what only leads nowhere is no mistake
        assert len(source(root).digest()) == 64


def test_what_is_included_from_above_lies_where_the_project_looks_for_it(root: Path) -> None:
    make(root)
    (root / "frontend" / "dist").mkdir(parents=True)
    (root / "frontend" / "dist" / "x.js").write_text("1")
    (root / ".env").write_text("A=1")
    app = {"include": ["../frontend/dist", "../.env"]}
    made = source(root, **app)
    place = project_place(config_of(**app))
    write_tree(made.tree("/data"), root / "release" / place, lambda old, new: new.write_bytes(old.read_bytes()))
    project = root / "release" / place
    assert (project.parent / "frontend" / "dist" / "x.js").read_text() == "1"
    assert (project.parent / ".env").read_text() == "A=1"
    assert made.listing.left_out == ["../.env", "../frontend"]
    before = made.digest()
    (root / ".env").write_text("A=2")
    assert source(root, **app).digest() != before


def test_what_is_included_and_not_there_is_named(root: Path) -> None:
    make(root)
    with pytest.raises(ReleaseError, match=r"^app\.include: \.\./dist: there is no "):
        source(root, include=["../dist"]).digest()


@pytest.mark.parametrize(
    ("project", "include", "place"),
    [
        ("./site", [], "tree/above/site"),
        (".", [], "tree/above/project"),
        ("apps/site", [], "tree/apps/site"),
        ("apps/site", ["../../../x"], "tree/above/apps/site"),
        ("../elsewhere/site", [], "tree/elsewhere/site"),
        ("/srv/site", [], "tree/above/site"),
    ],
)
def test_a_project_lies_as_in_the_repository(project: str, include: list[str], place: str) -> None:
    assert project_place(config_of(project=project, include=include)) == place


@pytest.mark.parametrize(
    ("settings", "media"),
    [
        ('MEDIA_ROOT = BASE_DIR / "media"\nMEDIA_URL = "media/"\n', ("media", "/media/")),
        ('import os\nMEDIA_ROOT = os.path.join(BASE_DIR, "up", "loads")\nMEDIA_URL = "/u/"\n', ("up/loads", "/u/")),
        ('MEDIA_ROOT = str(BASE_DIR.joinpath("media"))\nMEDIA_URL = f"/{1}/m/"\n', ("media", "/1/m/")),
        ('MEDIA_ROOT = "media"\n', ("media", None)),
        ('MEDIA_ROOT = BASE_DIR / "m"\nMEDIA_URL = "https://cdn.example.com/m/"\n', ("m", None)),
        ('MEDIA_ROOT = BASE_DIR.parent / "media"\nMEDIA_URL = "/media/"\n', ("../media", "/media/")),
        ("MEDIA_ROOT = BASE_DIR\n", None),
        ('MEDIA_ROOT = "/"\n', None),
        ('MEDIA_ROOT = ""\nMEDIA_URL = "/media/"\n', None),
        ('import os\nMEDIA_ROOT = os.environ["MEDIA_ROOT"]\n', None),
        ('if BASE_DIR:\n    MEDIA_ROOT = BASE_DIR / "a"\nelse:\n    MEDIA_ROOT = BASE_DIR / "b"\n', None),
        ("def (:\n", None),
    ],
)
def test_uploads_are_found_in_the_settings(settings: str, media: tuple[str, str | None] | None, root: Path) -> None:
    make(root, settings=settings)
    (root / "stacks").mkdir()
    stack = "config:\n  cluster:platform: local\n  cluster:app: {project: ./site, settings: pkg.settings}\n"
    stack += "  cluster:upstream: {servers: 1}\n  cluster:site: {server_names: [localhost]}\n"
    (root / "stacks" / "Pulumi.t.yaml").write_text(stack)
    found = load_stack(root, "t").app.media
    assert (None if found is None else (found.root, found.url)) == media


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1"])
def test_settings_of_any_encoding_are_read(encoding: str, root: Path) -> None:
    make(root)
    text = f'# coding: {encoding}\n{SETTINGS}OWNER = "Jürg"\nMEDIA_ROOT = BASE_DIR / "media"\n'
    (root / "site" / "pkg" / "settings.py").write_text(text, encoding=encoding)
    assert os.path.basename(source(root).settings.known("MEDIA_ROOT")) == "media"  # noqa: PTH119


def test_settings_that_import_others_are_read_in_their_order(root: Path) -> None:
    make(root, settings='from .base import *\nMEDIA_URL = "/late/"\n')
    (root / "site" / "pkg" / "base.py").write_text(
        SETTINGS + 'MEDIA_ROOT = BASE_DIR / "media"\nMEDIA_URL = "/early/"\n'
    )
    found = source(root).settings
    assert (found.known("MEDIA_URL"), os.path.basename(found.known("MEDIA_ROOT"))) == ("/late/", "media")  # noqa: PTH119


@pytest.mark.parametrize("case", sorted(path.name for path in (ROOT / "tests" / "cases").iterdir()))
def test_the_files_of_every_small_project_can_be_told(case: str) -> None:
    config = parse_config(stack_of_case(case))
    made = source_of(config, ROOT / "tests" / "cases" / case)
    targets = {entry.target for entry in made.listing.entries}
    assert "manage.py" in targets
    assert len(made.digest()) == 64
