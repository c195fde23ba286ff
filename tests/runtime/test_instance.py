"""The instance process, with real gunicorns and small projects."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster_runtime.checks import Unhealthy
from cluster_runtime.clearing import CLEARED
from cluster_runtime.handover import serve
from cluster_runtime.instance import main
from cluster_runtime.sessions.ended import ENDED
from tests.runtime.standing import ROOT, SECRET_KEY, SETTINGS, Asking, ask, processes, wait_until

if TYPE_CHECKING:
    from tests.runtime.standing import Running, Stand

#: Three failed checks end an instance within seven seconds.
IMPATIENT = {"interval": 0.3, "timeout": 2.0, "retries": 3}

#: The checks' patience (7 s) is longer than that with a silent worker (2.5 s): the worker goes, the instance stays.
WORKER_FIRST = {"interval": 0.2, "timeout": 0.5, "retries": 10}


def leftovers(running: Running) -> set[str]:
    return {path.name for path in running.name.directory.iterdir() if path.suffix != ".lock"}


def session_is_gone(gunicorn: int) -> bool:
    return not any(gunicorn in (pid, session) for pid, _parent, session in processes())


# --- states and the name


def test_it_says_that_it_starts_that_it_is_ready_and_that_it_serves(stand: Stand) -> None:
    running = stand.serving()
    lines = [line.rpartition(" ")[2] for line in running.log.splitlines() if " app1 one: " in line]
    assert [word for word in lines if word in ("ready", "serving")] == ["ready", "serving"]
    status = running.name.status("one")
    assert status is not None
    assert (status["instance"], status["release"]) == ("app1", "one")
    assert status["pid"] == running.process.pid
    assert abs(status["since"] - time.time()) < 60
    assert running.name.holder() == "one"
    assert running.get("/")[0] == 200


def test_its_socket_is_closed_to_other_users(stand: Stand) -> None:
    running = stand.serving()
    assert running.name.socket("one").stat().st_mode & 0o007 == 0
    assert running.name.directory.stat().st_mode & 0o007 == 0


def test_a_second_process_of_the_same_release_refuses_and_disturbs_nothing(stand: Stand) -> None:
    first = stand.serving()
    status = first.name.status("one")
    second = stand.start("one")
    assert second.ended() == 1
    assert "release one runs already" in second.log
    assert first.name.status("one") == status
    assert first.name.holder() == "one"
    assert first.get("/")[0] == 200


def test_a_second_release_waits_ready_until_it_is_told_to_serve(stand: Stand) -> None:
    one = stand.serving("one")
    two = stand.start("two")
    two.wait_for("ready")
    time.sleep(0.3)
    assert one.name.holder() == "one"
    assert (one.state, two.state) == ("serving", "ready")
    arguments = ["--sockets", str(stand.sockets), "--instance", "app1", "--release", "two"]
    assert main(["status", *arguments]) == 0
    assert main(["serve", *arguments]) == 0
    two.wait_for("serving")
    one.wait_for("ready")
    assert one.name.holder() == "two"
    two.process.kill()
    two.ended()
    two.wait_for_silence()
    with pytest.raises(Unhealthy):
        serve(stand.sockets, "app1", "two")


def test_an_unknown_or_starting_release_gets_no_name(stand: Stand, capsys: pytest.CaptureFixture[str]) -> None:
    one = stand.serving("one")
    stand.write({"slow/__init__.py": "import time\ntime.sleep(60)\n" + SETTINGS})
    two = stand.start("two", settings="slow")
    two.wait_for("starting")
    arguments = ["--sockets", str(stand.sockets), "--instance", "app1", "--release"]
    assert main(["serve", *arguments, "two"]) == 1
    assert main(["serve", *arguments, "three"]) == 1
    assert main(["status", *arguments, "three"]) == 1
    errors = capsys.readouterr().err
    assert "release two is starting" in errors
    assert "release three is not running" in errors
    assert one.name.holder() == "one"


# --- stopping


def test_a_stop_gives_the_name_up_at_once_and_lets_what_runs_end(stand: Stand) -> None:
    running = stand.serving(drain=5)
    in_flight = ask(running, "/sleep?for=6", 1)[0]
    gunicorn = running.gunicorn
    told = time.monotonic()
    running.process.terminate()
    wait_until(lambda: running.name.holder() is None, "given up")
    assert time.monotonic() - told < 4.5
    running.wait_for("draining")
    if time.monotonic() - told < 4:
        assert running.get("/")[0] == 200, "nginx may still send over the connections that it has"
    assert in_flight.wait() == (200, "slept")
    assert running.ended() == 0
    assert time.monotonic() - told >= 5
    assert leftovers(running) == set()
    wait_until(lambda: session_is_gone(gunicorn), "gone", running)


def test_one_that_lost_its_name_just_before_the_stop_drains_as_long(stand: Stand) -> None:
    """A release does just that: the new one takes the name, and the old one is told to stop."""
    one = stand.serving("one", drain=1.2)
    two = stand.start("two")
    two.wait_for("ready")
    time.sleep(1.2)  # its start is not what it counts from
    told = time.monotonic()
    serve(stand.sockets, "app1", "two")
    one.process.terminate()
    assert one.ended() == 0
    assert time.monotonic() - told >= 1.2
    assert one.name.holder() == "two"


def test_a_request_that_takes_longer_than_the_grace_time_does_not_keep_it_for_ever(stand: Stand) -> None:
    running = stand.serving(graceful_timeout=1)
    ask(running, "/block", 1)
    gunicorn = running.gunicorn
    told = time.monotonic()
    running.process.terminate()
    assert running.ended() == 0
    assert time.monotonic() - told < 30
    wait_until(lambda: session_is_gone(gunicorn), "gone", running)
    assert leftovers(running) == set()


@pytest.mark.parametrize("preload", [True, False])
def test_a_stop_during_the_start_ends_it(stand: Stand, preload: bool) -> None:
    begun = stand.root / "begun"
    slow = f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\ntime.sleep(60)\n"
    stand.write({"slow/__init__.py": slow + SETTINGS})
    running = stand.start(settings="slow", graceful_timeout=1, preload=preload)
    running.wait_for("starting")
    wait_until(begun.exists, "loading", running)
    running.process.terminate()
    assert running.ended() == 0
    assert leftovers(running) == set()


# --- deaths


def test_without_its_gunicorn_it_gives_the_name_up_and_ends(stand: Stand) -> None:
    running = stand.serving()
    gunicorn = running.gunicorn
    os.kill(gunicorn, signal.SIGKILL)
    assert running.ended() == 1
    assert "gunicorn ended with status -9" in running.log
    assert leftovers(running) == set()
    wait_until(lambda: session_is_gone(gunicorn), "gone", running)


def test_a_stopped_gunicorn_is_not_waited_for(stand: Stand) -> None:
    running = stand.serving()
    gunicorn = running.gunicorn
    os.kill(gunicorn, signal.SIGSTOP)
    assert running.ended() == 1
    assert "gunicorn was stopped by a signal" in running.log
    wait_until(lambda: session_is_gone(gunicorn), "gone", running)


@pytest.mark.parametrize("worker", ["idle", "stuck", "stopped"])
def test_gunicorn_dies_with_a_killed_instance_process(stand: Stand, worker: str) -> None:
    running = stand.serving(graceful_timeout=1)
    gunicorn = running.gunicorn
    if worker == "stuck":
        ask(running, "/block", 1)
    if worker == "stopped":
        for pid in running.workers:
            os.kill(pid, signal.SIGSTOP)
    running.process.kill()
    running.ended()
    wait_until(lambda: session_is_gone(gunicorn), "gone", running)
    again = stand.serving()
    assert again.get("/")[0] == 200


# --- starting


def test_a_database_that_comes_late_is_waited_for(stand: Stand) -> None:
    path = stand.root / "later" / "db.sqlite3"
    running = stand.start(database={"engine": "sqlite", "path": str(path)})
    running.wait_for_message("database: OperationalError")
    assert running.state == "starting"
    assert running.name.holder() is None
    path.parent.mkdir()
    running.wait_for("serving")
    status = running.name.status("one")
    assert status is not None
    assert status["message"] == ""


def test_a_database_that_never_comes_ends_it_with_the_reason(stand: Stand) -> None:
    path = stand.root / "never" / "db.sqlite3"
    running = stand.start(database={"engine": "sqlite", "path": str(path)}, health={"start_timeout": 12.0})
    assert running.ended() == 1
    last = [line for line in running.log.splitlines() if "not healthy within" in line]
    assert last
    assert "database: OperationalError: unable to open database file" in last[0]
    assert running.name.holder() is None


SESSIONS = """
SECRET_KEY = "x"
ROOT_URLCONF = "mini.urls"
INSTALLED_APPS = ["django.contrib.sessions"]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware"]
"""

FAILING = """
def middleware(get_response):
    def respond(request):
        raise RuntimeError("whatever is asked")
    return respond
"""


def test_a_session_store_that_fails_keeps_it_from_serving(stand: Stand) -> None:
    stand.write({"mini/settings.py": SESSIONS})
    database = {"engine": "sqlite", "path": str(stand.root / "db.sqlite3")}
    running = stand.start(database=database)
    running.wait_for_message("sessions: OperationalError: no such table: django_session")
    assert running.state == "starting"
    assert running.name.holder() is None


def test_a_project_that_answers_everything_with_500_is_not_healthy(stand: Stand) -> None:
    stand.write({"mini/failing.py": FAILING, "mini/settings.py": SETTINGS + 'MIDDLEWARE = ["mini.failing.middleware"]'})
    running = stand.start()
    running.wait_for_message("a request through Django was answered with 500")
    assert running.state == "starting"
    assert "RuntimeError: whatever is asked" in running.log


BROKEN_404 = """
from django.http import HttpResponse
from django.urls import path


def fail(request, exception):
    raise ValueError("in the project's own page")


handler404 = fail
urlpatterns = [path("", lambda request: HttpResponse("ok"))]
"""


def test_the_projects_own_404_page_does_not_decide_health(stand: Stand) -> None:
    stand.write({"mini/urls.py": BROKEN_404})
    running = stand.serving()
    assert running.get("/nothing", X_Forwarded_For="192.0.2.1")[0] == 500, "the page is not broken at all"
    said = running.json("/-/probe/failure?path=/nothing")
    assert said["status"] == 500
    assert "ValueError: in the project's own page" in said["failure"], "Django logs nothing of it"
    assert running.json("/-/probe/failure?path=/")["failure"] == ""


def test_why_it_fails_is_said_once_and_then_it_is_sure(stand: Stand) -> None:
    stand.write({"mini/failing.py": FAILING, "mini/settings.py": SETTINGS + 'MIDDLEWARE = ["mini.failing.middleware"]'})
    running = stand.start()

    def sure() -> bool:
        status = running.name.status("one")
        return status is not None and status["sure"] is True

    wait_until(sure, "sure", running)
    status = running.name.status("one")
    assert status is not None
    assert "mini/failing.py" in status["failure"]
    assert status["failure"].endswith("RuntimeError: whatever is asked")
    time.sleep(1)
    own = [line for line in running.log.splitlines() if " app1 one: " in line]
    assert sum("answered with 500" in line for line in own) == 1, own
    assert running.state == "starting", "by itself it goes on: what it lacks may come"


ABSENT = """
import socket


def middleware(get_response):
    def respond(request):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("/nowhere/service.sock")
    return respond
"""


def test_a_service_that_is_not_there_yet_is_never_a_sure_failure(stand: Stand) -> None:
    stand.write({"mini/absent.py": ABSENT, "mini/settings.py": SETTINGS + 'MIDDLEWARE = ["mini.absent.middleware"]'})
    running = stand.start()
    running.wait_for_message("a request through Django was answered with 500")
    time.sleep(3)
    status = running.name.status("one")
    assert status is not None
    assert status["sure"] is False


MAINTENANCE = """
from pathlib import Path

from django.http import HttpResponse

FLAG = Path(__file__).with_name("flag")


def middleware(get_response):
    return lambda request: HttpResponse("back soon", status=503) if FLAG.exists() else get_response(request)
"""


@pytest.mark.parametrize("path", ["/-/health", "/"])
def test_a_project_that_answers_503_by_intent_is_healthy(stand: Stand, path: str) -> None:
    settings = SETTINGS + 'MIDDLEWARE = ["mini.maintenance.middleware"]'
    stand.write({"mini/maintenance.py": MAINTENANCE, "mini/settings.py": settings, "mini/flag": ""})
    running = stand.serving(health={**IMPATIENT, "path": path})
    time.sleep(2)
    assert running.get("/") == (503, "back soon")
    assert (running.process.poll(), running.state) == (None, "serving")


UNWELL = """
from django.http import HttpResponse
from django.urls import path

urlpatterns = [path("well", lambda request: HttpResponse("not well", status=503))]
"""


def test_a_page_that_alone_answers_503_says_that_the_instance_is_not_well(stand: Stand) -> None:
    stand.write({"mini/urls.py": UNWELL})
    running = stand.start(health={"path": "/well"})
    running.wait_for_message("GET /well was answered with 503")
    assert running.name.holder() is None


# --- workers that begin slowly

SLOW_BOOT = """
import time
from pathlib import Path

seconds = Path(__file__).with_name("seconds")
time.sleep(float(seconds.read_text()) if seconds.exists() else 0)
"""


def slow_boots(stand: Stand, seconds: float) -> None:
    """Let every worker from now on take that long to load the project."""
    (stand.project / "mini" / "seconds").write_text(str(seconds))


@pytest.mark.parametrize("interface", ["wsgi", "asgi"])
def test_a_worker_that_begins_slowly_counts_as_starting_on_every_boot(stand: Stand, interface: str) -> None:
    stand.write({"mini/settings.py": SLOW_BOOT + SETTINGS})
    running = stand.serving(health=IMPATIENT, interface=interface, preload=False)
    gunicorn, workers = running.gunicorn, running.workers
    slow_boots(stand, 15)  # twice what three failed checks take
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    asked = Asking(running, "/")
    answer = asked.wait()
    assert answer is not None, running.log
    assert answer[0] == 200
    assert (running.gunicorn, running.process.poll()) == (gunicorn, None)
    assert "checks in a row failed" not in running.log


def test_a_worker_that_never_gets_ready_is_killed_within_start_timeout(stand: Stand) -> None:
    stand.write({"mini/settings.py": SLOW_BOOT + SETTINGS})
    running = stand.serving(health={**IMPATIENT, "start_timeout": 8.0}, preload=False)
    slow_boots(stand, 600)
    for pid in running.workers:
        os.kill(pid, signal.SIGKILL)
    assert running.ended() == 1
    assert "has not loaded the project within 8 s (app.health.start_timeout): killed" in running.log


def test_a_worker_that_recycles_itself_ends_its_requests_and_costs_nothing(stand: Stand) -> None:
    command_line = {"GUNICORN_CMD_ARGS": "--max-requests 8"}
    running = stand.serving(health={**IMPATIENT, "interval": 0.2}, environment=command_line, threads=4)
    gunicorn, workers = running.gunicorn, running.workers
    long = ask(running, "/sleep?for=9", 1)
    wait_until(lambda: running.workers and not running.workers & workers, "recycled", running)
    assert [one.wait() for one in long] == [(200, "slept")]
    assert running.get("/")[0] == 200
    assert (running.gunicorn, running.process.poll()) == (gunicorn, None), running.log


@pytest.mark.parametrize("preload", [True, False])
def test_what_is_too_slow_names_the_key_that_says_so(stand: Stand, preload: bool) -> None:
    slow = stand.start("one", health={"path": "/sleep?for=3", "timeout": 0.5})
    slow.wait_for_message("GET /sleep?for=3: no answer within 0.5 s (app.health.timeout)")
    slow.kill()
    stand.write({"mini/settings.py": SLOW_BOOT + SETTINGS})
    slow_boots(stand, 600)
    never = stand.start("two", health={"start_timeout": 1.0}, preload=preload)
    assert never.ended() == 1
    assert "not healthy within 1 s (app.health.start_timeout): no worker has loaded the project yet" in never.log


def test_a_project_that_fails_to_import_ends_it_with_the_traceback(stand: Stand) -> None:
    stand.write({"mini/urls.py": URLS_THAT_FAIL, "mini/wsgi.py": "import mini.urls\n"})
    running = stand.start(application="mini.wsgi:application")
    assert running.ended() == 1
    assert "ImportError: this project does not import" in running.log
    assert "mini/urls.py" in running.log
    assert leftovers(running) == set()


URLS_THAT_FAIL = 'raise ImportError("this project does not import")\n'


def test_health_may_be_a_page_of_the_project(stand: Stand) -> None:
    stand.start("one", health={"path": "/boom"}).wait_for_message("GET /boom was answered with 500")
    assert stand.serving("two", health={"path": "/"}).name.holder() == "two"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "No such file"),
        ("{", "Expecting property name"),
        ('{"release": "one"}', "missing 3 required keyword-only arguments"),
        ('{"weather": "fine"}', "known keys: release, project"),
        ('{"health": {"patience": 1}}', "patience"),
        ("[]", "must be a JSON object"),
        ('{"release": "1", "project": "/", "settings": "s", "secrets": "/", "hosts": []}', "hosts: must name at least"),
    ],
)
def test_a_bad_configuration_file_is_named(
    stand: Stand,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    text: str | None,
    problem: str,
) -> None:
    monkeypatch.setattr("cluster_runtime.instance.RESTART_PAUSE", 0)
    config = stand.root / "bad.json"
    if text is not None:
        config.write_text(text)
    assert main(["run", "--config", str(config), "--sockets", str(stand.sockets), "--instance", "app1"]) == 1
    error = capsys.readouterr().err
    assert str(config) in error
    assert problem in error


# --- busy, and hung


def test_an_instance_with_all_threads_in_long_requests_is_left_alone(stand: Stand) -> None:
    running = stand.serving(threads=2, health={**IMPATIENT, "busy_timeout": 60.0})
    gunicorn, workers = running.gunicorn, running.workers
    answers = [asked.wait() for asked in ask(running, "/sleep?for=9", 2)]
    assert answers == [(200, "slept")] * 2
    assert running.process.poll() is None
    assert (running.gunicorn, running.workers) == (gunicorn, workers)
    assert running.state == "serving"


def test_streams_that_keep_moving_are_not_stuck_however_long_they_take(stand: Stand) -> None:
    running = stand.serving(threads=2, health={**IMPATIENT, "busy_timeout": 5.0})
    answers = [asked.wait() for asked in ask(running, "/stream?parts=50&every=0.2", 2)]
    assert answers == [(200, "part" * 50)] * 2
    assert running.process.poll() is None


def test_files_that_are_fetched_slowly_by_all_clients_are_not_cut(stand: Stand) -> None:
    running = stand.serving(threads=1, health={**IMPATIENT, "busy_timeout": 5.0})
    file = stand.root / "large"
    size = 8 * 1024 * 1024
    file.write_bytes(os.urandom(size))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(running.name.socket("one")))
        client.sendall(f"GET /file?path={file} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        received = bytearray(client.recv(1000))
        time.sleep(9)
        assert running.process.poll() is None
        client.settimeout(30)
        while part := client.recv(1 << 16):
            received += part
    assert len(received) > size
    assert bytes(received).endswith(file.read_bytes())
    assert running.process.poll() is None


def test_an_instance_whose_threads_all_hang_is_started_again(stand: Stand) -> None:
    running = stand.serving(threads=2, health={**IMPATIENT, "busy_timeout": 2.0})
    gunicorn = running.gunicorn
    ask(running, "/block", 2)
    assert running.ended() == 1
    assert "all threads are in requests, and none has moved for" in running.log
    assert leftovers(running) == set()
    wait_until(lambda: session_is_gone(gunicorn), "gone", running)


def test_a_stopped_worker_is_killed_and_replaced_under_the_same_name(stand: Stand) -> None:
    running = stand.serving(health=WORKER_FIRST)
    time.sleep(0.6)  # it has beaten once
    gunicorn, workers = running.gunicorn, running.workers
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    stopped = time.monotonic()
    wait_until(lambda: running.workers and not running.workers & workers, "replaced", running)
    assert running.get("/")[0] == 200
    assert time.monotonic() - stopped < 20
    assert (running.gunicorn, running.name.holder()) == (gunicorn, "one")
    assert running.process.poll() is None


def test_workers_that_go_on_later_than_their_instance_after_all_stood_still_are_well(stand: Stand) -> None:
    """As in a container that is paused, or on a machine that has no processor for it."""
    running = stand.serving(workers=2, health=WORKER_FIRST)
    time.sleep(0.6)  # they have beaten once
    gunicorn, workers = running.gunicorn, running.workers
    instance = running.process.pid
    for pid in (instance, *workers):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(4)  # longer than the 2.5 s for which a worker may be silent
    os.kill(instance, signal.SIGCONT)
    time.sleep(0.3)
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    time.sleep(3)
    assert (running.gunicorn, running.workers) == (gunicorn, workers), running.log
    assert "silent" not in running.log
    assert running.get("/")[0] == 200


def test_a_worker_that_spins_with_the_interpreters_lock_held_is_killed_and_replaced(stand: Stand) -> None:
    running = stand.serving(health=WORKER_FIRST)
    gunicorn, workers = running.gunicorn, running.workers
    Asking(running, "/hold?for=40")
    wait_until(lambda: running.workers and not running.workers & workers, "replaced", running)
    assert running.get("/")[0] == 200
    assert "has been silent for" in running.log
    assert (running.gunicorn, running.name.holder()) == (gunicorn, "one")


def test_one_stopped_worker_of_two_costs_the_other_nothing(stand: Stand) -> None:
    running = stand.serving(workers=2, health=WORKER_FIRST)
    wait_until(lambda: len({running.json("/")["pid"] for _number in range(20)}) == 2, "two workers", running)
    time.sleep(0.6)
    victim, other = running.workers
    os.kill(victim, signal.SIGSTOP)
    wait_until(lambda: len(running.workers) == 2 and victim not in running.workers, "replaced", running)
    assert other in running.workers
    assert running.process.poll() is None


def test_a_database_that_goes_away_restarts_nothing(stand: Stand) -> None:
    path = stand.root / "data" / "db.sqlite3"
    path.parent.mkdir()
    running = stand.serving(database={"engine": "sqlite", "path": str(path)}, health=IMPATIENT)
    gunicorn, workers = running.gunicorn, running.workers
    path.parent.rename(stand.root / "away")
    wait_until(lambda: running.get("/-/health?deep")[0] == 503, "seen", running)  # a thread that has it open keeps it
    time.sleep(2)
    assert running.state == "serving"
    assert (running.gunicorn, running.workers) == (gunicorn, workers)
    (stand.root / "away").rename(path.parent)
    assert running.get("/-/health?deep")[0] == 200


# --- secrets


def test_secrets_are_in_no_process_environment_or_arguments_but_the_project_has_them(stand: Stand) -> None:
    token = "not-for-other-programs"
    stand.secret("secret_environment", json.dumps({"PAYMENT_TOKEN": token, "RETRIES": 3}))
    path = stand.root / "db.sqlite3"
    sqlite3.connect(path).close()
    stand.secret("database_url", f"sqlite://{path}")
    running = stand.serving(environment={"PLAIN": "yes"}, database={"engine": "external"})
    gunicorn = running.gunicorn
    pids = [running.process.pid, *(pid for pid, _parent, session in processes() if session == gunicorn)]
    assert len(pids) >= 3
    for pid in pids:
        for what in ("environ", "cmdline"):
            dump = Path(f"/proc/{pid}/{what}").read_bytes()
            for secret in (token, "PAYMENT_TOKEN", SECRET_KEY, f"sqlite://{path}"):
                assert secret.encode() not in dump, (pid, what)
    seen = running.json("/environment")
    assert (seen["PAYMENT_TOKEN"], seen["RETRIES"], seen["PLAIN"]) == (token, "3", "yes")
    assert token not in running.log
    assert SECRET_KEY not in running.log


def test_what_it_prints_of_a_bad_secret_is_not_the_secret(stand: Stand) -> None:
    stand.secret("database_url", "postgres://user:hunter/tr0ub4dor@db/name")
    running = stand.start(database={"engine": "external"})
    assert running.ended() == 1
    assert "database_url" in running.log
    assert "tr0ub4dor" not in running.log
    assert "hunter" not in running.log


def test_the_example_comes_up_as_it_is(stand: Stand) -> None:
    running = stand.serving(
        project=str(ROOT / "example"),
        settings="example.settings",
        sessions={"engine": "signed_cookies"},
        database={"engine": "sqlite", "path": str(stand.root / "db.sqlite3")},
    )
    assert running.json("/whoami")["visits"] == 1


# --- sessions that are over


FILES = """
SECRET_KEY = "the-project's-own"
ROOT_URLCONF = "mini.urls"
INSTALLED_APPS = ["django.contrib.sessions"]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware"]
"""


def test_one_instance_a_day_removes_the_sessions_that_are_over(stand: Stand) -> None:
    stand.write({"mini/settings.py": FILES})
    sessions = stand.root / "sessions"
    sessions.mkdir()
    over = sessions / "sessionidover"
    over.write_text("it does not even verify")
    stamp = stand.sockets / CLEARED
    stamp.write_text("done")
    os.utime(stamp, (1, 1))
    marks = stand.sockets / ENDED
    marks.mkdir()
    for name, changed in (("old", 1.0), ("new", time.time())):
        (marks / name).touch()
        os.utime(marks / name, (changed, changed))
    kept = {"engine": "file", "path": str(sessions)}
    running = [stand.serving(instance=name, sessions=kept) for name in ("app1", "app2")]
    wait_until(lambda: not over.exists(), "cleared")
    wait_until(lambda: any("clearsessions ended with status 0" in one.log for one in running), "said so")
    assert sum("clearsessions" in one.log for one in running) == 1
    assert stamp.stat().st_mtime > time.time() - 60, "the next instance would do it again"
    assert [path.name for path in marks.iterdir()] == ["new"], "marks of logouts would pile up for ever"


def test_the_first_removal_is_a_day_after_the_first_start(stand: Stand) -> None:
    running = stand.serving()
    wait_until((stand.sockets / CLEARED).exists, "noted")
    assert "clearsessions" not in running.log
