"""What the real engine says and does: previews, one resource for one change, the trap, runs that are killed."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import re
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from platforms.docker.engine import Engine
from platforms.docker.prebuilding import build_ahead, ordered
from tests.conformance import assert_nothing_lost, servers, wait_until
from tests.e2e.stand import DockerStand
from tests.e2e.tools import docker
from tests.load import Load

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

AROUND = 300


@pytest.fixture(scope="module")
def stand() -> Iterator[DockerStand]:
    with contextlib.closing(DockerStand(name="e")) as found:
        result = found.up()
        assert result.status == 0, result.output
        yield found


def changes(stand: DockerStand, *options: str) -> dict[str, int]:
    """Return what a preview would change, by operation."""
    done = stand.pulumi("preview", "--json", *options)
    assert done.returncode == 0, done.stdout
    summary: dict[str, int] = json.loads(done.stdout[done.stdout.index("{") :])["changeSummary"]
    return {name: count for name, count in summary.items() if name != "same"}


def test_a_preview_right_after_up_shows_no_changes(stand: DockerStand) -> None:
    assert changes(stand) == {}


def test_a_preview_with_refresh_right_after_up_shows_no_changes(stand: DockerStand) -> None:
    assert changes(stand, "--refresh") == {}


def test_a_weight_change_updates_exactly_one_resource_and_says_so_in_nginx_words(stand: DockerStand) -> None:
    before = stand.containers()
    stand.edit_stack(lambda stack: servers(stack)["app1"].update(weight=5))
    assert changes(stand) == {"update": 1}
    shown = stand.pulumi("preview", "--diff").stdout
    assert re.search(r"-\s+server unix:/run/cluster/app1/http.sock weight=3", shown), shown
    assert re.search(r"\+\s+server unix:/run/cluster/app1/http.sock weight=5", shown), shown
    result = stand.up()
    assert result.status == 0, result.output
    assert "+ server unix:…/app1/http.sock weight=5" in result.output
    assert stand.containers() == before
    assert changes(stand) == {}


def test_outputs_tell_what_serves_and_nothing_secret(stand: DockerStand) -> None:
    outputs = json.loads(stand.pulumi("stack", "output", "--json", "--show-secrets").stdout)
    assert set(outputs) == {"url", "upstream", "release", "nginx", "sessions"}
    assert outputs["nginx"] == stand.nginx_digest()
    assert outputs["release"] == stand.release()
    assert outputs["upstream"][1] == {"name": "app2", "weight": 1, "share": "12.5 %"}


def test_what_is_built_while_a_preview_runs_the_provider_does_not_build_again(stand: DockerStand) -> None:
    """Built anew it would be an image of later."""
    stand.edit_code("visits/apps.py", f"# built ahead, as nobody has before: {time.time()}\n")
    done = stand.pulumi("preview", "--json")
    assert done.returncode == 0, done.stdout
    steps = json.loads(done.stdout[done.stdout.index("{") :])["steps"]
    (step,) = [one for one in steps if one["urn"].endswith("::app-app-image")]
    new, engine = step["newState"], Engine()
    name = new["inputs"]["imageName"]
    event = {"resourcePreEvent": {"metadata": {**step, "type": new["type"], "new": new}}}
    order = ordered(event, stand.root)
    assert engine.socket() is not None
    assert order is not None
    build_ahead(engine, order)
    built = dt.datetime.now(dt.UTC)
    assert engine.image(name) is None, "which image it is the provider says"
    result = stand.up()
    assert result.status == 0, result.output
    image = docker("inspect", "--format", "{{.Image}}", stand.container("app1"))
    assert image == engine.image(name)
    assert dt.datetime.fromisoformat(docker("inspect", "--format", "{{.Created}}", image)) < built


def kill_when(process: subprocess.Popen[str], pattern: str) -> None:
    """Kill -9 Pulumi as soon as it prints a line that matches."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line.rstrip())
        if re.search(pattern, line):
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return
    pytest.fail(f"no line matched {pattern!r}: {seen}")


#: Moments of a release, by what Pulumi prints.
MOMENTS = {
    "building": r"app-image (creating|updating|replacing)",
    "preparing the release": r"Command app-prepare updating",
    "creating the containers": r"Container app-app\d (creating|replacing)",
    "taking the names": r"Command app-app\d-serve (updating|updated)",
    "removing the old ones": r"Container app-app\d (deleting|deleted) original",
}


@pytest.mark.parametrize("moment", list(MOMENTS))
def test_a_release_killed_at_any_moment_leaves_the_site_serving_and_the_next_up_converges(
    stand: DockerStand, moment: str
) -> None:
    with Load(stand.address) as load:
        load.wait_for(AROUND)
        stand.edit_code("visits/apps.py", f"# killed while {moment}\n")
        kill_when(stand.start_pulumi("up", "--yes", "--skip-preview"), MOMENTS[moment])
        load.wait_for(AROUND)
        time.sleep(2)  # what the providers had begun goes on without Pulumi
        locked = stand.pulumi("up", "--yes", "--skip-preview")
        assert "locked" in locked.stdout, "a killed run leaves its lock"
        if moment == "creating the containers":
            assert stand.pulumi("cancel", "--yes").returncode == 0
            plain = stand.pulumi("up", "--yes", "--skip-preview")
            assert plain.returncode == 0, plain.stdout
        result = stand.up()
        assert result.status == 0, result.output
        load.wait_for(AROUND)
    print(f"killed while {moment}: {load.counts}")
    assert_nothing_lost(load.counts)
    status = stand.status()
    assert status["ok"], status
    assert len(stand.containers("instance", stopped=True)) == 4, "orphans are left"
    assert "no changes" in stand.up().output


#: A release whose instances take their time; what proves it before may not write where they have their sockets.
SLOW = "import os, time\ntime.sleep(12 if os.access('/run/cluster', os.W_OK) else 0)\n"


def shown(stand: DockerStand) -> str:
    """Return the release whose static files nginx looks in first."""
    return docker("exec", *stand.containers("nginx"), "readlink", "/srv/static/current")


def healths(stand: DockerStand) -> list[str]:
    """Return what the engine says of each instance's health."""
    return docker("inspect", "--format", "{{.State.Health.Status}}", *stand.containers("instance")).split()


def kill_as_all_wait(stand: DockerStand, instances: int) -> None:
    """Kill -9 Pulumi as so many instances are there, and a task waits until those of its release are healthy."""
    process = stand.start_pulumi("up", "--yes", "--skip-preview")
    try:
        wait_until(
            lambda: bool(stand.containers("task")) and len(stand.containers("instance")) == instances, "all wait", 180
        )
    finally:
        process.kill()
        process.communicate()


def test_a_killed_release_that_is_given_up_shows_no_static_files_and_takes_no_name_however_healthy_it_gets(
    stand: DockerStand,
) -> None:
    stand.edit_code("visits/apps.py", "")
    assert stand.up().status == 0
    former, holders = stand.release(), stand.holders()
    stand.edit_code("visits/apps.py", SLOW)
    kill_as_all_wait(stand, 8)
    wait_until(lambda: not stand.containers("task"), "what waited has ended")
    assert shown(stand) == former
    assert Counter(healths(stand)) == {"healthy": 4, "starting": 4}, "it was killed too late"
    wait_until(lambda: healths(stand) == ["healthy"] * 8, "healthy after all", 120)
    assert (shown(stand), stand.holders()) == (former, holders)
    assert len(holders) == 4
    stand.edit_code("visits/apps.py", "")
    assert stand.pulumi("cancel", "--yes").returncode == 0
    result = stand.up()
    assert result.status == 0, result.output
    assert (shown(stand), stand.release()) == (former, former)
    assert stand.status()["ok"]
    assert len(stand.containers("instance", stopped=True)) == 4, "orphans are left"
    assert "no changes" in stand.up().output


def test_an_up_that_is_interrupted_ends_cleanly(stand: DockerStand) -> None:
    with Load(stand.address) as load:
        load.wait_for(AROUND)
        stand.edit_code("visits/apps.py", "# interrupted\n")
        process = stand.start("up", stand.name)
        assert process.stdout is not None
        for line in process.stdout:
            if "the release: static files, migrations" in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
        assert process.wait(60) == 130, rest
        result = stand.up()
        assert result.status == 0, result.output
        assert "lock" not in result.output, "an interrupted run left its lock"
        load.wait_for(AROUND)
    print(f"interrupted: {load.counts}")
    assert_nothing_lost(load.counts)


def kill_after_reload(stand: DockerStand, weight: int) -> None:
    """Change a weight, and kill Pulumi when nginx runs it and the state does not know."""
    stand.edit_stack(lambda stack: servers(stack)["app2"].update(weight=weight))
    former = stand.nginx_digest()
    process = stand.start_pulumi("up", "--yes", "--skip-preview")
    deadline = time.monotonic() + 60
    while stand.nginx_digest() == former:
        assert time.monotonic() < deadline
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(3)
    assert stand.pulumi("cancel", "--yes").returncode == 0


def test_the_trap_nginx_runs_what_the_state_does_not_know_and_plain_up_mends_it(stand: DockerStand) -> None:
    assert stand.up().status == 0
    wanted = stand.nginx_digest()
    kill_after_reload(stand, 7)
    assert stand.nginx_digest() != wanted
    stand.edit_stack(lambda stack: servers(stack)["app2"].update(weight=1))
    assert changes(stand) == {"update": 1}, "a preview does not see what nginx runs"
    done = stand.pulumi("up", "--yes", "--skip-preview")
    assert done.returncode == 0, done.stdout
    assert stand.nginx_digest() == wanted
    assert changes(stand) == {}


def test_without_the_look_at_nginx_the_trap_is_not_noticed(stand: DockerStand) -> None:
    with stand.sabotaged("no_turn"):
        assert stand.pulumi("up", "--yes", "--skip-preview").returncode == 0
        wanted = stand.nginx_digest()
        kill_after_reload(stand, 9)
        stand.edit_stack(lambda stack: servers(stack)["app2"].update(weight=1))
        assert stand.pulumi("up", "--yes", "--skip-preview").returncode == 0
        assert stand.nginx_digest() != wanted, "the trap is gone, and so is the need for the look"
    assert stand.up().status == 0
    assert stand.nginx_digest() == wanted


def test_a_name_that_another_process_took_is_given_back_by_plain_up(stand: DockerStand) -> None:
    """The names, as nginx's configuration: what they lead to is compared, not what the state believes."""
    app = stand.container("app2")
    (nginx,) = stand.containers("nginx")
    take = "from cluster_runtime.instance_link import InstanceLink; InstanceLink('/run/cluster', 'app2').give_up('{}')"
    process = next(
        line.split()[2]
        for line in docker("exec", nginx, "/usr/local/lib/cluster/live").splitlines()
        if line.startswith("instance app2 ")
    )
    docker("exec", app, "python", "-P", "-c", take.format(process))
    done = stand.pulumi("up", "--yes", "--skip-preview")
    assert done.returncode == 0, done.stdout
    assert stand.status()["ok"]


def test_a_name_that_leads_nowhere_is_given_again_also_where_the_first_up_was_killed(stand: DockerStand) -> None:
    """Instances of a first `up` take their free names by themselves: nobody has given them any."""
    assert stand.down().status == 0
    stand.edit_code("visits/apps.py", SLOW)
    kill_as_all_wait(stand, 4)
    assert "healthy" not in healths(stand), "it was killed too late"
    wait_until(lambda: healths(stand) == ["healthy"] * 4, "healthy after all", 120)
    assert stand.pulumi("cancel", "--yes").returncode == 0
    result = stand.up()
    assert result.status == 0, result.output
    for _ in range(2):
        directory = "/run/cluster/app2"
        docker("exec", stand.container("app2"), "ln", "-sfn", "nobody.sock", f"{directory}/http.sock")
        done = stand.pulumi("up", "--yes", "--skip-preview")
        assert done.returncode == 0, done.stdout
        assert stand.status()["ok"], "it says that app2 serves, and it does not"
        assert "no changes" in stand.up().output


def test_static_files_of_another_release_are_not_served_after_plain_up(stand: DockerStand) -> None:
    (found,) = json.loads(docker("inspect", stand.container("app1")))
    (volume,) = [mount["Name"] for mount in found["Mounts"] if mount["Destination"] == "/srv/static"]
    script = "cd /srv/static && ln -sfn 0123456789ab current"
    docker("run", "--rm", "--volume", f"{volume}:/srv/static", found["Image"], "sh", "-c", script)
    done = stand.pulumi("up", "--yes", "--skip-preview")
    assert done.returncode == 0, done.stdout
    (nginx,) = stand.containers("nginx")
    assert docker("exec", nginx, "readlink", "/srv/static/current") == stand.release()
    assert changes(stand) == {}


def test_containers_removed_by_hand_come_back(stand: DockerStand) -> None:
    docker("rm", "--force", stand.container("app3"))
    result = stand.up()
    assert result.status == 0, result.output
    assert stand.status()["ok"]


def test_destroy_refuses_to_drop_the_database_unless_told(stand: DockerStand) -> None:
    done = stand.pulumi("destroy", "--yes")
    assert done.returncode != 0
    assert "protected" in done.stdout
    assert stand.status()["ok"], "a refused destroy removed something"
    create = ("createsuperuser", "--noinput", "--username", "kept", "--email", "a@example.com")
    assert stand.run("manage", stand.name, "--", *create, DJANGO_SUPERUSER_PASSWORD="a long enough one").status == 0
    assert stand.down().status == 0
    assert stand.containers(stopped=True) == []
    assert stand.up().status == 0
    again = stand.run("manage", stand.name, "--", *create, DJANGO_SUPERUSER_PASSWORD="a long enough one")
    assert "already taken" in again.output, f"the data did not outlive down: {again.output}"
