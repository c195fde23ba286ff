"""Workers and a schedule as units of a host: each job is counted through what happens to them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.remote import RemoteStand, remote_stand
from tests.e2e.test_workers import SCHEDULE, WORKER, services, write
from tests.e2e.tools import docker
from tests.file_queue import LONG_START, Jobs, count_a_release_and_the_way_back, count_what_is_cut_off
from tests.local.test_commands import assert_done

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteStand]:
    more = {"workers": [dict(WORKER)], "schedule": [dict(SCHEDULE)], "upstream": {"servers": 2}}
    with remote_stand(tmp_path_factory.mktemp("host"), **more) as found:
        found.edit_stack(lambda stack: stack["app"].update(shared=["queue"]))
        write(found, "first")
        assert_done(found.up())
        yield found


@pytest.fixture(scope="module")
def jobs(stand: RemoteStand) -> Jobs:
    init = docker("inspect", "--format", "{{.State.Pid}}", stand.host_there.container)
    return Jobs(Path(f"/proc/{init}/root/var/lib/cluster-{stand.name}/shared/queue"))


def units(stand: RemoteStand) -> set[str]:
    """Return the units of the stack that run, with the process of each."""
    listed = stand.host_there.run(
        *("systemctl", "list-units", f"cluster-{stand.name}*@*", "--state=active", "--no-legend", "--plain")
    )
    names = [line.split()[0] for line in listed.splitlines()]
    found = stand.host_there.run("systemctl", "show", *names, "--property=MainPID", "--value").split()
    return {f"{name} {pid}" for name, pid in zip(names, found, strict=True)}


def test_all_are_in_the_status_as_on_this_machine(stand: RemoteStand) -> None:
    stand.wait_healthy()
    found = {name: (service["kind"], service["state"], service["ok"]) for name, service in services(stand).items()}
    assert found == {
        "jobs1": ("worker", "running", True),
        "jobs2": ("worker", "running", True),
        "yearly": ("schedule", "waiting", True),
        "nginx": ("nginx", "running", True),
    }


def test_a_release_and_the_way_back_lose_no_job_and_do_none_twice(stand: RemoteStand, jobs: Jobs) -> None:
    count_a_release_and_the_way_back(stand, jobs, lambda release: write(stand, release))


def test_workers_that_are_not_given_their_time_lose_jobs(stand: RemoteStand, jobs: Jobs) -> None:
    """The saboteur."""
    count_what_is_cut_off(stand, jobs, lambda release: write(stand, release), releases=5)
    assert_done(stand.up())


def test_a_release_whose_worker_ends_is_given_up_and_the_former_goes_on(stand: RemoteStand, jobs: Jobs) -> None:
    before, serving = units(stand), stand.release()
    stand.edit_stack(lambda stack: stack["workers"][0].update(startsecs=LONG_START))
    write(stand, "broken", before="raise RuntimeError('nothing works today')\n")
    result = stand.up()
    assert result.status == 1
    assert "nothing works today" in result.output
    assert units(stand) == before, "what was started is stopped, and what ran goes on"
    assert stand.release() == serving
    jobs.put(20)
    assert jobs.lost(jobs.wait_done()) == []
    stand.edit_stack(lambda stack: stack["workers"].__setitem__(0, dict(WORKER)))
    write(stand, "mended")
    assert_done(stand.up())
    stand.wait_healthy()


def test_another_command_replaces_the_worker_and_nothing_else(stand: RemoteStand) -> None:
    before = units(stand)
    stand.edit_stack(lambda stack: stack["workers"][0].update(command="python ./jobs.py"))
    assert_done(stand.up())
    changed = {unit.partition("@")[0].rpartition(".")[2] for unit in before ^ units(stand)}
    assert changed == {"jobs1", "jobs2"}
    assert "no changes" in assert_done(stand.up())


def test_a_boot_brings_them_back_and_what_waits_is_done(stand: RemoteStand, jobs: Jobs) -> None:
    stand.host_there.restart()
    stand.wait_healthy()
    init = docker("inspect", "--format", "{{.State.Pid}}", stand.host_there.container)
    after = Jobs(Path(str(jobs.directory).replace(str(jobs.directory).split("/")[2], init, 1)))
    after.put(20)
    assert after.lost(after.wait_done()) == []


def test_what_is_not_named_any_more_ends(stand: RemoteStand) -> None:
    stand.edit_stack(lambda stack: stack.pop("schedule"))
    assert_done(stand.up())
    assert set(services(stand)) == {"jobs1", "jobs2", "nginx"}
    assert not any(".yearly@" in unit for unit in units(stand))
    assert stand.host_there.run("sh", "-c", "ls /etc/systemd/system/*.yearly@*", check=False) == ""
    assert "no changes" in assert_done(stand.up())
