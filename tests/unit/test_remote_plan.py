"""What a plan says of a stack on a host: by the engine's events, what was found there, and releases that it keeps."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cluster.config import parse_config
from cluster.errors import CommandError
from cluster.plan import Cost, Planned
from cluster.plan.compare import compare_code
from cluster.plan.nginx_check import Refusal, UncheckedError
from cluster.plan.planned import FileChange, Kind, Resource, SecretChange
from cluster.plan.shown import document, text
from cluster.stack.opened import Stack
from cluster.topology import build_topology
from platforms.base import Back, Forward
from platforms.pulumi import planning
from platforms.pulumi.preview import Preview
from platforms.remote import platform as cli
from platforms.remote.drift import drift
from platforms.remote.host import checking, showing
from platforms.remote.host.places import Places
from platforms.remote.host.running import HostError as ThereError
from platforms.remote.kept import NoReleaseError, changed_parts, fetched
from platforms.remote.looked import Looked, Seen
from platforms.remote.nginx_check import HostChecker
from platforms.remote.paths import nginx_config
from platforms.remote.planning import Site
from platforms.remote.ssh import HostError, Ssh
from platforms.remote.told import Told
from platforms.remote.units import daemon_unit, instance_unit, nginx_unit, tmpfiles
from tests.planned import NOTHING, WEIGHTED
from tests.unit.pulumi_mocks import PROJECT, SECRETS, write_stack
from tests.unit.remote_machine import Machine
from tests.unit.test_docker_plan import FakePulumi, Silent
from tests.unit.test_remote import MACHINE, VALUES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from platforms.remote.told import Hosted

#: The releases: the one that serves, and the one that is wanted.
FORMER, WANTED = "aee6bc29a566", "94cd6efe7d00"

#: The first instance gets three of four requests.
SERVERS = {"servers": [{"name": "app1", "weight": 3}, {"name": "app2"}]}

PLACES = Places("shop")

#: What a look says of the machine.
LOOKED = {**MACHINE, "clock": 0.0}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def unit(*, active: bool = True, enabled: bool = True) -> dict[str, Any]:
    state = "active" if active else "inactive"
    return {"state": state, "sub": "", "pid": 1, "told": "", "restarts": 0, "enabled": enabled}


def values(**changes: Any) -> dict[str, Any]:
    return {**VALUES, "upstream": SERVERS, **changes}


def there(asked: dict[str, Any] | None = None, release: str = FORMER, **more: Any) -> dict[str, Any]:
    """Return what a look says of a host on which a stack is as it should be."""
    topology = build_topology(parse_config(asked or values()))
    rendered = nginx_config(topology, PLACES, "web1", (1, 26, 3))
    daemons = {
        PLACES.daemon(one.name).name: {"state": "active", "unit": text_, "started": text_}
        for one in topology.services
        if one.daemon is not None
        for text_ in [digest(daemon_unit(one, PLACES))]
    }
    services = {PLACES.unit_of_service(one.name, one.generation(release)): unit() for one in topology.beside}
    return {
        "owner": "x",
        "nginx": rendered.digest,
        "nginx_runs": True,
        "nginx_turn": 1,
        "turns": {},
        "maintenance": {"kept": None, "told": None},
        "releases": [release],
        "environments": [],
        "units": {**{PLACES.unit_of(name, release): unit() for name in topology.names}, **services},
        "files": {name: digest(text_) for name, text_ in systemd(topology).items()},
        "site": {**{path: digest(text_) for path, text_ in rendered.files.items()}, **rendered.links},
        "relay": {"files": {}, "runs": False},
        "daemons": daemons,
        "static": release,
        "static_turn": 1,
        "services": {},
        "instances": {
            name: {"holder": release, "turn": 1, "given": release, "answers": True, "said": {}}
            for name in topology.names
        },
        **more,
    }


def systemd(topology: Any) -> dict[str, str]:
    return {
        "unit": instance_unit(topology, PLACES),
        "nginx_unit": nginx_unit(PLACES),
        "tmpfiles": tmpfiles(topology, PLACES),
    }


def hosts(each: Mapping[str, dict[str, Any] | None], asked: dict[str, Any]) -> list[Hosted]:
    """Return hosts of a stack, on which this was found."""
    config = parse_config(asked)
    found = {name: Looked(host=name, places=PLACES, machine=MACHINE, stack=one) for name, one in each.items()}
    seen: Any = Seen(each=found, topology=build_topology(config))
    nobody: Any = None
    return Site(Stack(Path(), "shop", config), nobody, nobody, seen, nobody, None, {}).hosts


def host(stack: dict[str, Any] | None, asked: dict[str, Any] | None = None) -> Hosted:
    (found,) = hosts({"web1": stack}, asked or values())
    return found


# --- the engine's events, as they are of a stack on a host


def command(
    operation: str, component: str, part: str, old: dict[str, Any], new: dict[str, Any], *changed: str
) -> dict[str, Any]:
    kind, parent = "command:local:Command", f"urn:pulumi:shop::{PROJECT}::cluster:index:X::{component}"
    states = {key: {"inputs": one, "parent": parent} for key, one in (("old", old), ("new", new))}
    urn = f"urn:pulumi:shop::{PROJECT}::cluster:index:X${kind}::{component}-{part}"
    metadata = {"op": operation, "urn": urn, "type": kind, **states, "detailedDiff": dict.fromkeys(changed)}
    return {"resourcePreEvent": {"metadata": metadata}}


def outputs(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    states = {key: {"outputs": one} for key, one in (("old", before), ("new", after))}
    return {"resOutputsEvent": {"metadata": {"type": "pulumi:pulumi:Stack", "op": "same", **states}}}


def made(asked: dict[str, Any], release: str) -> dict[str, Any]:
    """Return the outputs of a program."""
    topology = build_topology(parse_config(asked))
    servers = [{"name": one.name, "weight": one.server.weight} for one in topology.instances]
    return {
        "release": release,
        "nginx": nginx_config(topology, PLACES, "web1", (1, 26, 3)).digest,
        "upstream": servers,
    }


def site_told(asked: dict[str, Any]) -> str:
    rendered = nginx_config(build_topology(parse_config(asked)), PLACES, "web1", (1, 26, 3))
    return json.dumps({"files": rendered.files, "links": rendered.links, "digest": rendered.digest})


def events(
    after: dict[str, Any] | None = None, release: str = FORMER, before: dict[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return what the engine says where a stack file and a release are others than before."""
    before, after = before or values(), after or values()
    op = "same" if release == FORMER else "update"
    # Its turn is another one too: nobody reads a reason in that.
    ways = ("environment.RELEASE", "environment.TURN")

    def of_release(component: str, part: str, **more: str) -> dict[str, Any]:
        old, new = ({"environment": {"RELEASE": one, "TURN": one, **more}} for one in (FORMER, release))
        return command(op, component, part, old, new, *ways)

    site = [{"stdin": site_told(one), "environment": {"DIGEST": made(one, "")["nginx"]}} for one in (before, after)]
    told = "same" if site[0] == site[1] else "update"
    texts = {"stdin": json.dumps({"owner": "x", **systemd(build_topology(parse_config(before)))})}
    return [
        command("same", "sessions", "web1-host", texts, texts),
        *(of_release("app", f"web1-{part}") for part in ("sent", "prepare", "start1", "static", "serve1")),
        command(told, "nginx", "web1-nginx-config", site[0], site[1], "stdin", "environment.DIGEST"),
        of_release("nginx", "web1-retire"),
        outputs(made(before, FORMER), made(after, release)),
    ]


def preview(*more: Any, **changes: Any) -> Preview:
    found = Preview()
    for event in events(*more, **changes):
        found.take(event)
    return found


def test_a_release_is_one_reason_whichever_step_names_it() -> None:
    found = preview(release=WANTED)
    assert found.release() == (FORMER, WANTED)
    assert found.resources() == tuple(
        Resource(operation="update", kind="Command", name=f"web1-{name}", reasons=("release",))
        for name in ("prepare", "retire", "sent", "serve1", "start1", "static")
    )
    assert preview().resources() == ()


# --- what is done, by what was found


def told(stack: dict[str, Any] | None, asked: dict[str, Any] | None = None, release: str = FORMER) -> Told:
    asked = asked or values()
    here = host(stack, asked)
    serves = stack is not None
    return Told(preview(asked, release), build_topology(parse_config(asked)), [here], release, serves=serves)


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
    ],
)
def test_a_host_that_has_nothing_and_an_nginx_that_is_away_are_told(stack: dict[str, Any] | None, words: str) -> None:
    assert drift(host(stack), preview()) == (words,)


def test_a_stack_that_was_never_up_has_no_drift() -> None:
    found = Preview()
    found.take(outputs({}, made(values(), WANTED)))
    assert drift(host(None), found) == ()


# --- releases that a host keeps


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path / "host", monkeypatch)


def keep(
    machine: Machine, release: str, code: Mapping[str, str], *, environment: str = "e1-3.13-x86_64-a", **more: Any
) -> Path:
    """Let a host keep a release."""
    directory = machine.places.releases / release
    project = directory / "tree" / "above" / "example"
    for path, written in {"manage.py": "", **code}.items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(written)
    (project / "__pycache__").mkdir()
    (project / "__pycache__" / "a.pyc").write_text("compiled")
    (directory / "runtime" / "cluster_runtime").mkdir(parents=True)
    (directory / "runtime" / "cluster_runtime" / "a.py").write_text("runtime")
    runtime = {"release": release, "threads": 4, "secrets": f"/x/{release}", **more}
    (directory / "config.json").write_text(json.dumps(runtime))
    (directory / "environment").symlink_to(machine.places.environments / environment)
    return project


def asking(machine: Machine) -> Callable[[str, Mapping[str, str]], dict[str, Any]]:
    def ask(release: str, known: Mapping[str, str]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(json.dumps(showing.release(machine.places, release, known)))
        return found

    return ask


def test_a_release_is_put_down_as_the_host_has_it_and_what_is_known_is_not_sent(
    machine: Machine, tmp_path: Path
) -> None:
    project = keep(machine, FORMER, {"a.py": "1\n", "b.py": "same\n", "requirements.txt": "django==5.2\n"})
    (project / "manage.py").chmod(0o755)
    (project / "media").symlink_to("/var/lib/cluster-shop/shared/media")
    (project / "large.js").write_text("x" * (showing.LARGEST + 1))
    same = tmp_path / "same.py"
    same.write_text("same\n")
    known = {"tree/above/example/b.py": same, "tree/above/example/a.py": same}
    said = showing.release(machine.places, FORMER, {path: digest("same\n") for path in known})["files"]
    assert {path for path, one in said.items() if "text" not in one and "link" not in one} == {
        "tree/above/example/b.py",
        "tree/above/example/large.js",
    }
    assert not [path for path in said if "__pycache__" in path]
    config = parse_config(values())
    there = tmp_path / "aside"
    there.mkdir()
    found = fetched(asking(machine), FORMER, config, SECRETS, there, beside=known)
    old = {path: one if isinstance(one, str) else one.read_bytes() for path, one in found.side.tree.items()}
    assert old["media"] == "/var/lib/cluster-shop/shared/media"
    assert (old["a.py"], old["b.py"]) == (b"1\n", b"same\n")
    assert len(old["large.js"]) == showing.LARGEST + 1
    assert os.access(there / "tree" / "above" / "example" / "manage.py", os.X_OK)
    assert found.side.packages == {"django": "5.2"}
    new = {**found.side.tree, "a.py": same, "large.js": same}
    assert compare_code(found.side.tree, new) == (
        FileChange(path="a.py", kind=Kind.CHANGED, added=1, removed=1),
        FileChange(path="large.js", kind=Kind.CHANGED, added=None, removed=None),
    )


def test_a_release_that_is_gone_is_told(machine: Machine) -> None:
    with pytest.raises(ThereError, match=f"release {FORMER} is not here"):
        showing.release(machine.places, FORMER, {})


@pytest.mark.parametrize("path", ["../outside", "/etc/outside", "tree/../../outside", "tree/link/outside"])
def test_what_leads_out_of_a_release_is_none_of_it(path: str, tmp_path: Path) -> None:
    held = {"digest": "", "size": 1, "program": False, "text": base64.b64encode(b"x").decode()}
    files = {"tree/link": {"link": str(tmp_path)}, path: {"link": "/etc"} if "link/" in path else held}
    said = {"config": {}, "environment": "e-3.13", "files": files}
    aside = tmp_path / "aside"
    aside.mkdir()
    with pytest.raises(NoReleaseError, match="not what a release holds"):
        fetched(lambda *_asked: said, FORMER, parse_config(values()), {}, aside, beside={})
    assert {one.name for one in tmp_path.iterdir()} == {"aside"}


def test_the_parts_that_differ_are_told_and_what_no_file_tells_of_is_what_it_runs_on(
    machine: Machine, tmp_path: Path
) -> None:
    def of(name: str, secrets: dict[str, str] = SECRETS, code: str = "1\n", **more: Any) -> Any:
        keep(machine, name, {"a.py": code}, **more)
        (tmp_path / name).mkdir()
        return fetched(asking(machine), name, parse_config(values()), secrets, tmp_path / name, beside={})

    former = of("r0")
    assert changed_parts(former, of("r1")) == ("platform",)
    assert changed_parts(former, of("r2", code="2\n")) == ("code",)
    assert changed_parts(former, of("r3", environment="e2-3.13-x86_64-a")) == ("requirements",)
    assert changed_parts(former, of("r4", environment="e1-3.14-x86_64-a")) == ("python",)
    assert changed_parts(former, of("r5", threads=7)) == ("settings",)
    assert changed_parts(former, of("r6", {"secret_key": "x"})) == ("secrets",)
    other = of("r7")
    assert changed_parts(former, replace(other, runtime={})) == ("runtime",)


def test_of_the_site_s_files_what_not_everybody_may_read_is_not_shown(machine: Machine) -> None:
    places = machine.places
    (places.nginx / "sites-available" / "zz-cluster-shop").write_text("server {}\n")
    for name, mode in (("snippets/http.conf", 0o644), ("key.pem", 0o600), ("users", 0o640)):
        path = places.own_nginx / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
        path.chmod(mode)
    (places.own_nginx / "linked").symlink_to("key.pem")
    snippet = str(places.own_nginx / "snippets/http.conf")
    assert showing.site(places) == {
        "sites-available/zz-cluster-shop": "server {}\n",
        snippet: "snippets/http.conf\n",
    }


def test_a_snippet_is_found_by_the_path_that_the_site_s_file_has_for_it() -> None:
    snippets = {"http": "geo $a {\n    default 1;\n}\n"}
    asked = values(site={**VALUES["site"], "snippets": snippets})
    here = host(there(asked), asked)
    assert here.rendered is not None
    assert here.looked.has_site(here.rendered)
    from platforms.remote.host.look import _called  # noqa: PLC0415 - what a look calls it

    path = PLACES.own_nginx / "snippets" / "http.conf"
    assert _called(PLACES, path) in here.rendered.files


# --- a check by the host's nginx


def test_a_check_has_the_host_s_nginx_conf_and_leaves_nothing(machine: Machine) -> None:
    nginx, root = machine.places.nginx, machine.places.root
    (nginx / "nginx.conf").write_text(
        f"pid /run/nginx.pid;\nerror_log /var/log/nginx/error.log;\nhttp {{\n    include {nginx}/mime.types;\n"
        f"    access_log /var/log/nginx/access.log;\n    include {nginx}/conf.d/*.conf;\n"
        f"    include {nginx}/sites-enabled/*;\n}}\n"
    )
    (nginx / "mime.types").write_text("types {}\n")
    directory = "/run/cluster-check-0123abcd"
    seen = root / "seen"
    (root / "programs" / "nginx").write_text(
        f'#!/bin/sh\npwd >{seen}\ncat nginx.conf sites-enabled/zz mime.types >>{seen}\necho "[emerg] no" >&2\nexit 1\n'
    )
    before = machine.tree()
    asked = {
        "directory": directory,
        "directories": [f"{directory}/logs"],
        "files": {"sites-available/zz": "server {}\n", f"{directory}/own/a.conf": "one;\n"},
        "links": {"sites-enabled/zz": "../sites-available/zz"},
    }
    assert checking.check(machine.places, asked) == "[emerg] no\n"
    made = f"{root}{directory}"
    assert seen.read_text() == (
        f"{made}\npid {made}/pid;\nerror_log {made}/log;\nhttp {{\n    include {nginx}/mime.types;\n"
        f"    access_log {made}/log;\n    include {nginx}/conf.d/*.conf;\n"
        f"    include {made}/sites-enabled/*;\n}}\nserver {{}}\ntypes {{}}\n"
    )
    assert machine.tree() == before
    assert list((root / "run").iterdir()) == []
    (root / "programs" / "nginx").write_text("#!/bin/sh\nexit 0\n")
    assert checking.check(machine.places, asked) is None
    (nginx / "nginx.conf").write_text("http {}\n")
    with pytest.raises(ThereError, match="includes no sites-enabled"):
        checking.check(machine.places, asked)
    assert list((root / "run").iterdir()) == []


@pytest.mark.parametrize(
    "asked",
    [
        {"directory": "/etc/nginx"},
        {"directory": "/run/cluster-check-0123abcd/../../etc"},
        {"files": {"../outside": "x"}},
        {"files": {"/etc/outside": "x"}},
        {"links": {"../outside": "x"}},
        {"directories": ["/etc/outside"]},
    ],
)
def test_a_check_writes_nowhere_else(machine: Machine, asked: dict[str, Any]) -> None:
    whole = {"directory": "/run/cluster-check-0123abcd", "directories": [], "files": {}, "links": {}, **asked}
    before = sorted(machine.places.root.rglob("*"))
    with pytest.raises(ThereError, match="of a check"):
        checking.check(machine.places, whole)
    assert sorted(machine.places.root.rglob("*")) == before


class Answering:
    """A host that is asked by commands."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers = dict(answers)
        self.asked: list[tuple[str, ...]] = []
        self.told: dict[str, Any] = {}

    def run(self, _host: str, what: str, *words: str, told: str = "", seconds: float | None = None) -> str:
        self.asked.append((what, *words))
        self.told = json.loads(told) if told else {}
        answer = self.answers[what]
        found = answer(*words, self.told) if callable(answer) else answer
        if isinstance(found, Exception):
            raise found
        return json.dumps(found)


def test_what_a_host_s_nginx_refuses_is_told_by_its_key() -> None:
    snippets = {"server": "add_haeder X-A b;\n"}
    asked = parse_config(values(site={**VALUES["site"], "snippets": snippets}))

    def nginx(told: Mapping[str, Any]) -> str | None:
        directory = told["directory"]
        assert "sites-enabled/zz-cluster-shop" in told["links"]
        site = told["files"]["sites-available/zz-cluster-shop"]
        assert f"listen unix:{directory}/site" in site, "no port is taken"
        broken = f"{directory}/snippets/server.conf"
        words = f'2026/01/01 [emerg] 7#7: unknown directive "add_haeder" in {broken}:1\n'
        return words if broken in told["files"] else None

    looked = Looked(host="web1", places=PLACES, machine=MACHINE, stack=there())
    checker = HostChecker(Answering({"check-nginx": nginx}), looked)  # type: ignore[arg-type]
    assert checker.refusals(asked) == [
        Refusal(key="site.snippets.server", words='unknown directive "add_haeder" in snippets/server.conf:1')
    ]
    away = HostChecker(Answering({"check-nginx": HostError("web1: is away")}), looked)  # type: ignore[arg-type]
    with pytest.raises(UncheckedError, match="web1: is away"):
        away.refusals(asked)
    assert away.judged(asked) == ([], ["whether nginx takes its configuration: web1: is away"])


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
    found, host = planned(opened, Previewing(events(release=WANTED)), monkeypatch, answers)
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
