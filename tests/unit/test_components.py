"""The components under Pulumi's mocks, as the repository's own program builds them: for `up` and for `preview`."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import re
import shlex
import typing
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol
from unittest.mock import patch

import pulumi
import pytest

import components
from cluster.acme.kept import new_key
from cluster.config import parse_config
from cluster.config.models import ACCOUNT, AUTHORITY, EAB_KEY, USERS
from cluster.release import ReleaseSpec, specify
from cluster.services import DRAIN_SECONDS
from cluster.topology import Topology, batches, build_topology
from platforms import base
from platforms.base import Resources
from platforms.docker import serving
from platforms.docker.container_paths import nginx_config
from platforms.docker.engine import Engine
from platforms.docker.family import Target
from platforms.docker.images import platform_digest
from platforms.docker.resources import Docker
from platforms.docker.scripts import script
from platforms.docker.specs import container_digest
from platforms.pulumi.live import Live
from tests.certificates import authority
from tests.unit.pulumi_mocks import (
    CANARIES,
    COMMAND,
    CONTAINER,
    DATABASE_URL,
    IMAGE,
    NETWORK,
    PROJECT,
    ROOT,
    SECRETS,
    STACK,
    UNKNOWN,
    VOLUME,
    Record,
    Registration,
    is_secret,
    leaks,
    record,
    run_main,
    stack_values,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

VALUES = stack_values(site={"instance_ports": 8100})
NAMES = ("app1", "app2", "app3", "app4")
SERVICES = ("memcached1", "memcached2", "postgres")
SERVES = tuple(f"{name}-serve" for name in NAMES)

LABEL = f"{PROJECT}/{STACK}"


@pytest.fixture(scope="module", params=[False, True], ids=["up", "preview"])
def preview(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


class Recorded(Protocol):
    def __call__(
        self, values: dict[str, Any], *, preview: bool = False, secrets: Mapping[str, str] = SECRETS
    ) -> Record: ...


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Runs the program for a stack, in one repository; what was run before is not run again."""
    root = tmp_path_factory.mktemp("repository")
    known: dict[str, Record] = {}

    def run(values: dict[str, Any], *, preview: bool = False, secrets: Mapping[str, str] = SECRETS) -> Record:
        key = json.dumps([values, preview, dict(secrets)], sort_keys=True)
        if key not in known:
            known[key] = run_main(root, values, preview=preview, secrets=secrets)
        return known[key]

    return run


@pytest.fixture(scope="module")
def whole(preview: bool, recorded: Recorded) -> Record:
    """The record of stacks/Pulumi.dev.yaml, with a port for each instance too."""
    return recorded(VALUES, preview=preview)


def commands(found: Record) -> dict[str, Registration]:
    return {one.name: one for one in found.of(COMMAND)}


def containers(found: Record) -> dict[str, Registration]:
    return {one.name: one for one in found.of(CONTAINER)}


def volumes_of(one: Registration, found: Record) -> set[str]:
    """Return which volumes a container's mounts are made of, known or not."""
    return {other.name for other in found.of(VOLUME) if other.urn in one.property_dependencies.get("volumes", ())}


# --- one contract of all components


@dataclass(frozen=True, kw_only=True)
class Component:
    name: str
    cls: type[pulumi.ComponentResource]
    args: type
    children: frozenset[str]
    unknown: frozenset[str] = frozenset()  # outputs that a preview can't know, since what they tell is still to happen


TABLE = (
    Component(
        name="sessions",
        cls=components.SessionStore,
        args=components.SessionStoreArgs,
        children=frozenset(("session-files", "sessions", "memcached-image", "memcached1", "memcached2")),
    ),
    Component(
        name="database",
        cls=components.Database,
        args=components.DatabaseArgs,
        children=frozenset(
            (
                *("postgres-image", "database", "database-sockets", "database-secrets"),
                *("database-password", "database-data", "postgres"),
            )
        ),
    ),
    Component(
        name="app",
        cls=components.AppHosts,
        args=components.AppHostsArgs,
        children=frozenset(
            (
                *("app-image", "outgoing", "secrets", "static", "shared", "sockets", "prepare"),
                *("static-current", *NAMES, *SERVES),
            )
        ),
        unknown=frozenset(("release",)),
    ),
    Component(name="upstream", cls=components.UpstreamPool, args=components.UpstreamPoolArgs, children=frozenset()),
    Component(
        name="nginx",
        cls=components.NginxSite,
        args=components.NginxSiteArgs,
        children=frozenset(("site", "nginx", "nginx-image", "nginx-ports", "nginx-config", "maintenance", "acme")),
        unknown=frozenset(("digest",)),
    ),
)
each_component = pytest.mark.parametrize("component", TABLE, ids=[one.cls.__name__ for one in TABLE])


def token(component: Component) -> str:
    return f"cluster:index:{component.cls.__name__}"


def registered(component: Component, found: Record) -> Registration:
    return found.named(component.name, token(component))


def build(
    values: dict[str, Any],
    work: Path,
    opts: dict[str, pulumi.ResourceOptions] | None = None,
    secrets: pulumi.Output[str] | None = None,
) -> list[pulumi.ComponentResource]:
    """Build all components on Docker, each with the options that are given for its name."""
    platform = Docker(
        target=Target(stack=LABEL, work=work, engine=Engine()),
        live=Live(),
        secrets=pulumi.Output.secret(json.dumps(SECRETS)) if secrets is None else secrets,
    )
    return build_on(platform, values, opts)


def build_on(
    platform: Resources, values: dict[str, Any], opts: dict[str, pulumi.ResourceOptions] | None = None
) -> list[pulumi.ComponentResource]:
    given = opts or {}
    topology = build_topology(parse_config(values))
    own = platform_digest(topology.config, container_digest(topology))
    sessions = components.SessionStore(
        "sessions", components.SessionStoreArgs(topology=topology, platform=platform), given.get("sessions")
    )
    database = components.Database(
        "database", components.DatabaseArgs(topology=topology, platform=platform), given.get("database")
    )
    hosts = components.AppHosts(
        "app",
        components.AppHostsArgs(
            topology=topology,
            release=specify(topology.config, ROOT, SECRETS, "image", own),
            sessions=sessions,
            database=database,
            platform=platform,
        ),
        given.get("app"),
    )
    pool = components.UpstreamPool(
        "upstream", components.UpstreamPoolArgs(topology=topology, hosts=hosts), given.get("upstream")
    )
    site = components.NginxSite(
        "nginx", components.NginxSiteArgs(topology=topology, pool=pool, platform=platform), given.get("nginx")
    )
    return [sessions, database, hosts, pool, site]


class Paper:
    """A platform that is none: it makes nothing, and keeps what it was given."""

    def __init__(self) -> None:
        self.given: list[tuple[str, Any]] = []

    def _made(self, what: str, *given: Any) -> None:
        self.given.append((what, given))

    def store(self, name: str, topology: Topology, opts: pulumi.ResourceOptions) -> base.Store:
        self._made("store", name)
        return base.Store(nodes=pulumi.Output.from_input(["10.0.0.5:11211"]))

    def database(self, name: str, topology: Topology, opts: pulumi.ResourceOptions) -> base.MadeDatabase:
        self._made("database", name)
        return base.MadeDatabase()

    def prepare(  # noqa: PLR0917 - what is asked of a platform
        self,
        name: str,
        topology: Topology,
        spec: ReleaseSpec,
        store: base.Store,
        made: base.MadeDatabase,
        opts: pulumi.ResourceOptions,
    ) -> base.Prepared:
        self._made("prepare", name, type(store), type(made))
        return base.Prepared()

    def instances(
        self,
        name: str,
        topology: Topology,
        spec: ReleaseSpec,
        prepared: base.Prepared,
        opts: pulumi.ResourceOptions,
    ) -> base.Instances:
        self._made("instances", name, type(prepared))
        return base.Instances(release=pulumi.Output.from_input("0123456789ab"))

    def site(self, name: str, topology: Topology, instances: base.Instances, opts: pulumi.ResourceOptions) -> base.Site:
        self._made("site", name, type(instances))
        return base.Site(digest=pulumi.Output.from_input("f" * 64))


def test_components_stand_on_whatever_has_the_five_operations() -> None:
    paper = Paper()
    found = record(lambda: build_on(paper, VALUES))
    assert {one.type for one in found.registrations} == {token(one) for one in TABLE}
    assert paper.given == [
        *(("store", ("sessions",)), ("database", ("database",))),
        ("prepare", ("app", base.Store, base.MadeDatabase)),
        ("instances", ("app", base.Prepared)),
        ("site", ("nginx", base.Instances)),
    ]
    outputs = {one.name: found.outputs[registered(one, found).urn] for one in TABLE}
    assert outputs["sessions"] == {"engine": "cached_db", "nodes": ["10.0.0.5:11211"]}
    assert outputs["app"] == {"release": "0123456789ab", "names": list(NAMES)}
    assert outputs["nginx"] == {"url": "http://cluster:8090/", "digest": "f" * 64}


def test_what_another_platform_made_is_refused(tmp_path: Path) -> None:
    target = Target(stack=LABEL, work=tmp_path, engine=Engine())
    docker = Docker(target=target, live=Live(), secrets=pulumi.Output.from_input("{}"))
    topology, site = build_topology(parse_config(VALUES)), base.Instances(release=pulumi.Output.from_input(""))
    with pytest.raises(TypeError, match=r"^platforms\.base\.Instances is not what platform docker made$"):
        docker.site("nginx", topology, site, pulumi.ResourceOptions())


def test_the_table_holds_every_component_that_the_package_exports() -> None:
    exported = {name for name in components.__all__ if name not in {*(one.args.__name__ for one in TABLE)}}
    whole_cluster = {"DjangoCluster", "DjangoClusterArgs"}  # made of them: test_sites.py
    assert exported - {"UpstreamServer"} - whole_cluster == {one.cls.__name__ for one in TABLE}


@each_component
def test_a_component_is_called_by_its_token_and_stands_at_the_top_of_the_stack(
    component: Component, whole: Record
) -> None:
    one = registered(component, whole)
    assert one.parent.endswith(f"::{PROJECT}-{STACK}"), "another parent makes another URN, and so another resource"
    assert one.inputs == {}


@each_component
def test_everything_that_a_component_makes_is_its_child(component: Component, whole: Record) -> None:
    why = "what is not a child of the component that made it can't be found, moved or protected with it"
    assert whole.children(registered(component, whole)) == component.children, why


@each_component
def test_what_a_component_makes_is_called_after_it_and_found_by_its_name_of_before(
    component: Component, whole: Record
) -> None:
    parent = registered(component, whole)
    for child in (one for one in whole.registrations if one.parent == parent.urn):
        assert child.full_name == f"{component.name}-{child.name}", "two of a kind in a program would have one name"
        assert child.aliases == {child.name}, "a stack of before would get everything anew"


@each_component
def test_a_component_takes_a_name_its_arguments_and_options(component: Component) -> None:
    parameters = inspect.signature(component.cls.__init__).parameters
    assert list(parameters) == ["self", "name", "args", "opts"]
    assert parameters["args"].annotation == component.args.__name__
    assert parameters["opts"].default is None


@each_component
def test_arguments_are_frozen_keyword_only_and_each_of_a_type_of_its_own(component: Component) -> None:
    known = {"Topology": Topology, "Resources": Resources, "ReleaseSpec": ReleaseSpec} | {
        name: getattr(components, name) for name in components.__all__
    }
    types = typing.get_type_hints(component.args, localns=known)
    fields = dataclasses.fields(component.args)
    assert set(types) == {found.name for found in fields} != set()
    for found in fields:
        assert found.kw_only, f"{found.name} could be given in the wrong place"
        assert types[found.name] not in (Any, object, dict), f"{found.name}: what is handed on has a type"
    frozen = component.args(**dict.fromkeys(types))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(frozen, fields[0].name, 1)


@each_component
def test_every_output_is_declared_with_a_type_and_known_after_up(component: Component, whole: Record) -> None:
    one = registered(component, whole)
    declared = inspect.get_annotations(component.cls)
    assert all(kind.startswith("pulumi.Output[") for kind in declared.values())
    outputs = whole.outputs[one.urn]
    assert set(outputs) == set(declared) != set(), "an output that is not registered is nowhere in the state"


@each_component
def test_an_output_is_unknown_only_in_a_preview_and_only_where_it_tells_what_is_still_to_happen(
    component: Component, whole: Record, preview: bool
) -> None:
    outputs = whole.outputs[registered(component, whole).urn]
    unknown = {name for name, value in outputs.items() if UNKNOWN in json.dumps(value)}
    assert unknown == (component.unknown if preview else set())


@pytest.fixture(scope="module")
def opted(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The record of components whose caller gives each a parent and protects it."""

    def program() -> None:
        above = {one.name: pulumi.ComponentResource("test:index:Above", f"above-{one.name}") for one in TABLE}
        opts = {name: pulumi.ResourceOptions(parent=parent, protect=True) for name, parent in above.items()}
        build(VALUES, tmp_path_factory.mktemp("work"), opts)

    return record(program)


@each_component
def test_the_options_of_a_caller_are_honoured_and_children_still_belong_to_the_component(
    component: Component, opted: Record
) -> None:
    one = registered(component, opted)
    assert one.parent == opted.named(f"above-{component.name}").urn, "the caller's parent is lost"
    assert one.protect, "the caller's protection is lost"
    assert opted.children(one) == component.children, "the caller's parent took the component's children"


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names of all resources in the order in which they were made, and between them whose outputs were told."""
    found: list[str] = []
    make, register = pulumi.Resource.__init__, pulumi.ComponentResource.register_outputs

    def made(self: pulumi.Resource, kind: str, name: str, *args: Any, **options: Any) -> None:
        found.append(name)
        make(self, kind, name, *args, **options)

    def outputs(self: pulumi.ComponentResource, told: Any) -> None:
        found.append(f"outputs of {type(self).__name__}")
        register(self, told)

    with (
        patch.object(pulumi.Resource, "__init__", made),
        patch.object(pulumi.ComponentResource, "register_outputs", outputs),
    ):
        record(lambda: build(VALUES, tmp_path_factory.mktemp("work")))
    return found


@each_component
def test_outputs_are_registered_once_and_after_all_children(component: Component, said: list[str]) -> None:
    mine = f"outputs of {component.cls.__name__}"
    assert said.count(mine) == 1
    children = {f"{component.name}-{name}" for name in component.children}
    last = max((len(said) - 1 - said[::-1].index(name) for name in children), default=0)
    assert said.index(mine) > last, "a child that comes after the outputs is not waited for"


def test_the_stack_s_outputs_tell_where_the_site_is_and_who_gets_which_share(whole: Record, preview: bool) -> None:
    assert whole.exports == {
        "url": "http://cluster:8090/",
        "sessions": "cached_db",
        "upstream": [
            {"name": "app1", "weight": 3, "share": "60 %"},
            {"name": "app2", "weight": 1, "share": "20 %"},
            {"name": "app3", "weight": 1, "share": "20 %"},
            {"name": "app4", "weight": 1, "share": "0 %", "backup": True},
        ],
        "release": UNKNOWN if preview else whole.named("app1-serve").environment["RELEASE"],
        "nginx": UNKNOWN if preview else nginx_config(build_topology(parse_config(VALUES))).digest,
    }


def test_a_server_that_is_down_has_no_share_and_the_outputs_say_so(recorded: Recorded) -> None:
    first, *others = recorded({**VALUES, **servers(down=True)}).exports["upstream"]
    assert first == {"name": "app1", "weight": 3, "share": "0 %", "down": True}
    assert [one["share"] for one in others] == ["50 %", "50 %", "0 %"]


# --- containers


def test_the_stack_has_these_containers_and_no_other(whole: Record) -> None:
    assert whole.names(CONTAINER) == {*NAMES, *SERVICES, "nginx"}


def test_no_container_volume_or_network_has_a_name_given(whole: Record) -> None:
    named = [one.name for kind in (CONTAINER, VOLUME, NETWORK) for one in whole.of(kind) if "name" in one.inputs]
    assert named == [], "with a fixed name a retry after a failed release ends in a conflict of names"


#: Inputs that every container must have, and why.
HARDENED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "readOnly": (lambda found: found is True, "whoever breaks in could write programs"),
    "capabilities": (lambda found: found == {"drops": ["ALL"]}, "a capability that nobody needs"),
    "securityOpts": (lambda found: found == ["no-new-privileges:true"], "a set-user-id program would gain rights"),
    "user": (lambda found: int(found.partition(":")[0]) > 0 and int(found.partition(":")[2]) > 0, "it runs as root"),
    "memory": (lambda found: found >= 6, "one container could take all memory"),
    "ipcMode": (lambda found: found == "private", "left unset it differs for ever"),
    "networkMode": (lambda found: found in ("none", "bridge"), "left unset it differs for ever"),
    "logDriver": (lambda found: found == "json-file", "`docker logs` would have nothing to show"),
    "logOpts": (lambda found: {"max-size", "max-file"} <= found.keys(), "the log fills the disk"),
    "restart": (lambda found: found == "unless-stopped", "a reboot would leave the site down"),
    "destroyGraceSeconds": (lambda found: found > 0, "the provider would kill it at once"),
    "stopTimeout": (lambda found: found > 0, "`docker stop` would kill it after ten seconds"),
    "mustRun": (lambda found: found is True, "a container that ends at once would count as made"),
}


@pytest.mark.parametrize("key", HARDENED)
def test_every_container_is_hardened(key: str, whole: Record) -> None:
    holds, why = HARDENED[key]
    for name, one in containers(whole).items():
        assert key in one.inputs, f"{name}.{key} is unset: {why}"
        assert holds(one.inputs[key]), f"{name}.{key} is {one.inputs[key]}: {why}"


def test_a_container_gets_no_swap_beyond_its_memory_and_a_limit_of_files_and_processes(whole: Record) -> None:
    for name, one in containers(whole).items():
        assert one.inputs["memorySwap"] == one.inputs["memory"], name
        limits = {limit["name"]: limit for limit in one.inputs["ulimits"]}
        assert set(limits) == {"nproc", "nofile"}, name
        assert all(limit["soft"] == limit["hard"] > 0 for limit in limits.values()), name
        assert one.inputs["destroyGraceSeconds"] == one.inputs["stopTimeout"], f"{name}: the shorter one would win"


def test_the_limits_of_an_instance_are_the_stack_file_s(recorded: Recorded) -> None:
    values = stack_values(app={"memory": "300m", "processes": 100}, upstream={"servers": 3})
    one = recorded(values).named("app2", CONTAINER).inputs
    assert one["memory"] == 300
    (processes,) = (limit["hard"] for limit in one["ulimits"] if limit["name"] == "nproc")
    assert processes >= 100 * 3, "the kernel counts the processes of all instances together: they share one user"


def test_no_container_is_told_anything_by_its_environment_or_gets_more_rights(whole: Record) -> None:
    extra = {"envs", "privileged", "devices", "hosts", "groupAdds", "pidMode", "usernsMode", "mounts", "uploads"}
    found = {f"{name}.{key}" for name, one in containers(whole).items() for key in extra & one.inputs.keys()}
    assert found == set(), "`docker inspect` tells an environment, and an upload lies in the state"


def test_users_of_different_services_are_different_and_share_one_group(whole: Record) -> None:
    users = {name: one.inputs["user"].split(":") for name, one in containers(whole).items()}
    assert len({group for _, group in users.values()}) == 1, "sockets are shared by the group"
    of_services = {users[name][0] for name in ("app1", "nginx", "postgres", "memcached1")}
    assert len(of_services) == 4, "who breaks into one service could signal another one's processes"
    assert len({users[name][0] for name in NAMES}) == 1


@pytest.mark.parametrize(
    ("timeout", "seconds"), [({}, 30), ({"graceful_timeout": "2m"}, 120), ({"graceful_timeout": "500ms"}, 0.5)], ids=str
)
def test_an_instance_is_not_killed_before_it_drained_and_ended_its_requests(
    timeout: dict[str, str], seconds: float, recorded: Recorded
) -> None:
    found = recorded({**VALUES, "app": {**VALUES["app"], **timeout}})
    for name in NAMES:
        inputs = found.named(name, CONTAINER).inputs
        for key in ("destroyGraceSeconds", "stopTimeout"):
            assert inputs[key] > DRAIN_SECONDS + seconds, f"{name}.{key}: requests in flight would be cut"
        grace = found.named(f"{name}-serve").environment["GRACE"]
        assert int(grace) == inputs["stopTimeout"], "one at a time, the old one is stopped by the serve command"


def test_what_others_wait_for_is_waited_for_until_it_is_healthy(whole: Record) -> None:
    shown = whole.named("static-current")
    assert "--once-healthy" in shown.inputs["create"]
    assert int(shown.environment["WAIT"]) >= whole.named("app1", CONTAINER).inputs["waitTimeout"]
    for name in (*NAMES, *SERVICES):
        inputs = whole.named(name, CONTAINER).inputs
        # Whatever follows the instances follows what waits for all of them, too.
        assert inputs["wait"] is (name not in NAMES), f"{name}: the next would begin before it is healthy"
        check = inputs["healthcheck"]
        assert check["tests"][0] in ("CMD", "CMD-SHELL"), name
        assert "python" not in " ".join(check["tests"]), f"{name}: the check runs for ever, and must cost nothing"
        start = re.fullmatch(r"(?:(\d+)m)?(\d+)s", check["startPeriod"])
        assert start is not None, name
        seconds = 60 * int(start[1] or 0) + int(start[2])
        assert inputs["waitTimeout"] > seconds, f"{name}: given up while it may still be starting"


def test_every_duration_is_written_as_the_engine_tells_it_back(whole: Record) -> None:
    seen = set()
    for name, one in containers(whole).items():
        for key in ("interval", "timeout", "startPeriod"):
            value = one.inputs.get("healthcheck", {}).get(key, "1s")
            seen.add(value)
            form = r"([1-9]\d*h[0-5]?\dm|[1-9]\d?m)?[0-5]?\ds"
            assert re.fullmatch(form, value), f"{name}.{key}: {value} would show as a change for ever"
    assert "1m0s" in seen, "no duration of a minute was there to look at"


def test_another_health_check_shows_in_a_label_since_the_provider_alone_would_not_see_it(recorded: Recorded) -> None:
    slower = {**VALUES, "app": {**VALUES["app"], "health": {"start_timeout": "90s"}}}
    before, after = recorded(VALUES), recorded(slower)
    one, other = (found.named("app1", CONTAINER) for found in (before, after))
    assert one.inputs["healthcheck"]["startPeriod"] != other.inputs["healthcheck"]["startPeriod"]
    assert one.labels["django-cluster.spec"] != other.labels["django-cluster.spec"]
    assert before.named("nginx", CONTAINER).labels == after.named("nginx", CONTAINER).labels


def test_everything_that_runs_can_be_found_by_its_labels(whole: Record) -> None:
    roles = {name: one.labels["django-cluster.role"] for name, one in containers(whole).items()}
    assert roles == {**dict.fromkeys(NAMES, "instance"), **{name: name for name in (*SERVICES, "nginx")}}
    release = whole.named("app1-serve", COMMAND).environment["RELEASE"]
    for name, one in containers(whole).items():
        assert one.labels["django-cluster.stack"] == LABEL
        assert re.fullmatch(r"[0-9a-f]{12}", one.labels["django-cluster.spec"])
        if name in NAMES:
            assert one.labels["django-cluster.instance"] == name
            assert one.labels["django-cluster.release"] == release


def test_memcached_and_postgresql_have_no_network(whole: Record) -> None:
    for name in SERVICES:
        inputs = whole.named(name, CONTAINER).inputs
        assert inputs["networkMode"] == "none", f"{name} can be reached by others than the instances"
        assert not inputs.get("networksAdvanced"), name


def test_only_nginx_publishes_ports_and_the_instances_own_ones_for_this_machine_alone(whole: Record) -> None:
    for name in (*NAMES, *SERVICES):
        assert not whole.named(name, CONTAINER).inputs.get("ports"), f"{name} listens on a port"
    ports = [(p["external"], p["internal"], p["ip"]) for p in whole.named("nginx", CONTAINER).inputs["ports"]]
    site, *own = sorted(ports)
    assert site == (8090, 8090, "0.0.0.0")
    assert own == [(port, port, "127.0.0.1") for port in range(8100, 8104)]


def test_without_instance_ports_the_site_s_is_the_only_one(recorded: Recorded) -> None:
    ports = recorded(stack_values()).named("nginx", CONTAINER).inputs["ports"]
    assert [port["external"] for port in ports] == [8090]


#: The volumes of each service, and those among them that it can only read, by their paths.
MOUNTS: dict[str, tuple[set[str], set[str]]] = {
    **dict.fromkeys(
        NAMES,
        (
            {"sessions", "database-sockets", "database-secrets", "secrets", "static", "sockets", "shared"},
            {"/run/database", "/srv/database", "/srv/secrets", "/srv/static"},
        ),
    ),
    **dict.fromkeys(("memcached1", "memcached2"), ({"sessions"}, set())),
    "postgres": ({"database", "database-sockets", "database-secrets"}, {"/srv/database"}),
    "nginx": ({"sockets", "static", "shared", "nginx", "maintenance"}, {"/run/cluster", "/srv/static", "/srv/shared"}),
}


@pytest.mark.parametrize("name", MOUNTS)
def test_a_container_sees_the_volumes_that_are_its_business_and_no_other(name: str, whole: Record) -> None:
    volumes, read_only = MOUNTS[name]
    one = whole.named(name, CONTAINER)
    assert volumes_of(one, whole) == volumes, "nginx sees no session and no secret; the data is PostgreSQL's alone"
    assert len(one.mounts) == len(volumes), "a volume is mounted that is not of this stack"
    assert {path for path, (_, only) in one.mounts.items() if only} == read_only


def test_every_path_shows_the_volume_that_belongs_there(recorded: Recorded) -> None:
    found = recorded(VALUES)
    shown = {
        path: {
            volume.removesuffix("-a1b2c3d")
            for one in found.of(CONTAINER)
            for p, (volume, _) in one.mounts.items()
            if p == path
        }
        for path in ("/run/cluster", "/run/sessions", "/run/database", "/srv/secrets", "/srv/database", "/srv/static")
    }
    assert shown == {
        "/run/cluster": {"app-sockets"},
        "/run/sessions": {"sessions-sessions"},
        "/run/database": {"database-database-sockets"},
        "/srv/secrets": {"app-secrets"},
        "/srv/database": {"database-database-secrets"},
        "/srv/static": {"app-static"},
    }


def test_tasks_see_what_an_instance_sees_and_only_they_write_static_files(recorded: Recorded) -> None:
    found = recorded(VALUES)
    instance = {f"{volume}:{path}" for path, (volume, _) in found.named("app1", CONTAINER).mounts.items()}
    for name in ("prepare", "static-current"):
        words = found.named(name).environment["VOLUMES"].split()
        assert {word.removesuffix(":ro") for word in words} <= instance, f"{name} sees more than an instance"
        assert "app-static-a1b2c3d:/srv/static" in words, f"{name} can't write static files"
    written, shown = (found.named(name).environment["VOLUMES"].split() for name in ("prepare", "static-current"))
    assert "app-secrets-a1b2c3d:/srv/secrets" in written, "the secrets can't be written"
    assert "app-secrets-a1b2c3d:/srv/secrets:ro" in shown, "the secrets could be changed"
    assert "app-sockets-a1b2c3d:/run/cluster:ro" in written, "names could be taken before anything is proven"
    assert found.named("static-current").environment["NETWORK"] == "none"
    assert "app-sockets-a1b2c3d:/run/cluster" in shown, "no name could be taken as the static files are shown"


def test_names_are_taken_as_the_static_files_are_shown_and_each_command_is_told_which(whole: Record) -> None:
    assert whole.named("static-current").environment["SERVE"] == "yes"
    for name in NAMES:
        told = whole.named(f"{name}-serve").environment
        if told["CONTAINER"] == UNKNOWN:
            assert told["SERVED"] == UNKNOWN
            continue
        assert told["SERVED"] == f"{name}/{told['RELEASE']}.{told['CONTAINER'][:12]}/{told['TURN']}"


@pytest.mark.parametrize("ahead", [False, True], ids=["up", "preview"])
def test_where_memory_is_short_each_name_is_taken_alone_before_the_next_instance_starts(
    ahead: bool, recorded: Recorded
) -> None:
    found = recorded(stack_values(app={"rollout": {"batch": 1}}), preview=ahead)
    shown = found.named("static-current").environment
    assert shown["SERVE"] == "no", "the first batch would hold its names while those before it have the memory"
    assert ahead or "app-sockets-a1b2c3d:/run/cluster:ro" in shown["VOLUMES"].split()
    assert {found.named(f"{name}-serve").environment["SERVED"] for name in NAMES} == {""}


async def told_of_app1(said: str | None, *, known: bool) -> str:
    """Return what the command of app1 is told where another one has said that; known: in no preview of another."""
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in range(2)]
    futures[0].set_result(said)
    futures[1].set_result(known)
    shown: Any = SimpleNamespace(stdout=pulumi.Output(set(), *futures))
    found = await serving._taken("app1", shown, pulumi.Output.from_input("app1/r.c/7")).future()
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize(
    ("said", "known", "told"),
    [
        ("app1/r.c/6\napp2/r.d/7", True, "app1/r.c/6"),
        ("app11/r.c/7", True, ""),
        ("", True, ""),
        (None, True, ""),
        (None, False, "app1/r.c/7"),
    ],
    ids=["known", "another name", "nothing", "none", "to run again"],
)
def test_what_a_command_will_say_stands_for_it_in_a_preview_and_nowhere_else(
    said: str | None, known: bool, told: str
) -> None:
    assert asyncio.run(told_of_app1(said, known=known)) == told


def test_with_sqlite_and_session_files_the_instances_share_three_volumes_and_nothing_else_is_made(
    recorded: Recorded,
) -> None:
    found = recorded(SECRET_STACKS["sqlite"][0])
    assert found.names(CONTAINER) == {*NAMES, "nginx"}
    expected = {"data", "session-files", "secrets", "shared", "static", "sockets"}
    assert {name: volumes_of(found.named(name, CONTAINER), found) for name in NAMES} == dict.fromkeys(NAMES, expected)
    assert found.named("app1", CONTAINER).mounts["/srv/data"][1] is False


def test_a_project_that_writes_into_its_directory_gets_a_copy_of_its_own(recorded: Recorded) -> None:
    found = recorded(stack_values(app={"read_only": False}))
    one = found.named("app1", CONTAINER)
    assert one.mounts["/srv/tree/above/example"] == ("", False), "an unnamed volume, that goes with the container"
    assert one.inputs["readOnly"] is True
    assert found.named("app-image").inputs["build"]["args"]["WRITABLE"] == "yes"
    assert "/srv/tree/above/example" in found.named("prepare").environment["VOLUMES"].split()


# --- images


def test_images_are_built_by_the_engine_itself_and_pushed_nowhere(whole: Record) -> None:
    assert whole.names(IMAGE) == {"app-image", "nginx-image", "memcached-image", "postgres-image"}
    for one in whole.of(IMAGE):
        assert one.inputs["skipPush"] is True, one.name
        assert one.inputs["build"]["builderVersion"] == "BuilderBuildKit", one.name
        assert one.inputs["build"]["args"]["BASE"] == "debian:trixie-slim", one.name


def test_a_container_is_made_of_the_image_that_was_built_and_not_of_a_name_that_may_move(whole: Record) -> None:
    made_of = {"nginx": "nginx-image", "postgres": "postgres-image", **dict.fromkeys(NAMES, "app-image")}
    for name, image in made_of.items():
        one = whole.named(name, CONTAINER)
        assert one.property_dependencies["image"] == {whole.named(image).urn}
        assert one.inputs["image"] == UNKNOWN or "@sha256:" in one.inputs["image"], "a tag can be moved"


def test_a_preview_shows_nginx_s_configuration_and_not_what_it_can_t_know(whole: Record, preview: bool) -> None:
    delivered = whole.named("nginx-config").inputs
    assert delivered["stdin"].startswith("# file nginx.conf\n"), "whoever reviews the change would see nothing"
    assert (delivered["environment"]["NGINX"] == UNKNOWN) is preview
    assert (whole.named("app1", CONTAINER).inputs["image"] == UNKNOWN) is preview
    assert whole.named("app1", CONTAINER).labels["django-cluster.release"] != UNKNOWN


def test_a_preview_knows_the_images_that_the_engine_has(tmp_path: Path, preview: bool) -> None:
    found = run_main(tmp_path, VALUES, preview=preview, image="sha256:there")
    why = "where only the directory of a context is another, it would say that nginx is replaced"
    for name, one in containers(found).items():
        assert (one.inputs["image"] == "sha256:there") is preview, f"{name}: {why}"
        image = "app-image" if name in NAMES else f"{name.rstrip('12')}-image"
        assert one.property_dependencies["image"] == {found.named(image).urn}, f"{name} would not wait for its image"


# --- secrets


def everything(found: Record) -> list[Any]:
    return [[one.inputs for one in found.registrations], *found.outputs.values(), found.exports]


SECRET_STACKS = {
    "postgres": (VALUES, SECRETS),
    "external": (
        stack_values(database={"engine": "external"}, sessions={"engine": "db"}),
        {**SECRETS, "database_url": DATABASE_URL},
    ),
    "sqlite": (stack_values(database={"engine": "sqlite"}, sessions={"engine": "file"}), SECRETS),
}


@pytest.mark.parametrize("name", SECRET_STACKS)
def test_no_plain_input_or_output_holds_a_secret(name: str, preview: bool, recorded: Recorded) -> None:
    values, secrets = SECRET_STACKS[name]
    found = recorded(values, preview=preview, secrets=secrets)
    assert leaks(everything(found)) == set(), "it would lie in the state and show in previews"
    written = found.named("prepare").inputs["stdin"]
    assert is_secret(written), "the secrets would lie in the state in plain"
    assert json.loads(written["value"]) == secrets, "the instances would run with other secrets"


def test_the_search_for_secrets_finds_those_that_are_not_marked(tmp_path: Path) -> None:
    def careless() -> None:
        build(VALUES, tmp_path / "work", secrets=pulumi.Output.from_input(json.dumps(SECRETS)))

    found = record(careless)
    assert leaks(everything(found)) == set(CANARIES)


def test_the_command_that_writes_the_secrets_says_nothing_into_any_log_or_state(whole: Record) -> None:
    written = whole.named("prepare")
    assert written.inputs["logging"] == "none", "an error would show what it was given"
    assert written.inputs["addPreviousOutputInEnv"] is False
    assert not written.environment.keys() & {name.upper() for name in SECRETS}


def test_no_other_resource_is_made_of_the_secrets(whole: Record) -> None:
    marked = {one.name for one in whole.registrations if any(is_secret(value) for value in one.inputs.values())}
    assert marked == {"prepare"}, "a secret anywhere hides the whole input in previews"


SECURE = stack_values(site={"tls": {"self_signed": True, "listen": 8453}})

AN_AUTHORITY = authority()


def test_the_key_of_a_site_is_a_secret_beside_a_configuration_that_previews_show(
    preview: bool, recorded: Recorded
) -> None:
    found = recorded(SECURE, preview=preview, secrets={**SECRETS, AUTHORITY: AN_AUTHORITY})
    command = found.named("nginx-config")
    assert "listen 8453 ssl" in command.inputs["stdin"]
    private = command.environment["PRIVATE"]
    assert is_secret(private), "whoever reads the state could be the site"
    assert private["value"].startswith("# file certificate.key\n -----BEGIN PRIVATE KEY-----\n")
    said = json.dumps(everything(found)).replace(json.dumps(private["value"]), "")
    assert "PRIVATE KEY" not in said, "the key, or the authority's, stands elsewhere too"
    assert json.loads(found.named("prepare").inputs["stdin"]["value"]) == SECRETS, "no instance needs an authority"
    assert {port["external"] for port in found.named("nginx", CONTAINER).inputs["ports"]} >= {8090, 8453}
    plain = recorded(VALUES, preview=preview).named("nginx-config")
    assert "PRIVATE" not in plain.environment


ASKING = stack_values(site={"auth_basic": "Staging"})


def test_nginx_alone_is_given_a_sites_users_as_hashes_and_as_a_secret(preview: bool, recorded: Recorded) -> None:
    password = "a password of ann's"
    users = json.dumps({"ann": password})
    found = recorded(ASKING, preview=preview, secrets={**SECRETS, USERS: users})
    command = found.named("nginx-config")
    given = command.environment["USERS"]
    assert is_secret(given), "whoever reads the state could try passwords"
    assert given["value"].startswith("ann:$6$")
    assert "auth_basic_user_file /var/lib/cluster/users" in command.inputs["stdin"]
    said = json.dumps(everything(found)).replace(json.dumps(given["value"]), "")
    assert password not in said
    assert "$6$" not in said
    assert json.loads(found.named("prepare").inputs["stdin"]["value"]) == SECRETS, "no instance needs them"
    other = recorded(ASKING, preview=preview, secrets={**SECRETS, USERS: json.dumps({"ann": "another word"})})
    changed = other.named("nginx-config")
    assert changed.environment["USERS"] != given
    assert changed.inputs["stdin"] == command.inputs["stdin"], "the configuration tells nothing of them"


@pytest.mark.parametrize(
    ("users", "words"),
    [
        (None, "no auth_basic_users"),
        ('{"ann": "short"}', r"^cluster:auth_basic_users: \"ann\": a password must have"),
    ],
)
def test_a_site_that_asks_for_a_user_needs_some(tmp_path: Path, users: str | None, words: str) -> None:
    with pytest.raises(pulumi.RunError, match=words):
        run_main(tmp_path, ASKING, secrets={**SECRETS, **({USERS: users} if users else {})})


AN_ACCOUNT = new_key()
BY_ACME = stack_values(site={"server_names": ["example.org"], "tls": {"acme": {"email": "ops@example.org"}}})


def test_a_renewer_alone_has_the_account_and_nginx_reads_what_it_keeps(preview: bool, recorded: Recorded) -> None:
    found = recorded(BY_ACME, preview=preview, secrets={**SECRETS, ACCOUNT: AN_ACCOUNT})
    given = found.named("acme-account-given")
    assert is_secret(given.inputs["stdin"])
    assert given.inputs["stdin"]["value"] == AN_ACCOUNT
    said = json.dumps(everything(found)).replace(json.dumps(given.inputs["stdin"]["value"]), "")
    assert "PRIVATE KEY" not in said, "the account's key stands elsewhere too"
    mounts = {
        one.name: {volume["containerPath"]: volume["readOnly"] for volume in one.inputs["volumes"]}
        for one in found.registrations
        if one.type == CONTAINER
    }
    assert {name: paths["/srv/acme"] for name, paths in mounts.items() if "/srv/acme" in paths} == {
        "acme": False,
        "nginx": True,
    }
    assert [name for name, paths in mounts.items() if "/srv/account" in paths] == ["acme"]
    renewer, nginx = found.named("acme", CONTAINER), found.named("nginx", CONTAINER)
    told = json.loads(renewer.inputs["command"][-2])
    assert told["names"] == ["example.org"]
    assert told["asked"] == [nginx.inputs["networksAdvanced"][0]["aliases"][0], 8090]
    assert "ports" not in renewer.inputs or not renewer.inputs["ports"]
    assert "acme" in order_of(found, "nginx"), "nginx can't start without a certificate"
    plain = recorded(VALUES, preview=preview)
    assert [one.type for one in plain.registrations if one.name.startswith("acme")] == [VOLUME], (
        "kept for whoever returns"
    )
    assert "aliases" not in plain.named("nginx", CONTAINER).inputs["networksAdvanced"][0]


@pytest.mark.parametrize(
    ("account", "words"), [(None, "missing; `cluster up` makes it"), ("none", "Unable to load PEM file")]
)
def test_a_site_by_acme_needs_an_account(tmp_path: Path, account: str | None, words: str) -> None:
    with pytest.raises(pulumi.RunError, match=rf"^cluster:acme_account: {words}"):
        run_main(tmp_path, BY_ACME, secrets={**SECRETS, **({ACCOUNT: account} if account else {})})


BOUND = stack_values(site={"server_names": ["example.org"], "tls": {"acme": {"eab": "kid-1"}}})


@pytest.mark.parametrize("account", [AN_ACCOUNT, AN_ACCOUNT.rstrip()], ids=["whole", "without its last line end"])
def test_what_binds_an_account_is_with_it_and_nowhere_else(preview: bool, recorded: Recorded, account: str) -> None:
    found = recorded(BOUND, preview=preview, secrets={**SECRETS, ACCOUNT: account, EAB_KEY: "dGhlIGtleQ"})
    given = found.named("acme-account-given")
    assert given.inputs["stdin"]["value"] == f"{AN_ACCOUNT}# binding dGhlIGtleQ\n"
    said = json.dumps(everything(found)).replace(json.dumps(given.inputs["stdin"]["value"]), "")
    assert "dGhlIGtleQ" not in said
    told = json.loads(found.named("acme", CONTAINER).inputs["command"][-2])
    assert (told["eab"], told["eab_key"]) == ("kid-1", "/srv/account/eab.key")


@pytest.mark.parametrize(
    ("key", "words"), [(None, r"no acme_eab_key"), ("no key", r"^cluster:acme_eab_key: is no key in base64url")]
)
def test_an_account_that_is_to_be_bound_needs_a_key(tmp_path: Path, key: str | None, words: str) -> None:
    with pytest.raises(pulumi.RunError, match=words):
        run_main(tmp_path, BOUND, secrets={**SECRETS, ACCOUNT: AN_ACCOUNT, **({EAB_KEY: key} if key else {})})


def test_a_site_that_signs_its_own_certificate_needs_an_authority(tmp_path: Path) -> None:
    with pytest.raises(pulumi.RunError, match=r"^cluster:tls_authority: missing; `cluster up` makes it$"):
        run_main(tmp_path, SECURE)


# --- order


def urns(found: Record, *names: str) -> set[str]:
    return {one.urn for one in found.registrations if one.name in names and one.type in (CONTAINER, COMMAND)}


def order_of(found: Record, name: str) -> set[str]:
    """Return the containers and commands that are done before a container or command begins."""
    one = next(one for one in found.registrations if one.name == name and one.type in (CONTAINER, COMMAND))
    return {other.name for other in found.before(one) if other.type in (CONTAINER, COMMAND)}


def words_of(command: Registration) -> list[str]:
    """Return the words that the script of a command is given."""
    first, said, rest = command.inputs["create"].split("\n", 2)
    *name, words = said.split(" ", 2)
    assert name == ["set", "--"], command.name
    assert f"{first}\n{rest}" == script("task.sh"), "the script's own text is what runs"
    return shlex.split(words)


def test_no_command_holds_a_path_of_the_checkout_so_that_it_is_the_same_from_anywhere(whole: Record) -> None:
    for name, one in commands(whole).items():
        assert one.inputs["create"].startswith("#!/bin/sh\n"), name
        assert str(ROOT) not in json.dumps(one.inputs), name
        assert "/docker/host/" not in one.inputs["create"], name


PREPARED = {"memcached1", "memcached2", "database-password", "database-data", "postgres", "prepare"}

#: Containers and commands that must be done before a container or command begins.
ORDER: dict[str, set[str]] = {
    "postgres": {"database-password", "database-data"},
    "nginx": {"nginx-ports"},
    "prepare": {"memcached1", "memcached2", "postgres"},
    **dict.fromkeys(NAMES, PREPARED),
    "static-current": {*PREPARED, *NAMES},
    **{key: {*PREPARED, *NAMES, "static-current"} for key in SERVES},
    "nginx-config": {*PREPARED, *NAMES, "static-current", *SERVES, "nginx-ports", "nginx"},
}


@pytest.mark.parametrize("name", ORDER)
def test_nothing_begins_before_what_it_needs_is_done(name: str, whole: Record) -> None:
    missing = ORDER[name] - order_of(whole, name)
    assert missing == set(), f"{name} would begin while these are not done"


@pytest.mark.parametrize("name", ["memcached1", "memcached2", "database-password", "database-data", "nginx-ports"])
def test_what_needs_nothing_waits_for_nothing(name: str, whole: Record) -> None:
    assert order_of(whole, name) == set(), "`up` would take longer than it must"


def test_nginx_waits_for_its_ports_and_for_nothing_else(whole: Record) -> None:
    assert order_of(whole, "nginx") == {"nginx-ports"}, "it would come up later than it must"


def test_before_nginx_is_replaced_its_ports_are_asked_for_with_the_image_that_will_listen(whole: Record) -> None:
    command, nginx = whole.named("nginx-ports"), whole.named("nginx", CONTAINER)
    published = {f"{port['ip']}:{int(port['external'])}" for port in nginx.inputs["ports"]}
    assert set(command.environment["PORTS"].split()) == published, "a port that is in use would be found too late"
    assert command.environment["IMAGE"] == nginx.inputs["image"]
    assert whole.named("nginx-image").urn in command.property_dependencies["environment"]
    assert command.inputs["create"] == script("ports.sh")


def test_before_postgresql_is_replaced_the_new_image_looks_at_the_data_that_are_there(
    whole: Record, preview: bool
) -> None:
    command, postgres = whole.named("database-data"), whole.named("postgres", CONTAINER)
    assert command.environment["IMAGE"] == postgres.inputs["image"]
    made_of = command.property_dependencies["environment"]
    assert {whole.named("postgres-image").urn, whole.named("database", VOLUME).urn} <= made_of
    (data,) = [volume for path, (volume, _) in postgres.mounts.items() if path == "/var/lib/cluster"]
    assert command.environment["DATA"] == (UNKNOWN if preview else data)
    assert command.inputs["create"] == script("database-data.sh")


def test_what_must_be_alone_of_its_role_has_what_a_killed_run_left_removed_first_and_nothing_else_has(
    whole: Record,
) -> None:
    found = {one.name: one.before_create for one in whole.registrations if one.before_create}
    why = "two databases on the same data would ruin them; an instance is made beside the one that serves"
    alone = {name: f"{whole.named(name, CONTAINER).full_name}-alone" for name in (*SERVICES, "nginx")}
    assert found == {name: (hook,) for name, hook in alone.items()}, why
    assert sorted(whole.hooks) == sorted(alone.values()), "a hook has one name"


def test_a_name_is_taken_within_the_time_that_an_instance_has_to_start(recorded: Recorded, preview: bool) -> None:
    slower = {**VALUES, "app": {**VALUES["app"], "health": {"start_timeout": "90s"}}}
    for name in SERVES:
        assert recorded(slower, preview=preview).named(name).environment["WAIT"] == "90"


@pytest.mark.parametrize("name", SERVES)
def test_of_the_containers_that_held_a_name_only_those_of_this_stack_s_sockets_are_looked_for(
    name: str, whole: Record, preview: bool
) -> None:
    one = whole.named(name)
    sockets, _ = whole.named("app1", CONTAINER).mounts["/run/cluster"]
    assert one.environment["SOCKETS"] == (UNKNOWN if preview else sockets), "another checkout's would be stopped"
    assert whole.named("sockets", VOLUME).urn in one.property_dependencies["environment"]


def test_without_a_database_a_node_is_started_when_the_other_one_has_its_sessions(recorded: Recorded) -> None:
    found = recorded(stack_values(sessions={"engine": "cache", "memcached": {"nodes": 3}}))
    first = {"memcached-restored"}  # what a killed run left half filled is waited for before any node goes
    assert order_of(found, "memcached1") == first
    assert order_of(found, "memcached2") == first | {"memcached1", "memcached1-restored"}
    second = {"memcached2", "memcached2-restored"}
    assert order_of(found, "memcached3") == first | {"memcached1", "memcached1-restored"} | second
    assert "memcached3-restored" in found.names(), "the last one is waited for too"
    assert "memcached1-restored" not in recorded(VALUES).names(), "what the database has need not be restored"


def test_the_instances_of_a_batch_start_together(whole: Record) -> None:
    waiting = {name: order_of(whole, name) & {*NAMES, *SERVES} for name in NAMES}
    assert waiting == {key: set() for key in NAMES}, "with batch `all` no instance waits for another"


@pytest.mark.parametrize("name", SERVES)
def test_no_name_is_taken_before_every_instance_of_its_batch_is_healthy(name: str, whole: Record) -> None:
    direct = whole.named(name).dependencies
    assert urns(whole, *NAMES) <= direct, "a release that never gets healthy would take some of the names"
    assert whole.named(name).environment["ALONE"] == "no"


@pytest.mark.parametrize(("batch", "ahead"), [(1, False), (2, False), (1, True)], ids=["1", "2", "1, preview"])
def test_in_batches_the_next_instances_start_when_the_former_ones_serve(
    batch: int, ahead: bool, recorded: Recorded
) -> None:
    values = stack_values(app={"rollout": {"batch": batch}})
    found = recorded(values, preview=ahead)
    assert all(found.named(name, CONTAINER).inputs["wait"] for name in NAMES), "the next batch waits for these alone"
    rounds = batches(NAMES, parse_config(values).app)
    assert rounds[0] == ("app1",), "the first goes alone"
    assert sum(rounds, ()) == NAMES
    for former, following in pairwise(rounds):
        for name in following:
            serves = {f"{one}-serve" for one in former}
            assert serves <= order_of(found, name), "two would be away at a time"
            assert not {*following, *(f"{one}-serve" for one in following)} & order_of(found, name)
    for names in rounds:
        for name in names:
            assert set(names) <= order_of(found, f"{name}-serve")
            assert found.named(f"{name}-serve").environment["ALONE"] == "yes", "both would need memory at a time"
    assert set(SERVES) <= order_of(found, "nginx-config")


def test_without_migrate_nothing_is_migrated_and_the_release_is_proven_all_the_same(recorded: Recorded) -> None:
    found = recorded(stack_values(app={"migrate": False}))
    words = words_of(found.named("prepare"))
    assert "--no-migrate" in words
    assert words[words.index("--instance") + 1] == "app1"
    assert "--no-migrate" not in words_of(recorded(VALUES).named("prepare"))


def test_instances_are_made_beside_the_old_ones_and_what_holds_a_port_or_data_after_them(whole: Record) -> None:
    said = {name: one.delete_before_replace for name, one in containers(whole).items()}
    expected = {**dict.fromkeys(NAMES, False), **dict.fromkeys((*SERVICES, "nginx"), True)}
    assert said == expected, "None: left to the provider, which deletes first where it finds a fixed name"


@pytest.mark.parametrize(
    ("database", "data"), [("postgres", {"database"}), ("sqlite", {"data"}), ("external", set())], ids=str
)
def test_the_volumes_of_the_data_are_protected_and_nothing_else(
    database: str, data: set[str], preview: bool, recorded: Recorded
) -> None:
    values, secrets = SECRET_STACKS[database]
    found = recorded(values, preview=preview, secrets=secrets)
    protected = {one.name for one in found.registrations if one.protect}
    expected = {*data, "session-files", "shared", "maintenance", "acme"}
    assert protected == expected, "`pulumi destroy` would take the data, or stop at something that holds none"
    assert {one.type for one in found.registrations if one.protect} == {VOLUME}


#: Engines of sessions, and whether an instance sees the volume of files.
ENGINES: dict[str, tuple[dict[str, Any], bool]] = {
    "cached_db": ({"engine": "cached_db"}, False),
    "cache": ({"engine": "cache", "memcached": {"nodes": 2}}, False),
    "db": ({"engine": "db"}, False),
    "file": ({"engine": "file"}, True),
    "db after file": ({"engine": "db", "previous": "file"}, True),
}


@pytest.mark.parametrize("engine", ENGINES)
def test_the_volume_of_session_files_is_there_whatever_the_engine_and_mounted_only_where_files_are(
    engine: str, recorded: Recorded
) -> None:
    sessions, mounted = ENGINES[engine]
    found = recorded(stack_values(sessions=sessions))
    assert found.named("session-files", VOLUME).protect, "what is protected can't come and go with the engine"
    for name in NAMES:
        assert ("session-files" in volumes_of(found.named(name, CONTAINER), found)) is mounted, name
    others = {
        name
        for name in found.names(CONTAINER) - {*NAMES}
        if "session-files" in volumes_of(found.named(name, CONTAINER), found)
    }
    assert others == set()


# --- a change alters what it is about, and nothing else


APP = {
    *("Image app-image", "Command prepare"),
    *("Command static-current", *(f"Container {name}" for name in NAMES), *(f"Command {name}" for name in SERVES)),
}
CONFIG = {"Command nginx-config"}


def servers(**changes: Any) -> dict[str, Any]:
    first, *others = VALUES["upstream"]["servers"]
    return {"upstream": {**VALUES["upstream"], "servers": [{**first, **changes}, *others]}}


CHANGES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "nothing": ({}, set()),
    "a weight": (servers(weight=5), CONFIG),
    "limits": (servers(max_fails=3, fail_timeout="30s", max_conns=10), CONFIG),
    "a server drained": (servers(down=True), CONFIG),
    "a backup": (servers(backup=True), CONFIG),
    "the method": ({"upstream": {**VALUES["upstream"], "method": "least_conn"}}, CONFIG),
    "nginx's limits": ({"site": {**VALUES["site"], "client_max_body_size": "1m", "proxy_read_timeout": "9s"}}, CONFIG),
    "nginx's log": ({"site": {**VALUES["site"], "access_log": False}}, CONFIG),
    "nginx's image": (
        {"images": {"base": "debian:trixie-slim", "nginx": "nginx:1.30"}},
        {"Image nginx-image", "Command nginx-ports", "Container nginx", *CONFIG},
    ),
    "postgres's image": (
        {"images": {"base": "debian:trixie-slim", "postgres": "debian:bookworm-slim"}},
        {"Image postgres-image", "Command database-password", "Command database-data", "Container postgres"},
    ),
    "a port": (
        {"site": {**VALUES["site"], "instance_ports": 8200}},
        {"Command nginx-ports", "Container nginx", *CONFIG},
    ),
    "memcached's memory": (
        {"sessions": {**VALUES["sessions"], "memcached": {"nodes": 2, "memory": "96m"}}},
        {"Container memcached1", "Container memcached2"},
    ),
    "the app's settings": ({"app": {**VALUES["app"], "threads": 9}}, APP),
    "the app's base": ({"images": {"base": "debian:trixie-slim", "app": "python:3.13-slim"}}, APP),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_the_stack_file_alters_what_it_is_about_alone(what: str, recorded: Recorded) -> None:
    changes, expected = CHANGES[what]
    before, after = recorded(VALUES), recorded({**VALUES, **changes})
    assert before.changes(after) == expected


def test_a_weight_shows_in_a_preview_as_one_line_of_nginx_s_configuration(recorded: Recorded) -> None:
    before, after = (
        recorded(values, preview=True).named("nginx-config").inputs["stdin"].splitlines()
        for values in (VALUES, {**VALUES, **servers(weight=5)})
    )
    new = [line.strip() for line in after if line not in before]
    weight, digest = new
    assert weight == "server unix:/run/cluster/app1/http.sock weight=5 max_fails=0;"
    assert re.fullmatch(r"return 200 [0-9a-f]{64};", digest)


def copied_example(root: Path) -> Path:
    """Make the project of a repository one that can be changed."""
    project = root / "example"
    for source in sorted((ROOT / "example").rglob("*")):
        if source.is_file() and "__pycache__" not in source.parts and source.suffix != ".sqlite3":
            target = project / source.relative_to(ROOT / "example")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    return project


def test_a_change_of_a_secret_makes_another_release_and_leaves_nginx_and_the_stores_alone(recorded: Recorded) -> None:
    before = recorded(VALUES)
    after = recorded(VALUES, secrets={**SECRETS, "secret_environment": '{"TOKEN": "canary-token-2"}'})
    assert before.changes(after) == APP


def test_another_code_is_another_release_that_leaves_nginx_and_the_stores_alone_and_can_be_rolled_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = copied_example(tmp_path)
    before = run_main(tmp_path, VALUES)
    with (project / "manage.py").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    after = run_main(tmp_path, VALUES)
    assert before.changes(after) == APP
    assert before.exports["release"] != after.exports["release"]
    assert before.exports["nginx"] == after.exports["nginx"]

    monkeypatch.setenv("CLUSTER_RELEASE", before.exports["release"])
    assert before.changes(run_main(tmp_path, VALUES)) == set(), "a rollback asks for what that release asked for"


def test_a_rollback_to_a_release_that_is_gone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_RELEASE", "0123456789ab")
    with pytest.raises(pulumi.RunError, match="0123456789ab is not here"):
        run_main(tmp_path, VALUES)


# --- the program itself


@pytest.mark.parametrize(
    ("changes", "secrets", "words"),
    [
        ({"platform": "local"}, SECRETS, "say `cluster up dev`"),
        ({"platform": "swarm"}, SECRETS, "platform: must be one of local, docker, remote, got 'swarm'"),
        ({"upstream": {"servers": 0}}, SECRETS, "upstream.servers: must be a number from 1"),
        ({"app": {"project": "./nowhere", "settings": "x"}}, SECRETS, "nowhere"),
        ({}, {}, "secret_key"),
    ],
    ids=["local", "swarm", "no server", "no project", "no key"],
)
def test_a_stack_that_can_t_come_up_is_refused_with_a_line_that_says_why(
    changes: dict[str, Any], secrets: dict[str, str], words: str, tmp_path: Path
) -> None:
    with pytest.raises(pulumi.RunError, match=re.escape(words)) as refused:
        run_main(tmp_path, {**VALUES, **changes}, secrets=secrets)
    assert leaks(str(refused.value)) == set()


def test_what_goes_wrong_while_values_become_known_fails_the_run(tmp_path: Path) -> None:
    def broken() -> None:
        build(VALUES, tmp_path / "work")[0].urn.apply(lambda _: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        record(broken)
