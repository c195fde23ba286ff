"""Components in other programs than the repository's own: in another directory, and two sites on one engine."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pulumi
import pytest
import yaml

from cluster.config import parse_config
from components import DjangoCluster, DjangoClusterArgs
from components.program import Program, open_program
from platforms.docker.engine import Engine
from platforms.pulumi.live import Live
from tests.unit.pulumi_mocks import (
    COMMAND,
    CONTAINER,
    IMAGE,
    NETWORK,
    PROJECT,
    ROOT,
    SECRETS,
    STACK,
    VOLUME,
    Record,
    Registration,
    is_secret,
    record,
    run_main,
    stack_values,
    write_stack,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: The stack files of two sites: what differs between them, and what must not.
SITES = {
    "shop": stack_values(site={"listen": 8090, "instance_ports": 8100}),
    "blog": stack_values(site={"listen": 8190, "instance_ports": 8200}),
}
KEYS = {name: f"canary-{name}-0123456789-abcdefghijklmnopqrstuvwxyz-0123456789" for name in SITES}

ONE_LINE_EACH = """
from pathlib import Path

from cluster.config import load_stack
from components import DjangoCluster, DjangoClusterArgs

root = Path("../sites")
shop = DjangoCluster("shop", DjangoClusterArgs(config=load_stack(root, "shop"), root=root))
blog = DjangoCluster("blog", DjangoClusterArgs(config=load_stack(root, "blog"), root=root))
"""

ONE_BY_ONE = """
from cluster.topology import build_topology
from components import (
    AppHosts, AppHostsArgs, Database, DatabaseArgs, NginxSite, NginxSiteArgs, SessionStore, SessionStoreArgs,
    UpstreamPool, UpstreamPoolArgs,
)
from components.program import open_program

for name in ("shop", "blog"):
    program = open_program("../sites", name)
    topology = build_topology(program.config)
    platform = program.platform(topology)
    sessions = SessionStore(f"{name}-sessions", SessionStoreArgs(topology=topology, platform=platform))
    database = Database(f"{name}-database", DatabaseArgs(topology=topology, platform=platform))
    args = AppHostsArgs(
        topology=topology, release=program.release(topology), sessions=sessions, database=database, platform=platform
    )
    hosts = AppHosts(f"{name}-app", args)
    pool = UpstreamPool(f"{name}-upstream", UpstreamPoolArgs(topology=topology, hosts=hosts))
    NginxSite(f"{name}-nginx", NginxSiteArgs(topology=topology, pool=pool, platform=platform))
"""

PROGRAMS = {"one line each": ONE_LINE_EACH, "one by one": ONE_BY_ONE}


def sites_in(directory: Path) -> Path:
    """Make a directory that has the stack files of both sites, and the example as their project."""
    (directory / "stacks").mkdir(parents=True)
    (directory / "example").symlink_to(ROOT / "example")
    for name, values in SITES.items():
        config = {f"cluster:{key}": value for key, value in values.items()}
        (directory / "stacks" / f"Pulumi.{name}.yaml").write_text(yaml.safe_dump({"config": config}))
    return directory


@contextlib.contextmanager
def on_an_engine(directory: Path) -> Iterator[list[str]]:
    """Be in a directory, with an engine on which nothing runs; yield the labels of the sites that are looked for."""
    asked: list[str] = []

    def live(_engine: Engine, label: str) -> Live:
        asked.append(label)
        return Live()

    with (
        patch.multiple(Engine, live=live, image=lambda *_: None),
        patch("platforms.docker.facts.ages", return_value={}),
        contextlib.chdir(directory),
    ):
        yield asked


def keys_of(*sites: str) -> dict[str, str]:
    return {f"{name}:secret_key": KEYS[name] for name in sites}


def run(program: Callable[[], object], directory: Path, secrets: dict[str, str] | None = None) -> Record:
    with on_an_engine(directory):
        return record(program, secrets={}, config=keys_of(*SITES) if secrets is None else secrets)


@pytest.fixture(scope="module", params=PROGRAMS)
def outside(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory outside the repository with a program of two sites, and the sites beside it."""
    root = tmp_path_factory.mktemp("outside")
    sites_in(root / "sites")
    (root / "program").mkdir()
    (root / "program" / "__main__.py").write_text(PROGRAMS[request.param])
    return root / "program"


@pytest.fixture(scope="module", params=[False, True], ids=["up", "preview"])
def two(request: pytest.FixtureRequest, outside: Path) -> Record:
    with on_an_engine(outside):
        return record(lambda: runpy.run_path("__main__.py"), preview=request.param, secrets={}, config=keys_of(*SITES))


def of_site(found: Record, site: str, kind: str) -> list[Registration]:
    return [one for one in found.of(kind) if one.full_name.startswith(f"{site}-")]


def test_two_sites_of_one_program_have_the_same_parts_and_no_name_in_common(two: Record) -> None:
    urns = [one.urn for one in two.registrations]
    assert len(urns) == len(set(urns)), "Pulumi refuses a second resource of a URN"
    for kind in (CONTAINER, VOLUME, NETWORK, IMAGE, COMMAND):
        shop, blog = ([one.name for one in of_site(two, site, kind)] for site in SITES)
        assert sorted(shop) == sorted(blog) != []
        assert len(shop) + len(blog) == len(two.of(kind)), "something is called after no component"
    assert len(two.hooks) == len(set(two.hooks)), "a hook of one site would run before what is the other's"


def test_no_resource_of_theirs_claims_what_a_stack_of_one_site_had_before(two: Record) -> None:
    assert not any(one.aliases for one in two.registrations), "both would claim the same"


def test_the_labels_of_two_sites_tell_their_containers_apart(two: Record) -> None:
    for site in SITES:
        labels = {one.labels["django-cluster.stack"] for one in of_site(two, site, CONTAINER)}
        assert labels == {f"{PROJECT}/{STACK}/{site}"}
        stacks = {one.environment["STACK"] for one in of_site(two, site, COMMAND)}
        assert stacks == labels, "a script would look at the other site's containers"
        images = {one.inputs["imageName"].rpartition(":")[0] for one in of_site(two, site, IMAGE)}
        assert all(image.startswith(f"django-cluster/{PROJECT}-{STACK}-{site}/") for image in images)


def test_a_site_mounts_its_own_volumes_and_publishes_its_own_ports(two: Record) -> None:
    for site, values in SITES.items():
        own = {one.urn for one in of_site(two, site, VOLUME)}
        for one in of_site(two, site, CONTAINER):
            mounted = one.property_dependencies["volumes"]
            assert mounted & own, one.full_name
            assert not {urn for urn in mounted if "volume:Volume" in urn} - own, "it sees the other site's data"
        (nginx,) = (one for one in of_site(two, site, CONTAINER) if one.name == "nginx")
        first = values["site"]["instance_ports"]
        ports = {int(port["external"]) for port in nginx.inputs["ports"]}
        assert ports == {values["site"]["listen"], *range(first, first + 4)}


def test_each_site_has_a_secret_key_of_its_own(two: Record) -> None:
    for site, key in KEYS.items():
        (prepare,) = (one for one in of_site(two, site, COMMAND) if one.name == "prepare")
        assert is_secret(prepare.inputs["stdin"])
        assert key in prepare.inputs["stdin"]["value"], "a cookie that one site signed would be valid at the other"
    releases = {
        site: {one.labels["django-cluster.release"] for one in of_site(two, site, CONTAINER) if one.name == "app1"}
        for site in SITES
    }
    assert releases["shop"] != releases["blog"]


def test_what_images_are_built_of_is_found_from_the_program_s_directory(two: Record, outside: Path) -> None:
    for one in two.of(IMAGE):
        build = one.inputs["build"]
        assert not Path(build["context"]).is_absolute(), "the state would hold where the checkout is"
        assert (outside / build["context"]).is_dir(), one.full_name
        assert (outside / build["dockerfile"]).is_file(), one.full_name


def test_each_site_is_looked_for_by_its_label_and_keeps_its_releases_apart(outside: Path) -> None:
    with on_an_engine(outside) as asked:
        record(lambda: runpy.run_path("__main__.py"), secrets={}, config=keys_of(*SITES))
    assert asked == [f"{PROJECT}/{STACK}/{site}" for site in SITES]
    kept = {path.name for path in (outside.parent / "sites" / ".cluster").iterdir()}
    assert kept == {f"{STACK}.shop", f"{STACK}.blog"}
    assert not (outside / ".cluster").exists()


def test_the_stack_s_own_site_is_what_it_was_beside_another_one(tmp_path: Path) -> None:
    values = stack_values(site={"instance_ports": 8100})
    alone = run_main(tmp_path / "own", values)
    sites_in(tmp_path / "sites")

    def both() -> None:
        runpy.run_path(str(ROOT / "__main__.py"), run_name="program")
        config = parse_config(SITES["blog"])
        DjangoCluster("blog", DjangoClusterArgs(config=config, root=Path("../sites")))

    own = {f"cluster:{key}": value for key, value in SECRETS.items()}
    together = run(both, write_stack(tmp_path / "own", values), {**own, **keys_of("blog")})
    there = {one.urn: one for one in together.registrations}
    for one in alone.registrations:
        assert there[one.urn].inputs == one.inputs, one.full_name
        assert there[one.urn].aliases == one.aliases
    others = set(there) - {one.urn for one in alone.registrations}
    assert all("::blog" in urn for urn in others), others


# --- DjangoCluster


def one_site(directory: Path, **options: Any) -> tuple[Record, Registration]:
    def program() -> None:
        opts = {key: value() if callable(value) else value for key, value in options.items()}
        args = DjangoClusterArgs(config=parse_config(SITES["shop"]), root=Path("sites"))
        DjangoCluster("shop", args, pulumi.ResourceOptions(**opts))

    if not (directory / "sites").exists():
        sites_in(directory / "sites")
    found = run(program, directory)
    (cluster,) = found.of("cluster:index:DjangoCluster")
    return found, cluster


def test_a_cluster_is_the_five_components_called_after_it(tmp_path: Path) -> None:
    found, cluster = one_site(tmp_path)
    children = {(one.type, one.full_name) for one in found.registrations if one.parent == cluster.urn}
    assert children == {
        ("cluster:index:SessionStore", "shop-sessions"),
        ("cluster:index:Database", "shop-database"),
        ("cluster:index:AppHosts", "shop-app"),
        ("cluster:index:UpstreamPool", "shop-upstream"),
        ("cluster:index:NginxSite", "shop-nginx"),
    }
    assert found.outputs[cluster.urn] == {
        "url": "http://cluster:8090/",
        "upstream": found.outputs[found.named("upstream").urn]["servers"],
        "release": found.named("app1-serve").environment["RELEASE"],
        "nginx": found.named("nginx-config").environment["DIGEST"],
        "sessions": "cached_db",
    }


def test_a_cluster_s_arguments_and_outputs_are_of_the_form_that_all_components_have(tmp_path: Path) -> None:
    parameters = inspect.signature(DjangoCluster.__init__).parameters
    assert list(parameters) == ["self", "name", "args", "opts"]
    fields = dataclasses.fields(DjangoClusterArgs)
    assert all(field.kw_only for field in fields)
    assert DjangoClusterArgs.__dataclass_params__.frozen  # type: ignore[attr-defined]
    declared = inspect.get_annotations(DjangoCluster)
    assert all(kind.startswith("pulumi.Output[") for kind in declared.values())
    found, cluster = one_site(tmp_path)
    assert set(found.outputs[cluster.urn]) == set(declared)


def test_the_options_of_a_cluster_s_caller_are_honoured(tmp_path: Path) -> None:
    above = "above"
    found, cluster = one_site(
        tmp_path, parent=lambda: pulumi.ComponentResource("test:index:Above", above), protect=True
    )
    assert cluster.parent == found.named(above).urn
    assert cluster.protect


# --- which site a program opens


def opened(directory: Path, *arguments: Any, secrets: dict[str, str] | None = None, **options: Any) -> list[Program]:
    found: list[Program] = []
    calls = arguments if arguments and isinstance(arguments[0], list) else [list(arguments)]

    def program() -> None:
        found.extend(open_program(*call, **options) for call in calls)

    run(program, directory, {"cluster:secret_key": SECRETS["secret_key"], **keys_of(*SITES), **(secrets or {})})
    return found


def test_a_program_opens_the_stack_of_its_directory_or_says_which(tmp_path: Path) -> None:
    root = write_stack(sites_in(tmp_path / "sites"), SITES["shop"])
    own, shop, other = opened(
        tmp_path,
        [str(root)],
        ["sites", "shop"],
        [root, "blog", "shop-two"],
        secrets={
            "shop-two:secret_key": KEYS["blog"],
        },
    )
    assert [(one.stack, one.site, one.root) for one in (own, shop, other)] == [
        (STACK, None, root),
        ("shop", "shop", root),
        ("blog", "shop-two", root),
    ]
    assert [one.secrets["secret_key"] for one in (own, shop, other)] == [
        *(SECRETS["secret_key"], KEYS["shop"], KEYS["blog"])
    ]
    (here,) = opened(root)
    assert (here.root, here.stack, here.site) == (root, STACK, None)


REFUSED: dict[str, tuple[list[list[str]], str]] = {
    "the own stack twice": ([["sites"], ["sites"]], "two of the program are the program's stack itself"),
    "one name twice": ([["sites", "shop"], ["sites", "blog", "shop"]], "two of the program are called 'shop'"),
    "no name": ([["sites", "shop", "Shop_1"]], "'Shop_1' is no name for one: lower-case letters, digits and -"),
    "too long": ([["sites", "shop", "s" * 33]], "is no name for one"),
    "the own secrets' name": ([["sites", "shop", "cluster"]], "and not 'cluster'"),
    "no such stack": ([["sites", "nowhere"]], "stacks/Pulumi.nowhere.yaml"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_be_another_site_s_is_refused_with_a_line_that_says_why(what: str, tmp_path: Path) -> None:
    write_stack(sites_in(tmp_path / "sites"), SITES["shop"])
    calls, words = REFUSED[what]
    with pytest.raises(pulumi.RunError) as refused:
        opened(tmp_path, *calls)
    assert words in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_program_s_sites_are_its_own_and_the_next_program_begins_anew(tmp_path: Path) -> None:
    write_stack(sites_in(tmp_path / "sites"), SITES["shop"])
    for _ in range(2):
        (one,) = opened(tmp_path, ["sites", "shop"])
        assert one.site == "shop"


def test_a_site_without_a_secret_key_is_told_the_key_that_is_its_own(tmp_path: Path) -> None:
    sites_in(tmp_path / "sites")
    with pytest.raises(pulumi.RunError, match=r"pulumi config set --secret shop:secret_key") as refused:
        run(lambda: open_program("sites", "shop"), tmp_path, {"cluster:secret_key": SECRETS["secret_key"]})
    assert "cluster:secret_key" not in str(refused.value)


def test_a_rollback_goes_back_in_the_program_s_own_stack_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The former release of one site is none of the other's."""
    monkeypatch.setenv("CLUSTER_RELEASE", "0123456789ab")
    found, _ = one_site(tmp_path)
    assert found.named("app1-serve").environment["RELEASE"] != "0123456789ab"
