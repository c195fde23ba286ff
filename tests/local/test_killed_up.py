"""`up` killed at any moment: the site serves on, the next `up` converges, and the one after it says "no changes"."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from platforms.local.listeners import with_children
from platforms.local.orphans import orphaned_processes
from tests.conformance import assert_nothing_lost, servers, wait_until
from tests.load import SPARSE, Load
from tests.local.stand import Stand, kill_at_line

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Requests that are counted around each kill, beside those during the two `up`s.
AROUND = 100


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with contextlib.closing(Stand()) as stand:
        # More threads than clients: what the load waits for is `up`, and not itself.
        stand.edit_stack(lambda stack: stack["app"].update(threads=16))
        result = stand.up()
        assert result.status == 0, result.output
        yield stand


def load_of(stand: Stand) -> Load:
    """Eight clients, most of them with requests that take a while: there is always one on its way."""
    return Load(stand.address, clients=8, slow=6, slow_seconds=0.3, pause=SPARSE)


@dataclass(frozen=True)
class Kill:
    """When `up` is killed: at the first line that matches, and so many seconds after it.

    Every change has a new release and another weight; `added` and `removed` name an instance as well.
    """

    at: str
    after: float = 0.0
    requirements: bool = False
    added: str = ""
    removed: str = ""
    options: dict[str, object] = field(default_factory=dict)


#: A step for each kind of what a killed `up` leaves: half an environment, half a release, one that was migrated,
#: processes that do not serve, an nginx that was not told, half of the instances serving and one that drains. A reload
#: of an old nginx waits for two seconds before it happens.
KILLS = (
    Kill("making the environment", after=0.3, requirements=True, added="app4"),
    Kill("importing the project", after=0.5, removed="app4"),
    Kill("migrating the database"),
    Kill("app1 is healthy", added="app6"),
    Kill("reloading nginx", added="app7", removed="app6"),
    Kill("draining ", after=0.5, removed="app7", options={"rollout": {"batch": 1}}),
)

#: All other steps that `up` says once: each leaves what one of those leaves.
OTHER_KILLS = (
    Kill("copying the code", added="app4"),
    Kill("importing the project", removed="app4"),
    Kill("starting app1 of", added="app5"),
    Kill("app1 serves release"),
    Kill("app2 serves release", removed="app5"),
    Kill("reloading nginx", after=0.02),
)


@pytest.mark.parametrize(
    ("kills", "first"),
    [(KILLS, 0), pytest.param(OTHER_KILLS, len(KILLS), marks=pytest.mark.wide)],
    ids=["of each kind", "the others"],
)
def test_up_killed_at_every_step_loses_nothing_and_converges(stand: Stand, kills: tuple[Kill, ...], first: int) -> None:
    with load_of(stand) as load:
        load.wait_for(AROUND)
        for number, kill in enumerate(kills, first):
            before, began = load.snapshot(), time.monotonic()
            change(stand, number, kill)
            seen = killed(stand, kill)
            load.wait_for(AROUND)
            between = load.snapshot().since(before)
            assert_converges(stand)
            load.wait_for(AROUND)
            counts = load.snapshot().since(before)
            seconds = time.monotonic() - began
            print(f"{number + 1}. killed {kill.after:g} s after {seen[-1].strip()!r}: {counts} in {seconds:.1f} s")
            assert between.total >= AROUND
            assert_nothing_lost(counts)
    print(f"{len(kills)} kills: {load.counts}")
    assert_nothing_lost(load.counts)


def change(stand: Stand, number: int, kill: Kill) -> None:
    stand.edit_code("visits/apps.py", f"# change {number}\n")
    servers(stand.stack)["app1"]["weight"] = 2 + number
    listed = stand.stack["upstream"]["servers"]
    listed += [{"name": kill.added}] if kill.added else []
    listed[:] = [server for server in listed if server["name"] != kill.removed]
    stand.stack["app"].pop("rollout", None)
    stand.stack["app"].update(kill.options)
    stand.write()
    if kill.requirements:
        stand.edit_code("requirements.txt", f"# change {number}\n")


def killed(stand: Stand, kill: Kill) -> list[str]:
    """Say `up`, and kill it, and nothing else, when it is time; return what it had said."""
    process = stand.start("up", stand.name)
    if not kill.after:
        return kill_at_line(process, kill.at)
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if re.search(kill.at, line):
            time.sleep(kill.after)
            process.kill()
            process.wait()
            return seen
    raise AssertionError(f"no line matched {kill.at!r}: {seen}")


def assert_converges(stand: Stand) -> None:
    """Let `up` finish what another has begun; then everything is as the stack file says, and nothing else is there."""
    result = stand.up()
    assert result.status == 0, result.output
    status = stand.status()
    assert status["ok"], status
    wanted = {f"{name}-{status['release']}" for name in servers(stand.stack)} | {
        "memcached1",
        "memcached2",
        "nginx",
        "watch",
    }
    processes = stand.supervisor().processes()
    assert set(processes) == wanted
    assert {process.state for process in processes.values()} == {"RUNNING"}
    assert {file.stem for file in stand.supervisor().programs.iterdir()} == wanted
    assert {row["release"] for row in status["instances"]} == {status["release"]}
    assert stand.nginx_digest() == status["nginx"]["digest"]
    assert (stand.paths.nginx / "current").resolve().name == status["nginx"]["digest"][:12]
    assert not stand.paths.closing.exists(), "nginx closes its clients' connections for ever"
    directories = {path.name for path in stand.paths.run.iterdir() if path.is_dir()}
    assert {name for name in directories if not name.startswith(".")} == set(servers(stand.stack))
    kept = {process.pid for process in processes.values()}
    left = set(orphaned_processes(stand.paths)) - with_children(kept)
    assert not left, "processes that nobody keeps were left"
    again = stand.up()
    assert (again.status, "no changes" in again.output) == (0, True), again.output


@pytest.mark.parametrize(
    "at",
    [
        pytest.param("starting Supervisor", marks=pytest.mark.wide),
        "starting app1",
        pytest.param("starting nginx", marks=pytest.mark.wide),
    ],
)
def test_up_killed_while_everything_starts_converges(stand: Stand, at: str) -> None:
    result = stand.down()
    assert result.status == 0, result.output
    killed(stand, Kill(at, after=0.2))
    assert_serves(stand)


# --- what the state can't know


def test_killed_after_the_reload_and_the_stack_file_goes_back(stand: Stand) -> None:
    """The trap: nginx runs the new configuration, whatever was written down before."""
    former = stand.nginx_digest()
    weight = servers(stand.stack)["app1"]["weight"]
    with load_of(stand) as load:
        load.wait_for(AROUND)
        stand.edit_stack(lambda stack: servers(stack)["app1"].update(weight=77))
        process = stand.start("up", stand.name)
        await_another(stand, former)
        process.kill()
        process.communicate()
        stand.edit_stack(lambda stack: servers(stack)["app1"].update(weight=weight))
        result = stand.up()
        assert (result.status, "reloading nginx" in result.output) == (0, True), result.output
        assert stand.nginx_digest() == former
        load.wait_for(AROUND)
    print(f"the trap: {load.counts}")
    assert_nothing_lost(load.counts)
    assert_converges(stand)


def await_another(stand: Stand, former: str | None) -> None:
    """Wait until nginx runs another configuration; for a moment more an old worker may still tell of the former one."""
    wait_until(lambda: stand.nginx_digest() not in (former, None), "nginx runs the new configuration")


@pytest.mark.wide
def test_killed_after_the_reload_and_nothing_goes_back(stand: Stand) -> None:
    former = stand.nginx_digest()
    stand.edit_stack(lambda stack: servers(stack)["app1"].update(weight=78))
    process = stand.start("up", stand.name)
    await_another(stand, former)
    process.kill()
    process.communicate()
    assert_converges(stand)


# --- more than `up` is killed


def test_a_killed_supervisor_leaves_the_site_serving_and_up_brings_it_back(stand: Stand) -> None:
    with load_of(stand) as load:
        load.wait_for(AROUND)
        kill_supervisor(stand)
        load.wait_for(3 * AROUND)
        counts = load.snapshot()
    print(f"without Supervisor: {counts}")
    assert_nothing_lost(counts)
    result = stand.up()
    assert (result.status, "that a killed Supervisor left" in result.output) == (0, True), result.output
    assert_serves(stand)


@pytest.mark.wide
def test_a_killed_supervisor_can_be_followed_by_a_change(stand: Stand) -> None:
    kill_supervisor(stand)
    stand.edit_code("visits/apps.py", "# after Supervisor\n")
    stand.edit_stack(lambda stack: servers(stack)["app1"].update(weight=31))
    assert_serves(stand)


def test_after_a_killed_supervisor_down_ends_all(stand: Stand) -> None:
    kill_supervisor(stand)
    result = stand.down()
    assert result.status == 0, result.output
    assert stand.all_processes() == set()
    assert_serves(stand)


@pytest.mark.parametrize("keeps", ["run", pytest.param("nothing", marks=pytest.mark.wide)])
def test_after_a_power_cut_up_starts_everything_again(stand: Stand, keeps: str) -> None:
    """Everything ends at once; a run directory that is kept holds sockets, names and words of the dead."""
    release = stand.release()
    wait_until(lambda: not stand.cut_off(), "everything has ended")
    if keeps == "nothing":
        shutil.rmtree(stand.paths.run)
    status = stand.run("status", stand.name)
    assert status.status == 1, status.output
    assert_serves(stand)
    assert stand.release() == release


def test_what_supervisor_starts_by_itself_after_a_power_cut_finds_its_nodes(stand: Stand) -> None:
    """It starts the instances of its files at once; `up` has made what they need by then, however slow it is."""
    logs = [stand.paths.logs / f"{name}-{stand.release()}.log" for name in servers(stand.stack)]
    before = [log.stat().st_size for log in logs]
    wait_until(lambda: not stand.cut_off(), "everything has ended")
    shutil.rmtree(stand.paths.run)
    with stand.sabotaged("late_up"):
        assert_serves(stand)
    since = [log.read_bytes()[size:].decode() for log, size in zip(logs, before, strict=True)]
    assert all(": ready" in text and "can't start" not in text for text in since), since


def test_an_nginx_that_was_killed_is_started_again(stand: Stand) -> None:
    """Its workers outlive it and keep its port."""
    os.kill(stand.supervisor().processes()["nginx"].pid, signal.SIGKILL)
    time.sleep(1)
    assert_serves(stand)


def kill_supervisor(stand: Stand) -> None:
    pid = int((stand.paths.run / "supervisord.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not stand.supervisor().is_running(), "Supervisor is gone")


def assert_serves(stand: Stand) -> None:
    assert_converges(stand)
    with load_of(stand) as load:
        load.wait_for(AROUND)
    assert_nothing_lost(load.counts)
