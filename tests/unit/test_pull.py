"""Images as of a time: what the key means, what is built on what, what is pulled when, and what fails how."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pulumi
import pytest
import yaml

from cli import commands
from cluster.config import StackFileError, load_stack, parse_config
from cluster.config.models import dump
from cluster.console import Terminal
from cluster.errors import CommandError
from cluster.stack.opened import Stack
from cluster.topology import build_topology
from platforms.base import Forward
from platforms.docker import platform as cli
from platforms.docker.bases import BUILD, NO_UPDATES, Base, BaseError, ages, bases, context_as_of, ensure, forget
from platforms.docker.engine import Engine
from platforms.docker.family import Family, Target
from platforms.local import platform as local
from platforms.pulumi.plain import plain
from tests.unit.pulumi_mocks import (
    COMMAND,
    CONTAINER,
    IMAGE,
    PROJECT,
    STACK,
    UNKNOWN,
    Record,
    run_main,
    stack_values,
    write_stack,
)

if TYPE_CHECKING:
    from collections.abc import Callable

LABEL = f"{PROJECT}/{STACK}"
DEBIAN, TEXT = "debian:trixie-slim", "2026-01-31T10:05Z"
AS_OF = dt.datetime(2026, 1, 31, 10, 5, tzinfo=dt.UTC)
BASE = Base(key="images.base", image=DEBIAN, as_of=AS_OF)
NAMES = ("app1", "app2", "app3", "app4")
VALUES = stack_values()
PULLED = stack_values(images={"as_of": TEXT})


# --- the key


def read(root: Path, word: str) -> dict[str, Any]:
    write_stack(root, VALUES)
    path = root / "stacks" / f"Pulumi.{STACK}.yaml"
    text = path.read_text().replace("cluster:images:", "cluster:images:\n    as_of: " + word)
    path.write_text(text)
    found: dict[str, Any] = dump(load_stack(root, STACK))["images"]
    return found


@pytest.mark.parametrize(
    ("word", "means"),
    [
        ('"2026-01-31"', "2026-01-31T00:00Z"),
        (f'"{TEXT}"', TEXT),
        (TEXT, TEXT),
        ("null", None),
    ],
    ids=["a date", "a time", "plain, as Pulumi writes it", "none"],
)
def test_a_time_is_read_as_it_is_written(word: str, means: str | None, tmp_path: Path) -> None:
    assert read(tmp_path, word)["as_of"] == means


FORM = 'must be a date or a time in UTC, "2026-11-26" or "2026-11-26T10:05Z"'


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("2026-01-31", f'{FORM}, got 2026-01-31, which YAML 1.1 reads as the date 2026-01-31; write "2026-01-31" in'),
        ('"2026-02-30"', f"{FORM}, got '2026-02-30'"),
        ('"2026-01-31 10:05"', f"{FORM}, got '2026-01-31 10:05'"),
        ('"2026-01-31T10:05+02:00"', FORM),
        ("yesterday", f"{FORM}, got 'yesterday'"),
        ("20260131", FORM),
        ('"9999-12-31"', "must not be in the future, it is 20"),
    ],
)
def test_what_is_no_time_of_the_past_gets_one_line_that_says_what_to_write(
    word: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(StackFileError) as refused:
        read(tmp_path, word)
    (line,) = str(refused.value).splitlines()
    assert f"images.as_of: {message}" in line


def test_a_clock_that_is_a_little_ahead_of_this_one_does_not_stop_anybody() -> None:
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=5)
    assert parse_config({**VALUES, "images": {"as_of": soon.strftime("%Y-%m-%dT%H:%MZ")}}).images.as_of is not None
    later = soon + dt.timedelta(minutes=10)
    with pytest.raises(StackFileError, match="must not be in the future"):
        parse_config({**VALUES, "images": {"as_of": later.strftime("%Y-%m-%dT%H:%MZ")}})


# --- what is built on what


@pytest.fixture(scope="module", params=[False, True], ids=["up", "preview"])
def preview(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("repository")


@pytest.fixture(scope="module")
def without(root: Path, preview: bool) -> Record:
    return run_main(root, VALUES, preview=preview)


@pytest.fixture(scope="module")
def pulled(root: Path, preview: bool) -> Record:
    return run_main(root, PULLED, preview=preview)


def bases_of(found: Record) -> dict[str, str]:
    return {one.name: one.inputs["build"]["args"]["BASE"] for one in found.of(IMAGE)}


SERVICES = ("app", "memcached", "nginx", "postgres")


def test_without_the_key_every_image_is_built_on_its_base_itself_and_nothing_is_pulled(without: Record) -> None:
    assert bases_of(without) == {f"{service}-image": DEBIAN for service in SERVICES}
    assert not any(one.before_create for one in without.of(IMAGE))


def test_with_the_key_every_image_is_another_on_the_base_as_of_then_which_is_pulled_before(
    without: Record, pulled: Record
) -> None:
    name = BASE.name(LABEL)
    assert name.startswith("django-cluster/django-cluster-dev/base:")
    assert bases_of(pulled) == {f"{service}-image": name for service in SERVICES}
    tags = [{one.inputs["imageName"] for one in found.of(IMAGE)} for found in (without, pulled)]
    assert not tags[0] & tags[1]
    hooks = {one.name: one.full_name.removesuffix("-image") + "-base" for one in pulled.of(IMAGE)}
    assert hooks.keys() == {f"{service}-image" for service in SERVICES}
    assert {one.name: one.before_create for one in pulled.of(IMAGE)} == {name: (hooks[name],) for name in hooks}
    assert sorted(hook for hook in pulled.hooks if hook.endswith("-base")) == sorted(hooks.values())


def test_every_container_of_the_stack_is_replaced_and_the_data_stay(root: Path) -> None:
    changes = run_main(root, VALUES).changes(run_main(root, PULLED))
    assert {f"Container {name}" for name in (*NAMES, "nginx", "memcached1", "memcached2", "postgres")} <= changes
    assert not {change for change in changes if change.startswith(("Volume", "Network"))}


def test_another_time_is_another_release_on_another_base(root: Path, pulled: Record, preview: bool) -> None:
    later = run_main(root, stack_values(images={"as_of": "2026-01-31T10:06Z"}), preview=preview)
    assert not set(bases_of(pulled).values()) & set(bases_of(later).values())
    assert pulled.named("app-image").inputs["imageName"] != later.named("app-image").inputs["imageName"]


def test_a_service_that_has_a_base_of_its_own_is_built_on_that_one_as_of_then(root: Path) -> None:
    found = bases_of(run_main(root, stack_values(images={"as_of": TEXT, "nginx": "nginx:1.30"})))
    assert found["nginx-image"] == Base(key="images.nginx", image="nginx:1.30", as_of=AS_OF).name(LABEL)
    assert found["app-image"] == BASE.name(LABEL)


def test_memcached_nodes_that_alone_keep_the_sessions_are_replaced_one_after_another(root: Path, preview: bool) -> None:
    found = run_main(root, {**PULLED, "sessions": {"engine": "cache", "memcached": {"nodes": 2}}}, preview=preview)
    before = {one.name for one in found.before(found.named("memcached2", CONTAINER))}
    assert {"memcached-restored", "memcached1", "memcached1-restored"} <= before
    asked = found.named("memcached-restored", COMMAND).environment["IMAGE"]
    assert asked == found.named("memcached1", CONTAINER).inputs["image"]
    assert (asked == UNKNOWN) is preview


def test_a_release_that_serves_again_is_built_on_the_base_that_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_main(tmp_path, PULLED)
    former = str(first.named("app-image").inputs["imageName"]).rpartition(":")[2]
    assert context_as_of(tmp_path / ".cluster" / STACK / "images" / former) == AS_OF
    later = {**PULLED, "images": {**PULLED["images"], "as_of": "2026-02-01"}}
    run_main(tmp_path, later)
    monkeypatch.setenv("CLUSTER_RELEASE", former)
    again = run_main(tmp_path, later)
    assert again.named("app-image").inputs["imageName"] == first.named("app-image").inputs["imageName"]
    why = "updates that broke the site would be in what is to take their place"
    assert bases_of(again)["app-image"] == BASE.name(LABEL), why
    assert bases_of(again)["nginx-image"] != BASE.name(LABEL)


def test_a_release_of_before_the_key_was_set_serves_again_on_its_base_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    former = str(run_main(tmp_path, VALUES).named("app-image").inputs["imageName"]).rpartition(":")[2]
    monkeypatch.setenv("CLUSTER_RELEASE", former)
    assert bases_of(run_main(tmp_path, PULLED))["app-image"] == DEBIAN


# --- what the engine is told


@dataclass(frozen=True)
class Told(Engine):
    """An engine that keeps what it is told; `fails`: the verbs that it refuses, and how."""

    has: set[str] = field(default_factory=set)
    fails: dict[str, str] = field(default_factory=dict)
    says: dict[str, str] = field(default_factory=dict)
    calls: list[tuple[str, ...]] = field(default_factory=list)

    def _run(self, arguments: tuple[str, ...], timeout: float) -> subprocess.CompletedProcess[str]:
        verb = arguments[0]
        self.calls.append(arguments)
        if verb in self.fails:
            return subprocess.CompletedProcess(arguments, 1, "", self.fails[verb])
        if verb == "images":
            tags = [name.rpartition(":")[2] for name in sorted(self.has) if name.rpartition(":")[0] == arguments[-1]]
            listed = "\n".join(tags) if "--format" in arguments else "id" * (arguments[-1] in self.has)
            return subprocess.CompletedProcess(arguments, 0, listed, "")
        if verb == "build":
            self.has.add(arguments[arguments.index("--tag") + 1])
        return subprocess.CompletedProcess(arguments, 0, "", self.says.get(verb, ""))

    @property
    def verbs(self) -> list[str]:
        return [call[0] for call in self.calls]


def test_a_base_is_pulled_and_brought_up_to_date_without_the_cache() -> None:
    engine, said = Told(), list[str]()
    assert ensure(engine, LABEL, BASE, said.append) is None
    assert engine.verbs == ["images", "pull", "build"]
    assert engine.calls[1] == ("pull", "--quiet", DEBIAN)
    assert "--no-cache" in engine.calls[2]
    assert "--label" not in engine.calls[2], "containers that nobody labels would have it too"
    assert {f"BASE={DEBIAN}", f"AS_OF={TEXT}", BASE.name(LABEL)} <= set(engine.calls[2])
    assert said == [f"pulling {DEBIAN}", f"bringing {DEBIAN} up to date"]


def test_a_base_that_the_engine_has_as_of_then_is_not_pulled_again() -> None:
    engine = Told(has={BASE.name(LABEL)})
    assert ensure(engine, LABEL, BASE) is None
    assert engine.verbs == ["images"]


def test_where_its_distribution_can_t_be_reached_a_base_is_as_it_was_pulled_and_that_is_said() -> None:
    said = ensure(Told(says={"build": f"Step 5/5 : RUN …\n{NO_UPDATES}\n"}), LABEL, BASE)
    assert said == f"images.base: {DEBIAN} is as it was pulled: its distribution's updates can't be had from here"
    assert NO_UPDATES not in (BUILD / "Dockerfile").read_text(), "an engine that repeats the file would say it too"


REFUSED = {
    "pull": (
        "Error response from daemon: manifest for x not found",
        "can't be pulled for images.as_of: manifest for x",
    ),
    "build": ("Step 5/5\nE: dpkg was interrupted\n", "can't be brought up to date: E: dpkg was interrupted"),
}


@pytest.mark.parametrize("verb", REFUSED)
def test_a_base_that_can_t_be_had_is_told_in_one_line_with_its_key(verb: str) -> None:
    words, expected = REFUSED[verb]
    with pytest.raises(BaseError) as refused:
        ensure(Told(fails={verb: words}), LABEL, BASE)
    assert len(str(refused.value).splitlines()) == 1
    assert str(refused.value).startswith(f"images.base: {DEBIAN} {expected}")


def hooks_of(engine: Engine, root: Path) -> dict[str, Callable[[Any], Any]]:
    """Return what is done before the images of two services on one base are built."""
    hooks: dict[str, Callable[[Any], Any]] = {}
    target = Target(stack=LABEL, work=root, engine=engine)
    family = Family(target=target, component="app", child=pulumi.ResourceOptions(), former=False)
    with patch.object(pulumi, "ResourceHook", hooks.__setitem__):
        for service in ("app", "nginx"):
            family._pulled(f"{service}-base", BASE)
    return hooks


def run_hooks(*hooks: Callable[[Any], Any]) -> None:
    """Run hooks at the same time, in a loop that is nobody else's."""

    async def run() -> None:
        await asyncio.gather(*(hook(None) for hook in hooks))

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(run())
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def test_a_base_of_several_images_is_pulled_once_and_on_any_machine(tmp_path: Path) -> None:
    engine = Told()
    hooks = hooks_of(engine, tmp_path)
    assert set(hooks) == {"app-base", "nginx-base"}
    run_hooks(*hooks.values())
    assert engine.verbs == ["images", "pull", "build", "images"]


def test_a_pull_that_fails_ends_a_plain_up_with_one_line_that_says_that_what_served_serves(tmp_path: Path) -> None:
    engine = Told(fails={"pull": "Error response from daemon: no route to host"})
    hooks, lines = hooks_of(engine, tmp_path), set()
    for hook in hooks.values():
        with pytest.raises(BaseError) as refused:
            run_hooks(hook)
        lines.add(str(refused.value))
    assert lines == {
        f"images.base: {DEBIAN} can't be pulled for images.as_of: no route to host; what served still serves"
    }
    assert engine.verbs == ["images", "pull"], (
        "a registry that is away would be waited for as often as there are images"
    )


def test_cluster_up_tells_a_pull_that_failed_once_and_without_pulumi_s_frame() -> None:
    line = f"images.base: {DEBIAN} can't be pulled for images.as_of: no; what served still serves"
    assert plain(f'before hook "app-base" failed: {line}') == line


def test_bases_that_nothing_is_built_on_any_more_are_forgotten_and_no_other() -> None:
    old = Base(key="images.base", image=DEBIAN, as_of=AS_OF - dt.timedelta(days=40))
    engine = Told(has={BASE.name(LABEL), old.name(LABEL)})
    forget(engine, LABEL, [BASE])
    assert [call[1:] for call in engine.calls if call[0] == "rmi"] == [(old.name(LABEL),)]


def test_the_bases_of_a_stack_are_those_of_the_services_that_it_has() -> None:
    images = {"memcached": "memcached:1", "postgres": "postgres:17", "nginx": "nginx:1.30"}
    values = stack_values(images=images, sessions={"engine": "signed_cookies"}, database={"engine": "sqlite"})
    found = bases(build_topology(parse_config(values)), AS_OF)
    assert {base.key: base.image for base in found} == {"images.base": DEBIAN, "images.nginx": "nginx:1.30"}


MADE = {
    "a time": ("2026-01-02T03:04:05.123456789Z\n", "", dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)),
    "a reproducible build's": ("1970-01-01T00:00:00Z\n", "", None),
    "none": ("\n", "", None),
    "not here": ("", "Error: No such image: debian:trixie-slim", None),
    "engine away": ("", "Cannot connect to the Docker daemon", None),
}


@pytest.mark.parametrize("name", MADE)
def test_when_a_base_was_made_is_known_where_the_engine_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, error, expected = MADE[name]

    def run(_engine: Engine, arguments: tuple[str, ...], _timeout: float) -> subprocess.CompletedProcess[str]:
        assert arguments[:2] == ("image", "inspect")
        return subprocess.CompletedProcess(arguments, bool(error), text, error)

    monkeypatch.setattr(Engine, "_run", run)
    assert ages(Engine(), build_topology(parse_config(VALUES))) == ({} if expected is None else {DEBIAN: expected})


@pytest.mark.parametrize("there", [(DEBIAN, "nginx:1.30"), (DEBIAN,), ("nginx:1.30",), ()], ids=str)
def test_bases_are_looked_at_at_once_and_one_that_is_not_here_hides_no_other(
    there: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def run(_engine: Engine, arguments: tuple[str, ...], _timeout: float) -> subprocess.CompletedProcess[str]:
        images = arguments[4:]
        asked.append(images)
        lines = "".join(f"2026-01-{2 + ('nginx' in image):02}T03:04:05Z\n" for image in images if image in there)
        missing = [f"Error: No such image: {image}" for image in images if image not in there]
        return subprocess.CompletedProcess(arguments, bool(missing), lines, "\n".join(missing))

    monkeypatch.setattr(Engine, "_run", run)
    topology = build_topology(parse_config(stack_values(images={"base": DEBIAN, "nginx": "nginx:1.30"})))
    made = {
        DEBIAN: dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
        "nginx:1.30": dt.datetime(2026, 1, 3, 3, 4, 5, tzinfo=dt.UTC),
    }
    assert ages(Engine(), topology) == {image: made[image] for image in there}
    assert set(asked[0]) == set(made)
    assert len(asked) == (1 if len(there) == 2 else 3)


def test_an_image_that_has_no_time_hides_that_of_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {DEBIAN: "", "nginx:1.30": "2026-01-03 03:04:05.1 +0000 UTC"}

    def run(_engine: Engine, arguments: tuple[str, ...], _timeout: float) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(arguments, 0, "".join(f"{times[image]}\n" for image in arguments[4:]), "")

    monkeypatch.setattr(Engine, "_run", run)
    topology = build_topology(parse_config(stack_values(images={"base": DEBIAN, "nginx": "nginx:1.30"})))
    assert ages(Engine(), topology) == {"nginx:1.30": dt.datetime(2026, 1, 3, 3, 4, 5, tzinfo=dt.UTC)}


# --- cluster up --pull


@dataclass
class FakePulumi:
    """What `up --pull` asks of Pulumi: it writes the stack file as the real one does."""

    path: Path
    told: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """What is read while others go on is none of what is told here."""

    def set_up(self) -> list[dict[str, Any]]:
        return []

    def set_value(self, path: str, value: str) -> None:
        self.told.append(f"{path}={value}")

    def preview(self, *_arguments: object, **_more: object) -> Any:
        self.told.append("preview")
        raise KeyboardInterrupt


@pytest.fixture
def opened(tmp_path: Path) -> Stack:
    write_stack(tmp_path, VALUES)
    (tmp_path / "Pulumi.yaml").write_text(yaml.safe_dump({"name": PROJECT, "runtime": "python"}))
    return Stack(tmp_path, STACK, parse_config(VALUES))


def up_with(engine: Engine, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Say `cluster up --pull` where `engine` answers, until Pulumi would begin; return what Pulumi was told."""
    run = FakePulumi(stack.root)
    monkeypatch.setattr("platforms.docker.stack.Engine", lambda _host: engine)
    monkeypatch.setattr(cli, "Pulumi", lambda _root, _name, _say, _program: run)
    monkeypatch.setattr(cli.DockerPlatform, "facts", lambda _platform: None)
    monkeypatch.setattr(commands, "judge", lambda *_judged, **_how: None)
    monkeypatch.setattr(cli, "this_minute", lambda: AS_OF)
    monkeypatch.setattr(cli, "lost", lambda _docker, _resources: [])
    with contextlib.suppress(KeyboardInterrupt):
        commands.up(stack, cli.platform(stack, Terminal()), pull=True)
    return run.told


def test_up_with_pull_pulls_first_then_writes_as_of_when_and_then_is_an_up(
    opened: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = Told()
    assert up_with(engine, opened, monkeypatch) == [f"images.as_of={TEXT}", "preview"]
    assert engine.verbs == ["version", "images", "pull", "build"]
    assert BASE.name(LABEL) in engine.has, "`up` itself would pull it again"
    assert f"pulling {DEBIAN}" in capsys.readouterr().out


def test_up_with_pull_is_judged_as_of_now(opened: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would warn of the old base that it renews."""
    judged: list[Any] = []
    images = opened.config.images.model_copy(update={"as_of": AS_OF - dt.timedelta(days=400)})
    stack = Stack(opened.root, opened.name, opened.config.model_copy(update={"images": images}))
    monkeypatch.setattr("platforms.docker.stack.Engine", lambda _host: Told())
    monkeypatch.setattr(cli.DockerPlatform, "facts", lambda _platform: None)
    monkeypatch.setattr(cli, "this_minute", lambda: AS_OF)
    monkeypatch.setattr(cli, "Pulumi", lambda _root, _name, _say, _program: FakePulumi(stack.root))
    monkeypatch.setattr(cli, "lost", lambda _docker, _resources: [])
    gate = lambda config, *_facts: judged.append(config)  # noqa: E731 - as long as the test
    with (
        contextlib.suppress(KeyboardInterrupt),
        cli.platform(stack, Terminal()).change(Forward(pull=True), gate),
    ):
        pytest.fail("nobody has looked yet at what is to be done")
    assert [config.images.as_of for config in judged] == [AS_OF]


def test_up_with_pull_changes_nothing_where_a_base_can_t_be_pulled(
    opened: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: list[str] = []
    with pytest.raises(CommandError) as refused:
        run = up_with(Told(fails={"pull": "no route to host"}), opened, monkeypatch)
    assert run == []
    assert str(refused.value) == (
        f"images.base: {DEBIAN} can't be pulled for images.as_of: no route to host; nothing is changed, the stack file "
        "neither, and what served still serves"
    )


def test_on_this_machine_there_is_nothing_to_pull() -> None:
    stack = Stack(Path("/nowhere"), "mine", parse_config(VALUES))
    with (
        pytest.raises(CommandError, match=r"^--pull is for platform docker: ") as refused,
        local.platform(stack, Terminal()).change(Forward(pull=True), lambda *_judged: None),
    ):
        pass
    assert len(str(refused.value).splitlines()) == 1
