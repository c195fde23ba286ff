"""What `cluster init` reads of a project's files, and what it writes of what an import has shown."""

from __future__ import annotations

import re
import sqlite3
import subprocess
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import yaml

from cli.initialise import NewStack, Wanted, _take_over, run_init
from cluster.adopting import AdoptError, rows_in
from cluster.config import parse_config
from cluster.console import Terminal
from cluster.errors import CommandError
from cluster.initial.choices import Written, from_import
from cluster.initial.project import find_requirements, inspect
from cluster.initial.settings import find_settings, other_settings
from cluster.initial.stack_file import kept_secrets, render_stack_file
from cluster.looking import Look, _brings, look, placeholder
from cluster.stack.secrets import write_secret
from cluster_runtime.describe import REFUSED
from platforms.local.adopting import adopt, left_behind
from platforms.local.paths import LocalPaths
from platforms.registry import initial

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster.looking import Subject

FACTS: dict[str, Any] = {
    "installed": ["django.contrib.sessions"],
    "static_url_of_project": "static/",
    "media": ["", ""],
    "own_session_engine": "",
    "own_session_cache": "django.core.cache.backends.locmem.LocMemCache",
    "own_database_engine": "django.db.backends.sqlite3",
    "own_database_host": "",
    "own_databases": {"default": ["django.db.backends.sqlite3", "/p/db.sqlite3"]},
    "applications": {"wsgi": "site.wsgi.application", "asgi": ""},
    "asgi_apps": [],
}
DJANGO = "django.contrib.sessions.backends."


def files(directory: Path, **texts: str) -> Path:
    for name, text in {"manage.py": "'DJANGO_SETTINGS_MODULE', 'mysite.settings'", **texts}.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return files(tmp_path, **{"requirements.txt": "django", "mysite/settings.py": "", "mysite/__init__.py": ""})


def test_a_stack_on_a_host_is_told_how_a_host_is_named(project: Path) -> None:
    """The lines are comments: what they say, taken as it stands, is a host."""
    read, offer = inspect(project, None, None), initial("remote").offer("x")
    text = render_stack_file(
        read, from_import(read, Look(facts=FACTS), offer), "project", offer.listen or 0, "x", offer
    )
    taken = re.sub(r"(?m)^  # (cluster:hosts:|  .*)$", r"  \1", text).replace("ssh-ed25519 AAAA", "ssh-ed25519 AAAA=")
    values = {key.removeprefix("cluster:"): value for key, value in yaml.safe_load(taken)["config"].items()}
    config = parse_config(values)
    assert [(host.name, host.user) for host in config.hosts] == [("web1", "deploy")]
    assert config.site.listen == 80


def written(project: Path, wanted: Wanted | None = None, **facts: Any) -> dict[str, Any]:
    """Return what the stack file has for a project of which an import has shown these facts."""
    wanted = wanted or Wanted()
    read = inspect(project, None, None)
    offer = initial(wanted.platform).offer("x")
    found = from_import(read, Look(facts={**FACTS, **facts}), offer, wanted.sessions)
    text = render_stack_file(read, found, "project", 8080, "x", offer)
    values = {key.removeprefix("cluster:"): value for key, value in yaml.safe_load(text)["config"].items()}
    parse_config(values)
    return values


@pytest.mark.parametrize(
    ("facts", "engine"),
    [
        ({}, "db"),
        ({"own_session_engine": f"{DJANGO}db"}, "db"),
        ({"own_session_engine": f"{DJANGO}cached_db"}, "cached_db"),
        ({"own_session_engine": f"{DJANGO}file"}, "file"),
        ({"own_session_engine": f"{DJANGO}signed_cookies"}, "signed_cookies"),
        ({"own_session_engine": f"{DJANGO}cache"}, "cached_db"),
        ({"own_session_engine": f"{DJANGO}cache", "own_session_cache": "django_redis.cache.RedisCache"}, "project"),
        ({"own_session_engine": "core.sessions"}, "project"),
        ({"installed": []}, "signed_cookies"),
    ],
)
def test_the_projects_session_engine_is_kept(project: Path, facts: dict[str, Any], engine: str) -> None:
    assert written(project, **facts)["sessions"] == {"engine": engine}


def test_another_engine_is_used_where_it_is_asked_for(project: Path) -> None:
    asked = Wanted(sessions="cached_db")
    assert written(project, asked)["sessions"] == {"engine": "cached_db"}
    own = written(project, asked, own_session_engine="core.sessions")
    assert own["sessions"] == {"engine": "cached_db", "replace": True}


@pytest.mark.parametrize(
    ("engine", "platform", "database"),
    [
        ("django.db.backends.sqlite3", "local", {"engine": "sqlite"}),
        ("django.db.backends.sqlite3", "docker", {"engine": "postgres"}),
        ("django.db.backends.postgresql", "local", None),
        ("django.db.backends.mysql", "docker", None),
        ("some.backend", "local", None),
        ("django.contrib.gis.db.backends.spatialite", "local", None),
        ("", "local", {"engine": "sqlite"}),
        ("django.db.backends.dummy", "local", None),
    ],
)
def test_a_database_server_is_never_replaced(
    project: Path, engine: str, platform: str, database: dict[str, str] | None
) -> None:
    found = written(project, Wanted(platform=platform), own_database_engine=engine)
    assert found.get("database") == database


def test_what_an_import_shows_is_written(project: Path) -> None:
    media = [str(project / "files" / "up"), "/up/"]
    found = written(
        project,
        static_url_of_project="/shop/static/",
        media=media,
        asgi_apps=["channels"],
        applications={"wsgi": "w", "asgi": "site.asgi.application"},
    )
    assert found["site"]["static_url"] == "/shop/static/"
    assert found["app"]["media"] == {"root": "files/up", "url": "/up/"}
    assert found["app"]["interface"] == "asgi"
    cdn = written(project, static_url_of_project="https://cdn.example/static/")
    assert cdn["site"]["static_url"] is None
    assert "release_commands" not in found["app"]
    assert written(project, offline_compression=True)["app"]["release_commands"] == ["compress"]


def test_what_the_command_line_says_of_packages_is_written(project: Path) -> None:
    read = inspect(project, None, "./requirements.txt")
    read.python = "3.13"
    offer = initial("local").offer("x")
    written = from_import(read, Look(facts=FACTS, extras=["prod"], groups=["web"]), offer)
    app = yaml.safe_load(render_stack_file(read, written, "project", 8080, "x", offer))["config"]["cluster:app"]
    assert app["python"] == "3.13"
    assert app["requirements"] == {"file": "requirements.txt", "extras": ["prod"], "groups": ["web"]}


@pytest.mark.parametrize("name", ["nothing.txt", "../nothing.txt", "/nothing.txt", "mysite"])
def test_a_requirements_file_that_is_not_there_is_named_by_its_path(project: Path, name: str) -> None:
    with pytest.raises(CommandError, match=r"^--requirements: /.*: no such file"):
        inspect(project, None, name)


def test_the_settings_of_the_server_count_and_the_others_are_named(tmp_path: Path) -> None:
    files(
        tmp_path,
        **{
            "manage.py": 'os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.local")',
            "config/wsgi.py": 'os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.production")',
            "config/settings/production.py": "",
            "config/settings/local.py": "",
            "config/settings/base.py": "",
            "requirements/base.txt": "",
            "requirements/local.txt": "",
            "requirements/production.txt": "",
        },
    )
    assert find_settings(tmp_path) == ("config.settings.production", "config/wsgi.py names it")
    assert other_settings(tmp_path, "config.settings.production") == ["config.settings.local"]
    assert find_requirements(tmp_path, "config.settings.production") == "requirements/production.txt"
    assert find_requirements(tmp_path, "config.settings.local") == "requirements/local.txt"
    assert find_requirements(tmp_path, "config.settings") == "requirements/production.txt"


def test_settings_below_src_are_found_and_read(tmp_path: Path) -> None:
    files(
        tmp_path,
        **{
            "manage.py": 'os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings_local")',
            "src/shop/wsgi.py": 'os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")',
            "src/shop/settings.py": 'import os\nNAME = os.environ["NAME"]\nSTATIC_URL = "/s/"',
            "src/shop/production.py": "",
            "pyproject.toml": "",
        },
    )
    read = inspect(tmp_path, None, None)
    assert read.settings == "shop.settings"
    assert (read.values["STATIC_URL"], read.environment) == ("/s/", {"NAME"})
    assert read.decide == ["settings: there are also shop.production; --settings chooses one of them"]


def test_settings_that_this_python_is_too_old_to_read_are_left_to_the_import(tmp_path: Path) -> None:
    directory = files(
        tmp_path,
        **{
            "mysite/settings.py": "from mysite.base import *\nDEBUG = True\n",
            "mysite/base.py": "STATIC_URL = not Python of any age\n",
            "requirements.txt": "django\n",
        },
    )
    assert inspect(directory, None, None, static=False).values == {"DEBUG": True}
    with pytest.raises(CommandError, match=r"mysite/base\.py:1: invalid syntax"):
        inspect(directory, None, None)


def test_what_wsgi_says_of_the_environment_is_written(tmp_path: Path) -> None:
    """django-configurations takes the class of the settings from there."""
    server = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
os.environ.setdefault("DJANGO_CONFIGURATION", "Production")
os.environ.setdefault("PYTHONPATH", "/elsewhere")
os.environ["REGION"] = "eu: 1"
os.environ["HOME"] = os.path.dirname(__file__)
"""
    other = server.replace("shop.settings", "shop.other").replace("Production", "Other")
    files(tmp_path, **{"manage.py": "", "shop/settings.py": "", "shop/wsgi.py": server, "requirements.txt": ""})
    files(tmp_path, **{"other/wsgi.py": other})
    project = inspect(tmp_path, "shop.settings", None)
    assert project.said == {"DJANGO_CONFIGURATION": "Production", "REGION": "eu: 1"}
    offer = initial("local").offer("t")
    written = yaml.safe_load(
        render_stack_file(project, from_import(project, Look(facts=FACTS), offer), "s", 8080, "t", offer)
    )
    assert written["config"]["cluster:app"]["environment"] == project.said


@pytest.mark.parametrize(
    "settings",
    [b'\xef\xbb\xbfSTATIC_URL = "/s/"', b'# coding: latin-1\nOWNER = "J\xfcrg"\nSTATIC_URL = "/s/"'],
)
def test_settings_may_be_in_any_encoding_that_python_reads(tmp_path: Path, settings: bytes) -> None:
    named = 'os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")'
    files(tmp_path, **{"manage.py": named, "shop/settings.py": "", "requirements.txt": ""})
    (tmp_path / "shop" / "settings.py").write_bytes(settings)
    assert inspect(tmp_path, None, None).values["STATIC_URL"] == "/s/"


def test_settings_that_are_no_python_are_named(tmp_path: Path) -> None:
    named = 'os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")'
    files(tmp_path, **{"manage.py": named, "shop/settings.py": "", "requirements.txt": ""})
    for text in (b"x = (", b"x = '\x00'", b"x = '\xff'"):
        (tmp_path / "shop" / "settings.py").write_bytes(text)
        with pytest.raises(CommandError, match=r"shop/settings\.py:"):
            inspect(tmp_path, None, None)


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("DATABASE_URL", "postgres://"),
        ("REDIS_URL", "redis://"),
        ("PAYMENT_URL", "http://"),
        ("SMTP_PORT", "1"),
        ("USE_TLS", "False"),
        ("STRIPE_SECRET_KEY", "placeholder-"),
        ("ADMIN_EMAIL", "someone@"),
        ("COLOUR", "placeholder"),
    ],
)
def test_what_stands_for_a_variable_is_of_its_kind(name: str, begins: str) -> None:
    assert placeholder(name).startswith(begins)


@pytest.mark.parametrize(
    ("line", "module", "brings"),
    [
        ("django-environ>=1", "environ", True),
        ("psycopg[binary]>=3", "psycopg", True),
        ("psycopg2-binary", "psycopg2", True),
        ("djangorestframework", "rest_framework", True),
        ("gunicorn", "environ", False),
    ],
)
def test_the_package_that_brings_a_module_is_found_by_its_name(line: str, module: str, brings: bool) -> None:
    assert _brings(line, module) is brings


# --- taking over


def in_use(path: Path, users: int = 3) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE auth_user (id INTEGER)")
        connection.execute("CREATE TABLE django_migrations (id INTEGER)")
        connection.execute("INSERT INTO django_migrations VALUES (1)")
        connection.executemany("INSERT INTO auth_user VALUES (?)", [(number,) for number in range(users)])
        connection.commit()
    return path


KEYS = {"secret_key": "old-key", "secret_key_fallbacks": ["older"]}


def test_a_database_and_its_key_are_taken_over_once(tmp_path: Path) -> None:
    database = in_use(tmp_path / "db.sqlite3")
    paths = LocalPaths(tmp_path, "x")
    adopt(tmp_path, "x", database, KEYS)
    assert rows_in(paths.data / "db.sqlite3") == {"auth_user": 3}
    assert (paths.secrets / "secret_key").read_text() == "old-key"
    assert (paths.secrets / "secret_key").stat().st_mode & 0o777 == 0o600
    assert (paths.secrets / "secret_key_fallbacks").read_text() == '["older"]'
    with pytest.raises(AdoptError, match="is there already, and would be lost"):
        adopt(tmp_path, "x", database, KEYS)


@pytest.mark.parametrize("there", ["data/db.sqlite3", "secrets/secret_key"])
def test_nothing_that_a_stack_has_is_replaced(tmp_path: Path, there: str) -> None:
    database = in_use(tmp_path / "db.sqlite3")
    paths = LocalPaths(tmp_path, "x")
    path = paths.state / there
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(AdoptError, match="is there already"):
        adopt(tmp_path, "x", database, KEYS)
    assert path.read_text() == "mine"
    assert [found for found in paths.state.rglob("*") if found.is_file()] == [path]


def test_a_database_in_use_that_is_left_behind_is_told_of_at_the_first_up(tmp_path: Path) -> None:
    project, copied, paths = tmp_path / "project", tmp_path / "release" / "project", LocalPaths(tmp_path, "x")
    project.mkdir()
    facts = {"own_databases": {"default": ["django.db.backends.sqlite3", str(copied / "db.sqlite3")]}}
    assert left_behind(paths, project, copied, facts) is None
    in_use(project / "db.sqlite3")
    line = left_behind(paths, project, copied, facts)
    assert line is not None
    assert "3 users" in line
    assert "--adopt" in line
    paths.data.mkdir(parents=True)
    (paths.data / "db.sqlite3").touch()
    assert left_behind(paths, project, copied, facts) is None


def test_a_project_that_nobody_has_used_holds_nothing(tmp_path: Path) -> None:
    assert rows_in(in_use(tmp_path / "db.sqlite3", users=0)) == {}


@pytest.mark.parametrize(
    ("refused", "why"),
    [
        ([], ""),
        (["app.shared: HAYSTACK_CONNECTIONS is index in the project …"], ""),
        (["app.include: the project looks for ../data, which is not in the release"], "app.include: "),
        ("whatever a project writes there", ""),
    ],
)
def test_a_warning_of_the_project_s_is_no_reason_not_to_import(
    refused: Any, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned = subprocess.CompletedProcess[str]([], REFUSED, "", "base.py:61: UserWarning: No directory at: /static/")

    @contextmanager
    def imported(*_arguments: Any) -> Iterator[Any]:
        yield warned, {"refused": refused, **FACTS}

    monkeypatch.setattr("cluster.looking._imported", imported)
    found = look(cast("Subject", SimpleNamespace(extras=(), groups=())), said={})
    assert found.failure.startswith(why)
    assert bool(found.failure) is bool(why)
    assert found.facts == FACTS


def test_what_is_written_anew_keeps_pulumis_secrets_and_its_other_keys(tmp_path: Path) -> None:
    path = tmp_path / "Pulumi.dev.yaml"
    assert kept_secrets(path) == ""
    before = {
        "encryptionsalt": "v1:salt:=",
        "config": {
            "cluster:platform": "docker",
            "cluster:secret_key": {"secure": "v1:abc"},
            "cluster:app": {"project": "./old"},
            "docker:host": "ssh://root@example",
        },
    }
    path.write_text(yaml.safe_dump(before))
    found = yaml.safe_load("config:\n  cluster:platform: docker\n" + kept_secrets(path))
    del before["config"]["cluster:app"]  # type: ignore[attr-defined]
    assert found == before
    path.write_text(":\n  - not: [YAML")
    assert kept_secrets(path) == ""


def test_secret_variables_are_found_where_each_platform_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, docker, voice = initial("local"), initial("docker"), Terminal()
    stack_file = tmp_path / "stacks" / "Pulumi.x.yaml"
    files(tmp_path, **{"stacks/Pulumi.x.yaml": "config: {}"})
    assert local.secret_environment(tmp_path, "x", voice) is None
    assert docker.secret_environment(tmp_path, "x", voice) is None
    assert docker.secret_environment(tmp_path, "nowhere", voice) is None
    secrets = LocalPaths(tmp_path, "x").secrets
    secrets.mkdir(parents=True)
    write_secret(secrets / "secret_environment", '{"A": "1"}')
    assert local.secret_environment(tmp_path, "x", voice) == '{"A": "1"}'

    class Encrypted:
        def __init__(self, root: Path, stack: str, say: Any) -> None:
            assert (root, stack, say) == (tmp_path, "x", voice.say)

        def secret(self, name: str) -> str:
            return f"{name} in plain"

    monkeypatch.setattr("platforms.pulumi.engine.Pulumi", Encrypted)
    stack_file.write_text("config:\n  cluster:secret_environment: {secure: abc}\n")
    assert docker.secret_environment(tmp_path, "x", voice) == "secret_environment in plain"


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (Wanted(platform="moon"), "--platform: must be one of local, docker, remote, got moon"),
        (Wanted(platform="docker", adopt=True), "--adopt: works on platform local, and imports the project"),
        (Wanted(adopt=True, importing=False), "--adopt: works on platform local, and imports the project"),
    ],
)
def test_a_platform_that_is_not_there_or_can_t_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch, wanted: Wanted, why: str
) -> None:
    (project / "stacks").mkdir()
    monkeypatch.chdir(project)
    with pytest.raises(CommandError) as refused:
        run_init("x", project, wanted)
    assert str(refused.value) == why


@pytest.mark.parametrize(
    ("platform", "told"),
    [("local", "say `cluster init` with --adopt --force"), ("docker", "platform docker does not take it over")],
)
def test_a_database_in_use_is_told_with_what_can_be_done_on_the_platform(
    platform: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.initialise.project_database", lambda _facts: tmp_path / "db.sqlite3")
    monkeypatch.setattr("cli.initialise.rows_in", lambda _database: {"auth_user": 3})
    written = Written()
    _take_over(NewStack(tmp_path, "x", Wanted(platform=platform)), Look(), written, dict)
    (line,) = written.decide
    assert "is in use (3 users" in line
    assert told in line
