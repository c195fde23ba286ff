"""What a release must do for a visitor before it serves, with projects that fail in one way each (tests/cases)."""

from __future__ import annotations

import http.client
import re
import signal
import tempfile
import threading
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.local.stand import Stand

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.local.stand import Result

PATIENCE = 90.0

MANIFEST = """
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
"""


@contextmanager
def case(name: str, *, instances: int = 1, **app: object) -> Iterator[Stand]:
    """Make a repository of a case's project; its keys of `app` are replaced by those that are given."""
    with closing(Stand(case=name, instances=instances)) as stand:
        stand.edit_stack(lambda stack: stack["app"].update(app))
        yield stand


def get(stand: Stand, path: str = "/") -> tuple[int, str]:
    connection = http.client.HTTPConnection(*stand.address, timeout=30)
    with closing(connection):
        connection.request("GET", path, headers={"Host": f"localhost:{stand.port}"})
        response = connection.getresponse()
        return response.status, response.read().decode("utf-8", "replace")


def brought_up(stand: Stand) -> Result:
    result = stand.up()
    assert result.status == 0, result.output
    assert "verified:" in result.output
    return result


def refused(stand: Stand, *phrases: str) -> str:
    """Say up; it must be refused with these words, before any name was taken."""
    before = holders(stand)
    result = stand.up()
    assert result.status != 0, result.output
    for phrase in phrases:
        assert phrase in result.output, result.output
    assert holders(stand) == before
    assert "verified:" not in result.output
    return result.output


def holders(stand: Stand) -> dict[str, str]:
    return {path.parent.name: str(path.readlink()) for path in stand.paths.run.glob("*/http.sock")}


def static_files(page: str) -> list[str]:
    return re.findall(r'href="(?:https?://[^/]+)?(/static/[^"]+)"', page)


# --- release-command


def test_release_commands_run_before_the_gate_and_what_they_write_is_served() -> None:
    with case("release-command") as stand:
        output = refused(stand, "OfflineGenerationError", "removing app1 of release")
        assert output.count("OfflineGenerationError: ") <= 2, "it is shown again and again"
        stand.edit_stack(lambda stack: stack["app"].update(release_commands=["compress --force"]))
        assert "running compress --force" in brought_up(stand).output
        status, page = get(stand)
        assert status == 200
        (sheet,) = static_files(page)
        assert get(stand, sheet)[0] == 200
        # The next release without it: what serves 200 is not replaced by what answers 500.
        stand.edit_stack(lambda stack: stack["app"].pop("release_commands"))
        stand.edit_stack(lambda stack: stack["app"].pop("health"))
        stand.edit_code("core/views.py", "\n# another release\n")
        refused(stand, "app.health.pages: GET / is answered with 500; the serving release answers 200", "OfflineGen")
        assert get(stand)[0] == 200
        # One that fails says which it was.
        stand.edit_stack(lambda stack: stack["app"].update(release_commands=["check", "no_such_command 'a b'"]))
        refused(stand, "app.release_commands[1]: `no_such_command 'a b'` failed", "Unknown command: 'no_such_command'")
        assert get(stand)[0] == 200


# --- cdn-static


@pytest.fixture(scope="module")
def behind_cdn() -> Iterator[Stand]:
    """A stand whose project names static files at a CDN; each test that has it brings it up."""
    with case("cdn-static") as stand:
        yield stand


def test_static_files_are_collected_whoever_serves_them(behind_cdn: Stand) -> None:
    stand = behind_cdn
    brought_up(stand)
    status, page = get(stand)
    assert status == 200
    (sheet,) = static_files(page)
    assert get(stand, sheet)[0] == 200, "whitenoise has nothing that the CDN could take"
    stand.edit_stack(lambda stack: stack["site"].update(static_url="/static/"))
    assert "static-elsewhere" not in brought_up(stand).output
    assert (get(stand)[0], get(stand, sheet)[0]) == (200, 200)


def test_where_nothing_is_collected_the_projects_own_static_root_stays(behind_cdn: Stand) -> None:
    stand = behind_cdn
    stand.edit_stack(lambda stack: (stack["app"].update(collectstatic=False), stack["site"].pop("static_url", None)))
    refused(stand, "app.health.pages: GET / is answered with 500", "Missing staticfiles manifest entry")
    root = stand.project / "staticfiles"
    root.mkdir()
    (root / "site.0123456789ab.css").write_text("a {}")
    (root / "staticfiles.json").write_text(
        '{"paths": {"site.css": "site.0123456789ab.css"}, "version": "1.1", "hash": ""}'
    )
    brought_up(stand)
    (sheet,) = static_files(get(stand)[1])
    assert get(stand, sheet) == (200, "a {}"), "what the project made by itself"


# --- node-modules: a file that a page names and nobody has


def test_a_page_whose_file_is_missing_is_not_released() -> None:
    with case("node-modules") as stand:
        stand.edit_code("mysite/settings.py", f"\nSTATICFILES_DIRS = []\n{MANIFEST}")
        refused(
            stand,
            "GET / names /static/bootstrap/css/bootstrap.min.css, which is not there among the collected static files",
            "STATICFILES_DIRS",
        )
        # The saboteur: with no page to look at it goes through, and only verify notices.
        stand.edit_stack(lambda stack: stack["app"].update(health={"pages": []}))
        result = stand.up()
        assert result.status != 0
        assert "did not pass verification" in result.output
        assert get(stand)[0] == 200
        assert get(stand, "/static/bootstrap/css/bootstrap.min.css")[0] == 404
        # What serves lacks the file too: a release that is no worse is not stopped.
        stand.edit_stack(lambda stack: stack["app"].pop("health"))
        stand.edit_code("core/views.py", "\n# another release\n")
        before = holders(stand)
        assert "did not pass verification" in stand.up().output
        assert holders(stand) != before


# --- ssl-redirect


@pytest.mark.wide
def test_a_redirect_to_tls_that_the_stack_does_not_have_is_not_released() -> None:
    with case("ssl-redirect") as stand:
        refused(stand, "GET / leads to https://localhost:", "SECURE_SSL_REDIRECT must be off for this stack")
        stand.edit_stack(lambda stack: stack["app"].update(environment={"SECURE_SSL_REDIRECT": "0"}))
        brought_up(stand)
        assert get(stand)[0] == 200


# --- maintenance


@pytest.mark.wide
def test_a_site_in_maintenance_can_be_released_and_its_dead_instances_come_back() -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        flag = Path(directory) / "flag"
        with case("maintenance", instances=2, environment={"MAINTENANCE_FLAG": str(flag)}) as stand:
            brought_up(stand)
            flag.touch()
            stand.edit_code("core/views.py", "\n# another release\n")
            before = holders(stand)
            brought_up(stand)
            assert holders(stand) != before
            for name in ("app1", "app2"):
                stand.kill(name, signal.SIGKILL)
            stand.wait_healthy()
            assert get(stand) == (503, "We are back soon\n")
            flag.unlink()
            assert get(stand)[0] == 200


# --- slow-worker-boot


def test_workers_that_recycle_themselves_and_begin_slowly_lose_no_request() -> None:
    command_line = {"GUNICORN_CMD_ARGS": "--max-requests 60 --max-requests-jitter 30"}
    with case("slow-worker-boot", instances=2, environment=command_line) as stand:
        brought_up(stand)
        answers: list[int | str] = []

        def client() -> None:
            for _number in range(100):
                connection = http.client.HTTPConnection(*stand.address, timeout=PATIENCE)
                try:
                    connection.request("POST", "/", body=b"x", headers={"Host": f"localhost:{stand.port}"})
                    answers.append(connection.getresponse().status)
                except (OSError, http.client.HTTPException) as error:
                    answers.append(repr(error))
                finally:
                    connection.close()

        clients = [threading.Thread(target=client) for _number in range(4)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join()
        lost = [answer for answer in answers if answer != 200]
        print(f"slow boots: {len(lost)} of {len(answers)} POSTs lost")
        assert (len(answers), lost) == (400, [])
        logs = "".join(path.read_text(errors="replace") for path in stand.paths.logs.glob("app*.log"))
        assert "checks in a row failed" not in logs


# --- traceback


@pytest.mark.wide
def test_the_projects_404_page_does_not_decide_and_a_failing_page_is_shown_once() -> None:
    with case("traceback") as stand:
        brought_up(stand)
        assert get(stand)[0] == 200
        assert get(stand, "/nothing")[0] == 500, "the case is not what it was"
        stand.edit_code("boom/urls.py", '\nurlpatterns = [path("", fail)]\n')
        output = refused(stand, "app.health.pages: GET / is answered with 500; the serving release answers 200")
        assert output.count("ValueError: what the maintainer must see") == 1
        assert "boom/urls.py" in output
        assert get(stand)[0] == 200
