"""What `cluster up` does around Pulumi on platform docker: what a failure leaves, what it says, what is remembered."""

from __future__ import annotations

import json
import subprocess
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest
import yaml

from cli import commands
from cluster.config import parse_config
from cluster.console import Terminal
from cluster.errors import CommandError
from cluster.lint import Facts
from cluster.stack.history import Busy, History
from cluster.stack.opened import Stack
from platforms.base import Invocation
from platforms.docker import platform as cli
from platforms.docker.engine import Engine
from platforms.docker.failures import explain
from platforms.docker.proof import Proof
from platforms.docker.repair import lost, remove_orphans, stop_what_never_served
from platforms.docker.stack import DockerStack, paths
from platforms.pulumi.engine import Changes, PolicyError, Pulumi, PulumiError
from platforms.pulumi.looking import LOOKING_VARIABLE
from tests.unit.pulumi_mocks import PROJECT, SECRETS, stack_values, write_stack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LABEL = f"{PROJECT}/dev"
OURS, THEIRS = "sockets-a1b2c3d", "sockets-0000000"

#: Identities of containers: what serves, what a failed release started, and nginx.
OLD, NEW, NGINX = ("a" * 64, "b" * 64, "e" * 64)
FORMER, FAILED = "111111111111", "222222222222"


def container(
    identity: str,
    role: str = "instance",
    *,
    name: str = "app1",
    release: str = "",
    created: int = 0,
    volume: str = OURS,
    running: bool = True,
) -> dict[str, Any]:
    """Return what `docker inspect` says of a container; `created`: minutes."""
    labels = {"django-cluster.stack": LABEL, "django-cluster.role": role}
    if release:
        labels |= {"django-cluster.instance": name, "django-cluster.release": release}
    return {
        "Id": identity,
        "Name": f"/{name if release else role}-{identity[:7]}",
        "Created": f"2026-01-01T10:{created:02}:00.123456789Z",
        "Config": {"Labels": labels},
        "State": {"Running": running, "Status": "running" if running else "exited"},
        "Mounts": [{"Type": "volume", "Name": volume}, {"Type": "bind"}],
    }


NGINX_CONTAINER = container(NGINX, "nginx")


@dataclass(frozen=True)
class Told(Engine):
    """An engine that has these containers, and an nginx that says `live`. calls: what it was told to change."""

    found: list[dict[str, Any]] = field(default_factory=list)
    live_text: str | None = None
    log: str = ""
    calls: list[tuple[str, ...]] = field(default_factory=list)
    refused: tuple[str, ...] = ()

    def _run(self, arguments: tuple[str, ...], timeout: float) -> subprocess.CompletedProcess[str]:
        verb = arguments[0]
        answers: dict[str, Callable[[tuple[str, ...]], str | None]] = {
            "ps": self._listed,
            "inspect": self._inspected,
            "exec": self._answered,
            "logs": lambda _: self.log,
        }
        answer = answers.get(verb)
        if answer is None and verb not in ("version", "images"):
            self.calls.append(arguments)
        text = answer(arguments) if answer else ""
        failed = text is None or verb in self.refused
        return subprocess.CompletedProcess(arguments, int(failed), "" if failed else text, "no" if failed else "")

    def _listed(self, arguments: tuple[str, ...]) -> str:
        wanted = [word.removeprefix("label=").split("=", 1) for word in arguments if word.startswith("label=")]
        ids = [
            one["Id"]
            for one in self.found
            if all(one["Config"]["Labels"].get(key) == value for key, value in wanted)
            and ("--all" in arguments or one["State"]["Running"])
        ]
        return "\n".join(ids)

    def _inspected(self, arguments: tuple[str, ...]) -> str:
        return json.dumps([one for one in self.found if one["Id"] in arguments])

    def _answered(self, arguments: tuple[str, ...]) -> str | None:
        if arguments[2] == "cat":
            return "canary-made-password"
        return None if "/-/probe/migrations" in arguments[-1] else self.live_text


def opened(root: Path) -> Stack:
    values = stack_values(upstream={"servers": [{"name": "app1"}, {"name": "app2"}]}, site={"instance_ports": 8100})
    write_stack(root, values)
    (root / "Pulumi.yaml").write_text(yaml.safe_dump({"name": PROJECT, "runtime": "python"}))
    return Stack(root, "dev", parse_config(values))


def on(root: Path, engine: Told) -> DockerStack:
    docker = DockerStack(opened(root))
    docker.engine = engine
    return docker


def live_of(*instances: str, nginx: str = "f" * 64) -> str:
    return "\n".join([f"nginx {nginx} 3", *(f"instance {line}" for line in instances), ""])


SERVED = live_of(
    f"app1 {FORMER}.{OLD[:12]} 1 {FORMER}.{OLD[:12]} yes", f"app2 {FORMER}.{'c' * 12} 1 {FORMER}.{'c' * 12} yes"
)


# --- what a failed release has started


STARTED = [
    NGINX_CONTAINER,
    container(NEW, release=FAILED, created=5),
    container(OLD, release=FORMER, created=1),
]


def test_what_a_failed_release_has_started_is_stopped_and_what_serves_is_not(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    engine = Told(found=STARTED, live_text=SERVED)
    stop_what_never_served(on(tmp_path, engine), said.append)
    assert engine.calls == [("stop", "--time", "60", NEW)], "it is not removed: Pulumi's state knows it"
    assert said == [f"stopping app1 of release {FAILED}, which does not serve"]


def replaced(*changed: dict[str, Any]) -> list[dict[str, Any]]:
    identities = {one["Id"] for one in changed}
    return [*changed, *(one for one in STARTED if one["Id"] not in identities)]


#: What runs after a failure, and what nginx says of it: nothing of it may be stopped.
LEFT_ALONE: dict[str, tuple[list[dict[str, Any]], str | None]] = {
    "it was given the name": (
        STARTED,
        live_of(f"app1 {FAILED}.{NEW[:12]} 2 {FAILED}.{NEW[:12]} yes"),
    ),
    "the name was never given": (STARTED, live_of("app1 - 0 - -")),
    "nothing is said of it": (STARTED, live_of()),
    "nginx does not answer": (STARTED, None),
    "nginx is gone": ([one for one in STARTED if one["Id"] != NGINX], SERVED),
    "the one that was given the name is gone": ([one for one in STARTED if one["Id"] != OLD], SERVED),
    "it has ended by itself": (replaced(container(NEW, release=FAILED, created=5, running=False)), SERVED),
    "it is another checkout's": (replaced(container(NEW, release=FAILED, created=5, volume=THEIRS)), SERVED),
    "it is older, and drains": (replaced(container(NEW, release=FAILED, created=0)), SERVED),
}


@pytest.mark.parametrize("why", LEFT_ALONE)
def test_after_a_failure_nothing_is_stopped_that_serves_may_serve_or_is_not_the_stack_s(
    why: str, tmp_path: Path
) -> None:
    said: list[str] = []
    found, text = LEFT_ALONE[why]
    engine = Told(found=found, live_text=text)
    stop_what_never_served(on(tmp_path, engine), said.append)
    assert engine.calls == []


# --- what a killed run left


def state_of(*known: str) -> list[dict[str, Any]]:
    """Return the resources of a state: the volume, and these containers."""
    urn = "urn:pulumi:dev::django-cluster::cluster:index:AppHosts$docker:index"
    return [
        {"urn": f"{urn}/volume:Volume::sockets", "type": "docker:index/volume:Volume", "id": OURS},
        *({"urn": f"{urn}/container:Container::c{one[:3]}", "type": "c", "id": one} for one in known),
        {
            "urn": "urn:pulumi:dev::p::pulumi:pulumi:Stack::s",
            "type": "pulumi:pulumi:Stack",
            "outputs": {"release": "r"},
        },
    ]


def test_containers_that_no_state_knows_are_stopped_and_removed_with_tasks_that_have_ended(tmp_path: Path) -> None:
    said: list[str] = []
    orphan, task = "1" * 64, "2" * 64
    engine = Told(
        found=[
            container(OLD, release=FORMER),
            container(orphan, release=FAILED, running=False),
            container(task, "task", running=False),
            container("3" * 64, "task"),
            container("4" * 64, release=FAILED, volume=THEIRS),
        ]
    )
    names = remove_orphans(on(tmp_path, engine), state_of(OLD), said.append)
    assert names == [f"app1-{orphan[:7]}", f"task-{task[:7]}"]
    gone = [((*("stop", "--time", "60"), one), ("rm", "--force", one)) for one in (orphan, task)]
    assert engine.calls == [call for calls in gone for call in calls], "what runs may still have to end its requests"


# --- what is said of a failure


class Secrets:
    """Of Pulumi what an explanation asks for."""

    def secrets(self) -> dict[str, str]:
        return SECRETS


def explained(docker: DockerStack, error: PulumiError) -> str:
    return explain(docker, error, cast("Pulumi", Secrets()))


@pytest.mark.parametrize(
    ("found", "text", "serves"),
    [
        (STARTED, SERVED, True),
        (STARTED, live_of("app1 - 0 - -"), False),
        (STARTED, SERVED.replace(f"nginx {'f' * 64}", "nginx -"), False),
        (STARTED, None, False),
        ([], SERVED, False),
    ],
    ids=["it serves", "no name leads anywhere", "nginx serves nothing", "nginx does not answer", "nothing is there"],
)
def test_that_what_served_still_serves_is_said_only_where_it_does(
    found: list[dict[str, Any]], text: str | None, serves: bool, tmp_path: Path
) -> None:
    words = explained(on(tmp_path, Told(found=found, live_text=text)), PulumiError("it failed"))
    expected = "What served still serves; the" if serves else "The"
    assert words == f"it failed\n{expected} next `cluster up` goes on from here."


def test_an_engine_that_is_away_does_not_hide_what_failed(tmp_path: Path) -> None:
    words = explained(on(tmp_path, Told(refused=("ps",))), PulumiError("it failed"))
    assert words == "it failed\nThe next `cluster up` goes on from here."


@pytest.mark.parametrize(
    ("words", "key", "port"),
    [
        ("Bind for 0.0.0.0:8090 failed: port is already allocated", "site.listen", 8090),
        ("Bind for 127.0.0.1:8101 failed: port is already allocated", "site.instance_ports", 8101),
        ("listen tcp4 127.0.0.1:8101: bind: address already in use", "site.instance_ports", 8101),
        ("listen tcp4 0.0.0.0:8090: bind: address already in use", "site.listen", 8090),
        ("address already in use", "site.listen", 8090),
        pytest.param(
            "failed to bind host port 127.0.0.1:8101/tcp: address already in use",
            "site.instance_ports",
            8101,
        ),
    ],
)
def test_a_port_in_use_is_told_by_the_key_that_asks_for_it(words: str, key: str, port: int, tmp_path: Path) -> None:
    error = PulumiError(f"nginx-ports: docker: Error response from daemon: driver failed: {words}.")
    found = explained(on(tmp_path, Told()), error).splitlines()
    assert found[0] == f"{key}: port {port} is in use by another program; choose another, or stop that one"
    assert len(found) == 2, "the engine's own words say no more"


def test_of_the_log_of_a_container_that_failed_the_secrets_are_hidden(tmp_path: Path) -> None:
    log = (
        f"SECRET_KEY={SECRETS['secret_key']} {{'TOKEN': 'canary-token'}}\n"
        "password=canary-made-password canary-fallback-0123456789-abcdefghijklmnopqrstuvwxyz-01234\n"
    )
    engine = Told(found=[*STARTED, container("9" * 64, "postgres")], live_text=SERVED, log=log)
    urn = "urn:pulumi:dev::django-cluster::cluster:index:AppHosts$docker:index/container:Container::app-app1"
    words = explained(on(tmp_path, engine), PulumiError("app1: not healthy", (urn,)))
    assert "canary" not in words
    assert words.splitlines()[1:4] == [
        "The last lines of app1's log:",
        "    SECRET_KEY=[secret_key] {'TOKEN': '[TOKEN]'}",
        "    password=[the database's password] [secret_key_fallbacks]",
    ]


@pytest.mark.parametrize(
    ("resource", "called"),
    [("app-app1", "app1"), ("shop-app-b-app1", "b-app1"), ("app1", "app1"), ("database-postgres", "postgres")],
)
def test_the_log_is_that_of_the_container_that_the_resource_is_whatever_its_component_is_called(
    resource: str, called: str, tmp_path: Path
) -> None:
    others = [container(letter * 64, name=name, release=FAILED) for letter, name in (("1", "app1"), ("2", "b-app1"))]
    engine = Told(found=[*others, container("9" * 64, "postgres")], live_text=SERVED, log="its words")
    urn = f"urn:pulumi:dev::django-cluster::cluster:index:X$docker:index/container:Container::{resource}"
    assert f"The last lines of {called}'s log:" in explained(on(tmp_path, engine), PulumiError("no", (urn,)))


def test_the_log_is_that_of_the_instance_for_which_the_others_have_waited(tmp_path: Path) -> None:
    others = [container(letter * 64, name=name, release=FAILED) for letter, name in (("1", "app1"), ("2", "app2"))]
    engine = Told(found=others, live_text=SERVED, log="its words")
    urn = "urn:pulumi:dev::django-cluster::cluster:index:AppHosts$command:local:Command::app-static-current"
    told = f"app-static-current: app2: release {FAILED} did not get healthy within 90 s"
    words = explained(on(tmp_path, engine), PulumiError(f"{told}\n{told}", (urn, f"{urn}-of-another"))).splitlines()
    assert words[:4] == [told, told, "The last lines of app2's log:", "    its words"]
    assert not [line for line in words[4:] if "app1" in line or "log:" in line]


def test_the_log_is_that_of_the_instance_that_could_not_take_its_name(tmp_path: Path) -> None:
    others = [container(letter * 64, name=name, release=FAILED) for letter, name in (("1", "app1"), ("2", "app2"))]
    engine = Told(found=others, live_text=SERVED, log="its words")
    urn = "urn:pulumi:dev::django-cluster::cluster:index:AppHosts$command:local:Command::app-app2-serve"
    words = explained(on(tmp_path, engine), PulumiError("app2: release x is starting", (urn,))).splitlines()
    assert words[1:3] == ["The last lines of app2's log:", "    its words"]


@pytest.mark.parametrize("said", ["is draining", "is not running", "does not listen"])
def test_the_log_is_that_of_the_instance_that_could_not_take_its_name_with_the_others(
    said: str, tmp_path: Path
) -> None:
    others = [container(letter * 64, name=name, release=FAILED) for letter, name in (("1", "app1"), ("2", "app2"))]
    engine = Told(found=others, live_text=SERVED, log="its words")
    urn = "urn:pulumi:dev::django-cluster::cluster:index:AppHosts$command:local:Command::app-static-current"
    told = f"app-static-current: app2: release {FAILED}.{'2' * 12} {said}"
    words = explained(on(tmp_path, engine), PulumiError(told, (urn,))).splitlines()
    assert words[1:3] == ["The last lines of app2's log:", "    its words"]


def test_containers_of_another_site_of_the_program_are_not_missed(tmp_path: Path) -> None:
    def resource(name: str, label: str) -> dict[str, Any]:
        labels = [{"label": "django-cluster.stack", "value": label}]
        urn = f"urn:pulumi:dev::p::docker:index/container:Container::{name}"
        return {"urn": urn, "id": name, "inputs": {"labels": labels}}

    resources = [resource("app-app1", LABEL), resource("shop-app-app1", f"{LABEL}/shop")]
    assert lost(on(tmp_path, Told()), resources) == ["app-app1"], "each `cluster up` would look at everything first"


def test_data_that_the_stack_file_no_longer_asks_for_are_told_with_both_ways_out(tmp_path: Path) -> None:
    said = (
        "unable to delete resource urn:x::database as it is currently marked for protection. To unprotect the resource"
    )
    found = explained(on(tmp_path, Told()), PulumiError(said)).splitlines()
    assert found[0] == said
    assert found[1].startswith("It holds data that the stack file no longer asks for.")
    assert found[1].endswith("pulumi state unprotect URN --stack dev")


def test_what_a_migration_says_of_protected_rows_is_no_reason_to_drop_data(tmp_path: Path) -> None:
    said = (
        'prepare: app.migrate: migrate failed in release abc\n    django.db.models.deletion.ProtectedError: ("Cannot '
        "delete some instances of model 'A' because they are referenced through protected foreign keys\")"
    )
    assert "unprotect" not in explained(on(tmp_path, Told()), PulumiError(said))


# --- what is remembered


@dataclass
class Run:
    """Of Pulumi what `cluster up` asks for: a run that does `outcome`, and the state before and after it."""

    outcome: Changes | PulumiError
    release: str
    asked: list[dict[str, str]] = field(default_factory=list)
    previewed: list[dict[str, str]] = field(default_factory=list)
    before: tuple[str, ...] = (OLD, NEW, NGINX)
    exports: int = 0

    def begin(self) -> None:
        """What is read while others go on is none of what is told here."""

    def end_secrets(self) -> None:
        """Nothing has begun."""

    def set_up(self) -> list[dict[str, Any]]:
        return state_of(*self.before)

    unsettled: bool = False

    def preview(self, _tell_step: object, *, refresh: bool, **environment: str) -> Changes:
        assert environment.pop(LOOKING_VARIABLE)
        self.previewed.append(environment)
        if isinstance(self.outcome, PolicyError):
            raise self.outcome
        return SOMETHING if isinstance(self.outcome, PulumiError) else self.outcome

    policed: bool | None = None
    events: tuple[dict[str, Any], ...] = ()

    def up(self, tell_step: Callable[[Any], None], *, refresh: bool, policed: bool, **environment: str) -> Changes:
        for event in self.events:
            tell_step(event)
        self.asked.append(environment)
        self.policed = policed
        if isinstance(self.outcome, PulumiError):
            raise self.outcome
        return self.outcome

    def export(self) -> list[dict[str, Any]]:
        self.exports += 1
        resources = state_of(OLD, NEW, NGINX)
        resources[-1]["outputs"]["release"] = self.release
        return resources

    def secrets(self) -> dict[str, str]:
        return SECRETS


NOTHING, SOMETHING = Changes(counts={"same": 20}), Changes(counts={"same": 15, "update": 5})


@pytest.fixture
def with_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Told, Run], Stack]:
    """Let the commands find this engine and this Pulumi; returns the stack."""

    def put(engine: Told, run: Run) -> Stack:
        monkeypatch.setattr("platforms.docker.stack.Engine", lambda _host: engine)
        monkeypatch.setattr(cli, "Pulumi", lambda _root, _name, _say, _program: run)
        monkeypatch.setattr(cli.DockerPlatform, "facts", lambda _platform: Facts(root=tmp_path, nginx=None))
        monkeypatch.setattr(commands, "judge", lambda *_judged, **_how: None)
        monkeypatch.setattr(Proof, "of", lambda _proof, _release: [])
        stack = opened(tmp_path)
        paths(stack).state.mkdir(parents=True)
        return stack

    return put


def up(stack: Stack) -> None:
    commands.up(stack, cli.platform(stack, Terminal()))


def back(stack: Stack) -> None:
    commands.rollback(stack, cli.platform(stack, Terminal()), None)


def remembered(stack: Stack) -> tuple[list[str], str | None]:
    found = History.load(paths(stack))
    return found.releases, found.current


def remember(stack: Stack, *releases: str) -> None:
    history = History()
    for release in releases:
        history.served(release)
    history.save(paths(stack))


@pytest.mark.parametrize(
    ("before", "after"),
    [((), ["new"]), (("old",), ["old", "new"]), (("new", "old"), ["old", "new"]), (("old", "new"), ["old", "new"])],
    ids=["nothing known", "another", "a former one", "the same"],
)
def test_an_up_that_changes_nothing_remembers_what_pulumi_itself_has_let_serve(
    before: tuple[str, ...],
    after: list[str],
    with_run: Callable[[Told, Run], Stack],
    capsys: pytest.CaptureFixture[str],
) -> None:
    stack = with_run(Told(found=STARTED, live_text=SERVED), Run(NOTHING, "new"))
    remember(stack, *before)
    up(stack)
    assert remembered(stack) == (after, "new")
    assert "no changes; release new serves" in capsys.readouterr().out


def step(operation: str, kind: str, name: str) -> dict[str, Any]:
    urn = f"urn:pulumi:t::p::cluster:index:NginxSite${kind}::nginx-{name}"
    parent = {"parent": "urn:pulumi:t::p::cluster:index:NginxSite::nginx"}
    return {"resourcePreEvent": {"metadata": {"op": operation, "urn": urn, "new": parent}}}


@pytest.mark.parametrize(
    ("events", "noted"),
    [
        ([step("same", "Container", "app1"), step("update", "Command", "nginx-config")], False),
        ([step("replace", "Container", "app1"), step("update", "Command", "nginx-config")], True),
        ([step("delete", "Container", "app9")], True),
    ],
    ids=["nginx alone", "a container", "one less"],
)
def test_what_serves_is_noted_again_where_more_than_nginx_was_told_something(
    events: list[dict[str, Any]],
    noted: bool,
    with_run: Callable[[Told, Run], Stack],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another checkout may have let a release serve, from which this one goes back to its own last one."""
    found: list[str] = []
    monkeypatch.setattr(cli, "remember", lambda _docker, release, **_more: found.append(release))
    stack = with_run(Told(found=STARTED, live_text=SERVED), Run(SOMETHING, "new", events=tuple(events)))
    remember(stack, "old", "new")
    up(stack)
    assert found == (["new"] if noted else [])


@pytest.mark.parametrize(
    ("before", "exports"),
    [((OLD, NEW, NGINX), 0), ((OLD, NGINX), 1)],
    ids=["all is known", "somebody else has made one meanwhile"],
)
def test_where_nothing_changes_the_state_is_read_again_only_before_something_is_removed(
    before: tuple[str, ...],
    exports: int,
    with_run: Callable[[Told, Run], Stack],
    capsys: pytest.CaptureFixture[str],
) -> None:
    nothing = Changes(counts=NOTHING.counts, outputs={"release": "new"})
    engine, run = Told(found=STARTED, live_text=SERVED), Run(nothing, "new", before=before)
    up(with_run(engine, run))
    assert (run.exports, engine.calls) == (exports, [])
    assert "no changes; release new serves" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("before", "unsettled", "updates"),
    [((OLD, NEW, NGINX), False, 0), ((OLD, NEW, NGINX), True, 1), ((OLD, NGINX), False, 1)],
    ids=["all is known", "nobody knows how an operation ended", "a container of which no state knows"],
)
def test_what_a_preview_finds_nothing_to_do_in_is_not_updated(
    before: tuple[str, ...], unsettled: bool, updates: int, with_run: Callable[[Told, Run], Stack]
) -> None:
    nothing = Changes(counts=NOTHING.counts, outputs={"release": "new"})
    run = Run(nothing, "new", before=before, unsettled=unsettled)
    up(with_run(Told(found=STARTED, live_text=SERVED), run))
    assert (len(run.previewed), len(run.asked)) == (1, updates)


@pytest.mark.parametrize("status", [0, 1])
def test_a_database_that_was_set_back_is_migrated_again_in_the_release_that_serves(
    status: int, with_run: Callable[[Told, Run], Stack], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(SOMETHING, "new")
    migrated: list[list[str]] = []
    stack = with_run(Told(found=STARTED, live_text=SERVED), run)
    monkeypatch.setattr(Told, "ask", lambda _engine, _stack, _url: {"lacking": {"audit": ["visits.0002_more"]}})

    def run_told(asked: Invocation, _say: object) -> int:
        migrated.append(list(asked.command))
        return status

    monkeypatch.setattr(cli, "run_told", run_told)
    monkeypatch.setattr(
        cli.DockerPlatform, "program", lambda _platform, words, **_how: Invocation(command=words, environment={})
    )
    with pytest.raises(CommandError, match="audit can't be migrated again") if status else nullcontext():
        up(stack)
    assert migrated == [["manage.py", "migrate", "--noinput", "--database", "audit"]]
    assert len(run.asked) == 1 - status, "nothing is changed over a database that is not as it should be"


def made(stack: Stack, *releases: str) -> None:
    for release in releases:
        (paths(stack).state / "images" / release).mkdir(parents=True)


def test_what_the_policy_refuses_is_said_and_nothing_is_asked_of_the_engine_again(
    with_run: Callable[[Told, Run], Stack],
) -> None:
    run = Run(PolicyError("policy debug: container app1 is. Mend it.\npolicy tls: x."), "new")
    stack = with_run(Told(found=STARTED, live_text=SERVED), run)
    with pytest.raises(CommandError) as raised:
        up(stack)
    assert str(raised.value).splitlines() == ["policy debug: container app1 is. Mend it.", "policy tls: x."]
    assert run.asked == []
    assert (len(run.previewed), run.exports) == (1, 0)


@pytest.mark.parametrize("unjudged", [(), ("policy tls: not known",)])
def test_an_update_asks_the_policy_again_only_where_the_preview_could_not_tell(
    with_run: Callable[[Told, Run], Stack], unjudged: tuple[str, ...]
) -> None:
    run = Run(Changes(counts={"update": 1}, unjudged=unjudged), "new")
    up(with_run(Told(found=STARTED, live_text=SERVED), run))
    assert run.policed is bool(unjudged)


def test_the_way_back_leads_from_what_serves_and_not_from_what_was_last_remembered(
    with_run: Callable[[Told, Run], Stack], capsys: pytest.CaptureFixture[str]
) -> None:
    """`pulumi up` itself has let a release serve that no history knows."""
    run = Run(SOMETHING, "known")
    stack = with_run(Told(found=STARTED, live_text=SERVED), run)
    remember(stack, "older", "known")
    made(stack, "older", "known", FORMER)
    back(stack)
    assert " serves. The next `cluster up` follows the stack file" in capsys.readouterr().out
    assert run.asked == [{"CLUSTER_RELEASE": "known"}], "it would go back by two"
    assert remembered(stack)[1] == "known"


def test_where_nobody_can_say_what_serves_the_way_back_is_what_was_remembered(
    with_run: Callable[[Told, Run], Stack], capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(SOMETHING, "older")
    stack = with_run(Told(found=STARTED, live_text=None), run)
    remember(stack, "older", "known")
    made(stack, "older", "known")
    back(stack)
    assert " serves. The next `cluster up` follows the stack file" in capsys.readouterr().out
    assert run.asked == [{"CLUSTER_RELEASE": "older"}]
    assert remembered(stack) == (["older", "known"], "older"), "going back does not make it the newest"


def test_who_went_back_from_a_release_that_pulumi_itself_has_let_serve_can_go_there_again(
    with_run: Callable[[Told, Run], Stack], capsys: pytest.CaptureFixture[str]
) -> None:
    stack = with_run(Told(found=STARTED, live_text=SERVED), Run(SOMETHING, "known"))
    remember(stack, "known")
    made(stack, "known", FORMER)
    back(stack)
    assert " serves. The next `cluster up` follows the stack file" in capsys.readouterr().out
    assert (paths(stack).state / "images" / FORMER).is_dir()


def test_a_failed_up_says_why_stops_what_it_started_and_remembers_nothing(
    with_run: Callable[[Told, Run], Stack],
) -> None:
    engine = Told(found=STARTED, live_text=SERVED)
    stack = with_run(engine, Run(PulumiError("app2: not healthy"), "new"))
    remember(stack, "old")
    with pytest.raises(CommandError) as failed:
        up(stack)
    expected = "app2: not healthy\nWhat served still serves; the next `cluster up` goes on from here."
    assert str(failed.value) == expected
    assert engine.calls == [("stop", "--time", "60", NEW)]
    assert remembered(stack) == (["old"], "old")


@pytest.mark.parametrize("verb", ["stop", "ps"])
def test_what_can_t_be_stopped_does_not_hide_why_an_up_failed(
    verb: str, with_run: Callable[[Told, Run], Stack], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(PulumiError("app2: not healthy"), "new")
    engine = Told(found=STARTED, live_text=SERVED)
    stack = with_run(engine, run)
    failing = run.up

    def up_to_the_failure(*said: Any, **how: Any) -> Changes:
        object.__setattr__(engine, "refused", (verb,))
        return failing(*said, **how)

    monkeypatch.setattr(run, "up", up_to_the_failure)
    monkeypatch.setattr(cli, "lost", lambda _docker, _resources: [])
    with pytest.raises(CommandError, match="app2: not healthy"):
        up(stack)


# --- Pulumi itself


@dataclass
class Recorder:
    """Keeps what Pulumi is told, in order."""

    told: list[str] = field(default_factory=list)

    def changing(self, arguments: list[str], _tell_step: object, _more: object) -> Changes:
        self.told.append(" ".join(arguments))
        return NOTHING

    def run(self, *arguments: str, stdin: str | None = None) -> str:
        self.told.append(" ".join(arguments))
        return ""


@pytest.fixture
def pulumi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Pulumi, Recorder]:
    monkeypatch.setattr("platforms.pulumi.engine.find_pulumi", lambda _say: "pulumi")
    recorder = Recorder()
    found = Pulumi(opened(tmp_path).root, "dev", recorder.told.append)
    monkeypatch.setattr(found, "_changing", recorder.changing)
    monkeypatch.setattr(found, "run", recorder.run)
    return found, recorder


@pytest.mark.parametrize("protected", [False, True])
def test_nothing_is_removed_by_hand_before_it_is_sure_that_nobody_else_changes_the_stack(
    protected: bool, pulumi: tuple[Pulumi, Recorder]
) -> None:
    found, recorder = pulumi
    found.destroy(lambda _: None, protected=protected, before=lambda: recorder.told.append("orphans"))
    looked, orphans, *rest = recorder.told
    assert looked.split()[0] == "refresh"
    assert orphans == "orphans"
    destroyed = "destroy --yes --skip-preview"
    if protected:
        assert rest == ["state unprotect --all --yes --stack dev", destroyed]
    else:
        assert rest == [f"{destroyed} --exclude-protected"], "the data would be gone"


def test_where_somebody_else_changes_the_stack_nothing_is_removed_by_hand(
    pulumi: tuple[Pulumi, Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, recorder = pulumi

    def locked(*_: object) -> Changes:
        raise PulumiError("the stack is currently locked by 1 lock(s)\n created by root@another-host (pid 1) at now")

    monkeypatch.setattr(found, "_changing", locked)
    with pytest.raises(Busy, match="another-host"):
        found.destroy(lambda _: None, protected=True, before=lambda: recorder.told.append("orphans"))
    assert recorder.told == []
