"""What a plan on Docker says by the events of the engine: those of real previews, recorded and trimmed."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cluster.config import parse_config
from cluster.errors import CommandError
from cluster.lint import Facts
from cluster.plan import Cost, Planned
from cluster.plan.nginx_check import Checker
from cluster.plan.planned import FileChange, Kind, Resource, SecretChange, Share
from cluster.plan.shown import document, markdown, text
from cluster.stack.history import History
from cluster.stack.opened import Stack
from cluster.topology import build_topology
from platforms.base import Forward
from platforms.docker import platform as cli
from platforms.docker.contexts import changed_parts, side_of
from platforms.docker.drift import drift
from platforms.docker.engine import ROLE_LABEL
from platforms.docker.failures import refused_by
from platforms.docker.maintaining import Found
from platforms.docker.observe import Observed
from platforms.docker.paths import ASIDE_VARIABLE
from platforms.docker.planning import first_tls
from platforms.docker.stack import DockerStack, paths
from platforms.docker.told import MADE_AGAIN, Told
from platforms.pulumi import planning
from platforms.pulumi.engine import Changes, PulumiError
from platforms.pulumi.kept_stack import keep_stack
from platforms.pulumi.live import Live
from platforms.pulumi.planning import PREPARE, SECRETS_INPUT
from platforms.pulumi.preview import Preview
from tests.unit.pulumi_mocks import PROJECT, SECRETS, write_stack

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.plan.nginx_check import Tree

PREVIEWS = Path(__file__).parent / "previews"

NOTHING = "no request and no session is lost"

#: The releases of the recordings, and the digest of nginx's configuration in them.
FORMER, WANTED = "aee6bc29a566", "94cd6efe7d00"

VALUES: dict[str, Any] = {
    "platform": "docker",
    "app": {"project": "./example", "settings": "example.settings", "requirements": "requirements.txt"},
    "upstream": {"servers": [{"name": "app1", "weight": 3}, {"name": "app2"}]},
    "sessions": {"engine": "cached_db", "memcached": {"nodes": 2, "memory": "32m"}},
    "database": {"engine": "postgres"},
    "site": {"server_names": ["cluster"], "listen": 8090},
}


def recorded(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((PREVIEWS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def preview(name: str) -> Preview:
    found = Preview()
    for event in recorded(name):
        found.take(event)
    return found


def told(name: str, *, serves: bool = True, **values: Any) -> Told:
    return Told(preview(name), build_topology(parse_config({**VALUES, **values})), serves=serves)


def state(name: str) -> list[dict[str, Any]]:
    """Return the resources in the state before a recorded preview."""
    steps = [one["resourcePreEvent"]["metadata"] for one in recorded(name) if "resourcePreEvent" in one]
    return [{"urn": one["urn"], "type": one["type"], **one["old"]} for one in steps if one.get("old")]


# --- what the events say


def test_a_weight_is_one_resource_and_its_reason_is_nginx_s_configuration() -> None:
    assert preview("weight").resources() == (
        Resource(operation="update", kind="Command", name="nginx-config", reasons=("stdin",)),
    )


def test_where_nothing_changes_there_is_no_step_and_no_resource() -> None:
    found = preview("same")
    assert (found.steps, found.resources()) == ([], ())
    assert found.release() == (FORMER, FORMER)
    assert found.before == found.after


def test_a_release_is_one_reason_and_no_health_check_no_label_and_no_digest_is() -> None:
    found = preview("release")
    changed = {path for step in found.steps for path in step.changed}
    assert {"healthcheck.tests[1]", "labels[1].value", "environment.TURN"} <= changed, "the recording has the noise"
    reasons = {one.name: (one.operation, one.kind, one.reasons) for one in found.resources()}
    assert reasons == {
        "app-image": ("update", "Image", ("release",)),
        "app1": ("replace", "Container", ("release",)),
        "app1-serve": ("update", "Command", ("release",)),
        "app2": ("replace", "Container", ("release",)),
        "app2-serve": ("update", "Command", ("release",)),
        "prepare": ("update", "Command", ("release",)),
        "static-current": ("update", "Command", ("release",)),
    }
    assert found.release() == (FORMER, WANTED)


def served_alone(found: Preview, *more: str) -> list[str]:
    """Let the command of app1 differ in what it is told of its name; return what then changes. more: other inputs."""
    for urn, step in found._seen.items():
        if step.part == "app1-serve":
            found._seen[urn] = replace(step, operation="update", changed=("environment.SERVED", *more))
    return [one.name for one in found.resources()]


def test_who_is_only_told_that_its_name_was_given_again_does_nothing() -> None:
    assert served_alone(preview("same")) == []
    assert served_alone(preview("same"), "environment.TURN") == ["app1-serve"]


def test_what_changes_beside_a_release_is_a_reason_of_its_own() -> None:
    found = preview("release")
    for urn, step in found._seen.items():
        if step.kind == "Container":
            found._seen[urn] = replace(step, changed=(*step.changed, "memory"), new={**step.new, "memory": 1})
    assert {one.reasons for one in found.resources() if one.kind == "Container"} == {("memory", "release")}


def test_the_order_is_the_same_in_whatever_order_the_engine_tells_it() -> None:
    events, found = recorded("release"), Preview()
    for event in sorted(events, key=lambda event: json.dumps(event)[::-1]):
        found.take(event)
    assert found.resources() == preview("release").resources()
    assert [one.name for one in preview("added").resources()] == ["app3", "app3-serve", "nginx-config"]


def test_an_image_that_only_lies_elsewhere_is_the_same() -> None:
    found = preview("same")
    for urn, step in found._seen.items():
        if step.part == "app-image":
            build = {**step.old.get("build", {}), "context": "../elsewhere", "contextDigest": "another"}
            found._seen[urn] = replace(step, operation="update", new={**step.old, "build": build}, changed=("build",))
    assert found.steps == []
    for urn, step in found._seen.items():
        if step.part == "app-image":
            build = {**step.new["build"], "args": {"BASE": "debian:another"}}
            found._seen[urn] = replace(step, new={**step.new, "build": build})
    assert [step.part for step in found.steps] == ["app-image"]


def test_what_a_former_run_did_not_remove_is_deleted_and_not_replaced() -> None:
    found = Preview()
    old = {"inputs": {"labels": []}, "parent": "urn:x::AppHosts::app"}
    step = {"op": "delete-replaced", "urn": "urn:x$docker:index/container:Container::app-app1", "old": old}
    found.take({"resourcePreEvent": {"metadata": {**step, "type": "docker:index/container:Container"}}})
    assert [(one.operation, one.part) for one in found.steps] == [("delete", "app1")]


# --- what it costs


@pytest.mark.parametrize(
    ("name", "costs", "steps"),
    [
        ("same", [], ()),
        ("weight", [], ("nginx: one reload; no process of the app is touched by it",)),
        ("nginx", [Cost.NGINX_REPLACED], ("nginx: another container takes its place",)),
        ("postgres", [Cost.SERVICE_REPLACED], ("~ postgres: another container",)),
        ("added", [], (f"+ app3: start release {FORMER}", "nginx: one reload")),
    ],
)
def test_costs_are_of_the_engine_s_own_steps(name: str, costs: list[Cost], steps: tuple[str, ...]) -> None:
    found = told(name)
    release = Planned(stack="dev", changes=True).release
    before, after = found.preview.release()
    release = replace(release, before=before, after=after)
    assert found.costs() == costs
    assert found.steps(release, (), migrate=True) == steps


def test_a_volume_that_holds_data_is_what_costs_most_and_one_of_sockets_costs_nothing() -> None:
    found = told("volume", database={"engine": "sqlite"})
    assert Cost.VOLUME_DELETED in found.costs()
    assert found.deleted() == [
        "postgres is stopped",
        "volume database is deleted",
        "volume database-secrets is deleted",
        "volume database-sockets is deleted",
    ]
    for urn, step in list(found.preview._seen.items()):
        if (step.kind, step.part) == ("Volume", "database"):
            del found.preview._seen[urn]
    assert Cost.VOLUME_DELETED not in found.costs()


def test_the_volumes_that_are_made_again_are_those_of_sockets_and_of_what_a_release_brings() -> None:
    from platforms.docker.daemons import PLACEMENTS  # noqa: PLC0415 - it waits for Pulumi's SDK

    assert {placed.sockets for placed in PLACEMENTS.values() if placed.sockets} <= MADE_AGAIN


def test_where_nothing_serves_the_site_comes_up() -> None:
    assert told("nginx", serves=False).costs() == [Cost.START]


@pytest.mark.parametrize(
    ("nodes", "engine", "costs"), [(1, "cache", [Cost.LOGGED_OUT]), (2, "cache", []), (1, "db", [])]
)
def test_the_only_node_with_sessions_in_it_logs_everybody_out(nodes: int, engine: str, costs: list[Cost]) -> None:
    sessions = {"engine": engine, **({"memcached": {"nodes": nodes}} if engine == "cache" else {})}
    found = told("nginx", sessions=sessions)
    node = next(step for step in found.containers if step.part == "nginx")
    found.containers = [replace(node, part="memcached1", new={}, old={})]
    assert found.costs() == costs


def test_a_release_of_a_hundred_instances_is_as_long_as_one_of_four() -> None:
    def lines(count: int) -> tuple[int, int]:
        servers = [{"name": f"app{number}"} for number in range(1, count + 1)]
        found = told("release", upstream={"servers": servers})
        container = next(step for step in found.containers if step.part == "app1")
        for number in range(1, count + 1):
            found.preview._seen[f"app{number}"] = replace(container, part=f"app{number}", component="app")
        found = Told(found.preview, found.topology, serves=True)
        before, after = found.preview.release()
        release = replace(Planned(stack="dev", changes=True).release, before=before, after=after)
        steps = found.steps(release, ("code",), migrate=True)
        planned = Planned(stack="dev", changes=True, steps=steps, resources=found.preview.resources())
        return len(text(planned)), len(markdown(planned))

    assert lines(4) == lines(100)


# --- the whole plan


class FakePulumi:
    """Of Pulumi what a plan asks for: a recorded preview, and the secrets of the state and of the stack file."""

    def begin(self) -> None:
        """What is read while others go on is none of what is told here."""

    def __init__(self, name: str, former: dict[str, str] | None = None) -> None:
        self.name, self.former = name, former or SECRETS
        self.environment: dict[str, str] = {}
        self.refused = ""
        #: Whether secrets began to be read while the preview went on.
        self.is_reading, self.reads_former, self.began_early = False, False, False

    def begin_secrets(self, *, former: bool) -> None:
        self.is_reading, self.reads_former = True, former

    def end_secrets(self) -> None:
        self.is_reading = False

    def find(self) -> list[dict[str, Any]]:
        return []

    def preview(self, take: Callable[[dict[str, Any]], None], *, refresh: bool, **environment: str) -> Changes:
        assert not refresh
        self.environment = environment
        if self.refused:
            raise PulumiError(self.refused)
        if ASIDE_VARIABLE in environment:
            write_context(Path(environment[ASIDE_VARIABLE]) / "dev" / "images" / WANTED, {"a.py": "1\n2\n"}, threads=7)
        for event in self.events():
            take(self._with_secrets(event))
        self.began_early = self.is_reading
        return Changes()

    def events(self) -> list[dict[str, Any]]:
        return recorded(self.name)

    def _with_secrets(self, event: dict[str, Any]) -> dict[str, Any]:
        """Return an event as the engine says it where the secrets differ."""
        step = (event.get("resourcePreEvent") or {}).get("metadata") or {"op": "", "urn": ""}
        if self.former == SECRETS or step["op"] != "update" or not step["urn"].endswith(PREPARE):
            return event
        return {"resourcePreEvent": {"metadata": {**step, "detailedDiff": {**step["detailedDiff"], SECRETS_INPUT: {}}}}}

    def secrets(self, *_more: str) -> dict[str, str]:
        return SECRETS

    def export(self, *, plain: bool) -> list[dict[str, Any]]:
        assert plain
        assert self.reads_former, "it should have begun while the preview went on, or is needless"
        parent = "urn:pulumi:dev::p::cluster:index:AppHosts::app"
        urn = "urn:pulumi:dev::p::cluster:index:AppHosts$command:local/command:Command::app-prepare"
        value = {"plaintext": json.dumps(json.dumps(self.former))}
        return [{"urn": urn, "parent": parent, "inputs": {"stdin": value}}]


def write_context(context: Path, code: dict[str, str], *, threads: int = 4) -> None:
    """Write what is kept of a release."""
    project = context / "tree" / "example"
    project.mkdir(parents=True)
    for path, written in code.items():
        (project / path).write_text(written)
    runtime = {
        "release": context.name,
        "place": "tree/example",
        "threads": threads,
        "secrets": f"/srv/secrets/{context.name}",
        "sessions": {"engine": "cached_db", "path": "/srv/sessions"},
        "database": {"engine": "postgres"},
        "shared": {},
    }
    (context / "config.json").write_text(json.dumps(runtime))
    (context / "Dockerfile").write_text("FROM scratch\n")


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """A stack whose former release is kept, and which serves."""
    write_stack(tmp_path, VALUES)
    file = tmp_path / "stacks" / "Pulumi.dev.yaml"
    file.write_text(f"{file.read_text()}  cluster:secret_key: {{secure: x}}\n")
    (tmp_path / "Pulumi.yaml").write_text(f"name: {PROJECT}\nruntime: python\n")
    stack = Stack(tmp_path, "dev", parse_config(VALUES))
    write_context(paths(stack).images / FORMER, {"a.py": "1\n", "b.py": "gone\n"})
    monkeypatch.setattr(DockerStack, "observe", lambda docker, _handed: observed(docker.stack))
    monkeypatch.setattr("platforms.docker.planning.unknown", lambda _docker, _resources: [])
    monkeypatch.setattr("platforms.docker.stack.Engine", lambda _host: SilentEngine())
    monkeypatch.setattr(cli.DockerPlatform, "facts", lambda _platform: Facts(root=tmp_path))
    monkeypatch.setattr(planning, "installed_pulumi", lambda: "pulumi")
    monkeypatch.setattr("platforms.docker.planning.checker", lambda _docker, _nginx: nullcontext(Asked()))
    monkeypatch.setattr(cli.DockerPlatform, "_maintenance_found", lambda _platform: (Found(told="", kept=None), []))
    return stack


class Asked(Checker):
    """An nginx that is asked, and takes whatever has no `add_haeder` in it."""

    resolves = False

    def __init__(self) -> None:
        super().__init__("nginx", (1, 30, 0))

    def said(self, tree: Tree) -> str | None:
        broken = f"[emerg] 1#1: unknown directive in {tree.directory}/snippets/server.conf:1"
        return broken if any("add_haeder" in one for one in tree.files.values()) else None


class SilentEngine:
    """An engine on which no container of the stack is found by who asks for one."""

    def check(self) -> None:
        """It answers."""

    def run(self, *_arguments: str) -> str:
        return ""

    def containers(self, *_arguments: object, **_how: object) -> list[str]:
        return []

    def tags(self, _repository: str) -> list[str]:
        return []

    def ask(self, *_arguments: object) -> None:
        return None

    def environment(self) -> dict[str, str]:
        return {}

    sessions = ask


def observed(stack: Stack, **live: Any) -> Observed:
    """Return a stack of which each instance holds its name in the former release."""
    holders = {"app1": f"{FORMER}.aaaaaaaaaaaa", "app2": f"{FORMER}.bbbbbbbbbbbb"}
    nginx = preview("same").before["nginx"]
    found = Live(**{"nginx": nginx, "holders": holders, "static": FORMER, **live})
    nginx = {"Id": "nginx1", "Config": {"Labels": {ROLE_LABEL: "nginx"}}, "State": {"Running": True}}
    return Observed(live=found, containers=(nginx,), topology=build_topology(stack.config))


def planned(stack: Stack, pulumi: FakePulumi, monkeypatch: pytest.MonkeyPatch, **values: Any) -> Planned:
    monkeypatch.setattr(cli, "Pulumi", lambda *_arguments: pulumi)
    changed = Stack(stack.root, stack.name, parse_config({**VALUES, **values}))
    return cli.platform(changed, Silent()).plan(Forward())


class Silent:
    """Nobody is told anything by a plan."""

    def say(self, line: str) -> None:
        pytest.fail(line)

    warn = say


def test_a_weight_change_fits_on_one_screen(opened: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = [{"name": "app1", "weight": 5}, {"name": "app2"}]
    found = planned(opened, FakePulumi("weight"), monkeypatch, upstream={"servers": servers})
    assert found.traffic == (
        Share(instance="app1", before=0.75, after=0.833333),
        Share(instance="app2", before=0.25, after=0.166667),
    )
    assert text(replace(found, lints=())) == [
        NOTHING,
        "traffic: app1 75 % -> 83.3 %, app2 25 % -> 16.7 %",
        "nginx: one reload; no process of the app is touched by it",
        "nginx's lines:",
        "    - server unix:…/app1/http.sock weight=3 max_fails=0;",
        "    + server unix:…/app1/http.sock weight=5 max_fails=0;",
        "resources: 1 to update",
    ]


def test_what_the_stack_s_nginx_refuses_is_told_by_its_key(opened: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    site = {**VALUES["site"], "snippets": {"server": "add_haeder X-A b;"}}
    found = planned(opened, FakePulumi("weight"), monkeypatch, site=site)
    assert found.refused == ("site.snippets.server: nginx refuses it: unknown directive in snippets/server.conf:1",)


def test_an_nginx_that_is_not_asked_is_said_to_be_none(opened: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = "whether nginx takes its configuration: "
    gone = replace(observed(opened), containers=())
    monkeypatch.setattr(DockerStack, "observe", lambda _docker, _handed: gone)
    found = planned(opened, FakePulumi("weight"), monkeypatch)
    assert (found.refused, found.unknown[-1]) == ((), f"{unknown}its container does not run")
    # Where its configuration is the same, nobody is asked.
    assert not [one for one in planned(opened, FakePulumi("release"), monkeypatch).unknown if unknown in one]


def test_what_does_not_change_is_one_line(opened: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    found = planned(opened, FakePulumi("same"), monkeypatch)
    assert found == Planned(stack="dev", changes=False)
    assert markdown(found) == ["`dev`: no changes"]


def test_a_release_is_compared_with_the_one_that_serves_and_leaves_nothing_behind(
    opened: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = {**SECRETS, "secret_environment": json.dumps({"OLD": "canary-old"})}
    pulumi = FakePulumi("release", former)
    before = sorted(opened.root.rglob("*"))
    found = planned(opened, pulumi, monkeypatch)
    assert sorted(opened.root.rglob("*")) == before
    assert not Path(pulumi.environment[ASIDE_VARIABLE]).exists()
    assert (found.costs, found.release.before, found.release.after) == ((Cost.NONE,), FORMER, WANTED)
    assert found.release.parts == ("code", "settings of the app", "secrets")
    assert found.release.code == (
        FileChange(path="a.py", kind=Kind.CHANGED, added=1, removed=0),
        FileChange(path="b.py", kind=Kind.REMOVED, added=0, removed=1),
    )
    assert [(one.key, one.before, one.after) for one in found.settings] == [("app.threads", "4", "7")]
    assert found.release.secrets == (
        SecretChange(name="secret_environment.OLD", kind=Kind.REMOVED),
        SecretChange(name="secret_environment.TOKEN", kind=Kind.ADDED),
    )
    shown = json.dumps([document([found]), text(found), markdown(found)])
    assert "canary" not in shown
    assert "secret_environment.TOKEN" in shown


@pytest.mark.parametrize("former", [SECRETS, {"secret_key": "canary"}], ids=["the same", "others"])
@pytest.mark.parametrize(("what", "early"), [("release", True), ("weight", False), ("same", False)])
def test_secrets_begin_to_be_read_while_the_preview_goes_on_where_there_is_another_release(
    opened: Stack, monkeypatch: pytest.MonkeyPatch, what: str, early: bool, former: dict[str, str]
) -> None:
    """Each takes a while: Pulumi derives a key of the passphrase. The former ones are read where they are others."""
    pulumi = FakePulumi(what, former)
    found = planned(opened, pulumi, monkeypatch)
    assert (pulumi.began_early, pulumi.is_reading) == (early, False)
    assert pulumi.reads_former == (early and former != SECRETS)
    assert bool(found.release and found.release.secrets) == pulumi.reads_former


def test_of_a_former_release_that_is_not_kept_here_nothing_is_said_but_that(
    opened: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    (paths(opened).images / FORMER / "config.json").unlink()
    found = planned(opened, FakePulumi("release"), monkeypatch)
    assert found.unknown == ("what of the release changes: the former one is not kept in this checkout",)
    assert (found.release.parts, found.release.code) == ((), ())


def test_while_the_stack_is_down_the_release_is_compared_with_the_one_that_served_last(
    opened: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = History()
    history.served(FORMER)
    history.save(paths(opened))
    down = replace(observed(opened), live=Live())
    monkeypatch.setattr(DockerStack, "observe", lambda _docker, _handed: down)
    monkeypatch.setattr(Preview, "release", lambda _preview: (None, WANTED))
    found = planned(opened, FakePulumi("release"), monkeypatch)
    assert (found.costs, found.drift) == ((Cost.START,), ())
    assert (found.release.before, found.release.after) == (FORMER, WANTED)


def test_what_the_engine_refuses_is_said_with_how_to_keep_the_data(
    opened: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulumi = FakePulumi("volume")
    urn = "urn:pulumi:dev::p::cluster:index:Database$docker:index/volume:Volume::database-database"
    pulumi.refused = f'Preview failed: resource "{urn}" cannot be deleted\nbecause it is protected. To unprotect …'
    found = planned(opened, pulumi, monkeypatch)
    assert found.refused[0] == "database-database is protected"
    assert found.refused[1].endswith("pulumi state unprotect URN --stack dev")


def test_other_failures_of_a_preview_are_told_in_its_own_words(opened: Stack) -> None:
    assert refused_by(DockerStack(opened), PulumiError("a\n\nb")) == ["a", "b"]


def test_a_stack_that_was_never_set_up_needs_no_engine_s_preview(
    opened: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stack(opened.root, VALUES)
    monkeypatch.setattr(planning, "installed_pulumi", lambda: None)
    found = cli.platform(opened, Silent()).plan(Forward())
    assert (found.costs, found.steps[0]) == ((Cost.START,), "the first release; its secret_key is made first")


def test_a_plan_installs_nothing(opened: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "installed_pulumi", lambda: None)
    with pytest.raises(CommandError, match="Pulumi is missing: `cluster up dev` installs it"):
        cli.platform(opened, Silent()).plan(Forward())


def test_lints_that_were_there_before_are_not_new(opened: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    warned = {"sessions": {"engine": "cache", "memcached": {"nodes": 1}}}
    unkept = planned(opened, FakePulumi("weight"), monkeypatch, **warned)
    assert unkept.lints == ()
    assert unkept.unknown[0].endswith("lints are new: the stack file of before is not kept in this checkout")
    outputs = {"nginx": preview("same").before["nginx"]}
    keep_stack(paths(opened), opened.config, outputs)
    assert {one.path for one in planned(opened, FakePulumi("weight"), monkeypatch, **warned).lints} >= {
        "sessions.memcached.nodes"
    }
    keep_stack(paths(opened), parse_config({**VALUES, **warned}), outputs)
    found = planned(opened, FakePulumi("weight"), monkeypatch, **warned)
    assert (found.lints, found.unknown) == ((), ())


# --- drift


def test_what_was_changed_by_hand_is_told_by_name(opened: Stack) -> None:
    believed = {"nginx": "a", "release": FORMER}
    holders = {"app1": "000000000000.aaaaaaaaaaaa", "app2": None}
    found = drift(
        observed(opened, nginx="b", holders=holders, static="000000000000"),
        believed,
        lost=["sessions-memcached1"],
        unknown=[{"Name": "/app1-0303d2e"}],
        lacking={"default": ["visits.0002_more"]},
    )
    assert found == (
        "container sessions-memcached1 is stopped or removed",
        "nginx runs another configuration than the one that was put in place last",
        f"app1 serves release 000000000000, and not {FORMER}",
        "app2 holds no name: nothing serves there",
        f"the static files of release 000000000000 are served, and not those of {FORMER}",
        "container app1-0303d2e is of no state: a killed run left it",
        "the database default lacks 1 migrations of the release that serves",
    )


def test_where_all_is_as_it_was_left_there_is_no_drift(opened: Stack) -> None:
    believed = preview("same").before
    assert drift(observed(opened), believed, lost=[], unknown=[], lacking={}) == ()


def test_drift_is_told_by_the_state_alone(opened: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    believed = preview("same")
    stack = {"type": "pulumi:pulumi:Stack", "urn": "urn:pulumi:dev::p::pulumi:pulumi:Stack::p-dev"}
    container = {
        "type": "docker:index/container:Container",
        "id": "gone",
        "inputs": {},
        "parent": "urn:x::AppHosts::app",
    }
    resources = [
        {**stack, "outputs": believed.before},
        {**container, "urn": "urn:pulumi:dev::p::cluster:index:AppHosts$docker:index/container:Container::app-app2"},
    ]
    pulumi = FakePulumi("same")
    monkeypatch.setattr(pulumi, "find", lambda: resources)
    monkeypatch.setattr(cli, "Pulumi", lambda *_arguments: pulumi)
    monkeypatch.setattr(cli, "lost", lambda _docker, there: [one["urn"].rpartition("::")[2] for one in there[1:]])
    found = cli.platform(opened, Silent())
    assert found.drift() == ("container app-app2 is stopped or removed",)
    monkeypatch.setattr(pulumi, "find", lambda: None)
    assert found.drift() == ()


# --- parts of a release


def test_what_no_file_tells_of_is_what_its_processes_run_on(opened: Stack) -> None:
    former, app = paths(opened).images / FORMER, opened.config.app
    wanted = former.with_name(WANTED)
    write_context(wanted, {"a.py": "1\n", "b.py": "gone\n"})
    sides = side_of(former, app, SECRETS), side_of(wanted, app, SECRETS)
    assert changed_parts(former, wanted, *sides) == ("platform",)
    (wanted / "requirements").mkdir()
    (wanted / "requirements" / "options").write_text("x")
    assert changed_parts(former, wanted, *sides) == ("requirements",)
    (wanted / "Dockerfile").write_text("FROM other\n")
    assert changed_parts(former, wanted, *sides) == ("requirements", "platform")


def test_the_first_certificate_tells_that_the_plain_addresses_redirect_from_now_on(opened: Stack) -> None:
    """Its key is not there before `up`, and nginx's addresses are all the same."""
    names = ["cluster", "localhost", "127.0.0.1"]
    site = {"server_names": names, "listen": 8090, "tls": {"self_signed": True, "listen": 8443}}
    secure = replace(opened, config=parse_config({**VALUES, "site": site}))
    costs, moved = first_tls(secure, state("weight"))
    assert (costs, len(moved)) == ([Cost.NGINX_REPLACED, Cost.REDIRECTED], 1)
    assert moved[0].endswith(": only redirected from now on"), moved
    assert first_tls(secure, []) == ([Cost.NGINX_REPLACED], [])
