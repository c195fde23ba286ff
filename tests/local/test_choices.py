"""What projects have chosen themselves, from `cluster init` to users: DEBUG, session engines, databases in use."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.clients import NO_TLS
from tests.local.stand import Stand

if TYPE_CHECKING:
    from collections.abc import Iterator

PREPARE_IN_USE = """
import os, sys, json, django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from django.contrib.auth.models import User
from django.core import signing
from django.test import Client
for number in range(3):
    User.objects.create_user(f"u{number}", password="p")
client = Client()
assert client.login(username="u1", password="p")
print(json.dumps({"session": client.cookies["sessionid"].value, "link": signing.dumps("a link")}))
"""


@contextlib.contextmanager
def standing(case: str, instances: int = 1) -> Iterator[Stand]:
    with contextlib.closing(Stand(case=case, instances=instances)) as stand:
        yield stand


def initialise(stand: Stand, *options: str) -> tuple[dict[str, Any], str]:
    """Write the stack file by init; return what it has, and what init said."""
    result = stand.run("init", stand.name, "--project", "project", "--force", *options)
    assert result.status == 0, result.output
    servers = stand.stack["upstream"]["servers"]
    stand.take_initialised()
    stand.stack["upstream"]["servers"] = servers
    return stand.stack, result.output


def client(stand: Stand) -> httpx.Client:
    base = f"http://127.0.0.1:{stand.port}"
    return httpx.Client(trust_env=False, verify=NO_TLS, base_url=base, headers={"Host": "localhost"}, timeout=60)


def test_settings_made_from_debug_are_those_of_a_site_that_serves() -> None:
    with standing("debug-derived") as stand:
        settings = stand.project / "mysite" / "settings.py"
        settings.write_text(settings.read_text().partition("LOGGING")[0])
        result = stand.up()
        assert result.status == 0, result.output
        with client(stand) as asking:
            answer = asking.get("/", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in answer.headers
        assert "validators=1" in answer.text
        assert "smtp" in answer.text
        # Told to be True it is what the project makes of it, and said.
        stand.edit_stack(lambda stack: stack["app"].update(environment={"DJANGO_DEBUG": "True"}))
        result = stand.up()
        assert result.status == 0, result.output
        for setting in ("AUTH_PASSWORD_VALIDATORS", "CORS_ALLOW_ALL_ORIGINS", "EMAIL_BACKEND"):
            assert re.search(rf"warning: .*{setting} \(mysite/settings\.py:\d+\) is made from DEBUG", result.output)
        assert "[cors-open]" in result.output


def test_a_projects_own_session_engine_is_refused_or_kept_but_never_replaced_in_silence() -> None:
    with standing("custom-session-engine", instances=2) as stand:
        result = stand.up()
        assert result.status == 1
        assert result.output.splitlines()[-1].startswith(
            "sessions.engine: the project has a session engine of its own, core.sessions; set it to project"
        )
        values, said = initialise(stand)
        assert values["sessions"] == {"engine": "project"}
        assert "the project's own engine, core.sessions" in said
        stand.write()
        result = stand.up()
        assert result.status == 0, result.output
        with client(stand) as one, client(stand) as two:
            one.get("/")
            count = re.fullmatch(r"sessions of account 7: (\d+)\n", one.get("/").text)
            assert count is not None  # verify has looked at the page too
            assert two.get("/out").text.startswith(f"ended {count[1]} sessions")
            assert one.get("/out").text.endswith("account=None\n")
        stand.edit_stack(lambda stack: stack["sessions"].update(engine="db", replace=True))
        assert "set `engine: project`" in stand.up().output


def test_a_site_in_use_is_taken_over_with_its_users_sessions_and_links() -> None:
    with standing("adopt", instances=2) as stand:
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "mysite.settings", "PYTHONPATH": str(stand.project)}
        command = [sys.executable, "-c", PREPARE_IN_USE]
        done = subprocess.run(command, env=environment, cwd=stand.project, capture_output=True, text=True, check=True)
        former = json.loads(done.stdout)
        _values, said = initialise(stand)
        assert re.search(r"to decide: database: .*db\.sqlite3 is in use \(3 users, 1 sessions", said)
        _values, said = initialise(stand, "--adopt")
        assert "adopted: " in said
        stand.write()
        result = stand.up()
        assert result.status == 0, result.output
        with client(stand) as asking:
            found = asking.get(f"/?t={former['link']}", headers={"Cookie": f"sessionid={former['session']}"})
        assert found.text == "a link users=3 me=u1\n"
        result = stand.run("init", stand.name, "--project", "project", "--force", "--adopt")
        assert result.status == 1
        assert "is there already, and would be lost" in result.output


@pytest.mark.wide
def test_a_site_in_use_that_is_not_taken_over_is_told_of() -> None:
    with standing("adopt", instances=2) as stand:
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "mysite.settings", "PYTHONPATH": str(stand.project)}
        command = [sys.executable, "-c", PREPARE_IN_USE]
        subprocess.run(command, env=environment, cwd=stand.project, capture_output=True, check=True)
        result = stand.up()
        assert result.status == 0, result.output
        assert len(re.findall(r"warning: database: .*is in use \(3 users.*--adopt", result.output)) == 1


def test_init_finds_what_only_an_import_shows() -> None:
    with standing("init-guesses") as stand:
        values, said = initialise(stand)
        assert values["site"]["static_url"] == "/static/"
        assert values["app"]["interface"] == "asgi"
        assert values["sessions"] == {"engine": "db"}
        assert "PAYMENT_KEY (guess/settings.py:15)" in said
        assert "DATABASES is made from DB, DB_NAME" in said
        assert "Traceback" not in said
        stand.write()
        result = stand.up()
        assert result.status == 1
        assert "Traceback" not in result.output
        assert "app.environment: the project needs PAYMENT_KEY (guess/settings.py:15)" in result.output
        stand.edit_stack(lambda stack: stack["app"].update(environment={"PAYMENT_KEY": "x"}))
        result = stand.up()
        assert result.status == 0, result.output
        with client(stand) as asking:
            assert asking.get("/admin/login/").status_code == 200
            assert asking.get("/static/admin/css/base.css").status_code == 200
        # What the environment says of the database is not replaced by an sqlite.
        stand.edit_stack(
            lambda stack: stack["app"].update(environment={"PAYMENT_KEY": "x", "DB": "postgres", "DB_NAME": "shop"})
        )
        result = stand.up()
        assert result.status == 1
        assert "database.engine: " in result.output or "No module named 'psycopg" in result.output


def test_init_says_that_nobody_can_see_a_site_that_redirects_to_https() -> None:
    with standing("ssl-redirect") as stand:
        _values, said = initialise(stand, "--settings", "mysite.production")
        for lint in ("ssl-redirect", "session-cookie-secure", "csrf-cookie-secure"):
            assert said.count(f"[{lint}]") == 1
        _values, said = initialise(stand)
        assert "there are also mysite.production" in said
        assert "[ssl-redirect]" not in said


def test_init_without_an_import_reads_files_alone() -> None:
    with standing("init-guesses") as stand:
        values, said = initialise(stand, "--no-import")
        assert values["site"]["static_url"] is None
        assert "STATIC_URL is computed" in said
        assert not (stand.root / ".cluster" / ".init").exists()


@pytest.fixture(scope="module")
def imported() -> Iterator[Stand]:
    """A stand whose project is imported in vain first; what its environment has stays the same."""
    with standing("adopt") as stand:
        yield stand


def test_a_project_that_does_not_import_is_told_once_by_its_own_last_lines(imported: Stand) -> None:
    stand, settings = imported, imported.project / "mysite" / "settings.py"
    before = settings.read_text()
    settings.write_text(before + "\nimport nowhere.to.be.found\n")
    result = stand.run("init", stand.name, "--project", "project", "--force")
    assert result.status == 0, result.output
    assert result.output.count("ModuleNotFoundError: No module named 'nowhere'") == 1
    assert re.search(r"mysite/settings\.py:\d+: import nowhere", result.output)
    assert "nothing in requirements.txt brings nowhere" in result.output
    assert len(result.output.splitlines()) < 25
    settings.write_text(before)
    stand.write()


def test_a_database_that_is_opened_on_import_below_a_directory_that_is_not_there_is_shared(imported: Stand) -> None:
    """As huey does. sqlite's own error names no file."""
    stand, settings = imported, imported.project / "mysite" / "settings.py"
    opened = "\nimport sqlite3\nsqlite3.connect(BASE_DIR / 'queue' / 'tasks.sqlite3')\n"
    settings.write_text(settings.read_text() + opened)
    result = stand.up()
    assert result.status == 1
    assert "add queue to app.shared" in result.output
    values, said = initialise(stand)
    assert values["app"].get("shared") == ["queue"], said
    assert "does not import" not in said
    result = stand.up()
    assert result.status == 0, result.output
    assert (stand.paths.shared / "project" / "queue").is_dir() or list(stand.paths.shared.rglob("queue"))
