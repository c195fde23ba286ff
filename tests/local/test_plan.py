"""`cluster plan` on this machine: it only looks, says what `up` then does, and what it says of the cost is measured."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.clients import NO_TLS
from tests.conformance import AROUND, MIGRATED_MODEL, MIGRATION, assert_nothing_lost, assert_up, servers, wait_until
from tests.load import Load
from tests.local.stand import Stand
from tests.planned import NOTHING, TOKEN, WEIGHTED, assert_release_is_told, change_the_release
from tests.trees import below

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.local.stand import Result


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with contextlib.closing(Stand()) as stand:
        assert_up(stand)
        yield stand


def plan(stand: Stand, *options: str) -> Result:
    return stand.run("plan", stand.name, *options)


def planned(stand: Stand) -> dict[str, Any]:
    result = plan(stand, "--json")
    found = json.loads(result.output)
    assert found["version"] == 1
    (one,) = found["plans"]
    return dict(one)


def state_of(stand: Stand) -> dict[str, tuple[int, ...]]:
    """Return what each path of the repository is, but for what processes that run write all the time."""
    busy = (stand.paths.logs, stand.paths.run, stand.paths.data)
    found = {}
    for path, there in below(stand.root, *busy):
        found[str(path)] = (there.st_mode, there.st_uid, there.st_ino, there.st_size, there.st_mtime_ns)
    names = {path.name for directory in busy if directory.is_dir() for path in directory.iterdir()}
    return {**found, **dict.fromkeys(names, ())}


def test_the_first_plan_touches_nothing_and_says_that_the_site_comes_up() -> None:
    with contextlib.closing(Stand()) as stand:
        before = state_of(stand)
        result = plan(stand)
        assert (result.status, result.output.splitlines()[0]) == (
            0,
            f"stack {stand.name}: nothing serves now: the site comes up",
        )
        assert plan(stand, "--exit-code").status == 2
        assert state_of(stand) == before
        with stand.sabotaged("plan_that_makes"):
            assert plan(stand).status == 0
        assert state_of(stand) != before, "the saboteur: a secret_key that was made is seen"


def test_what_does_not_change_is_one_line(stand: Stand) -> None:
    before, serving = state_of(stand), stand.serving()
    result = plan(stand, "--exit-code")
    assert (result.status, result.output) == (0, f"stack {stand.name}: no changes\n")
    assert (state_of(stand), stand.serving()) == (before, serving)


def test_a_plan_waits_for_nobody_who_changes_the_stack(stand: Stand) -> None:
    with stand.paths.lock.open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert plan(stand).status == 0
        assert "is changing this stack" in stand.up().output, "the saboteur: who changes it is told"


def test_a_weight_is_told_in_nginx_s_words_and_up_says_the_same(stand: Stand) -> None:
    stand.edit_stack(lambda stack: servers(stack)["app1"].update(weight=5))
    before, serving = state_of(stand), stand.serving()
    result = plan(stand)
    assert result.output.splitlines() == [f"stack {stand.name}: {NOTHING}", *WEIGHTED]
    assert plan(stand, "--exit-code", "--markdown").status == 2
    assert (state_of(stand), stand.serving()) == (before, serving)
    assert stand.up().output.startswith(result.output), "`up` shows something else before it acts"
    assert plan(stand).output == f"stack {stand.name}: no changes\n"


def test_a_release_is_told_by_what_changes_and_is_the_one_that_up_makes(stand: Stand) -> None:
    former = stand.release()
    change_the_release(stand)
    secret = stand.paths.secrets / "secret_environment"
    secret.write_text(json.dumps({"API_TOKEN": TOKEN}))
    secret.chmod(0o600)
    before, serving = state_of(stand), stand.serving()
    found = planned(stand)
    assert_release_is_told(found, former)
    assert (state_of(stand), stand.serving()) == (before, serving)
    shown = [plan(stand, f"--{form}").output for form in ("text", "markdown", "json")]
    result = stand.up()
    assert result.status == 0, result.output
    assert result.output.startswith(shown[0])
    assert stand.release() == found["release"]["after"], "the planned release is another one than that which came"
    assert TOKEN not in "".join([*shown, result.output])
    back = stand.rollback()
    assert back.status == 0, back.output
    assert "- sqlparse >=0.5" in back.output


def test_against_the_revision_that_runs_the_files_tell_the_same() -> None:
    with contextlib.closing(Stand()) as stand:
        assert_up(stand)
        (stand.root / ".gitignore").write_text(".cluster/\n")
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")
        for words in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "what runs")):
            subprocess.run(["git", "-C", str(stand.root), *identity, *words], check=True)
        stand.edit_code("visits/views.py", "\n# one line more\n")
        stand.edit_code("visits/migrations/0002_mood.py", MIGRATION.replace(', db_default=""', ""))
        requirements = stand.project / "requirements.txt"
        requirements.write_text(f"{requirements.read_text()}sqlparse>=0.5\n")
        stand.edit_stack(lambda stack: servers(stack)["app1"].update(weight=5))
        stand.edit_stack(lambda stack: stack["app"].update(threads=7))
        before, serving = state_of(stand), stand.serving()
        here = planned(stand)
        (there,) = json.loads(plan(stand, "--against", "git:HEAD", "--json").output)["plans"]
        assert (state_of(stand), stand.serving()) == (before, serving)
        same = ("headline", "costs", "refused", "traffic", "nginx", "settings", "sessions", "deleted", "lints")
        assert {key: there[key] for key in same} == {key: here[key] for key in same}
        parts = ("parts", "code", "requirements", "secrets", "migrations")
        assert {key: there["release"][key] for key in parts} == {key: here["release"][key] for key in parts}
        assert here["costs"] == ["migration"]
        assert here["nginx"]


def test_what_up_refuses_is_said_with_its_reason(stand: Stand) -> None:
    stand.edit_stack(lambda stack: stack["sessions"].update(engine="file"))
    result = plan(stand, "--exit-code")
    stand.edit_stack(lambda stack: stack["sessions"].update(engine="cached_db"))
    assert (result.status, result.output.splitlines()[0]) == (1, f"stack {stand.name}: `up` refuses it")
    assert "  - sessions.previous: sessions are in cached_db now" in result.output


def test_what_nginx_refuses_is_said_with_its_key_before_anything_is_done(stand: Stand) -> None:
    stand.edit_stack(lambda stack: stack["site"].update(snippets={"server": "add_header X-A a;\nadd_haeder X-B b;\n"}))
    before, serving = state_of(stand), stand.serving()
    result = plan(stand)
    words = 'unknown directive "add_haeder" in snippets/server.conf:2'
    assert (result.status, result.output.splitlines()[:2]) == (
        1,
        [f"stack {stand.name}: `up` refuses it", f"  - site.snippets.server: nginx refuses it: {words}"],
    )
    with stand.sabotaged("plan_that_asks_no_nginx"):
        assert plan(stand).status == 0, "the saboteur: nobody else notices it"
    assert (state_of(stand), stand.serving()) == (before, serving)
    result = stand.up()
    stand.edit_stack(lambda stack: stack["site"].pop("snippets"))
    assert (result.status, words in result.output) == (1, True), result.output
    assert (plan(stand).status, stand.serving()) == (0, serving)


def test_another_key_logs_everybody_out_and_is_said_so(stand: Stand) -> None:
    with Load(stand.address) as load:  # it makes sessions
        load.wait_for(AROUND)
    key = stand.paths.secrets / "secret_key"
    former = key.read_text()
    key.write_text("x" * 50)
    assert plan(stand).status == 1
    stand.edit_stack(lambda stack: stack["sessions"].update(discard=True))
    found = planned(stand)
    key.write_text(former)
    assert (found["headline"], found["costs"]) == ("everybody is logged out", ["logged-out"])
    assert found["sessions"].startswith("sessions in cached_db: ")
    assert [one["name"] for one in found["release"]["secrets"] if one["kind"] == "changed"] == ["secret_key"]
    assert "logged-out" not in planned(stand)["costs"], "what may be discarded is not discarded without a reason"
    stand.edit_stack(lambda stack: stack["sessions"].pop("discard"))


def test_two_forms_at_once_are_refused(stand: Stand) -> None:
    result = plan(stand, "--json", "--markdown")
    assert (result.status, "say one of them" in result.output) == (1, True), result.output


# --- the costs, measured


def test_a_migration_that_the_former_release_cannot_live_beside_costs_requests() -> None:
    """The conformance suite makes the same change with db_default, and loses none."""
    with contextlib.closing(Stand(instances=1)) as stand:
        assert_up(stand)
        stand.edit_code("visits/migrations/0002_mood.py", MIGRATION.replace(', db_default=""', ""))
        stand.edit_code("visits/models.py", MIGRATED_MODEL.replace(', db_default=""', ""))
        found = planned(stand)
        assert found["costs"] == ["migration"]
        assert found["release"]["migrations"][0]["unsafe"] == [
            "adds entry.mood, NOT NULL without db_default: rows that the former release makes are refused"
        ]
        with Load(stand.address) as load:
            load.wait_for(AROUND)
            assert_nothing_lost(load.counts)
            assert_up(stand)
            load.wait_for(AROUND)
        print(f"a column that the former release does not fill: {load.counts}")
        assert load.counts.failures("POST"), "it cost nothing"
        assert load.counts.lost == []


def test_an_nginx_that_does_not_answer_is_started_again_at_a_cost(stand: Stand) -> None:
    stand.paths.nginx_socket.unlink()
    found = planned(stand)
    assert (found["costs"], "does not answer" in " ".join(found["drift"])) == (["nginx-started"], True)
    with Load(stand.address) as load:
        load.wait_for(AROUND)
        assert_up(stand)
        load.wait_for(AROUND)
    print(f"nginx started again: {load.counts}")
    assert load.counts.failed, "it cost nothing"
    assert load.counts.lost == []


def test_what_a_killed_supervisor_left_is_started_again_at_a_cost(stand: Stand) -> None:
    os.kill(int((stand.paths.run / "supervisord.pid").read_text()), signal.SIGKILL)
    wait_until(lambda: not stand.supervisor().is_running(), "Supervisor is gone")
    assert planned(stand)["costs"] == ["site-started"]
    with Load(stand.address) as load:
        load.wait_for(AROUND)
        assert_up(stand)
        load.wait_for(AROUND)
    print(f"all started again: {load.counts}")
    assert load.counts.failed, "it cost nothing"


def test_a_database_that_is_left_behind_is_the_first_thing_that_is_said(stand: Stand) -> None:
    """The last one: nothing of it could be put back."""
    assert_up(stand)
    assert entries(stand, "left behind") == 1
    stand.edit_stack(lambda stack: (stack.pop("database"), stack["sessions"].update(discard=True)))
    found = planned(stand)
    assert found["costs"][0] == "data-left", found
    assert found["headline"].startswith("what the database holds is not seen any more")
    assert_up(stand)
    assert entries(stand) == 0, "what is said to be left behind is still seen"


def entries(stand: Stand, text: str = "") -> int:
    """Return how often the form's page shows what was posted; post it first where a text is given."""
    with httpx.Client(
        base_url=f"http://127.0.0.1:{stand.port}", headers={"Host": "localhost"}, trust_env=False, verify=NO_TLS
    ) as client:
        page = client.get("/form").text
        if text:
            token = client.cookies["csrftoken"]
            client.post("/form", data={"text": text, "csrfmiddlewaretoken": token}).raise_for_status()
            page = client.get("/form").text
    return page.count("left behind")
