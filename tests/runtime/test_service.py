"""The processes of workers and schedules, with small programs."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from cluster_runtime.instance_link import SERVICES, InstanceLink
from cluster_runtime.schedule import Runs
from cluster_runtime.service import LONGEST_PAUSE
from tests.processes import lives, stat
from tests.runtime.standing import PATIENCE, SECRET_KEY, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.runtime.standing import Stand

#: A program that ends the job that it is at when it is told to stop.
WARM = """
import os, signal, sys, time
stop = []
signal.signal(getattr(signal, sys.argv[3]), lambda *_what: stop.append(1))
open(sys.argv[1], "a").write("begun\\n")
while not stop:
    time.sleep(0.02)
while os.path.exists(sys.argv[2]):
    time.sleep(0.02)
open(sys.argv[1], "a").write("done\\n")
"""

#: One that says what it finds, and stays.
TELL = """
import json, os, sys, time
os.environ["DJANGO_SETTINGS_MODULE"] = "mini.settings"
from django.conf import settings
told = {"key": settings.SECRET_KEY, "environment": dict(os.environ), "cwd": os.getcwd(), "arguments": sys.argv[2:]}
open(sys.argv[1] + ".new", "w").write(json.dumps(told))
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""

#: A run of a schedule: writes when it begins and ends, and waits in between while a file is there.
RUN = """
import os, sys, time
open(sys.argv[1], "a").write("begun\\n")
while os.path.exists(sys.argv[2]):
    time.sleep(0.02)
open(sys.argv[1], "a").write("ended\\n")
sys.exit(int(sys.argv[3]))
"""


class Service:
    """A service's process, and what can be seen of it."""

    def __init__(
        self,
        stand: Stand,
        kind: str,
        *words: str,
        generation: str = "one.abc",
        before: str = "",
        **options: object,
    ) -> None:
        """Start it; `before`: a directory whose modules are found before all others."""
        self.name = InstanceLink(stand.sockets / SERVICES, "mail1")
        self.generation = generation
        config = stand.config()
        defaults = {
            "worker": {"startsecs": 0.3, "stop-signal": "TERM", "graceful-timeout": 30},
            "schedule": {"at": "* * * * *", "starting-deadline": 3600, "graceful-timeout": 30},
        }[kind]
        given = {name.replace("_", "-"): value for name, value in options.items()}
        pairs = [(f"--{name}", str(value)) for name, value in {**defaults, **given}.items()]
        self.log_file = stand.root / f"{kind}-{generation}.log"
        environment = stand.environment(config)
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "cluster_runtime.service", kind, "--name", "mail1"),
                    *("--generation", generation, "--config", str(config), "--sockets", str(stand.sockets)),
                    *(word for pair in pairs for word in pair),
                    *("--", *words),
                ],
                env={
                    **environment,
                    "PYTHONPATH": f"{before}:{environment['PYTHONPATH']}" if before else environment["PYTHONPATH"],
                },
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def status(self) -> dict[str, Any]:
        found = self.name.status(self.generation)
        return found if found is not None and found["pid"] == self.process.pid else {}

    def wait_for(self, state: str, *, well: bool | None = None, message: str = "") -> None:
        def reached() -> bool:
            said = self.status
            return said.get("state") == state and well in (None, said["well"]) and message in said["message"]

        self.wait_until(reached, f"{state}, {well}, {message}")

    def wait_until(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < deadline, f"never {what}: {self.status}\n{self.log}"
            time.sleep(0.02)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def children(self) -> set[int]:
        found = set()
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(path.read_text(errors="replace").rpartition(")")[2].split()[1]) == self.process.pid:
                    found.add(int(path.parent.name))
        return found


Starting = Any


@pytest.fixture
def start(stand: Stand) -> Iterator[Starting]:
    started: list[Service] = []

    def begin(kind: str, *words: str, **options: object) -> Service:
        started.append(Service(stand, kind, *words, **options))  # type: ignore[arg-type]
        return started[-1]

    yield begin
    for service in started:
        if service.process.poll() is None:
            service.process.kill()
            service.process.wait()


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


# --- workers


@pytest.mark.parametrize("stop", ["TERM", "INT", "USR2"])
def test_a_worker_ends_the_job_that_it_is_at(stand: Stand, start: Starting, stop: str) -> None:
    stand.write({"warm.py": WARM})
    told, held = stand.root / "told", stand.root / "held"
    held.touch()
    worker = start("worker", "python", "warm.py", str(told), str(held), f"SIG{stop}", stop_signal=stop)
    worker.wait_for("running", well=True)
    wait_until(lambda: lines(told) == ["begun"], "begun")
    worker.process.terminate()
    worker.wait_for("draining", well=True)
    held.unlink()
    assert worker.process.wait(PATIENCE) == 0
    assert lines(told) == ["begun", "done"]
    assert not worker.name.status_file(worker.generation).exists()


def test_without_time_to_end_it_the_job_is_lost(stand: Stand, start: Starting) -> None:
    """The saboteur of the test before."""
    stand.write({"warm.py": WARM})
    told, held = stand.root / "told", stand.root / "held"
    held.touch()
    worker = start("worker", "python", "warm.py", str(told), str(held), "SIGTERM", graceful_timeout=0)
    worker.wait_for("running")
    wait_until(lambda: lines(told) == ["begun"], "begun")
    assert worker.stop() == 0
    assert lines(told) == ["begun"]
    assert "killed" in worker.log


def test_a_worker_that_ends_by_itself_is_started_again_after_longer_and_longer_pauses(
    stand: Stand, start: Starting
) -> None:
    stand.write({"crash.py": "import sys; sys.exit(3)"})
    worker = start("worker", "python", "crash.py")
    worker.wait_until(lambda: worker.status.get("restarts", 0) >= 3, "started again twice")
    assert not worker.status["well"]
    pauses = [line for line in worker.log.splitlines() if "python ended with status 3" in line]
    assert [line.rpartition("again in ")[2] for line in pauses[:3]] == ["1 s (time 1)", "2 s (time 2)", "4 s (time 3)"]
    assert LONGEST_PAUSE >= 60


def test_a_worker_that_was_stopped_by_a_signal_goes_on(stand: Stand, start: Starting) -> None:
    stand.write({"tell.py": TELL})
    worker = start("worker", "python", "tell.py", str(stand.root / "told"))
    worker.wait_for("running")
    (child,) = worker.children()
    os.kill(child, signal.SIGSTOP)
    worker.wait_until(lambda: "it goes on" in worker.log, "told")
    wait_until(lambda: stat(child)[0] != "T", "gone on")  # it is said before it is done
    assert worker.status["state"] == "running"


def test_a_worker_that_was_killed_is_started_again(stand: Stand, start: Starting) -> None:
    stand.write({"tell.py": TELL})
    told = stand.root / "told"
    worker = start("worker", "python", "tell.py", str(told))
    worker.wait_for("running")
    (child,) = worker.children()
    os.kill(child, signal.SIGKILL)
    worker.wait_until(lambda: worker.status.get("restarts") == 1 and worker.status["state"] == "running", "back")
    assert "was ended by SIGKILL" in worker.log
    assert worker.children() != {child}


def test_its_program_ends_with_it(stand: Stand, start: Starting) -> None:
    stand.write({"tell.py": TELL})
    worker = start("worker", "python", "tell.py", str(stand.root / "told"))
    worker.wait_for("running")
    (child,) = worker.children()
    worker.process.kill()
    wait_until(lambda: not lives(child), "gone")


#: A program whose child makes a process group of its own, and writes on and on whether its parent lives or not.
BREEDS = """
import os, sys, time
if os.fork() == 0:
    os.setpgrp()
    while True:
        open(sys.argv[1], "w").write(str(os.getpid()))
        time.sleep(0.05)
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["stopped", "killed and started again"])
def test_what_its_program_has_started_ends_with_it(how: str, stand: Stand, start: Starting) -> None:
    stand.write({"breeds.py": BREEDS})
    told = stand.root / "told"
    worker = start("worker", "python", "breeds.py", str(told), graceful_timeout=0)
    worker.wait_for("running")
    read = [""]  # while it is written again it is empty for a moment

    def child_is_told() -> bool:
        read.append(told.read_text() if told.exists() else "")
        return read[-1] != ""

    wait_until(child_is_told, "a child is there")
    child = int(read[-1])
    if how == "stopped":
        assert worker.stop() == 0
    else:
        worker.process.kill()
        worker.process.wait()
        assert lives(child), "the saboteur: nobody has ended it yet"
        worker = start("worker", "python", "breeds.py", str(stand.root / "other"), graceful_timeout=0)
        worker.wait_for("running")
        wait_until(lambda: not lives(child), "gone with its former life")
        assert worker.stop() == 0  # with its own child: a killed one's would write on where the test has cleared away
    wait_until(lambda: not lives(child), "gone")


def test_its_program_finds_the_overlay_whatever_it_sets_and_secrets_that_no_other_process_reads(
    stand: Stand, start: Starting
) -> None:
    stand.write({"tell.py": TELL})
    stand.secret("secret_environment", json.dumps({"API_TOKEN": "very-secret"}))
    told = stand.root / "told"
    worker = start("worker", "python", "tell.py", str(told), "two words")
    worker.wait_until(told.exists, "told")
    found = json.loads(told.read_text())
    assert found["key"] == SECRET_KEY
    assert found["environment"]["API_TOKEN"] == "very-secret"
    assert found["environment"]["CLUSTER_RELEASE"] == "one"
    assert (found["cwd"], found["arguments"]) == (str(stand.project), ["two words"])
    (child,) = worker.children()
    for pid in (child, worker.process.pid):
        assert b"very-secret" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert b"very-secret" not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_program_that_is_not_python_gets_the_plain_variables_alone(stand: Stand, start: Starting) -> None:
    stand.secret("secret_environment", json.dumps({"API_TOKEN": "very-secret"}))
    told = stand.root / "told"
    worker = start("worker", "sh", "-c", f"env >{told}; exec sleep 600")
    worker.wait_until(lambda: "CLUSTER_RELEASE=one" in lines(told), "told")
    assert not [line for line in lines(told) if "very-secret" in line]


def test_a_program_that_is_not_there_is_said(start: Starting) -> None:
    worker = start("worker", "no-such-program")
    worker.wait_for("crashed", well=False, message="status 127")
    assert "no-such-program: no such program among the project's packages, nor on PATH" in worker.log


def test_a_second_process_of_a_generation_refuses(stand: Stand, start: Starting) -> None:
    stand.write({"tell.py": TELL})
    first = start("worker", "python", "tell.py", str(stand.root / "told"))
    first.wait_for("running")
    second = start("worker", "python", "tell.py", str(stand.root / "told"))
    assert second.process.wait(PATIENCE) == 1
    assert first.status["state"] == "running"


def test_a_worker_needs_nothing_of_what_reads_a_schedules_times(stand: Stand, start: Starting) -> None:
    """It is among a release's packages only where the stack has a schedule."""
    stand.write({"tell.py": TELL, "cronsim.py": "raise ImportError('not among the packages')"})
    worker = start("worker", "python", "tell.py", str(stand.root / "told"), before=str(stand.project))
    worker.wait_for("running", well=True)


# --- schedules


#: Django's TIME_ZONE where settings say none.
DJANGOS_ZONE = "America/Chicago"


def this_minute() -> str:
    """Return cron's fields of the minute that has begun last: due at once, and then not again for a year."""
    return f"{dt.datetime.now(ZoneInfo(DJANGOS_ZONE)):%-M %-H %-d %-m} *"


def due(stand: Stand, **changes: Any) -> Path:
    """Let a run be due at once: it was looked at two minutes ago."""
    directory = stand.sockets / SERVICES / "mail1"
    directory.mkdir(parents=True)
    known = {"at": "* * * * *", "zone": DJANGOS_ZONE, "checked": time.time() - 120}
    Runs(**{**known, **changes}).save(directory / "runs.json")
    return directory / "runs.json"


def runs(stand: Stand) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((stand.sockets / SERVICES / "mail1" / "runs.json").read_text())
    return found


def runs_or_none(stand: Stand) -> dict[str, Any] | None:
    try:
        found = runs(stand)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and type(found.get("checked")) is float else None


def a_run(stand: Stand, status: int = 0) -> tuple[list[str], Path, Path]:
    """Return the words of a run that takes as long as the second path is there, and writes into the first."""
    stand.write({"run.py": RUN})
    told, held = stand.root / "told", stand.root / "held"
    return ["python", "run.py", str(told), str(held), str(status)], told, held


def test_a_run_that_is_due_begins_once_though_two_processes_wait_for_it(stand: Stand, start: Starting) -> None:
    words, told, held = a_run(stand)
    held.touch()
    at = this_minute()
    due(stand, at=at)
    first = start("schedule", *words, at=at)
    first.wait_for("running", well=True)
    second = start("schedule", *words, at=at, generation="two.abc")
    second.wait_for("waiting", well=True)
    wait_until(lambda: lines(told) == ["begun"], "begun")
    first.process.terminate()
    first.wait_for("draining")
    held.unlink()
    assert first.process.wait(PATIENCE) == 0
    assert lines(told) == ["begun", "ended"]
    second.wait_until(lambda: second.status.get("runs", {}).get("ended") is not None, "second has taken over")
    assert (runs(stand)["failure"], runs(stand)["missed"]) == ("", 0)


def test_a_run_that_is_cut_off_is_told(stand: Stand, start: Starting) -> None:
    """The saboteur of the test before."""
    words, told, held = a_run(stand)
    held.touch()
    due(stand)
    schedule = start("schedule", *words, graceful_timeout=0)
    wait_until(lambda: lines(told) == ["begun"], "begun")
    assert schedule.stop() == 0
    assert lines(told) == ["begun"]
    assert "did not end within graceful_timeout" in runs(stand)["failure"]


def test_a_run_whose_process_was_killed_is_told_and_does_not_run_again(stand: Stand, start: Starting) -> None:
    words, told, held = a_run(stand)
    held.touch()
    at = this_minute()
    due(stand, at=at)
    first = start("schedule", *words, at=at)
    wait_until(lambda: lines(told) == ["begun"], "begun")
    begun = runs(stand)["due"]
    first.process.kill()
    first.process.wait()
    held.unlink()
    second = start("schedule", *words, at=at, generation="two.abc")
    second.wait_for("waiting", well=False)
    assert "its process was killed" in second.status["message"]
    assert (lines(told), runs(stand)["due"]) == (["begun"], begun)


def test_a_run_that_fails_is_told_until_one_succeeds(stand: Stand, start: Starting) -> None:
    words, _told, _held = a_run(stand, 4)
    at = this_minute()  # a run that is late would be told, too, as the next minute begins
    due(stand, at=at)
    failing = start("schedule", *words, at=at)
    failing.wait_for("waiting", well=False)
    assert "python ended with status 4" in failing.status["message"]
    assert failing.stop() == 0
    path = stand.sockets / SERVICES / "mail1" / "runs.json"
    path.write_text(json.dumps({**runs(stand), "checked": runs(stand)["due"] - 60}))
    mended = start("schedule", *words[:-1], "0", at=at, generation="two.abc")
    mended.wait_until(lambda: runs(stand)["failure"] == "", "a success")  # before its run it waits as well
    mended.wait_for("waiting", well=True)
    assert mended.status["message"] == ""


def test_a_run_that_is_still_under_way_when_the_next_is_due_is_told(stand: Stand, start: Starting) -> None:
    words, told, held = a_run(stand)
    held.touch()
    due(stand)
    schedule = start("schedule", *words)
    wait_until(lambda: lines(told) == ["begun"], "begun")
    # The next minute: at most one away.
    deadline = time.monotonic() + 60 + PATIENCE
    while not schedule.status.get("runs", {}).get("overlaps"):
        assert time.monotonic() < deadline, schedule.log
        time.sleep(0.1)
    assert not schedule.status["well"]
    assert "still under way when the next one was due" in schedule.status["message"]
    assert (lines(told), runs(stand)["checked"] > runs(stand)["due"]) == (["begun"], True)
    held.unlink()
    assert schedule.stop() == 0


def test_what_was_missed_for_too_long_is_not_made_up_for(stand: Stand, start: Starting) -> None:
    words, told, _held = a_run(stand)
    long_ago = time.time() - 3 * 24 * 3600
    due(stand, at="0 0 1 * *", checked=time.time() - 70 * 24 * 3600)
    schedule = start("schedule", *words, at="0 0 1 * *", starting_deadline=0)
    schedule.wait_until(lambda: schedule.status.get("runs", {}).get("missed") == 1, "missed")
    assert not lines(told)
    assert runs(stand)["checked"] < time.time()
    assert long_ago < time.time()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"at": "* * * * *"}', '{"at": "* * * * *", "checked": "now"}', '{"at": 7, "checked": 1e300}'],
)
def test_what_is_known_of_the_runs_may_be_hurt(text: str, stand: Stand, start: Starting) -> None:
    words, told, _held = a_run(stand)
    due(stand).write_text(text)
    schedule = start("schedule", *words, at="0 0 1 1 *")
    schedule.wait_for("waiting", well=True)
    wait_until(lambda: runs_or_none(stand) is not None, "written again")
    assert not lines(told)


def test_a_clock_that_is_set_back_keeps_no_run_from_beginning(stand: Stand, start: Starting) -> None:
    words, _told, _held = a_run(stand)
    due(stand, checked=time.time() + 10 * 365 * 24 * 3600)
    schedule = start("schedule", *words)
    schedule.wait_until(lambda: "the clock was set back" in schedule.log, "told")
    schedule.wait_until(lambda: runs(stand)["checked"] <= time.time(), "set back too")


def test_other_times_begin_anew(stand: Stand, start: Starting) -> None:
    words, told, _held = a_run(stand)
    due(stand, at="30 5 * * *", checked=time.time() - 40 * 24 * 3600)
    schedule = start("schedule", *words, at="0 0 1 1 *")
    schedule.wait_for("waiting", well=True)
    wait_until(lambda: schedule.status.get("runs", {}).get("at") == "0 0 1 1 *", "by the new times")
    assert (lines(told), schedule.status["runs"]["missed"]) == ([], 0)


def test_it_goes_by_the_projects_time_zone(stand: Stand, start: Starting) -> None:
    stand.write({"mini/settings.py": (stand.project / "mini/settings.py").read_text() + 'TIME_ZONE = "Asia/Kolkata"\n'})
    words, _told, _held = a_run(stand)
    schedule = start("schedule", *words, at="0 6 * * *")
    schedule.wait_until(lambda: "next" in schedule.status and schedule.status["runs"]["at"] == "0 6 * * *", "told")
    schedule.wait_for("waiting")
    assert time.gmtime(schedule.status["next"])[3:5] == (0, 30)


def test_a_time_zone_that_is_none_is_said(stand: Stand, start: Starting) -> None:
    stand.write({"mini/settings.py": "raise RuntimeError('no settings today')\n"})
    words, _told, _held = a_run(stand)
    schedule = start("schedule", *words)
    assert schedule.process.wait(PATIENCE) == 1
    assert "crashed: the project's settings can't be read: RuntimeError: no settings today" in schedule.log
