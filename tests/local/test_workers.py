"""Workers and schedules on this machine: what a release, a failure and a command do to them, each job counted."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.conformance import wait_until
from tests.file_queue import LONG_START, PROGRAM, Jobs, count_a_release_and_the_way_back, count_what_is_cut_off
from tests.jobs import LOOK
from tests.local.stand import Stand
from tests.local.test_commands import assert_done

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKER = {"name": "jobs", "command": "python jobs.py", "count": 2, "startsecs": "1s"}
SCHEDULE = {"name": "yearly", "command": "manage.py check", "at": "0 0 1 1 *"}


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with contextlib.closing(Stand(instances=1)) as stand:
        stand.edit_stack(
            lambda stack: stack.update(
                app={**stack["app"], "shared": ["queue"]}, workers=[dict(WORKER)], schedule=[dict(SCHEDULE)]
            )
        )
        write(stand, "first")
        assert_done(stand.up())
        yield stand


@pytest.fixture(scope="module")
def jobs(stand: Stand) -> Jobs:
    return Jobs(stand.shared / "queue")


def write(stand: Stand, release: str, *, before: str = "") -> None:
    (stand.project / "jobs.py").write_text(before + PROGRAM.format(release=release))


def services(stand: Stand) -> dict[str, dict[str, Any]]:
    return {service["service"]: service for service in stand.status()["services"]}


def pids(stand: Stand) -> dict[str, int]:
    return {name: process.pid for name, process in stand.supervisor().processes().items()}


def test_each_is_in_the_status_with_its_release(stand: Stand) -> None:
    status = stand.status()
    found = {service["service"]: (service["kind"], service["state"], service["ok"]) for service in status["services"]}
    assert found == {
        "jobs1": ("worker", "running", True),
        "jobs2": ("worker", "running", True),
        "yearly": ("schedule", "waiting", True),
        "memcached1": ("memcached", "running", True),
        "memcached2": ("memcached", "running", True),
    }
    assert status["ok"]
    assert {service["release"] for service in status["services"] if service["kind"] == "worker"} == {status["release"]}


def test_a_release_and_the_way_back_lose_no_job_and_do_none_twice(stand: Stand, jobs: Jobs) -> None:
    count_a_release_and_the_way_back(stand, jobs, lambda release: write(stand, release))
    assert_done(stand.up())


def test_workers_that_are_not_given_their_time_lose_jobs(stand: Stand, jobs: Jobs) -> None:
    """The saboteur."""
    count_what_is_cut_off(stand, jobs, lambda release: write(stand, release), releases=10)
    write(stand, "mended")
    assert_done(stand.up())


def test_a_release_whose_worker_ends_is_given_up_and_the_former_goes_on(stand: Stand, jobs: Jobs) -> None:
    write(stand, "mended")
    assert_done(stand.up())
    before, serving = pids(stand), stand.release()
    stand.edit_stack(lambda stack: stack["workers"][0].update(startsecs=LONG_START))
    write(stand, "broken", before="raise RuntimeError('nothing works today')\n")
    result = stand.up()
    assert result.status == 1
    assert "nothing works today" in result.output
    assert "python ended with status 1" in result.output
    assert pids(stand) == before, "what was started is gone, and what ran goes on"
    assert stand.release() == serving
    jobs.put(20)
    assert jobs.lost(jobs.wait_done()) == []
    stand.edit_stack(lambda stack: stack["workers"].__setitem__(0, dict(WORKER)))
    write(stand, "mended")
    assert "no changes" in assert_done(stand.up())
    assert stand.status()["ok"]


def test_another_command_replaces_the_worker_and_nothing_else(stand: Stand) -> None:
    before = pids(stand)
    stand.edit_stack(lambda stack: stack["workers"][0].update(command="python ./jobs.py"))
    output = assert_done(stand.up())
    after = pids(stand)
    assert "+ jobs1, jobs2: start in release" in output
    assert {name for name in before if name not in after} == {name for name in before if name.startswith("jobs")}
    assert {name for name in after if name not in before} == {name for name in after if name.startswith("jobs")}
    assert all(after[name] == pid for name, pid in before.items() if not name.startswith("jobs"))


def test_one_that_must_not_run_twice_begins_after_the_former_has_ended(stand: Stand) -> None:
    stand.edit_stack(lambda stack: stack["workers"][0].update(count=1, replacement="alone", command="python jobs.py"))
    output = assert_done(stand.up())
    lines = output.splitlines()
    draining = next(number for number, line in enumerate(lines) if "draining" in line and "jobs1@" in line)
    starting = next(number for number, line in enumerate(lines) if "starting jobs1" in line)
    assert draining < starting
    assert [name for name in services(stand) if name.startswith("jobs")] == ["jobs1"]
    stand.edit_stack(lambda stack: stack["workers"].__setitem__(0, dict(WORKER)))
    assert_done(stand.up())


def test_one_that_starts_alone_and_does_not_is_told_with_what_serves(stand: Stand) -> None:
    clock = {"name": "clock", "command": "python no_clock.py", "replacement": "alone", "startsecs": LONG_START}
    before = stand.release()
    stand.edit_stack(lambda stack: stack["workers"].append(clock))
    write(stand, "with a clock")
    result = stand.up()
    assert result.status == 1
    after = stand.release()
    assert f"Release {after} serves already, without it" in result.output
    assert f"`cluster rollback {stand.name} --to {before}` takes it back" in result.output
    assert {name.partition("@")[0] for name in pids(stand) if "@" in name} == {"jobs1", "jobs2", "yearly"}
    assert all(after in name for name in pids(stand) if "@" in name)
    stand.edit_stack(lambda stack: stack["workers"].pop())
    assert_done(stand.up())
    assert stand.status()["ok"]


def test_a_killed_worker_is_back_and_up_says_no_changes(stand: Stand) -> None:
    (program,) = (name for name in pids(stand) if name.startswith("jobs1@"))
    former = pids(stand)[program]
    os.kill(former, signal.SIGKILL)
    wait_until(
        lambda: pids(stand).get(program) not in (None, 0, former) and services(stand)["jobs1"]["ok"],
        "back",
        pause=LOOK,
    )
    assert "no changes" in assert_done(stand.up())


def test_a_run_that_failed_is_in_the_status_and_its_exit_status(stand: Stand) -> None:
    stand.edit_stack(lambda stack: stack["schedule"][0].update(command="manage.py no_such_command"))
    assert_done(stand.up())
    assert stand.run("status", stand.name).status == 0
    path = stand.paths.schedules / "yearly" / "runs.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "checked": time.time() - 400 * 24 * 3600}))
    # Due since the first of January; whoever is started anew reads that it was not looked at for so long.
    stand.edit_stack(lambda stack: stack["schedule"][0].update(starting_deadline="400d"))
    stand.run("up", stand.name)
    wait_until(lambda: services(stand)["yearly"]["message"] != "", "told", pause=LOOK)
    assert stand.run("status", stand.name).status == 1
    found = services(stand)["yearly"]
    assert "manage.py ended with status 1" in found["message"]
    assert not found["ok"]
    assert json.loads(path.read_text())["failure"]
    stand.edit_stack(lambda stack: stack["schedule"].__setitem__(0, dict(SCHEDULE)))
    path.unlink()
    assert_done(stand.up())
    assert stand.status()["ok"]


def test_a_command_runs_once_in_the_release_that_serves(stand: Stand) -> None:
    result = stand.run("run", stand.name, "--", "python", "-c", "print(1)")
    assert result.status == 127
    result = stand.run("run", stand.name, "--", "manage.py", "diffsettings", "--output", "unified")
    assert result.status == 0
    assert "DEBUG" not in result.output, "DEBUG is False as it is by default"
    assert stand.run("run", stand.name, "--", "manage.py", "no_such_command").status == 1
    assert "say what to run" in stand.run("run", stand.name).output


def test_their_logs_are_asked_for_by_their_names(stand: Stand) -> None:
    both, one = (stand.run("logs", stand.name, name).output for name in ("jobs", "jobs2"))
    assert "jobs1@" in both
    assert "jobs2@" in both
    assert "jobs1@" not in one


def test_down_lets_them_end_their_jobs_and_what_waits_is_done_after_up(stand: Stand, jobs: Jobs) -> None:
    jobs.put(100)
    assert_done(stand.down())
    assert not any((jobs.directory / "taken").iterdir())
    assert_done(stand.up())
    done = jobs.wait_done()
    assert (jobs.lost(done), max(done.values())) == ([], 1)


def test_workers_that_the_stack_file_does_not_name_any_more_go(stand: Stand) -> None:
    stand.edit_stack(lambda stack: (stack.pop("workers"), stack.pop("schedule")))
    output = assert_done(stand.up())
    assert "stop, once no request or job needs it" in output
    assert not [name for name in pids(stand) if "@" in name]
    assert {service["kind"] for service in stand.status()["services"]} == {"memcached"}


def test_a_release_from_before_a_schedule_was_there_serves_again_without_it(stand: Stand) -> None:
    stand.edit_stack(lambda stack: (stack.pop("workers", None), stack.pop("schedule", None)))
    assert_done(stand.up())
    before = stand.release()
    stand.edit_stack(lambda stack: stack.update(workers=[dict(WORKER)], schedule=[dict(SCHEDULE)]))
    assert_done(stand.up())
    assert stand.release() != before, "what a schedule needs is among its packages"
    output = assert_done(stand.rollback())
    assert f"! yearly: release {before} was made before the stack had it" in output
    found = services(stand)
    assert (found["yearly"]["state"], found["yearly"]["ok"], found["jobs1"]["ok"]) == ("not running", False, True)
    assert "was made before the stack had it" in found["yearly"]["message"]
    assert_done(stand.up())
    assert stand.status()["ok"]


def test_a_killed_supervisor_s_workers_end_their_jobs_before_anything_else_ends(stand: Stand, jobs: Jobs) -> None:
    jobs.put(20)
    jobs.wait_done()
    before = len(jobs.lines())
    with jobs.kept_busy():
        os.kill(stand.supervisor().pids()[0], signal.SIGKILL)
        output = assert_done(stand.up())
    lines = output.splitlines()
    workers = next(number for number, line in enumerate(lines) if "workers and schedules that a killed" in line)
    others = next(number for number, line in enumerate(lines) if "processes that a killed Supervisor left" in line)
    assert workers < others
    done = jobs.wait_done()
    assert (jobs.lost(done), max(done.values())) == ([], 1)
    assert len(jobs.lines()) > before


def test_an_interrupted_up_leaves_no_worker_of_a_release_that_never_served(stand: Stand) -> None:
    before = {name for name in pids(stand) if "@" in name}
    stand.edit_stack(lambda stack: stack["workers"][0].update(startsecs="60s"))
    write(stand, "interrupted")
    process = stand.start("up", stand.name)
    assert process.stdout is not None
    for line in process.stdout:
        if "starting jobs1" in line:
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode not in (0, None)
    assert {name for name in pids(stand) if "@" in name} == before
    stand.edit_stack(lambda stack: stack["workers"].__setitem__(0, dict(WORKER)))
    write(stand, "mended")
    assert_done(stand.up())
