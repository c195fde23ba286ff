"""Pulumi mocks that record every registration as it went over the wire, and typed queries of the record.

Each program runs in a context and an event loop of its own, through the entry that Pulumi itself uses, until all its
registrations are done: tests assert afterwards, never inside `apply`. What the mocks make has ids that follow from its
inputs, so that a change goes on to whatever is made of it, as with a real engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import hashlib
import json
import re
import runpy
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pulumi
import yaml
from google.protobuf.json_format import MessageToDict
from pulumi.runtime import mocks, settings, stack
from pulumi.runtime.config import set_all_config

from platforms.docker.engine import Engine
from platforms.pulumi.live import Live
from platforms.pulumi.made import SHOW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROOT = Path(__file__).resolve().parents[2]

PROJECT, STACK = "django-cluster", "dev"

#: Type tokens of what the platform docker makes.
IMAGE, CONTAINER, COMMAND = "docker:index/image:Image", "docker:index/container:Container", "command:local:Command"
VOLUME, NETWORK = "docker:index/volume:Volume", "docker:index/network:Network"

#: What stands on the wire for a value that is not known yet, and the key and value that mark a secret
#: (https://www.pulumi.com/docs/iac/extending-pulumi/ : special signatures).
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
SIGNATURE, SECRET = "4dabf18193072939515e22adb298388d", "1b47061264138c4ac30d75fd1eb44270"

#: Each secret of a stack holds a word that stands nowhere else.
SECRETS = {
    "secret_key": "canary-key-0123456789-abcdefghijklmnopqrstuvwxyz-0123456789",
    "secret_key_fallbacks": '["canary-fallback-0123456789-abcdefghijklmnopqrstuvwxyz-01234"]',
    "secret_environment": '{"TOKEN": "canary-token"}',
}
CANARIES = ("canary-key", "canary-fallback", "canary-token")
DATABASE_URL = "postgres://cluster:canary-password@db.example:5432/cluster"


@dataclass(frozen=True, kw_only=True)
class Registration:
    """One resource as it was registered: secrets in `inputs` are marked, URNs are whole; None: the option was not said.

    name: what it is called within its component. full_name: and among all resources. aliases: its names of before.
    dependencies: all that must be done before. property_dependencies: what each input is made of.
    before_create: the names of the hooks that run before it is made.
    """

    type: str
    name: str
    full_name: str
    urn: str
    parent: str
    inputs: Mapping[str, Any]
    dependencies: frozenset[str]
    property_dependencies: Mapping[str, frozenset[str]]
    protect: bool
    delete_before_replace: bool | None
    before_create: tuple[str, ...]
    aliases: frozenset[str]

    @property
    def environment(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.inputs["environment"]
        return found

    @property
    def labels(self) -> dict[str, str]:
        return {label["label"]: label["value"] for label in self.inputs["labels"]}

    @property
    def mounts(self) -> dict[str, tuple[str, bool]]:
        """The volume at each path of a container, and whether it can only be read."""
        return {
            mount["containerPath"]: (mount.get("volumeName", ""), mount.get("readOnly", False))
            for mount in self.inputs.get("volumes", ())
        }


@dataclass(frozen=True, kw_only=True)
class Record:
    """All that a program registered.

    outputs: of each component, by its URN. exports: the stack's own outputs. hooks: the names of those that the engine
    was told of, as often as it was.
    """

    registrations: tuple[Registration, ...]
    outputs: Mapping[str, Mapping[str, Any]]
    exports: Mapping[str, Any]
    hooks: tuple[str, ...]

    def of(self, kind: str) -> list[Registration]:
        """Return what is of a type, in the order of its names."""
        return sorted((one for one in self.registrations if one.type == kind), key=lambda one: one.name)

    def named(self, name: str, kind: str | None = None) -> Registration:
        """Return the one of a name; a component and its container may share one, then `kind` tells them apart."""
        found = [one for one in self.registrations if one.name == name and kind in (None, one.type)]
        assert len(found) == 1, f"{len(found)} resources are called {name}: {[one.type for one in found]}"
        return found[0]

    def names(self, kind: str | None = None) -> set[str]:
        return {one.name for one in self.registrations if kind in (None, one.type)}

    def children(self, parent: Registration) -> set[str]:
        return {one.name for one in self.registrations if one.parent == parent.urn}

    def before(self, one: Registration) -> list[Registration]:
        """Return all that is done before `one` begins, however many steps before."""
        by_urn = {other.urn: other for other in self.registrations}
        found: set[str] = set()
        waiting = [one.urn]
        while waiting:
            new = by_urn[waiting.pop()].dependencies - found
            found |= new
            waiting += new
        return [by_urn[urn] for urn in sorted(found)]

    def inputs(self) -> dict[str, str]:
        """Return each resource's inputs as text, by the last word of its type and its name."""
        return {
            f"{one.type.rpartition(':')[2]} {one.name}": json.dumps(one.inputs, sort_keys=True)
            for one in self.registrations
        }

    def changes(self, later: Record) -> set[str]:
        """Return whose inputs differ in another record, or which are in one of both alone."""
        here, there = self.inputs(), later.inputs()
        return {key for key in here.keys() | there.keys() if here.get(key) != there.get(key)}


@dataclass(frozen=True)
class _Mocks(pulumi.runtime.Mocks):
    """Answers as the engine would: in a preview nothing that is to be made has an id or outputs of its own."""

    preview: bool

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        if self.preview:
            return (None if args.custom else ""), dict(args.inputs)
        text = json.dumps([args.typ, args.name, args.inputs], sort_keys=True, default=repr)
        made = hashlib.sha256(text.encode()).hexdigest()
        # A volume keeps the name that it got when it was made.
        said = _taken(args.inputs.get("environment", {})) if args.name.endswith(f"-{SHOW}") else ""
        outputs = {"name": f"{args.name}-a1b2c3d", "repoDigest": f"{args.name}@sha256:{made}", "stdout": said}
        return made, {**outputs, **args.inputs}

    def call(self, args: pulumi.runtime.MockCallArgs) -> Any:
        raise AssertionError(f"nothing is asked of the engine while the program runs: {args.token}")


def _taken(environment: Mapping[str, str]) -> str:
    """Return what is said of names that were never given before."""
    if environment["SERVE"] != "yes":
        return ""
    found = (one.split("/") for one in environment["CONTAINERS"].split())
    return "\n".join(f"{name}/{environment['RELEASE']}.{container}/1" for name, container in found)


@dataclass
class _Monitor(mocks.MockMonitor):
    """Keeps each request before it is answered."""

    preview: bool
    kept: list[Registration] = field(default_factory=list)
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    hooks: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(_Mocks(self.preview))

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 - grpc's name
        response = super().RegisterResource(request)  # type: ignore[no-untyped-call]
        properties = request.propertyDependencies
        self.kept.append(
            Registration(
                type=request.type,
                name=request.name.removeprefix(f"{request.parent.rpartition('::')[2]}-"),
                full_name=request.name,
                urn=response.urn,
                parent=request.parent,
                inputs=MessageToDict(request.object),
                dependencies=frozenset(request.dependencies),
                property_dependencies={name: frozenset(found.urns) for name, found in properties.items()},
                protect=request.protect,
                delete_before_replace=request.deleteBeforeReplace if request.deleteBeforeReplaceDefined else None,
                before_create=tuple(request.hooks.before_create),
                aliases=frozenset(one.spec.name for one in request.aliases if one.spec.name),
            )
        )
        return response

    def RegisterResourceHook(self, request: Any) -> Any:  # noqa: N802 - grpc's name
        self.hooks.append(request.name)
        return super().RegisterResourceHook(request)  # type: ignore[no-untyped-call]

    def RegisterResourceOutputs(self, request: Any) -> Any:  # noqa: N802 - grpc's name
        self.outputs.setdefault(request.urn, {}).update(MessageToDict(request.outputs))
        return super().RegisterResourceOutputs(request)  # type: ignore[no-untyped-call]

    def record(self) -> Record:
        stacks = {one.urn for one in self.kept if one.type == "pulumi:pulumi:Stack"}
        (exports,) = (self.outputs[urn] for urn in stacks)
        return Record(
            registrations=tuple(one for one in self.kept if one.urn not in stacks),
            outputs={urn: found for urn, found in self.outputs.items() if urn not in stacks},
            exports=exports,
            hooks=tuple(self.hooks),
        )


def record(
    program: Callable[[], object],
    *,
    preview: bool = False,
    secrets: Mapping[str, str] = SECRETS,
    config: Mapping[str, str] | None = None,
) -> Record:
    """Run a program for `up` or for `preview`, wait for all its registrations, and return them.

    Whatever the program raises, an `apply` of it included, is raised here.
    """

    monitor = _Monitor(preview)

    async def run() -> None:
        pulumi.runtime.set_mocks(monitor.mocks, project=PROJECT, stack=STACK, preview=preview, monitor=monitor)
        settings.SETTINGS.outputs = set()
        settings.set_root_resource(None)  # type: ignore[arg-type]
        keys = {f"cluster:{name}": value for name, value in secrets.items()}
        set_all_config({**(config or {}), **keys}, list(keys))
        await stack.run_in_stack(lambda: _without_result(program))

    loop = asyncio.new_event_loop()
    try:
        # What Pulumi keeps as its settings is of this context alone, and the loop is nobody else's.
        contextvars.copy_context().run(loop.run_until_complete, run())
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    return monitor.record()


def _without_result(program: Callable[[], object]) -> None:
    program()


def stack_values(**changes: Any) -> dict[str, Any]:
    """Return the keys of stacks/Pulumi.dev.yaml without their prefix; a mapping among `changes` is laid over.

    All images are made on one base, unless `changes` name others.
    """
    document = yaml.safe_load((ROOT / "stacks" / "Pulumi.dev.yaml").read_text(encoding="utf-8"))
    values = {key.removeprefix("cluster:"): value for key, value in document["config"].items()}
    del values["images"]["nginx"]
    for key, value in changes.items():
        values[key] = {**(values.get(key) or {}), **value} if isinstance(value, dict) else value
    return values


def write_stack(root: Path, values: Mapping[str, Any]) -> Path:
    """Make `root` a repository that has `values` as its stack and the example as its project, if it has none yet."""
    file = root / "stacks" / f"Pulumi.{STACK}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    config = {f"cluster:{key}": value for key, value in values.items()}
    file.write_text(yaml.safe_dump({"config": config}), encoding="utf-8")
    if not (root / "example").exists():
        (root / "example").symlink_to(ROOT / "example")
    return root


#: What an image of a stack's is called by the engine.
IMAGE_NAME = re.compile(r"django-cluster/django-cluster-[a-z0-9-]+/[a-z]+:[0-9a-f]{12}")


def run_main(
    root: Path,
    values: Mapping[str, Any],
    *,
    preview: bool = False,
    live: Live | None = None,
    secrets: Mapping[str, str] = SECRETS,
    image: str | None = None,
) -> Record:
    """Return the record of the repository's own program, for a stack, where `live` runs.

    image: the id of the image that the engine has by each name; None: it has none.
    """
    write_stack(root, values)
    images = SimpleNamespace(get=lambda name: image if IMAGE_NAME.fullmatch(name) else None)
    engine = patch.multiple(Engine, live=lambda *_: live or Live(), image=lambda *_: image, images_of=lambda *_: images)
    with engine, patch("platforms.docker.facts.ages", return_value={}), contextlib.chdir(root):
        return record(program, preview=preview, secrets=secrets)


def program() -> None:
    """What `pulumi up` runs, in the directory that the tests are in."""
    runpy.run_path(str(ROOT / "__main__.py"), run_name="program")


def plain_texts(value: object) -> Iterator[str]:
    """Yield every text in a value as it went over the wire, keys included, but what is marked as secret."""
    if isinstance(value, dict):
        if value.get(SIGNATURE) == SECRET:
            return
        for key, one in value.items():
            yield str(key)
            yield from plain_texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from plain_texts(one)
    else:
        yield str(value)


def is_secret(value: object) -> bool:
    return isinstance(value, dict) and value.get(SIGNATURE) == SECRET


def leaks(value: object, canaries: tuple[str, ...] = (*CANARIES, "canary-password")) -> set[str]:
    """Return the words of secrets that stand in a value in plain."""
    return {canary for text in plain_texts(value) for canary in canaries if canary in text}
