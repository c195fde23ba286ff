"""What a plan says of a stack on hosts: by the engine's events, and by what was found there."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from cluster.config import parse_config
from cluster.errors import CommandError
from cluster.plan import Cost, Planned
from cluster.plan.planned import FileChange, Kind, Resource, SecretChange
from cluster.plan.shown import document, text
from cluster.published import Lacking
from cluster.release import ReleaseError
from cluster.stack.opened import Stack
from cluster.tls.hosts_keys import new_hosts_key
from cluster.topology import build_topology
from platforms.base import Back, Forward
from platforms.pulumi import planning
from platforms.pulumi.preview import Preview
from platforms.remote import foreseen
from platforms.remote import platform as cli
from platforms.remote.database import url
from platforms.remote.drift import drift
from platforms.remote.host import showing
from platforms.remote.paths import nginx_config
from platforms.remote.planning import Planning
from platforms.remote.ssh import HostError, Ssh
from platforms.remote.told import Told
from tests.planned import NOTHING, WEIGHTED
from tests.unit.pulumi_mocks import PROJECT, SECRETS, write_stack
from tests.unit.remote_machine import Machine
from tests.unit.remote_stack import (
    FORMER,
    LOOKED,
    PLACES,
    WANTED,
    Answering,
    command,
    digest,
    events,
    host,
    hosts,
    keep,
    made,
    outputs,
    preview,
    there,
    unit,
    values,
)
from tests.unit.test_docker_plan import FakePulumi, Silent
from tests.unit.test_remote import VALUES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def test_a_release_is_one_reason_whichever_step_names_it() -> None:
    found = preview(release=WANTED)
    assert found.release() == (FORMER, WANTED)
    assert found.resources() == tuple(
        Resource(operation="update", kind="Command", name=f"web1-{name}", reasons=("release",))
        for name in ("prepare", "retire", "sent", "serve1", "start1", "static")
    )
    assert preview().resources() == ()


def told(stack: dict[str, Any] | None, asked: dict[str, Any] | None = None, release: str = FORMER) -> Told:
    asked = asked or values()
    here = host(stack, asked)
    serves = stack is not None
    return Told(preview(asked, release), build_topology(parse_config(asked)), [here], release, serves=serves)


# --- what is done, by what was found


def test_where_all_is_as_it_should_be_nothing_is_done() -> None:
    found = told(there())
    release = Planned(stack="shop", changes=True).release
    assert found.steps(replace(release, before=FORMER, after=FORMER), (), migrate=True) == ()
    assert (found.costs(), found.deleted(), found.nginx) == ([], [], None)


def test_a_release_starts_beside_the_former_one() -> None:
    found = told(there(), release=WANTED)
    release = replace(Planned(stack="shop", changes=True).release, before=FORMER, after=WANTED)
    assert found.steps(release, ("code",), migrate=True) == (
        f"release {FORMER} -> {WANTED} (code); migrations run first",
        f"+ app1, app2: start release {WANTED}, app1 first, then the others together",
        "- the former app1, app2: stop, once no request needs them",
    )
    assert found.costs() == []


def test_instances_that_come_and_go_are_told_by_name() -> None:
    more = told(there(), values(upstream={"servers": ["app1", "app2", "app3"]} | {"servers": 3}))
    assert (more.instances("create"), more.instances("replace", "delete"), more.nginx) == (["app3"], [], "reload")
    less = told(there(), values(upstream={"servers": 1}))
    assert (less.instances("create", "replace"), less.instances("delete")) == ([], ["app2"])
    assert less.deleted() == ["app2 drains and is stopped"]


def test_one_that_runs_and_has_no_name_takes_it() -> None:
    stack = there()
    stack["instances"]["app2"] |= {"holder": None, "given": None}
    assert (told(stack).named(), told(stack).instances("create", "replace")) == (["app2"], [])


WORKED = values(
    workers=[{"name": "mail", "command": "manage.py rqworker"}],
    broker={"engine": "valkey"},
    sessions={"engine": "cache", "memcached": {"nodes": 1, "memory": "32m"}},
)


def test_daemons_and_workers_are_told_and_what_they_hold_costs() -> None:
    assert told(there(WORKED), WORKED).steps(Planned(stack="x", changes=True).release, (), migrate=False) == ()
    stack = there(WORKED)
    for daemon in stack["daemons"].values():
        daemon["unit"] = "edited"
    stack["units"] = {name: one for name, one in stack["units"].items() if ".mail" not in name}
    found = told(stack, WORKED)
    assert (found.daemons("replace"), found.beside("create")) == (["broker", "memcached1"], ["mail1"])
    assert found.costs() == [Cost.SERVICE_REPLACED, Cost.LOGGED_OUT]
    assert "~ broker, memcached1: started again, one after another" in found.steps(
        Planned(stack="x", changes=True).release, (), migrate=False
    )
    gone = told(there(WORKED))
    assert gone.deleted() == ["broker is stopped", "mail1 is stopped", "memcached1 is stopped"]
    stopped = there(WORKED)
    for daemon in stopped["daemons"].values():
        daemon["state"] = "failed"
    assert (told(stopped, WORKED).daemons("create"), told(stopped, WORKED).costs()) == (["broker", "memcached1"], [])


def test_where_nothing_serves_the_site_comes_up() -> None:
    stopped = there(nginx=None, nginx_runs=False)
    found = Told(preview(), build_topology(parse_config(values())), [host(stopped)], FORMER, serves=False)
    assert (found.costs(), found.nginx) == ([Cost.START], "create")


def test_another_machine_has_none_of_what_the_former_one_keeps() -> None:
    assert told(None).costs() == [Cost.START, Cost.DATA_LEFT]
    assert told(None, values(database={"engine": "external"})).costs() == [Cost.START]


SPREAD = values(
    database={"engine": "external"},
    hosts=[
        {**VALUES["hosts"][0], "roles": ["app"]},
        {**VALUES["hosts"][0], "name": "web2", "address": "10.0.0.12", "roles": ["app"]},
        {**VALUES["hosts"][0], "name": "edge1", "address": "10.0.0.13", "roles": ["nginx"]},
    ],
)


def test_of_several_hosts_each_is_told_of_its_own() -> None:
    first, second, edge = hosts(dict.fromkeys(("web1", "web2", "edge1")), SPREAD)
    assert (first.instances, second.instances, edge.instances) == (("app1",), ("app2",), ())
    assert (first.rendered, second.rendered, bool(first.relay), bool(edge.relay)) == (None, None, True, False)
    assert edge.rendered is not None
    stacks = {one.looked.host: there(SPREAD) for one in (first, second, edge)}
    stacks["web2"]["units"] = {PLACES.unit_of("app2", FORMER): unit()}
    del stacks["web1"]["units"][PLACES.unit_of("app2", FORMER)]
    stacks["edge1"]["units"] = {}
    found = Told(
        preview(SPREAD, WANTED), build_topology(parse_config(SPREAD)), hosts(stacks, SPREAD), WANTED, serves=True
    )
    assert (found.instances("replace"), found.instances("create", "delete")) == (["app1", "app2"], [])
    served = Told(found.preview, found.topology, found.hosts, FORMER, serves=True)
    assert served.instances("create", "replace", "delete") == []
    assert served.nginx == "reload", "no host passes on yet what the others ask for"


def test_a_host_that_the_stack_file_does_not_name_any_more_is_told() -> None:
    found = Preview()
    for event in [*events(), command("delete", "sessions", "web2-host", {"stdin": "{}"}, {})]:
        found.take(event)
    gone = Told(found, build_topology(parse_config(values())), [host(there())], FORMER, serves=True)
    assert gone.deleted() == ["host web2: what runs there stops, and what it keeps stays"]
    assert gone.costs() == []


# --- what was changed by hand


def test_where_all_is_as_it_was_left_there_is_no_drift() -> None:
    assert drift(host(there()), preview()) == ()
    assert drift(host(there(WORKED), WORKED), preview(WORKED, before=WORKED)) == ()
    # What the stack file asks for now, and never ran, is none.
    more = values(upstream={"servers": 3})
    assert drift(host(there(), more), preview(more)) == ()


def test_what_was_changed_by_hand_is_told_by_name() -> None:
    stack = there(WORKED, nginx="b" * 64, static="000000000000")
    stack["units"][PLACES.unit_of("app1", FORMER)] = unit(active=False)
    stack["units"][PLACES.unit_of("app2", FORMER)]["enabled"] = False
    stack["units"][PLACES.unit_of("app2", "000000000000")] = unit()
    stack["instances"]["app2"]["holder"] = "000000000000"
    stack["site"]["sites-available/zz-cluster-shop"] = digest("edited")
    del stack["site"]["sites-enabled/zz-cluster-shop"]
    stack["files"]["unit"], stack["files"]["tmpfiles"] = digest("edited"), ""
    stack["daemons"]["cluster-shop.broker.service"]["state"] = "failed"
    stack["daemons"]["cluster-shop.memcached1.service"]["unit"] = digest("edited")
    assert drift(host(stack, WORKED), preview(WORKED, before=WORKED)) == (
        "nginx on web1 runs another configuration than the one that was put in place last",
        "sites-available/zz-cluster-shop was edited",
        "sites-enabled/zz-cluster-shop is gone",
        f"app1 is stopped: cluster-shop@app1-{FORMER}.service is inactive",
        "app2 is not started at boot",
        f"app2 serves release 000000000000, and not {FORMER}",
        f"the static files of release 000000000000 are served, and not those of {FORMER}",
        "cluster-shop@app2-000000000000.service is of no state: a killed run left it",
        "cluster-shop.memcached1.service was edited",
        "cluster-shop.broker.service is failed",
        "/etc/systemd/system/cluster-shop@.service was edited",
        "/etc/tmpfiles.d/cluster-shop.conf is gone",
    )


@pytest.mark.parametrize(
    ("stack", "words"),
    [
        (None, "web1 has nothing of the stack: it is another machine, or was emptied"),
        (there(nginx=None, nginx_runs=False), "nginx on web1 is stopped"),
        (there(nginx=None), "nginx on web1 does not serve the site"),
        (there(secrets=[]), f"the secrets of release {FORMER} on web1 are gone, or somebody else can read them"),
    ],
)
def test_a_host_that_has_nothing_and_an_nginx_that_is_away_are_told(stack: dict[str, Any] | None, words: str) -> None:
    assert drift(host(stack), preview()) == (words,)


def test_a_stack_that_was_never_up_has_no_drift() -> None:
    found = Preview()
    found.take(outputs({}, made(values(), WANTED)))
    assert drift(host(None), found) == ()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path / "host", monkeypatch)


# --- the whole plan


class Previewing(FakePulumi):
    """A preview that says these events."""

    unsettled = False

    def __init__(self, said: list[dict[str, Any]], refused: str = "") -> None:
        super().__init__("", {**SECRETS, "secret_environment": json.dumps({"OLD": "canary-old"})})
        self.said, self.refused = said, refused

    def events(self) -> list[dict[str, Any]]:
        return self.said


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_stack(tmp_path, values())
    file = tmp_path / "stacks" / "Pulumi.dev.yaml"
    text_ = f"{file.read_text()}  cluster:secret_key: {{secure: x}}\n"
    file.with_name("Pulumi.shop.yaml").write_text(text_)
    (tmp_path / "Pulumi.yaml").write_text(f"name: {PROJECT}\nruntime: python\n")
    monkeypatch.setattr(planning, "installed_pulumi", lambda: "pulumi")
    monkeypatch.setattr(foreseen, "lacking", lambda *_asked: [])  # no index is asked
    return Stack(tmp_path, "shop", parse_config(values()))


def planned(
    stack: Stack,
    pulumi: Previewing,
    monkeypatch: pytest.MonkeyPatch,
    answers: Mapping[str, Any],
    wanted: Forward | Back | None = None,
    **changes: Any,
) -> tuple[Planned, Answering]:
    host = Answering({"look": {"machine": LOOKED, "stack": there()}, "check-nginx": None, **answers})
    monkeypatch.setattr(cli, "Pulumi", lambda *_arguments: pulumi)
    monkeypatch.setattr(Ssh, "run", lambda _ssh, *words, **more: host.run(*words, **more))
    changed = Stack(stack.root, stack.name, parse_config(values(**changes)))
    return cli.platform(changed, Silent()).plan(wanted or Forward()), host


def test_a_weight_is_told_beside_what_the_host_runs(opened: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = {"servers": [{"name": "app1", "weight": 5}, {"name": "app2"}]}
    before = nginx_config(build_topology(parse_config(values())), PLACES, "web1", (1, 26, 3))
    pulumi = Previewing(events(values(upstream=upstream)))
    found, host = planned(opened, pulumi, monkeypatch, {"site-files": before.files}, upstream=upstream)
    assert [f"  {line}" for line in text(replace(found, lints=(), unknown=()))] == [
        f"  {NOTHING}",
        *WEIGHTED,
        "  resources: 1 to update",
    ]
    assert host.asked == [("look",), ("site-files",), ("check-nginx",)]


def test_what_does_not_change_is_one_line_and_the_host_is_looked_at_once(
    opened: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, host = planned(opened, Previewing(events()), monkeypatch, {})
    assert (found, host.asked) == (Planned(stack="shop", changes=False), [("look",)])


def test_what_nginx_refuses_there_is_refused(opened: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = {"servers": [{"name": "app1", "weight": 5}, {"name": "app2"}]}
    answers = {"site-files": {}, "check-nginx": "[emerg] 1#1: no\n"}
    pulumi = Previewing(events(values(upstream=upstream)))
    found, _host = planned(opened, pulumi, monkeypatch, answers, upstream=upstream)
    assert found.refused == ("nginx: nginx refuses it: no",)
    assert found.nginx == ("~ sites-available/zz-cluster-shop was lost: it is written again",)


def test_a_release_is_compared_with_what_the_host_keeps(
    opened: Stack, machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project = tmp_path / "example"
    project.unlink()  # the example of the repository's
    for path, written in {"manage.py": "", "example/settings.py": "", "a.py": "1\n2\n"}.items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(written)
    (project / "requirements.txt").write_text("django==5.2\nsqlparse>=0.5\n")
    was = {"example/settings.py": "", "a.py": "1\n", "b.py": "gone\n", "requirements.txt": "django==5.1\n"}
    keep(machine, FORMER, was, database={"engine": "sqlite"})
    answers = {"release": lambda release, known: showing.release(machine.places, release, known)}
    pulumi = Previewing(events(release=WANTED))
    found, host = planned(opened, pulumi, monkeypatch, answers)
    assert pulumi.began_early
    assert (found.costs, found.release.before, found.release.after) == ((Cost.NONE,), FORMER, WANTED)
    assert found.release.code == (
        FileChange(path="a.py", kind=Kind.CHANGED, added=1, removed=0),
        FileChange(path="b.py", kind=Kind.REMOVED, added=0, removed=1),
        FileChange(path="requirements.txt", kind=Kind.CHANGED, added=2, removed=1),
    )
    assert [(one.name, one.before, one.after) for one in found.release.requirements] == [
        ("django", "5.1", "5.2"),
        ("sqlparse", None, ">=0.5"),
    ]
    assert found.release.secrets == (
        SecretChange(name="secret_environment.OLD", kind=Kind.REMOVED),
        SecretChange(name="secret_environment.TOKEN", kind=Kind.ADDED),
    )
    assert "canary" not in json.dumps([document([found]), text(found)])
    assert "tree/above/example/manage.py" in host.told, "what is known here need not be sent"


def test_of_a_former_release_that_no_host_has_nothing_is_said_but_that(
    opened: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = {"machine": LOOKED, "stack": there(releases=[])}
    found, _host = planned(opened, Previewing(events(release=WANTED)), monkeypatch, {"look": look})
    assert found.unknown[0] == f"what of the release changes: release {FORMER} is on no host any more"


def test_what_a_host_is_to_build_is_said_before_and_what_is_built_already_is_not(
    opened: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = opened.root / ".cluster" / "shop" / "wheels" / "5-3.13-x86_64-manylinux_2_40-trixie"
    kept.mkdir(parents=True)
    (kept / "old_one-1.0-cp313-cp313-linux_x86_64.whl").touch()
    said = [
        Lacking(name="uwsgi", version="2.0.31", is_compiled=True),
        Lacking(name="old-one", version="1.0", is_compiled=True),
        Lacking(name="perhaps", version="3", is_compiled=False),
    ]
    asked: list[Any] = []

    def lacking(_found: Any, target: tuple[str, str]) -> list[Lacking]:
        asked.append(target)
        return said

    monkeypatch.setattr(foreseen, "lacking", lacking)
    found, host = planned(opened, Previewing(events(release=WANTED)), monkeypatch, {"release": HostError("gone")})
    built = "+ uwsgi 2.0.31: built on web1; it has no wheel for Python 3.13 on x86_64-manylinux_2_40"
    assert found.steps[1] == built
    assert found.steps[0].startswith(f"release {FORMER} -> {WANTED}")
    assert "where perhaps 3 is built: here, or on web1 if it is more than Python" in found.unknown
    assert not [line for line in (*found.steps, *found.unknown) if "old-one" in line]
    assert asked == [("3.13", "x86_64-manylinux_2_40")]
    assert "build" not in {words[0] for words in host.asked}
    assert planned(opened, Previewing(events()), monkeypatch, {})[0] == Planned(stack="shop", changes=False)
    assert len(asked) == 1, "a release that is there already is of no interest"


def test_an_index_that_is_away_leaves_what_a_host_builds_unknown(
    opened: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_asked: Any) -> list[Lacking]:
        raise ReleaseError("error: Failed to fetch: `https://pypi.org/simple/uwsgi/`\n  cause: no route")

    monkeypatch.setattr(foreseen, "lacking", away)
    found, _host = planned(opened, Previewing(events(release=WANTED)), monkeypatch, {"release": HostError("gone")})
    assert found.unknown[-1] == (
        "whether packages are built on web1, since they have no wheel for Python 3.13 on x86_64-manylinux_2_40: "
        "error: Failed to fetch: `https://pypi.org/simple/uwsgi/`"
    )


def test_what_the_engine_refuses_is_said(opened: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _host = planned(opened, Previewing([], "it is so\n\nand so"), monkeypatch, {})
    assert found.refused == ("it is so", "and so")


def test_a_stack_that_was_never_set_up_needs_no_preview(opened: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    file = opened.root / "stacks" / "Pulumi.shop.yaml"
    file.write_text(file.read_text().replace("  cluster:secret_key: {secure: x}\n", ""))
    look = {"machine": LOOKED, "stack": None}
    found, host = planned(opened, Previewing([]), monkeypatch, {"look": look})
    assert (found.costs, found.steps[0]) == ((Cost.START,), "the first release; its secret_key is made first")
    assert host.asked == [("look",)]


def test_a_plan_installs_nothing(opened: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "installed_pulumi", lambda: None)
    with pytest.raises(CommandError, match="Pulumi is missing: `cluster up shop` installs it"):
        planned(opened, Previewing([]), monkeypatch, {})


def test_an_authority_that_is_made_first_leaves_the_rest_unknown(
    opened: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = {**VALUES["site"], "tls": {"self_signed": True}}
    found, _host = planned(opened, Previewing([]), monkeypatch, {}, site=site)
    assert (found.costs, found.unknown) == ((), ("what else changes: `up` makes cluster:tls_authority first",))


def test_drift_is_told_by_the_state_alone(opened: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [one["resourcePreEvent"]["metadata"] for one in events() if "resourcePreEvent" in one]
    resources: list[dict[str, Any]] = [{"urn": one["urn"], "type": one["type"], **one["old"]} for one in steps]
    stack = {"type": "pulumi:pulumi:Stack", "urn": f"urn:pulumi:shop::{PROJECT}::pulumi:pulumi:Stack::x-shop"}
    resources.append({**stack, "outputs": made(values(), FORMER)})
    # Of a command that is told a secret the state has no plain text.
    resources[1]["inputs"] = {**resources[1]["inputs"], "stdin": {"ciphertext": "x"}}
    pulumi = Previewing([])
    monkeypatch.setattr(pulumi, "find", lambda: resources)
    monkeypatch.setattr(cli, "Pulumi", lambda *_arguments: pulumi)
    found = there()
    monkeypatch.setattr(Ssh, "run", lambda *_words, **_more: json.dumps({"machine": LOOKED, "stack": found}))
    assert cli.platform(opened, Silent()).drift() == ()
    found["files"]["unit"] = digest("edited")
    assert cli.platform(opened, Silent()).drift() == ("/etc/systemd/system/cluster-shop@.service was edited",)


MADE = values(database={"engine": "postgres"}, hosts=[{**VALUES["hosts"][0], "roles": ["app", "nginx", "database"]}])


def test_a_database_that_is_made_comes_up_and_of_one_that_is_told_anew_nobody_knows_more() -> None:
    def done(operation: str) -> Told:
        found = preview(MADE)
        old = {"environment": {"DIGEST": "a"}} if operation == "update" else {}
        for event in [command(operation, "database", "web1-postgres", old, {"environment": {"DIGEST": "b"}})]:
            found.take(event)
        return Told(found, build_topology(parse_config(MADE)), [host(there(MADE), MADE)], FORMER, serves=True)

    nothing = Planned(stack="shop", changes=True).release
    assert done("create").steps(nothing, (), migrate=False) == ("+ postgres",)
    assert done("update").steps(nothing, (), migrate=False) == ("~ postgres: what it is told",)
    assert done("update").costs() == []


@pytest.mark.parametrize(
    ("database", "words"),
    [
        ({"active": True, "safe": True}, ()),
        ({"active": False, "safe": True}, ("PostgreSQL on web1 is stopped",)),
        (None, ("PostgreSQL on web1 is gone",)),
        ({"active": True, "safe": False}, ("everybody on its network gets to the port of PostgreSQL on web1",)),
    ],
)
def test_a_database_that_was_stopped_or_opened_is_told(database: dict[str, Any] | None, words: tuple[str, ...]) -> None:
    found = preview(MADE, before=MADE)
    told_ = {"environment": {"DIGEST": "a"}}
    found.take(command("same", "database", "web1-postgres", told_, told_))
    assert drift(host(there(MADE, database=database), MADE), found) == words


def test_the_url_of_a_database_that_is_made_is_no_secret_that_went(
    opened: Stack, monkeypatch: pytest.MonkeyPatch, machine: Machine
) -> None:
    file = opened.root / "stacks" / "Pulumi.shop.yaml"
    file.write_text(f"{file.read_text()}  cluster:hosts_key: {{secure: x}}\n")
    keep(machine, FORMER, {}, database={"engine": "postgres"})
    key, topology = new_hosts_key(), build_topology(parse_config(MADE))
    pulumi = Previewing(events(MADE, WANTED, MADE))
    monkeypatch.setattr(pulumi, "secrets", lambda *more: {**SECRETS, **dict.fromkeys(more, key)})
    former = {**SECRETS, "database_url": url(topology, PLACES, key)}
    monkeypatch.setattr(pulumi, "former", former)
    answers = {
        "look": {"machine": LOOKED, "stack": there(MADE)},
        "release": lambda release, known: showing.release(machine.places, release, known),
    }
    changes = {key: MADE[key] for key in ("database", "hosts")}
    found, _host = planned(opened, pulumi, monkeypatch, answers, **changes)
    assert found.release.secrets == ()
    assert "code" in found.release.parts


@pytest.mark.parametrize(
    ("kept", "found"),
    [
        ({"old": [FORMER], "both": [FORMER, WANTED]}, "both"),
        ({"new": [WANTED], "old": [FORMER]}, "old"),
        ({"old": [FORMER], "new": [WANTED]}, "old"),
    ],
    ids=["one has both", "the second", "the first"],
)
def test_two_releases_are_compared_on_a_host_that_has_both_where_any_has(
    kept: Mapping[str, list[str]], found: str
) -> None:
    plan = Planning.__new__(Planning)
    there: list[Any] = [SimpleNamespace(looked=SimpleNamespace(host=name, releases=one)) for name, one in kept.items()]
    plan.hosts = there
    assert plan._keeper(FORMER, WANTED).host == found
    with pytest.raises(HostError, match="is on no host any more"):
        plan._keeper("another")
