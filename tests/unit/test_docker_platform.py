"""Platform docker beneath its components: what really runs, the same topology as on this machine, build contexts."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import stat
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import crossplane
import pulumi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config import parse_config
from cluster.packages import UV_CONFIG
from cluster.release import ReleaseError, ReleaseSpec, RuntimePaths, runtime_config, specify
from cluster.render.nginx import render_nginx
from cluster.render.versions import version_in_image
from cluster.services import Kind
from cluster.topology import Topology, build_topology
from platforms.docker import images
from platforms.docker.container_paths import base_image, nginx_config, nginx_paths, runtime_paths
from platforms.docker.containers import (
    WATCH_SECONDS,
    Health,
    Mount,
    Ports,
    Spec,
    go_duration,
    ignored,
    make_container,
    watching,
)
from platforms.docker.daemons import daemon_spec
from platforms.docker.engine import Engine, EngineError, read_live
from platforms.docker.family import Family, Target
from platforms.docker.images import write_context
from platforms.docker.specs import container_digest, instance_spec
from platforms.local.paths import LocalPaths
from platforms.pulumi.live import SINCE, Live
from platforms.pulumi.looking import looking
from tests.unit.pulumi_mocks import (
    CANARIES,
    COMMAND,
    CONTAINER,
    SECRETS,
    Record,
    program,
    record,
    run_main,
    stack_values,
    write_stack,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster.render.paths import NginxPaths

VALUES = stack_values(site={"instance_ports": 8100})
NAMES = ("app1", "app2", "app3", "app4")
SERVES = {f"Command {name}-serve" for name in NAMES}
STACK_LABEL = "django-cluster/dev"


# --- what runs, and what is done about it


def running(after: Record) -> str:
    """Return what nginx's `live` prints where everything runs that an `up` registered."""
    config, shown = after.named("nginx-config").environment, after.named("static-current").environment
    serves = {name: after.named(f"{name}-serve").environment for name in NAMES}
    lines = [f"nginx {config['DIGEST']} {config['TURN']}"]
    lines.append(f"static {serves['app1']['RELEASE']} {shown.get('TURN', 1)}")
    for name, e in serves.items():
        process = f"{e['RELEASE']}.{e['CONTAINER'][:12]}"
        lines.append(f"instance {name} {process} {e['TURN']} {process} yes")
    return "\n".join([*lines, ""])


@dataclasses.dataclass(frozen=True)
class Told:
    """A stack after its first `up`: what was registered then, and what runs since."""

    root: Path
    record: Record
    text: str

    def changes(self, text: str, **changes: Any) -> set[str]:
        """Return what another `up` does where `text` is what runs."""
        return self.record.changes(run_main(self.root, {**VALUES, **changes}, live=read_live(text)))


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    root = tmp_path_factory.mktemp("repository")
    first = run_main(root, VALUES, live=Live())
    return Told(root, first, running(first))


def test_what_live_prints_is_read() -> None:
    digest = "0123456789abcdef" * 4
    live = read_live(
        f"nginx {digest} 7\n"
        "static 0123456789ab 3\n"
        "instance app1 0123456789ab.ba9876543210 3 0123456789ab.ba9876543210 yes\n"
        'status app1 0123456789ab.ba9876543210 {"state": "serving", "message": "as it should be", "since": 1.5}\n'
        'status app1 ba9876543210.0123456789ab {"state": "draining", "message": "", "since": 2}\n'
        "instance app2 - 0 - -\n"
        "instance app3 - 4 0123456789ab.0123456789ab -\n"
    )
    assert (live.nginx, live.nginx_generation, live.static) == (digest, 7, "0123456789ab")
    assert live.holders == {"app1": "0123456789ab.ba9876543210", "app2": None, "app3": None}
    assert live.generations == {"app1": 3, "app2": 0, "app3": 4}
    given = {"app1": "0123456789ab.ba9876543210", "app2": None, "app3": "0123456789ab.0123456789ab"}
    assert live.given == given
    assert live.answers == {"app1": True, "app2": False, "app3": False}
    assert {process: status["state"] for (_, process), status in live.statuses.items()} == {
        "0123456789ab.ba9876543210": "serving",
        "ba9876543210.0123456789ab": "draining",
    }
    assert live.statuses["app1", "0123456789ab.ba9876543210"]["message"] == "as it should be"


def test_what_an_nginx_of_before_prints_is_read_too() -> None:
    """Until nginx itself is replaced, its `live` says neither to whom a name was given nor who answers."""
    live = read_live("nginx - 0\ninstance app1 0123456789ab.ba9876543210 3\ninstance app2 - 0\n")
    assert live.holders == {"app1": "0123456789ab.ba9876543210", "app2": None}
    assert live.generations == {"app1": 3, "app2": 0}
    assert (live.given, live.answers) == ({"app1": None, "app2": None}, {"app1": False, "app2": False})


def test_an_nginx_that_answers_nothing_runs_nothing() -> None:
    live = read_live("nginx - 0\nstatic - 0\n")
    assert (live.nginx, live.nginx_generation, live.static, live.holders) == (None, 0, None, {})


@given(st.integers(0, 2**31), st.sampled_from(["same", "other", None]))
def test_a_delivery_has_the_last_turn_if_nginx_runs_it_and_else_one_that_was_never_there(
    turn: int, runs: str | None
) -> None:
    found = Live(nginx=runs, nginx_generation=turn).next_nginx_generation("same")
    assert found == turn if runs == "same" else found > turn


WHO = st.sampled_from(["r.mine", "r.another", None])


@given(st.integers(0, 2**31), WHO, WHO)
def test_a_name_is_given_in_the_last_turn_if_it_was_given_and_is_held_and_else_in_another(
    turn: int, holder: str | None, given_to: str | None
) -> None:
    live = Live(holders={"app1": holder}, generations={"app1": turn}, given={"app1": given_to})
    found = live.next_generation("app1", "r.mine")
    assert found == turn if (holder, given_to) == ("r.mine", "r.mine") else found > turn


#: What is known of a process that may take its name by itself: who holds it, to whom it was given, what it says.
RETURNING: dict[str, tuple[str | None, str | None, str | None, bool]] = {
    "starting again": (None, "r.mine", "starting", True),
    "ready and without its name": (None, "r.mine", "ready", False),
    "draining": (None, "r.mine", "draining", False),
    "says nothing": (None, "r.mine", None, False),
    "given to another": (None, "r.another", "starting", False),
    "never given": (None, None, "starting", False),
    "another holds it": ("r.another", "r.mine", "starting", False),
}


@pytest.mark.parametrize("name", RETURNING)
def test_who_was_given_a_name_and_is_starting_again_is_left_to_take_it_by_itself(name: str) -> None:
    holder, given_to, state, returning = RETURNING[name]
    statuses = {("app1", "r.mine"): {"state": state}} if state else {}
    live = Live(holders={"app1": holder}, generations={"app1": 4}, given={"app1": given_to}, statuses=statuses)
    assert (live.next_generation("app1", "r.mine") == 4) is returning


def test_where_nobody_can_say_what_runs_each_turn_is_one_that_no_state_can_hold() -> None:
    live = Live(nginx="same", nginx_generation=None, holders={"app1": "r.mine"}, generations={"app1": 3})
    now = int(time.time()) - SINCE
    assert now > 10**7, "a count might come so far"
    assert live.next_nginx_generation("other") >= now
    assert live.next_generation("app1", "r.another") >= now


def test_a_second_up_changes_nothing(told: Told) -> None:
    assert told.changes(told.text) == set()


def test_the_trap_an_nginx_that_runs_what_the_state_never_heard_of_gets_its_configuration_again(told: Told) -> None:
    """Killed after nginx's reload and before the state was written; then the stack file goes back to what it was."""
    servers = [{"name": name, "weight": 7 if name == "app2" else 1} for name in NAMES]
    other = {"upstream": {"servers": servers}}
    killed = run_main(told.root, {**VALUES, **other}, live=read_live(told.text))
    assert told.record.changes(killed) == {"Command nginx-config"}
    environment = killed.named("nginx-config").environment
    left = re.sub(r"^nginx .*", f"nginx {environment['DIGEST']} {environment['TURN']}", told.text)
    assert left != told.text
    assert told.changes(left) == {"Command nginx-config"}, "nginx would run the other configuration for ever"


@pytest.mark.parametrize("turn", [1, 9])
def test_the_trap_does_not_close_whatever_the_last_turn_was(turn: int, told: Told) -> None:
    text = re.sub(r"^nginx .*", f"nginx {'f' * 64} {turn}", told.text)
    assert told.changes(text) == {"Command nginx-config"}


def test_a_name_that_another_process_holds_is_given_again_and_no_other(told: Told) -> None:
    text = re.sub(r"^instance app2 \S+", "instance app2 ba9876543210.0123456789ab", told.text, flags=re.MULTILINE)
    assert text != told.text
    assert told.changes(text) == {"Command app2-serve"}


def test_a_name_that_nobody_holds_is_given_again(told: Told) -> None:
    text = re.sub(r"^instance app3 \S+", "instance app3 -", told.text, flags=re.MULTILINE)
    assert told.changes(text) == {"Command app3-serve"}


def test_a_name_that_was_taken_while_it_was_free_is_given(told: Told) -> None:
    """As after a first `up` that failed once instances ran: they take their names by themselves."""
    text = re.sub(r"^(instance app3 \S+ \d+) \S+", r"\1 -", told.text, flags=re.MULTILINE)
    assert text != told.text
    assert told.changes(text) == {"Command app3-serve"}


def test_what_a_command_was_told_once_is_never_what_it_is_told_for_a_later_turn(told: Told) -> None:
    """Else a name that has gone astray since would be taken for taken."""
    text = re.sub(r"^instance app2 \S+", "instance app2 -", told.text, flags=re.MULTILINE)
    before = told.record.named("app2-serve").environment
    after = run_main(told.root, VALUES, live=read_live(text)).named("app2-serve").environment
    assert before["SERVED"].rpartition("/")[2] == before["TURN"]
    assert after["SERVED"] == before["SERVED"], "nobody has given it meanwhile"
    assert int(after["TURN"]) > int(before["TURN"])


def test_a_generation_that_nobody_knows_is_read_again_by_nginx_s_container() -> None:
    unknown = Live(nginx_generation=None).next_generation("app1", "r.c")
    text = f"nginx - 1\ninstance app1 r.c {unknown} r.c yes\n"
    assert re.fullmatch("[0-9]{1,9}", str(unknown)), "nginx/live reads no more digits: it would be 0, and then 1 again"
    assert read_live(text).next_generation("app1", "r.c") == unknown


def test_a_name_that_nobody_holds_is_not_given_again_while_its_process_is_starting(told: Told) -> None:
    text = re.sub(r"^instance app3 \S+", "instance app3 -", told.text, flags=re.MULTILINE)
    (process,) = re.findall(r"^instance app3 - \d+ (\S+) yes$", text, flags=re.MULTILINE)
    starting = f'{text}status app3 {process} {{"state": "starting", "message": "", "since": 2}}\n'
    assert told.changes(starting) == set(), "an `up` while an instance restarts would change what takes care of itself"
    ready = starting.replace('"starting"', '"ready"')
    assert told.changes(ready) == {"Command app3-serve"}


#: What an instance that is not in the stack file, or one that is, last said, and whether something listens behind it.
LAST_WORDS = {
    "removed and dead": ("app9", "-", None),
    "removed and still serving": ("app9", "yes", "set `previous: cached_db`"),
    "dead": ("app4", "-", "set `previous: cached_db`"),
}


@pytest.mark.parametrize("name", LAST_WORDS)
def test_what_a_removed_dead_instance_said_of_its_sessions_stands_in_nobodys_way(name: str, tmp_path: Path) -> None:
    instance, answers, refused = LAST_WORDS[name]
    words = json.dumps({"state": "serving", "sessions": {"engine": "cached_db", "previous": "", "stage": ""}})
    text = f"nginx - 1\ninstance {instance} aaa.bbb 1 aaa.bbb {answers}\nstatus {instance} aaa.bbb {words}\n"
    values = {**VALUES, "sessions": {"engine": "file"}}
    if refused is None:
        assert run_main(tmp_path, values, live=read_live(text)).names(CONTAINER)
    else:
        with pytest.raises(pulumi.RunError, match=re.escape(refused)):
            run_main(tmp_path, values, live=read_live(text))


def test_the_static_files_of_a_release_that_does_not_serve_are_replaced(told: Told) -> None:
    """Killed after another release's files were shown and before the state was written; then the code goes back."""
    text = re.sub(r"^static \S+ (\S+)", "static ba9876543210 2", told.text, flags=re.MULTILINE)
    assert text != told.text
    why = "pages of this release would get the style sheets of the other one for ever"
    assert told.changes(text) == {"Command static-current"}, why


def test_an_nginx_that_says_nothing_gets_everything_again(told: Told) -> None:
    live = Live(nginx_generation=None)
    changes = told.record.changes(run_main(told.root, VALUES, live=live))
    assert changes - {"Command static-current"} == {"Command nginx-config", *SERVES}


# --- the engine, as a program called docker that says what it is told to


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Put a program `docker` on PATH, of shell; it keeps its arguments, a line a call."""

    def put(text: str) -> Path:
        calls = tmp_path / "calls"
        path = tmp_path / "bin" / "docker"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\necho "$*" >>{calls}\n{text}\n')
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}:/usr/bin:/bin")
        return calls

    return put


REFUSALS = {
    "stopped": (
        "echo 'Cannot connect to the Docker daemon at unix:///var/run/docker.sock.' >&2; exit 1",
        "the Docker engine here does not answer: start it",
    ),
    "no right": (
        "echo 'permission denied while trying to connect to the Docker daemon socket' >&2; exit 1",
        "no right to use the Docker engine here: add yourself to the group docker",
    ),
    "other": ("echo 'no such thing' >&2; exit 125", "docker: no such thing"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_an_engine_that_is_away_ends_the_program_with_one_line_that_says_what_to_do(
    name: str, docker: Callable[[str], Path], tmp_path: Path
) -> None:
    text, words = REFUSALS[name]
    docker(text)
    root = write_stack(tmp_path / "repository", VALUES)
    with contextlib.chdir(root), pytest.raises(pulumi.RunError, match=f"^{re.escape(words)}") as refused:
        record(program)
    assert len(str(refused.value).splitlines()) == 1


def test_a_missing_docker_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match=r"^the docker command is missing: apt-get install"):
        Engine().live(STACK_LABEL)


def test_an_engine_that_hangs_is_not_waited_for(docker: Callable[[str], Path]) -> None:
    docker("exec sleep 600")
    with pytest.raises(EngineError, match=r"ssh://far does not answer within 0\.1 s"):
        Engine("ssh://far").run("ps", timeout=0.1)


def test_the_program_asks_the_running_nginx_what_runs(docker: Callable[[str], Path], told: Told) -> None:
    (told.root / "live").write_text(told.text)
    calls = docker(f"case $1 in ps) echo 0123abcd;; exec) cat {told.root}/live;; esac")
    with contextlib.chdir(write_stack(told.root, VALUES)):
        assert told.record.changes(record(program)) == set()
    asked, looked = [call for call in calls.read_text().splitlines() if not call.startswith("image inspect ")]
    assert "label=django-cluster.stack=django-cluster/dev" in asked
    assert "label=django-cluster.role=nginx" in asked
    assert looked == "exec 0123abcd /usr/local/lib/cluster/live"


@pytest.mark.parametrize("preview", [True, False], ids=["preview", "up"])
@pytest.mark.parametrize(
    ("engine", "stack", "looks"), [("", STACK_LABEL, 0), ("", f"{STACK_LABEL}2", 1), ("ssh://far", STACK_LABEL, 1)]
)
def test_the_program_takes_what_the_command_sees_of_its_own_stack(  # noqa: PLR0917 - what is handed
    engine: str,
    stack: str,
    looks: int,
    preview: bool,
    docker: Callable[[str], Path],
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (told.root / "live").write_text(told.text)
    calls = docker(f"case $1 in ps) echo 0123abcd;; exec) cat {told.root}/live;; esac")
    seen = Engine().look(STACK_LABEL)
    calls.unlink()
    with looking(lambda: json.dumps({**json.loads(seen), "engine": engine, "stack": stack})) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with contextlib.chdir(write_stack(told.root, VALUES)):
            found = record(program, preview=preview)
    # A preview knows of no image and no container before they are there.
    assert preview or told.record.changes(found) == set()
    assert calls.read_text().count(" /usr/local/lib/cluster/live\n") == looks


@pytest.mark.parametrize(
    ("text", "turn"),
    [
        ("exit 0", 0),
        ('case "$*" in *--all*) echo 0123abcd;; esac', None),
        ("case $1 in ps) echo 0123abcd;; exec) echo 'is restarting' >&2; exit 1;; esac", None),
    ],
    ids=["no nginx", "stopped", "restarting"],
)
def test_without_an_answer_of_nginx_s_only_a_stack_that_was_never_there_begins_at_the_first_turn(
    text: str, turn: int | None, docker: Callable[[str], Path]
) -> None:
    docker(text)
    assert Engine().live(STACK_LABEL) == Live(nginx_generation=turn)
    assert Engine().handed(Engine().look(STACK_LABEL), STACK_LABEL) == Live(nginx_generation=turn)


@pytest.mark.parametrize(("text", "found"), [("echo sha256:a; echo sha256:b", "sha256:a"), ("exit 0", None)])
def test_an_image_is_known_by_its_name_and_tag(text: str, found: str | None, docker: Callable[[str], Path]) -> None:
    calls = docker(text)
    assert Engine().image("django-cluster/dev/nginx:0") == found
    assert calls.read_text() == "images --quiet --no-trunc django-cluster/dev/nginx:0\n"


def test_the_images_of_a_stack_are_asked_for_at_once(docker: Callable[[str], Path]) -> None:
    named = "echo django-cluster/dev/nginx:0 sha256:a; echo django-cluster/dev/app:1 sha256:b"
    calls = docker(named)
    assert Engine().images_of("dev") == {
        "django-cluster/dev/nginx:0": "sha256:a",
        "django-cluster/dev/app:1": "sha256:b",
    }
    assert len(calls.read_text().splitlines()) == 1
    assert "reference=django-cluster/dev/*" in calls.read_text()
    docker("exit 0")
    assert Engine().images_of("dev") == {}


def test_an_engine_elsewhere_is_asked_there_and_its_commands_go_there_too(
    docker: Callable[[str], Path], tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts"
    docker(f'echo "$DOCKER_HOST" >>{hosts}')
    root = write_stack(tmp_path / "repository", VALUES)
    with contextlib.chdir(root):
        found = record(program, config={"docker:host": "ssh://deploy@10.0.0.5"})
    assert set(hosts.read_text().split()) == {"ssh://deploy@10.0.0.5"}
    elsewhere = {one.environment.get("DOCKER_HOST") for one in found.of(COMMAND)}
    assert elsewhere == {"ssh://deploy@10.0.0.5"}, "a command would reach another engine than the containers are on"


def test_an_engine_of_one_s_own_is_left_to_the_docker_command_to_find(told: Told) -> None:
    assert not any("DOCKER_HOST" in one.environment for one in told.record.of(COMMAND))


# --- what a killed run left


@pytest.fixture
def before_create(docker: Callable[[str], Path], tmp_path: Path) -> Callable[[str, str], list[str]]:
    """Runs what is done before a container of the role `r` is made, where `docker ps` and `inspect` say so.

    Returns what was stopped and removed.
    """

    def run(text: str, volume: str) -> list[str]:
        calls = docker(text)
        hooks: dict[str, Callable[[pulumi.ResourceHookArgs], object]] = {}
        target = Target(stack=STACK_LABEL, work=tmp_path, engine=Engine())
        family = Family(target=target, component="nginx", child=pulumi.ResourceOptions(), former=False)
        with patch.object(pulumi, "ResourceHook", hooks.__setitem__):
            family._lone("nginx-alone", SPEC)
        (remove_others,) = hooks.values()
        assert list(hooks) == ["nginx-alone"]
        inputs = {"volumes": [{"volumeName": volume, "containerPath": "/v"}]}
        remove_others(pulumi.ResourceHookArgs(urn="urn", id="", name="nginx", type=CONTAINER, new_inputs=inputs))
        asked, *others = calls.read_text().splitlines()
        assert "--all" in asked.split(), "one that was stopped may be started again"
        assert f"label=django-cluster.stack={STACK_LABEL} " in asked
        assert "label=django-cluster.role=r" in asked
        return [call for call in others if not call.startswith("inspect ")]

    return run


def inspected(*volumes: str) -> str:
    """Return what `docker inspect` prints of one container that mounts these volumes."""
    mounts = [{"Type": "volume", "Name": volume} for volume in volumes]
    return json.dumps([{"Id": "0123abcd", "Name": "/nginx-0000000", "Mounts": [*mounts, {"Type": "tmpfs"}]}])


def test_what_a_killed_run_left_is_stopped_within_its_grace_and_removed_before_the_next_one_is_made(
    before_create: Callable[[str, str], list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    text = f"case $1 in ps) echo 0123abcd;; inspect) echo '{inspected('other', 'v-a1b2c3d')}';; esac"
    done = before_create(text, "v-a1b2c3d")
    assert done == [f"stop --time {SPEC.grace} 0123abcd", "rm --force 0123abcd"]
    assert "removing nginx-0000000: a killed run left it" in capfd.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["exit 0", f"case $1 in ps) echo 0123abcd;; inspect) echo '{inspected('v-0000000')}';; esac"],
    ids=["nothing", "another checkout's"],
)
def test_where_nothing_of_this_stack_was_left_nothing_is_removed(
    text: str, before_create: Callable[[str, str], list[str]]
) -> None:
    assert before_create(text, "v-a1b2c3d") == []


def test_what_can_t_be_removed_fails_the_one_that_would_stand_beside_it(
    before_create: Callable[[str, str], list[str]],
) -> None:
    text = f"case $1 in ps) echo 0123abcd;; inspect) echo '{inspected('v-a1b2c3d')}';; stop) echo no >&2; exit 1;; esac"
    with pytest.raises(EngineError, match="docker: no"):
        before_create(text, "v-a1b2c3d")


# --- the same topology as on this machine


STACKS: dict[str, dict[str, Any]] = {
    "dev": stack_values(),
    "instance ports": VALUES,
    "weights and backups": stack_values(
        upstream={
            "servers": [
                {"name": "a", "weight": 5, "max_fails": 3, "fail_timeout": "20s", "max_conns": 9},
                {"name": "b", "down": True},
                {"name": "c", "backup": True},
            ]
        }
    ),
    "hash, cookies": stack_values(upstream={"method": "hash", "servers": 3}, sessions={"engine": "signed_cookies"}),
    "ip_hash, sqlite, files": stack_values(
        upstream={"method": "ip_hash", "servers": 2}, sessions={"engine": "file"}, database={"engine": "sqlite"}
    ),
    "least_conn, one, cache": stack_values(
        upstream={"method": "least_conn", "servers": 1}, sessions={"engine": "cache"}, site={"access_log": False}
    ),
    "random, db, no static files": stack_values(
        upstream={"method": "random", "servers": 5}, sessions={"engine": "db"}, site={"static_url": None}
    ),
    "all that a site may have": stack_values(
        site={
            "redirects": {"www.example.org": "cluster", "/old/": "/new/"},
            "headers": {"X-Frame-Options": "DENY"},
            "robots": "none",
            "limit": "10r/s",
            "locations": [{"path": "/upload/", "client_max_body_size": "1g", "limit": "1r/s"}],
            "snippets": {"http": "# file nginx.conf\ngzip_comp_level 2;\n", "server": "gzip off;"},
        }
    ),
    "a newer nginx, asgi": stack_values(
        images={"nginx": "nginx:1.30"},
        app={"interface": "asgi", "environment": {"MODE": "x"}},
        site={"server_names": ["_"], "listen": 80},
    ),
}


@pytest.fixture(scope="module", params=STACKS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    values = STACKS[request.param]
    return Both(values, run_main(tmp_path_factory.mktemp("repository"), values), tmp_path_factory.mktemp("local"))


@dataclasses.dataclass(frozen=True)
class Both:
    """One stack on Docker, as its program registered it, and on this machine."""

    values: dict[str, Any]
    docker: Record
    directory: Path

    @property
    def local(self) -> Topology:
        return build_topology(parse_config({**self.values, "platform": "local"}))

    @property
    def paths(self) -> LocalPaths:
        return LocalPaths(self.directory, "local")


def delivered(text: str, directory: Path) -> set[str]:
    """Put a delivery's files and links below a directory, as nginx/deliver reads it; return their paths."""
    found: dict[str, list[str]] = {}
    links: dict[str, str] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("# file "):
            lines = found.setdefault(line.removeprefix("# file "), [])
        elif line.startswith("# link "):
            path, target = line.removeprefix("# link ").split(" ")
            links[path] = target
        else:
            assert line.startswith(" "), "nginx/deliver takes no other line"
            lines.append(line[1:])
    put({path: "\n".join([*texts, ""]) for path, texts in found.items()}, links, directory)
    return {*found, *links}


def put(files: dict[str, str], links: dict[str, str], directory: Path) -> None:
    for path in (*files, *links):
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        (directory / path).write_text(text)
    for path, target in links.items():
        (directory / path).symlink_to(target)


def tree(directory: Path, paths: NginxPaths, digest: str) -> list[str]:
    """Return a configuration as nginx reads it, a line a directive; a path is named by what it is for."""
    parsed = crossplane.parse(str(directory / "nginx.conf"), combine=True, check_ctx=False, check_args=False)
    assert parsed["status"] == "ok", parsed["errors"]
    given = {f.name: getattr(paths, f.name) for f in dataclasses.fields(paths) if f.name not in NO_PATHS}
    named = {path: name for name, path in given.items() if path is not None}
    sockets = {
        str(endpoint).removesuffix(f"/{name}/http.sock"): "sockets" for name, endpoint in paths.instances.items()
    }
    assert len(sockets) == 1
    words = {**named, **sockets, digest: "digest"}
    return [line for line in flat(parsed["config"][0]["parsed"], words, "") if not line.startswith("user ")]


#: Fields of NginxPaths that are no paths.
NO_PATHS = ("user", "listen_address", "instance_address", "instances")


def flat(block: list[dict[str, Any]], words: dict[str, str], inside: str) -> Iterator[str]:
    for directive in block:
        args = list(directive["args"])
        if directive["directive"] == "listen":
            args[0] = args[0].removeprefix("127.0.0.1:")
        line = " ".join([directive["directive"], *args])
        for path in sorted(words, key=len, reverse=True):
            line = line.replace(path, f"<{words[path]}>")
        yield f"{inside}{line}"
        yield from flat(directive.get("block", []), words, f"{inside}{line} > ")


def test_nginx_s_configuration_is_that_of_this_machine_paths_aside(both: Both, tmp_path: Path) -> None:
    text = both.docker.named("nginx-config").inputs["stdin"]
    files = delivered(text, tmp_path / "docker")
    paths = both.paths.nginx_paths(both.local, "nobody")
    version = version_in_image(base_image(parse_config(both.values), "nginx"))
    here = render_nginx(both.local, paths, version)
    put(here.files, here.links, tmp_path / "local")
    assert files == {*here.files, *here.links}

    digest = both.docker.named("nginx-config").environment["DIGEST"]
    there_tree = tree(tmp_path / "docker", nginx_paths(both.local), digest)
    here_tree = tree(tmp_path / "local", paths, here.digest)
    assert there_tree == here_tree, "the same stack file would be another site on Docker"

    servers = [line for line in here_tree if re.match(r"http > upstream cluster > server unix:<sockets>/", line)]
    assert len(servers) == len(both.local.names), "the trees were not those of a site"
    assert any(line.endswith("return 200 <digest>") for line in here_tree)
    assert not any(str(both.directory) in line for line in here_tree), "a path is compared as it is"


def test_the_digest_that_nginx_will_tell_is_in_what_is_delivered(both: Both) -> None:
    command = both.docker.named("nginx-config")
    digest = command.environment["DIGEST"]
    assert command.inputs["stdin"].count(digest) == 1
    assert digest == nginx_config(build_topology(parse_config(both.values))).digest
    assert command.environment["POLITE"] == ("no" if "nginx" in both.values["images"] else "yes")


def test_an_instance_is_configured_as_on_this_machine_paths_aside(both: Both) -> None:
    release = Path(both.docker.named("app-image").inputs["build"]["context"]).name
    config = parse_config(both.values)
    topology = build_topology(config)
    there_paths = runtime_paths(topology, release)
    here_paths = both.paths.runtime_paths(both.local, release)
    there = named_paths(runtime_config(config, there_paths, release), there_paths)
    here = named_paths(runtime_config(both.local.config, here_paths, release), here_paths)
    assert there == here
    assert "/srv/" not in json.dumps(there), "a path is compared as it is"


def named_paths(config: dict[str, Any], paths: RuntimePaths) -> Any:
    """Return a configuration in which each place is named by what it is for."""
    words: dict[str, str] = {}
    for field in dataclasses.fields(paths):
        value = getattr(paths, field.name)
        found = {f" of {name}": str(one) for name, one in value.items()} if isinstance(value, dict) else {"": value}
        words |= {path: f"<{field.name}{number}>" for number, path in found.items()}

    def name(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: name(one) for key, one in value.items()}
        if isinstance(value, list):
            return [name(one) for one in value]
        return words.get(value, value) if isinstance(value, str) else value

    return name(config)


def test_the_release_s_configuration_is_in_its_image(told: Told) -> None:
    context = Path(told.record.named("app-image").inputs["build"]["context"])
    config = parse_config(VALUES)
    written = json.loads((told.root / context / "config.json").read_text())
    assert written == runtime_config(config, runtime_paths(build_topology(config), context.name), context.name)
    assert written["release"] == told.record.exports["release"]
    assert written["sessions"]["memcached"] == ["/run/sessions/memcached1.sock", "/run/sessions/memcached2.sock"]


# --- the build context of a release


def specified(root: Path, values: dict[str, Any] | None = None) -> tuple[Topology, ReleaseSpec]:
    config = parse_config(VALUES if values is None else values)
    return build_topology(config), specify(config, root, SECRETS, "image", "platform")


#: Where the project lies in a context.
PROJECT = "tree/above/site"


def repository(root: Path, **files: str) -> Path:
    """Make a repository with a small project in site/; `files` are more files, by their paths from the repository."""
    texts = {"site/manage.py": "print()\n", "site/requirements.txt": "django\n", "site/pkg/__init__.py": "", **files}
    for path, text in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def site_values(requirements: str | None = None) -> dict[str, Any]:
    return {**VALUES, "app": {"project": "./site", "settings": "pkg.settings", "requirements": requirements}}


def listing(directory: Path) -> dict[str, tuple[str, bytes]]:
    """Return all that is in a directory: the mode and content of each entry."""
    found = {}
    for path in sorted(directory.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(directory))] = ("link", os.fsencode(path.readlink()))
        else:
            mode = stat.filemode(path.stat().st_mode)
            found[str(path.relative_to(directory))] = (mode, path.read_bytes() if path.is_file() else b"")
    return found


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    former = os.umask(mask)
    try:
        yield
    finally:
        os.umask(former)


IGNORED = (
    *("site/.git/config", "site/db.sqlite3", "site/db.sqlite3-wal", "site/pkg/__pycache__/a.pyc", "site/.venv/x.py"),
    *("site/node_modules/x.js", "site/.cluster/local/secrets/secret_key"),
)


def test_a_context_holds_the_project_the_runtime_and_nothing_that_is_ignored(tmp_path: Path) -> None:
    root = repository(tmp_path / "repository", **dict.fromkeys(IGNORED, "x"), **{"site/pkg/code.py": "y = 1\n"})
    write_context(tmp_path / "images" / "context", *specified(root, site_values()))
    assert (tmp_path / "images").stat().st_mode & 0o777 == 0o700  # passwords of private indexes may be in it
    held = listing(tmp_path / "images" / "context")
    tree = {path for path, (mode, _) in held.items() if path.startswith("tree/") and mode[0] == "-"}
    named = {"manage.py", "requirements.txt", "pkg/__init__.py", "pkg/code.py"}
    assert tree == {f"{PROJECT}/{path}" for path in named}
    assert json.loads(held["left-out.json"][1]) == [".venv", "db.sqlite3", "db.sqlite3-wal", "node_modules"]
    assert {"Dockerfile", "install-packages", "install-python", "config.json"} <= held.keys()
    assert "runtime/cluster_runtime/instance.py" in held


def test_no_file_that_the_program_writes_holds_a_secret(told: Told) -> None:
    held = listing(told.root / ".cluster")
    assert any(path.endswith("example/manage.py") for path in held), "nothing was looked at"
    found = {path for path, (_, data) in held.items() if any(word.encode() in data for word in CANARIES)}
    assert found == set(), "whoever has the image has the secret"


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o077], ids=oct)
def test_the_same_code_makes_the_same_context_wherever_and_however_it_was_cloned(mask: int, tmp_path: Path) -> None:
    write_context(tmp_path / "first", *specified(repository(tmp_path / "a"), site_values()))
    with umask(mask):
        root = repository(tmp_path / "elsewhere" / "b")
        (root / "site" / "requirements.txt").touch()
        os.utime(root / "site" / "manage.py", (1, 1))
        write_context(tmp_path / "second", *specified(root, site_values()))
    first, second = listing(tmp_path / "first"), listing(tmp_path / "second")
    assert first.keys() == second.keys()
    different = {path: (first[path][0], second[path][0]) for path in first if first[path] != second[path]}
    assert different == {}, "another image of the same release; with 0700 the instances can't read it at all"


def test_a_context_has_three_modes_and_no_other(tmp_path: Path) -> None:
    root = repository(tmp_path / "repository")
    (root / "site" / "manage.py").chmod(0o700)
    (root / "site" / "requirements.txt").chmod(0o600)
    (root / "site" / "pkg" / "link.py").symlink_to("__init__.py")
    write_context(tmp_path / "context", *specified(root, site_values()))
    held = listing(tmp_path / "context")
    assert held[f"{PROJECT}/manage.py"][0] == "-rwxr-xr-x"
    assert held[f"{PROJECT}/requirements.txt"][0] == "-rw-r--r--"
    assert held[f"{PROJECT}/pkg/link.py"] == ("link", b"__init__.py")
    assert {mode for mode, _ in held.values()} == {"-rwxr-xr-x", "-rw-r--r--", "drwxr-xr-x", "link"}


def test_a_context_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    made = specified(repository(tmp_path / "repository"), site_values())
    context = tmp_path / "work" / "context"
    full = OSError(28, "No space left on device")
    with (
        patch.object(images, "_write_requirements", side_effect=full),
        pytest.raises(OSError, match="No space left"),
    ):
        write_context(context, *made)
    assert not context.exists(), "the next run would build half a release"
    assert any(context.parent.iterdir()), "the failure came too early to tell anything"
    write_context(context, *made)
    assert {path.name for path in context.parent.iterdir()} == {"context"}, "what a failed run left is still there"
    assert (context / "config.json").is_file()


def test_a_context_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    root = repository(tmp_path / "repository")
    made = specified(root, site_values())
    write_context(tmp_path / "context", *made)
    (root / "site" / "manage.py").write_text("edited since\n")
    write_context(tmp_path / "context", *made)
    assert (tmp_path / "context" / PROJECT / "manage.py").read_text() == "print()\n"


def test_a_full_disk_ends_the_program_with_one_line(tmp_path: Path) -> None:
    full = OSError(28, "No space left on device", "/srv/full")
    with (
        patch("platforms.docker.family.write_context", side_effect=full),
        pytest.raises(pulumi.RunError, match=r"^/srv/full: No space left on device; free some room$"),
    ):
        run_main(tmp_path, VALUES)


DYNAMIC = '[project]\nname = "site"\nversion = "1"\ndynamic = ["dependencies"]\n'

#: Files of a repository, the stack file's `requirements`, the file to install from, and all that is held beside it.
REQUIREMENTS: dict[str, tuple[dict[str, str], str | None, str, set[str]]] = {
    "one file": ({}, None, "requirements.txt", {"requirements.txt"}),
    "an include above": (
        {
            "site/requirements.txt": "-r ../other.txt\n",
            "other.txt": "-c limits/all.txt\ndjango\n",
            "limits/all.txt": "",
        },
        None,
        "site/requirements.txt",
        {"site/requirements.txt", "other.txt", "limits/all.txt"},
    ),
    "an include written long": (
        {"site/requirements.txt": "--requirement=more.txt\n", "site/more.txt": "django\n"},
        None,
        "requirements.txt",
        {"requirements.txt", "more.txt"},
    ),
    "pyproject.toml": (
        {"site/pyproject.toml": '[project]\nname = "site"\nversion = "1"\ndependencies = ["django"]\n'},
        "pyproject.toml",
        "pyproject.toml",
        {"pyproject.toml"},
    ),
    "pyproject.toml with dynamic dependencies": (
        {"site/pyproject.toml": DYNAMIC, "site/setup.py": "x\n", "site/db.sqlite3": "x"},
        "pyproject.toml",
        "pyproject.toml",
        {"pyproject.toml", "setup.py", "manage.py", "requirements.txt", "pkg/__init__.py"},
    ),
}


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_a_context_holds_all_that_packages_are_installed_from_and_no_more(name: str, tmp_path: Path) -> None:
    files, requirements, main, held = REQUIREMENTS[name]
    root = repository(tmp_path / "repository", **files)
    write_context(tmp_path / "context", *specified(root, site_values(requirements)))
    directory = tmp_path / "context" / "requirements"
    assert (directory / "main").read_text() == f"{main}\n"
    tree_held = {path for path, (mode, _) in listing(directory / "tree").items() if mode[0] == "-"}
    assert tree_held == {*held, str(Path(main).parent / UV_CONFIG)}, (
        "more: a change of code would install all packages again"
    )
    assert (directory / "tree" / main).read_bytes() == (
        root / "site" / (requirements or "requirements.txt")
    ).read_bytes()


def test_of_poetry_s_lock_its_export_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    def exported(_kind: str, words: list[str], directory: Path, **_options: Any) -> subprocess.CompletedProcess[str]:
        told.append(words)
        text = f"django==5.2.1\nlib @ file://{directory.parent}/lib\nwheel @ file://{directory}/wheel.whl\n"
        return subprocess.CompletedProcess(words, 0, "" if words == ["check", "--lock"] else text, "")

    monkeypatch.setattr("cluster.packages._run_exporter", exported)
    files = {"site/pyproject.toml": '[tool.poetry]\nname = "site"\n', "site/poetry.lock": ""}
    root = repository(tmp_path / "repository", **files)
    write_context(tmp_path / "context", *specified(root, site_values("pyproject.toml")))
    directory = tmp_path / "context" / "requirements"
    main = directory / "tree" / (directory / "main").read_text().strip()
    wheel = "wheel @ file:///requirements/tree/wheel.whl"
    assert wheel in main.read_text().splitlines(), "a path of this machine's would not be found in the image"
    assert (directory / "how").read_text() == "exact\n"
    assert told == [["check", "--lock"], ["export", "--format", "requirements.txt"]]


def test_of_uv_s_lock_what_uv_exports_it_from_is_held(tmp_path: Path) -> None:
    project = '[project]\nname = "site"\nversion = "1"\ndependencies = ["django"]\n'
    root = repository(tmp_path / "repository", **{"site/pyproject.toml": project, "site/uv.lock": "version = 1\n"})
    write_context(tmp_path / "context", *specified(root, site_values("pyproject.toml")))
    directory = tmp_path / "context" / "requirements"
    assert (directory / "how").read_text() == "locked\n"
    assert {path.name for path in (directory / "tree").iterdir()} == {"uv.lock", "pyproject.toml", UV_CONFIG}


def test_local_packages_are_installed_from_what_the_image_holds(tmp_path: Path) -> None:
    files = {
        "site/requirements.txt": "-e .\n-e ../lib\ndjango\n",
        **{f"{name}/pyproject.toml": f'[project]\nname = "{name}"\nversion = "1"\n' for name in ("site", "lib")},
        "lib/lib.py": "x\n",
    }
    root = repository(tmp_path / "repository", **files)
    context = tmp_path / "context"
    write_context(context, *specified(root, site_values("requirements.txt")))
    assert (context / "local" / "list").read_text() == "-e /srv/tree/above/site\n-e /srv/sources/lib\n"
    assert {path.name for path in (context / "sources" / "lib").iterdir()} == {"pyproject.toml", "lib.py"}
    held = {path.name for path in (context / "requirements" / "tree" / "lib").iterdir()}
    assert held == {"pyproject.toml"}, "a change of its code would install all packages again"
    assert (context / "requirements" / "how").read_text() == "compile\n"


def test_an_image_is_built_with_the_certificates_that_the_caller_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "company.pem").write_text("a company's\n")
    for name, expected in (("company.pem", "a company's\n"), ("none.pem", "")):
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / name))
        context = tmp_path / f"context-{name}"
        write_context(context, *specified(repository(tmp_path / name.partition(".")[0]), site_values()))
        assert (context / "certificates" / "ca.pem").read_text() == expected


def test_a_change_of_the_code_changes_nothing_that_packages_are_installed_from(tmp_path: Path) -> None:
    root = repository(tmp_path / "repository")
    write_context(tmp_path / "before", *specified(root, site_values()))
    (root / "site" / "pkg" / "new.py").write_text("x = 1\n")
    write_context(tmp_path / "after", *specified(root, site_values()))
    before, after = (listing(tmp_path / name / "requirements") for name in ("before", "after"))
    assert before == after
    assert listing(tmp_path / "before" / "tree") != listing(tmp_path / "after" / "tree")


def test_a_pyproject_that_is_not_toml_is_named_and_leaves_no_context(tmp_path: Path) -> None:
    root = repository(tmp_path / "repository", **{"site/pyproject.toml": "[project\n"})
    with pytest.raises(ReleaseError, match=r"app\.requirements: .*pyproject\.toml"):
        write_context(tmp_path / "context", *specified(root, site_values("pyproject.toml")))
    assert not (tmp_path / "context").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"gunicorn", "pymemcache", "psycopg[binary]"}),
        ({"sessions": {"engine": "db"}, "database": {"engine": "sqlite"}}, {"gunicorn"}),
        ({"sessions": {"engine": "cache"}, "database": {"engine": "sqlite"}}, {"gunicorn", "pymemcache"}),
    ],
    ids=["dev", "nothing", "memcached"],
)
def test_the_runtime_installs_what_the_stack_needs_and_no_more(
    changes: dict[str, Any], expected: set[str], tmp_path: Path
) -> None:
    root = repository(tmp_path / "repository")
    write_context(tmp_path / "context", *specified(root, {**site_values(), **changes}))
    lines = (tmp_path / "context" / "requirements" / "runtime").read_text().splitlines()
    assert {line.partition(">=")[0] for line in lines} == expected


# --- durations and fingerprints


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0s"), (1, "1s"), (59, "59s"), (60, "1m0s"), (61, "1m1s"), (120, "2m0s"), (3599, "59m59s")),
        *((3600, "1h0m0s"), (3661, "1h1m1s"), (7200, "2h0m0s"), (90000, "25h0m0s")),
    ],
)
def test_a_duration_is_written_as_go_writes_it(seconds: int, text: str) -> None:
    assert go_duration(seconds) == text, "the engine tells back another text, and every `up` shows a change"


@given(st.integers(0, 10**7))
def test_a_duration_says_how_long_it_is(seconds: int) -> None:
    found = re.fullmatch(r"(?:(?:([1-9]\d*)h)?([0-9]+)m)?([0-9]+)s", go_duration(seconds))
    assert found is not None
    hours, minutes, rest = (int(group or 0) for group in found.groups())
    assert (minutes < 60, rest < 60) == (True, True)
    assert 3600 * hours + 60 * minutes + rest == seconds


HEALTH = Health(test=("CMD", "true"), interval=2, start_period=30)
SPEC = Spec(role="r", user=10001, command=("run",), memory=64 * 1024**2, processes=8, grace=10, health=HEALTH)

#: Another value for each field of a container's spec, and of its health check.
OTHER_SPEC: dict[str, Any] = {
    "role": "s",
    "user": 10002,
    "command": ("walk",),
    "memory": 65 * 1024**2,
    "processes": 9,
    "grace": 11,
    "health": None,
    "stop_signal": "SIGQUIT",
    "start_seconds": 61,
    "shared_memory": 65,
    "ports": (Ports(port=80),),
    "labels": {"a": "b"},
    "alias": "nginx",
    "known_by": Health(test=("CMD", "true"), interval=3, start_period=30),
}
OTHER_HEALTH: dict[str, Any] = {"test": ("CMD", "false"), "interval": 3, "start_period": 31, "retries": 4, "timeout": 6}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Spec)])
def test_a_fingerprint_tells_every_field_of_a_container(field: str) -> None:
    assert dataclasses.replace(SPEC, **{field: OTHER_SPEC[field]}).fingerprint() != SPEC.fingerprint()


def test_a_fingerprint_tells_a_port_by_udp_and_of_one_by_tcp_what_it_always_told() -> None:
    tcp, udp = (dataclasses.replace(SPEC, ports=(Ports(port=80, protocol=by),)) for by in ("tcp", "udp"))
    assert tcp.fingerprint() == "b5344b5f2755", "nginx of every stack would be replaced"
    assert udp.fingerprint() != tcp.fingerprint()


def test_no_daemon_that_is_there_is_made_again_for_another_look_at_its_health(told: Told) -> None:
    """A database would be away for a moment; what is made anew has the look that waits."""
    topology = build_topology(parse_config(VALUES))
    daemons = {service.name: daemon_spec(service) for service in topology.services if service.kind is Kind.DATABASE}
    assert {name: spec.fingerprint() for name, spec in daemons.items()} == {"postgres": "93c266723dcf"}
    found = told.record.named("postgres", CONTAINER)
    assert found.labels["django-cluster.spec"] == "93c266723dcf"
    assert found.inputs["healthcheck"]["interval"] == "1s"
    assert f"sleep {WATCH_SECONDS}; pg_isready -q " in found.inputs["healthcheck"]["tests"][1]
    for spec in (SPEC, dataclasses.replace(SPEC, known_by=HEALTH)):
        assert ("healthcheck" in ignored(spec)) == (spec.known_by is not None)


def test_a_look_that_waits_is_well_at_once_and_then_only_while_that_is_so(tmp_path: Path) -> None:
    ready, program = tmp_path / "ready", tmp_path / "sleep"
    program.write_text(f"#!/bin/sh\necho $1 >>{tmp_path}/slept\n[ $1 != 0.25 ] || touch {ready}\n")
    program.chmod(0o755)
    look = watching(f"test -e {ready}", 30, told="echo said; ").test[1].replace("/tmp/healthy", f"{tmp_path}/healthy")

    def looked() -> tuple[int, str]:
        path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        done = subprocess.run(["/bin/sh", "-c", look], env=path, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    assert looked() == (0, "said\n"), "it waits for the first time"
    assert looked() == (0, "said\n")
    ready.unlink()
    assert looked() == (1, "said\n")
    assert (tmp_path / "slept").read_text().split() == ["0.25", str(WATCH_SECONDS), str(WATCH_SECONDS)]


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Health)])
def test_a_fingerprint_tells_every_field_of_a_health_check(field: str) -> None:
    other = dataclasses.replace(SPEC, health=dataclasses.replace(HEALTH, **{field: OTHER_HEALTH[field]}))
    assert other.fingerprint() != SPEC.fingerprint(), "the provider alone does not see it"


def test_a_fingerprint_is_the_same_for_the_same_container_whatever_the_order_of_its_labels() -> None:
    one, other = ({"a": "1", "b": "2"}, {"b": "2", "a": "1"})
    specs = [dataclasses.replace(SPEC, labels=labels) for labels in (one, other)]
    assert specs[0].fingerprint() == specs[1].fingerprint()
    assert re.fullmatch(r"[0-9a-f]{12}", SPEC.fingerprint())


def test_a_container_carries_its_fingerprint_and_its_health_check(tmp_path: Path) -> None:
    other = dataclasses.replace(SPEC, health=dataclasses.replace(HEALTH, start_period=90))

    def both_specs() -> None:
        mounts = [Mount(volume="v", path="/v")]
        for name, spec in {"one": SPEC, "other": other}.items():
            opts = pulumi.ResourceOptions()
            make_container(name, spec, stack="s", image="i", mounts=mounts, network=None, opts=opts)

    found = record(both_specs)
    one, changed = found.named("one", CONTAINER), found.named("other", CONTAINER)
    assert (one.labels["django-cluster.spec"], changed.labels["django-cluster.spec"]) == (
        SPEC.fingerprint(),
        other.fingerprint(),
    )
    assert (one.inputs["healthcheck"]["startPeriod"], changed.inputs["healthcheck"]["startPeriod"]) == ("30s", "1m30s")


def test_how_containers_are_made_is_part_of_the_release_and_weights_are_not() -> None:
    def digest(**changes: Any) -> str:
        return container_digest(build_topology(parse_config({**VALUES, **changes})))

    servers = [{"name": name, "weight": 9, "backup": name == "app2"} for name in NAMES]
    assert digest() == digest(upstream={"servers": servers})
    assert digest() != digest(app={**VALUES["app"], "graceful_timeout": "31s"})
    spec = instance_spec(build_topology(parse_config(VALUES)), "r", "app3")
    assert spec.labels == {"django-cluster.instance": "app3", "django-cluster.release": "r"}


def test_the_layer_of_packages_does_not_see_the_code() -> None:
    dockerfile = (images.FILES / "app" / "Dockerfile").read_text()
    packages, _from, rest = dockerfile.partition("\nFROM packages AS local\n")
    local, _from, final = rest.partition("\nFROM ${BASE}\n")
    words = re.findall(r"^COPY (.+) /\S+$", packages, re.MULTILINE)
    assert words == [
        *("trusting install-python", "certificates", "install-packages find-python with-compiler", "requirements")
    ]
    assert re.findall(r"^COPY (\S+)", local, re.MULTILINE) == ["tree", "sources", "install-local", "local"]
    order = re.findall(r"^COPY (?:--\S+ )?(\S+)", final, re.MULTILINE)
    assert order == [
        *("install-python", "/opt/python", "/opt/environment", "runtime", "/srv/packages", "/srv/sources"),
        *("/srv/tree", "left-out.json", "config.json"),
    ]


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("nginx:1.30", (1, 30, 0)),
        ("docker.io/library/nginx:1.27.4-bookworm", (1, 27, 4)),
        ("debian:trixie-slim", (1, 26, 3)),
        ("debian:bookworm", (1, 22, 1)),
        ("registry.example:5000/team/base:7", (1, 22, 0)),
        ("nginx:latest", (1, 22, 0)),
    ],
)
def test_what_nginx_can_do_is_read_from_the_name_of_its_image(image: str, version: tuple[int, int, int]) -> None:
    assert version_in_image(image) == version


@pytest.mark.parametrize(("former", "later", "same"), [(4, 5, True), (4, 16, True), (16, 17, False), (1, 2, True)])
def test_one_instance_more_makes_no_other_anew_but_where_the_limit_of_all_is_doubled(
    former: int, later: int, same: bool
) -> None:
    fingerprints = [
        instance_spec(
            build_topology(
                parse_config(
                    {
                        "platform": "docker",
                        "app": {"project": "./example", "settings": "example.settings"},
                        "upstream": {"servers": count},
                        "site": {"server_names": ["cluster"]},
                    }
                )
            ),
            "r",
            "app1",
        ).fingerprint()
        for count in (former, later)
    ]
    assert (fingerprints[0] == fingerprints[1]) is same
