"""The components and the whole program under Pulumi's mocks, for `up` and for `preview`."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import itertools
import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import crossplane
import pulumi
import pytest

import components
from cluster.config import parse_config
from cluster.docker.engine import Live, read_live
from cluster.docker.places import nginx_config, runtime_places
from cluster.local.places import Places
from cluster.release import runtime_config
from cluster.render.nginx import render_nginx, version_in_image
from cluster.topology import build_topology
from components.platforms.docker.containers import go_duration
from components.platforms.docker.images import write_context
from components.platforms.docker.platform import instance_spec
from tests.unit.recording import (
    COMMAND,
    CONTAINER,
    IMAGE,
    ROOT,
    SECRET,
    SECRET_WORDS,
    UNKNOWN,
    VOLUME,
    Record,
    parts,
    record_of,
    run,
    whole,
)

if TYPE_CHECKING:
    from pathlib import Path

STACK: dict[str, Any] = {
    "platform": "docker",
    "app": {"project": "./example", "settings": "example.settings", "memory": "256m"},
    "upstream": {
        "servers": [
            {"name": "app1", "weight": 3},
            {"name": "app2", "max_fails": 2, "fail_timeout": "20s"},
            {"name": "app3"},
            {"name": "app4", "backup": True},
        ]
    },
    "sessions": {"engine": "cached_db", "memcached": {"nodes": 2, "memory": "64m"}},
    "database": {"engine": "postgres"},
    "site": {"server_names": ["cluster", "localhost"], "listen": 8090, "instance_ports": 8100},
}
NAMES = ("app1", "app2", "app3", "app4")

#: What each service may see of the stack's volumes, by the paths in its container.
MAY_MOUNT = {
    "instance": {"/run/cluster", "/run/sessions", "/run/database", "/srv/secrets", "/srv/database", "/srv/static"},
    "nginx": {"/run/cluster", "/srv/static", "/var/lib/cluster"},
    "memcached1": {"/run/sessions"},
    "memcached2": {"/run/sessions"},
    "postgres": {"/run/database", "/srv/database", "/var/lib/cluster"},
}


def stack(**changes: Any) -> dict[str, Any]:
    values = copy.deepcopy(STACK)
    for key, value in changes.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return values


@pytest.fixture(scope="module", params=[False, True], ids=["up", "preview"])
def preview(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def record(preview: bool, tmp_path_factory: pytest.TempPathFactory) -> Record:
    return record_of(STACK, tmp_path_factory.mktemp("work"), preview=preview)


# --- the contract of all components, in one table


@dataclasses.dataclass(frozen=True)
class Component:
    name: str
    cls: type[pulumi.ComponentResource]
    args: type
    outputs: tuple[str, ...]
    children: frozenset[str]


COMPONENTS = [
    Component(
        "sessions",
        components.SessionStore,
        components.SessionStoreArgs,
        ("engine", "nodes"),
        frozenset({"sessions", "memcached-image", "memcached1", "memcached2"}),
    ),
    Component(
        "database",
        components.Database,
        components.DatabaseArgs,
        ("engine",),
        frozenset(
            {
                *("postgres-image", "database", "database-sockets", "database-secrets"),
                *("database-password", "postgres"),
            }
        ),
    ),
    Component(
        "app",
        components.AppHosts,
        components.AppHostsArgs,
        ("release", "names"),
        frozenset(
            {
                *("app-image", "outgoing", "secrets", "static", "sockets", "static-files", "migrate", "prove"),
                *("static-current", *NAMES, *(f"{name}-serve" for name in NAMES)),
            }
        ),
    ),
    Component("upstream", components.UpstreamPool, components.UpstreamPoolArgs, ("servers",), frozenset()),
    Component(
        "nginx",
        components.NginxSite,
        components.NginxSiteArgs,
        ("url", "digest"),
        frozenset({"site", "nginx", "nginx-image", "nginx-config"}),
    ),
]
TABLE = pytest.mark.parametrize("component", COMPONENTS, ids=[c.cls.__name__ for c in COMPONENTS])


@TABLE
def test_a_component_has_its_token_and_parents_its_children(component: Component, record: Record) -> None:
    token = f"cluster:index:{component.cls.__name__}"
    assert (
        record.named(component.name, token).parent == "django-cluster-dev"
        or not record.named(component.name, token).parent
    )
    children = {one.name for one in record.all if one.parent == component.name and one.type != token}
    assert children == component.children


@TABLE
def test_a_component_takes_name_args_opts_and_its_args_are_frozen_keyword_only_and_typed(component: Component) -> None:
    assert list(inspect.signature(component.cls.__init__).parameters) == ["self", "name", "args", "opts"]
    parameters = component.args.__dataclass_params__  # type: ignore[attr-defined]
    assert parameters.frozen
    assert all(found.kw_only for found in dataclasses.fields(component.args))
    assert all(found.type not in ("Any", "dict", "object") for found in dataclasses.fields(component.args))


@TABLE
def test_a_component_registers_its_outputs_last_and_each_is_typed(component: Component, record: Record) -> None:
    assert component.name in record.registered_outputs
    hints = inspect.get_annotations(component.cls)
    assert set(component.outputs) == set(hints), "an output without a type"
    assert all(hint.startswith("pulumi.Output[") for hint in hints.values())


@pytest.mark.parametrize("component", COMPONENTS[:2], ids=["SessionStore", "Database"])
def test_a_caller_s_options_are_honoured(component: Component, tmp_path: Path) -> None:
    def program() -> dict[str, pulumi.Output[Any]]:
        made = parts(STACK, tmp_path)
        parent = pulumi.ComponentResource("test:index:Parent", "parent")
        opts = pulumi.ResourceOptions(parent=parent)
        built = component.cls("own", component.args(topology=made.topology, platform=made.platform), opts)  # type: ignore[arg-type]
        return {"urn": built.urn}

    record = run(program)
    assert record.named("own").parent == "parent"


def test_all_outputs_are_known_after_up_and_hold_nothing_secret(tmp_path: Path) -> None:
    record = record_of(STACK, tmp_path)
    assert record.outputs["url"] == "http://cluster:8090/"
    assert record.outputs["upstream"][0] == {"name": "app1", "weight": 3, "share": "60 %"}
    assert record.outputs["upstream"][3] == {"name": "app4", "weight": 1, "share": "0 %", "backup": True}
    assert re.fullmatch(r"[0-9a-f]{12}", record.outputs["release"])
    assert record.outputs["nginx"] == nginx_config(build_topology(parse_config(STACK))).digest
    assert (record.outputs["sessions"], record.outputs["database"]) == ("cached_db", "postgres")
    assert not any(word in json.dumps(record.outputs) for word in SECRET_WORDS)


# --- containers


def test_no_container_has_a_name_of_its_own(record: Record) -> None:
    assert {one.name for one in record.of(CONTAINER)} == {*NAMES, "nginx", "memcached1", "memcached2", "postgres"}
    named = [one.name for one in record.of(CONTAINER) if "name" in one.inputs]
    assert named == [], "a retry after a failed release would end with a conflict of names"


def test_every_container_is_hardened(record: Record) -> None:
    for one in record.of(CONTAINER):
        found = one.inputs
        assert found["readOnly"] is True, one.name
        assert found["capabilities"] == {"drops": ["ALL"]}, one.name
        assert found["securityOpts"] == ["no-new-privileges:true"], one.name
        user = found["user"]
        assert re.fullmatch(r"1000\d:10001", user), f"{one.name} runs as {user}"
        assert found["memory"] == found["memorySwap"] > 0, one.name
        assert {limit["name"] for limit in found["ulimits"]} == {"nofile", "nproc"}, one.name
        assert (found["ipcMode"], found["restart"]) == ("private", "unless-stopped"), one.name
        assert found["networkMode"] in ("none", "bridge"), one.name
        assert found["logOpts"] == {"max-size": "10m", "max-file": "3"}, one.name
        assert found["destroyGraceSeconds"] == found["stopTimeout"] > 0, one.name
        assert "privileged" not in found, one.name
        assert "envs" not in found, f"{one.name}: what an environment holds, docker inspect tells"


def test_an_instance_has_the_time_to_drain_and_to_end_its_requests(record: Record) -> None:
    for name in NAMES:
        assert record.named(name, CONTAINER).inputs["destroyGraceSeconds"] >= 3 + 30


def test_what_others_wait_for_has_a_health_check_that_starts_no_python(record: Record) -> None:
    for one in record.of(CONTAINER):
        if one.name == "nginx":
            continue
        assert one.inputs["wait"] is True, one.name
        check = one.inputs["healthcheck"]
        assert "python" not in " ".join(check["tests"]), one.name
        assert one.inputs["waitTimeout"] > 60, one.name


def test_durations_are_written_as_the_engine_tells_them_back() -> None:
    assert [go_duration(n) for n in (2, 59, 60, 90, 120, 3600, 3725)] == [
        *("2s", "59s", "1m0s", "1m30s", "2m0s", "1h0m0s", "1h2m5s")
    ]


def test_another_health_check_makes_another_label_and_another_release() -> None:
    one, other = (build_topology(parse_config(stack(app={"health": {"start_timeout": t}}))) for t in ("60s", "61s"))
    assert instance_spec(one, "r", "app1").fingerprint() != instance_spec(other, "r", "app1").fingerprint()
    assert instance_spec(one, "r", "app1").fingerprint() == instance_spec(one, "r", "app1").fingerprint()


def test_only_nginx_publishes_ports_and_the_instances_own_on_loopback_alone(record: Record) -> None:
    for one in record.of(CONTAINER):
        if one.name != "nginx":
            assert one.inputs.get("ports", []) == [], one.name
    ports = {(port["external"], port["ip"]) for port in record.named("nginx", CONTAINER).inputs["ports"]}
    assert ports == {(8090, "0.0.0.0"), *((8100 + number, "127.0.0.1") for number in range(4))}


def test_memcached_and_postgresql_have_no_network_at_all(record: Record) -> None:
    for name in ("memcached1", "memcached2", "postgres"):
        found = record.named(name, CONTAINER).inputs
        assert (found["networkMode"], found.get("networksAdvanced", [])) == ("none", []), name


def test_instances_reach_out_on_a_network_on_which_nobody_reaches_them(record: Record) -> None:
    assert record.named("outgoing").inputs["options"] == {"com.docker.network.bridge.enable_icc": "false"}


def test_no_container_sees_a_volume_that_is_not_its_business(record: Record) -> None:
    for one in record.of(CONTAINER):
        role = one.labels["django-cluster.role"]
        assert set(one.mounts()) == MAY_MOUNT[role], one.name
    for one in record.of(CONTAINER):
        read_only = {v["containerPath"] for v in one.inputs["volumes"] if v.get("readOnly")}
        assert {"/srv/secrets", "/srv/database", "/srv/static"} & set(one.mounts()) <= read_only, one.name


# --- secrets


def test_no_plain_input_of_any_resource_holds_a_secret(record: Record) -> None:
    marked = 0
    for one in record.all:
        plain = json.dumps({name: value for name, value in one.inputs.items() if not is_secret(value)})
        marked += sum(is_secret(value) for value in one.inputs.values())
        assert not any(word in plain for word in SECRET_WORDS), f"{one.name} holds a secret in plain"
    assert marked == 1


def is_secret(value: object) -> bool:
    return isinstance(value, dict) and SECRET.items() <= value.items()


def test_the_secrets_go_to_standard_input_as_a_secret_and_into_no_log(record: Record) -> None:
    written = record.named("secrets", COMMAND)
    assert is_secret(written.inputs["stdin"])
    assert all(word in json.dumps(written.inputs["stdin"]) for word in SECRET_WORDS), "the test looks for nothing"
    assert written.inputs["logging"] == "none"


# --- order


def test_all_instances_are_healthy_before_any_takes_its_name_and_nginx_comes_last(record: Record) -> None:
    for name in NAMES:
        serve = record.named(f"{name}-serve")
        assert set(NAMES) <= serve.dependencies, f"{name} would serve before all are healthy"
        assert "static-current" in serve.dependencies
        assert "prove" in record.named(name, CONTAINER).dependencies
    assert {f"{name}-serve" for name in NAMES} <= record.named("nginx-config").dependencies
    assert "migrate" in record.named("prove").dependencies
    assert {"prove", "static-files"} <= record.named("app1", CONTAINER).dependencies
    assert {"postgres", "memcached1", "memcached2", "secrets"} <= record.named("migrate").dependencies
    assert "database-password" in record.named("postgres", CONTAINER).dependencies


def test_one_at_a_time_each_instance_waits_for_the_one_before_to_serve(tmp_path: Path) -> None:
    record = record_of(stack(app={"rollout": {"batch": 1}}), tmp_path)
    for before, name in itertools.pairwise(NAMES):
        assert f"{before}-serve" in record.named(name, CONTAINER).dependencies
    assert {record.named(f"{name}-serve").environment["ALONE"] for name in NAMES} == {"yes"}


def test_without_migrate_nothing_migrates(tmp_path: Path) -> None:
    record = record_of(stack(app={"migrate": False}), tmp_path)
    assert not record.has("migrate")
    assert {"postgres", "secrets"} <= record.named("prove").dependencies


def test_instances_are_made_beside_the_old_ones_and_what_holds_a_port_or_data_is_replaced(record: Record) -> None:
    for one in record.of(CONTAINER):
        assert one.replace_first_said, f"{one.name}: the provider's default would be taken"
        assert one.replace_first is (one.name not in NAMES), one.name


def test_the_volumes_of_data_are_protected_and_no_other(tmp_path: Path) -> None:
    postgres = record_of(STACK, tmp_path / "1")
    assert [one.name for one in postgres.all if one.protect] == ["database"]
    sqlite = record_of(stack(database={"engine": "sqlite"}, sessions={"engine": "file"}), tmp_path / "2")
    assert [one.name for one in sqlite.of(VOLUME) if one.protect] == ["data"]
    assert not sqlite.has("postgres")


# --- the same as on this machine


VARIANTS: list[dict[str, Any]] = [
    {},
    {"upstream": {"method": "ip_hash", "servers": [{"name": "app1"}, {"name": "app2", "down": True}]}},
    {"upstream": {"method": "hash", "servers": 3}, "sessions": {"engine": "signed_cookies"}},
    {"upstream": {"method": "least_conn", "servers": 2}, "database": {"engine": "sqlite"}},
    {"upstream": {"method": "random", "servers": 5}, "sessions": {"engine": "file"}},
    {"sessions": {"engine": "cache"}, "site": {"static_url": None, "access_log": False}},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_nginx_s_configuration_is_the_one_of_this_machine_paths_aside(changes: dict[str, Any], tmp_path: Path) -> None:
    docker = stack(**changes)
    delivered = record_of(docker, tmp_path / "work").named("nginx-config").inputs["stdin"]
    local = build_topology(parse_config({**docker, "platform": "local"}))
    places = Places(tmp_path, "local").nginx_places(None)
    rendered = render_nginx(local, places, version_in_image("debian:trixie-slim"))
    here = {path: tree(text, str(tmp_path), tmp_path) for path, text in rendered.files.items()}
    there = {path: tree(text, "", tmp_path) for path, text in files_in(delivered).items()}
    assert there == here


def files_in(delivered: str) -> dict[str, str]:
    pieces = re.split(
        r"^# file (\S+)\n", re.sub(r"^# link .*\n", "", delivered, flags=re.MULTILINE), flags=re.MULTILINE
    )
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


PATHS = re.compile(r"^(unix:)?/(?:run|var|srv|tmp)\b[^;]*?((?:/app\d)?/[^/]*)$")


def tree(text: str, root: str, tmp_path: Path) -> Any:
    """Return a configuration as a tree, in which of a path only what an instance's name says of it is left."""
    (tmp_path / "parsed.conf").write_text(text)
    parsed = crossplane.parse(str(tmp_path / "parsed.conf"), single=True, check_ctx=False, check_args=False)
    return plain(parsed["config"][0]["parsed"], root)


def plain(directives: list[dict[str, Any]], root: str) -> Any:
    found = []
    for directive in directives:
        args = [one_path(arg, root) for arg in directive["args"]]
        if directive["directive"] == "return" and len(args) == 2:
            args[1] = "DIGEST"
        if directive["directive"] == "listen":
            args[0] = args[0].replace("127.0.0.1:", "")
        found.append((directive["directive"], args, plain(directive.get("block", []), root)))
    return found


def one_path(arg: str, root: str) -> str:
    if root and root in arg:
        arg = arg.replace(root, "/run")
    shown = PATHS.match(arg)
    if shown is None:
        return arg
    kept = re.search(r"/app\d+/http\.sock$|/(?:client_body|proxy|fastcgi|uwsgi|scgi)$|/(?:access|error)\.log$", arg)
    return f"PATH{kept[0]}" if kept else "PATH"


def test_a_release_is_configured_as_on_this_machine_paths_aside() -> None:
    config = parse_config(STACK)
    topology = build_topology(config)
    local = Places(ROOT, "local").runtime_places("r", config.site.static_url, topology.memcached_nodes)
    here, there = runtime_config(config, local, "r"), runtime_config(config, runtime_places(topology, "r"), "r")
    different = {key for key in here if here[key] != there[key]}
    assert different == {"project", "secrets", "sessions", "static_root"}
    assert {k: v for k, v in here["sessions"].items() if k == "engine"} == {"engine": there["sessions"]["engine"]}


# --- one change, one resource


def changed(before: Record, after: Record) -> set[str]:
    old, new = before.inputs(), after.inputs()
    different = [key for key in old.keys() | new.keys() if old.get(key) != new.get(key)]
    return {f"{kind.rpartition(':')[2]} {name}" for kind, name in different}


def test_a_weight_change_is_one_resource(tmp_path: Path) -> None:
    servers = [
        {**server, "weight": 5} if server["name"] == "app1" else server for server in STACK["upstream"]["servers"]
    ]
    before, after = record_of(STACK, tmp_path), record_of(stack(upstream={"servers": servers}), tmp_path)
    assert changed(before, after) == {"Command nginx-config"}
    diff = set(after.named("nginx-config").inputs["stdin"].splitlines()) - set(
        before.named("nginx-config").inputs["stdin"].splitlines()
    )
    assert "    server unix:/run/cluster/app1/http.sock weight=5 max_fails=0;" in diff


def test_a_change_of_code_touches_no_nginx_and_no_store(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    shutil.copytree(ROOT / "example", root / "example", ignore=shutil.ignore_patterns("__pycache__"))
    before = record_of(STACK, tmp_path / "work", root=root)
    (root / "example" / "visits" / "apps.py").write_text("# another\n")
    after = record_of(STACK, tmp_path / "work", root=root)
    expected = {"Image app-image", "Command secrets", *(f"Command {name}-serve" for name in NAMES)}
    expected |= {f"Container {name}" for name in NAMES}
    # Under mocks an image of the same name has the same digest; a real one makes the tasks run again too.
    assert changed(before, after) == expected


# --- what really runs


DIGEST = nginx_config(build_topology(parse_config(STACK))).digest


def test_what_nginx_and_the_instances_run_is_read() -> None:
    text = (
        f"nginx {DIGEST} 7\nstatic abc\ninstance app1 abc.0123456789ab 3\n"
        'status app1 abc.0123456789ab {"state": "serving", "since": 1.5}\ninstance app2 - 0\n'
    )
    live = read_live(text)
    assert (live.nginx, live.nginx_turn, live.static) == (DIGEST, 7, "abc")
    assert live.holders == {"app1": "abc.0123456789ab", "app2": None}
    assert live.turns == {"app1": 3, "app2": 0}
    assert live.statuses["app1", "abc.0123456789ab"]["state"] == "serving"
    assert read_live("nginx - 0\n").nginx is None


def test_nothing_is_done_again_where_everything_runs_as_it_should(tmp_path: Path) -> None:
    live = Live(nginx=DIGEST, nginx_turn=7)
    assert record_of(STACK, tmp_path, live=live).named("nginx-config").environment["TURN"] == "7"


def test_nginx_that_runs_what_the_state_does_not_know_is_given_its_configuration_again(tmp_path: Path) -> None:
    """The state says TURN 7 and this configuration; nginx runs another, as a run was killed after its reload."""
    live = Live(nginx="0" * 64, nginx_turn=8)
    assert record_of(STACK, tmp_path, live=live).named("nginx-config").environment["TURN"] == "9"


def test_a_name_that_another_holds_is_taken_again(tmp_path: Path) -> None:
    release = record_of(STACK, tmp_path).outputs["release"]
    mine = {name: f"{release}.{(name + '0' * 12)[:12]}" for name in NAMES}
    turns = dict.fromkeys(NAMES, 4)
    as_it_should = record_of(STACK, tmp_path, live=Live(holders=mine, turns=turns))
    assert {as_it_should.named(f"{name}-serve").environment["TURN"] for name in NAMES} == {"4"}
    taken = record_of(STACK, tmp_path, live=Live(holders={**mine, "app2": "other.abc"}, turns=turns))
    assert taken.named("app2-serve").environment["TURN"] == "5"
    assert taken.named("app1-serve").environment["TURN"] == "4"


def test_where_nobody_can_say_what_runs_everything_is_done_again() -> None:
    assert Live(nginx_turn=None).next_nginx_turn(DIGEST) > 1_000_000
    assert Live().next_nginx_turn(DIGEST) == 1


def test_in_a_preview_what_is_not_made_yet_is_unknown(tmp_path: Path) -> None:
    record = record_of(STACK, tmp_path, preview=True)
    assert record.named("app1", CONTAINER).inputs["image"] == UNKNOWN
    assert record.named("app1-serve").environment["CONTAINER"] == UNKNOWN
    assert record.named("nginx-config").inputs["stdin"].startswith("# file nginx.conf\n"), "a preview must show it"


# --- build contexts


def test_a_build_context_holds_the_release_and_no_secret_and_is_the_same_from_every_checkout(tmp_path: Path) -> None:
    contexts = []
    for name in ("one", "two"):
        root = tmp_path / name
        shutil.copytree(ROOT / "example", root / "example", ignore=shutil.ignore_patterns("__pycache__"))
        (root / "example" / "db.sqlite3").write_text("not of the release")
        (root / "example" / "manage.py").chmod(0o755 if name == "one" else 0o775)
        made = parts(STACK, tmp_path / "work", root=root)
        context = tmp_path / f"context-{name}"
        write_context(context, made.topology, made.release)
        contexts.append({str(p.relative_to(context)): (p.stat().st_mode, p.read_bytes()) for p in files_of(context)})
    assert contexts[0] == contexts[1]
    assert "project/manage.py" in contexts[0]
    assert "project/db.sqlite3" not in contexts[0]
    assert not any(word.encode() in data for _mode, data in contexts[0].values() for word in SECRET_WORDS)
    assert json.loads(contexts[0]["config.json"][1])["secrets"].startswith("/srv/secrets/")
    assert contexts[0]["requirements/runtime"][1].decode().splitlines() == [
        *("gunicorn>=20.1", "pymemcache>=4", "psycopg[binary]>=3.1.18")
    ]


def files_of(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


PYPROJECT = "../pyproject.toml"


@pytest.mark.parametrize(
    ("files", "requirements", "main", "held"),
    [
        (
            {"requirements.txt": "-r ../base.txt\n", "../base.txt": "django\n"},
            None,
            "site/requirements.txt",
            "base.txt",
        ),
        (
            {"../pyproject.toml": '[project]\nname = "x"\ndependencies = []\n'},
            "../pyproject.toml",
            "pyproject.toml",
            "",
        ),
        (
            {"../pyproject.toml": '[project]\nname = "x"\ndynamic = ["dependencies"]\n', "../deps.txt": "django\n"},
            PYPROJECT,
            "pyproject.toml",
            "deps.txt",
        ),
    ],
    ids=["includes", "pyproject", "dynamic"],
)
def test_a_context_holds_what_packages_are_installed_from(
    files: dict[str, str], requirements: str | None, main: str, held: str, tmp_path: Path
) -> None:
    project = tmp_path / "repository" / "site"
    project.mkdir(parents=True)
    for path, text in {"manage.py": "", **files}.items():
        (project / path).write_text(text)
    app = {"project": "./site", "settings": "x", **({"requirements": requirements} if requirements else {})}
    made = parts({**STACK, "app": app}, tmp_path / "work", root=tmp_path / "repository")
    write_context(tmp_path / "context", made.topology, made.release)
    held_files = tmp_path / "context" / "requirements"
    assert (held_files / "main").read_text() == main
    assert (held_files / "tree" / main).is_file()
    assert not held or (held_files / "tree" / held).is_file()


def test_the_packages_layer_does_not_see_the_code() -> None:
    """A change of code must not install anything again: all that is copied before comes from the requirements."""
    dockerfile = (ROOT / "components" / "platforms" / "docker" / "app" / "Dockerfile").read_text()
    packages, _from, final = dockerfile.partition("\nFROM ${BASE}\n")
    assert re.findall(r"^COPY (\S+)", packages, re.MULTILINE) == ["install-python", "install-packages", "requirements"]
    order = re.findall(r"^COPY (?:--\S+ )?(\S+)", final, re.MULTILINE)
    assert order == ["install-python", "/opt/environment", "runtime", "project", "config.json"]


def test_images_are_built_here_and_pushed_nowhere(record: Record) -> None:
    images = {one.name: one.inputs for one in record.of(IMAGE)}
    assert set(images) == {"app-image", "nginx-image", "memcached-image", "postgres-image"}
    for name, found in images.items():
        assert found["skipPush"] is True, name
        assert found["build"]["args"]["BASE"] == "debian:trixie-slim", name


def test_a_service_may_have_a_base_image_of_its_own(tmp_path: Path) -> None:
    record = record_of(stack(images={"nginx": "nginx:1.30", "base": "ubuntu:24.04"}), tmp_path)
    found = {one.name: one.inputs["build"]["args"]["BASE"] for one in record.of(IMAGE)}
    assert found["nginx-image"] == "nginx:1.30"
    assert found["app-image"] == "ubuntu:24.04"
    assert record.named("nginx-config").environment["POLITE"] == "no"
    assert "keepalive_min_timeout" in record.named("nginx-config").inputs["stdin"]


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
def test_what_nginx_can_do_is_read_from_its_image_s_name(image: str, version: tuple[int, int, int]) -> None:
    assert version_in_image(image) == version


def test_the_program_of_the_repository_builds_what_these_tests_build() -> None:
    program = (ROOT / "__main__.py").read_text()
    for component in COMPONENTS:
        assert f"{component.cls.__name__}(" in program
    assert callable(whole)
