"""Pulumi mocks that record every registration, and queries of the record."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pulumi
from google.protobuf.json_format import MessageToDict
from pulumi.runtime import mocks as pulumi_mocks

from cluster.config import parse_config
from cluster.docker.engine import Engine, Live
from cluster.release import specify
from cluster.topology import Topology, build_topology
from components import (
    AppHosts,
    AppHostsArgs,
    Database,
    DatabaseArgs,
    NginxSite,
    NginxSiteArgs,
    SessionStore,
    SessionStoreArgs,
    UpstreamPool,
    UpstreamPoolArgs,
)
from components.platforms.docker import Docker
from components.platforms.docker.images import platform_digest
from components.platforms.docker.platform import container_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from cluster.release import ReleaseSpec

ROOT = Path(__file__).resolve().parents[2]

IMAGE, CONTAINER, COMMAND = "docker:index/image:Image", "docker:index/container:Container", "command:local:Command"
VOLUME, NETWORK = "docker:index/volume:Volume", "docker:index/network:Network"

#: How Pulumi marks a secret on the wire, and what stands there for a value that is not known yet.
SECRET = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270"}
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"

SECRETS = {"secret_key": "key-that-nobody-may-see", "secret_environment": '{"TOKEN": "token-that-nobody-may-see"}'}
SECRET_WORDS = ("key-that-nobody-may-see", "token-that-nobody-may-see")


@dataclass(frozen=True, kw_only=True)
class Registration:
    """One resource as it was registered: `inputs` as they went over the wire, `dependencies` by their names."""

    type: str
    name: str
    parent: str
    inputs: dict[str, Any]
    dependencies: frozenset[str]
    protect: bool
    replace_first: bool
    replace_first_said: bool

    @property
    def environment(self) -> dict[str, Any]:
        found: dict[str, Any] = self.inputs.get("environment", {})
        return found

    @property
    def labels(self) -> dict[str, str]:
        return {label["label"]: label["value"] for label in self.inputs["labels"]}

    def mounts(self) -> dict[str, str]:
        """Return what is mounted, by path: the volume's name, without the ending that Pulumi gives it."""
        return {v["containerPath"]: str(v.get("volumeName", "")) for v in self.inputs.get("volumes", [])}


@dataclass
class Record:
    """All registrations of one run, and the components' and the run's outputs."""

    all: list[Registration] = field(default_factory=list)
    registered_outputs: list[str] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)

    def of(self, kind: str) -> list[Registration]:
        return [one for one in self.all if one.type == kind]

    def named(self, name: str, kind: str | None = None) -> Registration:
        (found,) = [one for one in self.all if one.name == name and kind in (None, one.type)]
        return found

    def has(self, name: str) -> bool:
        return any(one.name == name for one in self.all)

    def inputs(self) -> dict[tuple[str, str], str]:
        return {(one.type, one.name): json.dumps(one.inputs, sort_keys=True) for one in self.all}


class _Monitor(pulumi_mocks.MockMonitor):
    def __init__(self, record: Record, *, preview: bool) -> None:
        super().__init__(_Fakes(preview=preview))
        self.record = record

    def RegisterResource(self, request: Any) -> Any:  # noqa: N802 - grpc's name
        if request.type != "pulumi:pulumi:Stack":
            self.record.all.append(
                Registration(
                    type=request.type,
                    name=request.name,
                    parent=request.parent.rpartition("::")[2],
                    inputs=MessageToDict(request.object),
                    dependencies=frozenset(urn.rpartition("::")[2] for urn in request.dependencies),
                    protect=request.protect,
                    replace_first=request.deleteBeforeReplace,
                    replace_first_said=request.deleteBeforeReplaceDefined,
                )
            )
        return super().RegisterResource(request)  # type: ignore[no-untyped-call]

    def RegisterResourceOutputs(self, request: Any) -> Any:  # noqa: N802 - grpc's name
        self.record.registered_outputs.append(request.urn.rpartition("::")[2])
        return super().RegisterResourceOutputs(request)  # type: ignore[no-untyped-call]


class _Fakes(pulumi.runtime.Mocks):
    """Answers as the engine would: in a preview, what is made is not known yet."""

    def __init__(self, *, preview: bool) -> None:
        self.preview = preview

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        made = {} if self.preview else {"repoDigest": f"sha256:{args.name}", "stdout": ""}
        name = {} if self.preview else {"name": f"{args.name}-a1b2c3d"}
        identity = f"{args.name}{'0' * 64}"[:64]
        return None if self.preview and args.custom else identity, {**args.inputs, **made, **name}

    def call(self, args: pulumi.runtime.MockCallArgs) -> Any:
        raise AssertionError(f"nothing is asked of the engine while the program runs: {args.token}")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a program is made of."""

    topology: Topology
    platform: Docker
    release: ReleaseSpec


def parts(values: dict[str, Any], work: Path, *, live: Live | None = None, root: Path = ROOT) -> Parts:
    topology = build_topology(parse_config(values))
    platform = Docker(
        stack="django-cluster/dev",
        work=work,
        engine=Engine(),
        live=live or Live(),
        secrets=pulumi.Output.secret(json.dumps(SECRETS)),
    )
    own = platform_digest(topology.config, container_digest(topology))
    return Parts(topology=topology, platform=platform, release=specify(topology.config, root, SECRETS, "image", own))


def whole(made: Parts) -> dict[str, pulumi.Output[Any]]:
    """Build all components as the program does; return the stack's outputs."""
    shared = {"topology": made.topology, "platform": made.platform}
    sessions = SessionStore("sessions", SessionStoreArgs(**shared))  # type: ignore[arg-type]
    database = Database("database", DatabaseArgs(**shared))  # type: ignore[arg-type]
    hosts = AppHosts(
        "app",
        AppHostsArgs(
            topology=made.topology,
            release=made.release,
            sessions=sessions,
            database=database,
            platform=made.platform,
        ),
    )
    pool = UpstreamPool("upstream", UpstreamPoolArgs(topology=made.topology, hosts=hosts))
    site = NginxSite("nginx", NginxSiteArgs(topology=made.topology, pool=pool, platform=made.platform))
    return {
        "url": site.url,
        "upstream": pool.servers,
        "release": hosts.release,
        "nginx": site.digest,
        "sessions": sessions.engine,
        "database": database.engine,
        "nodes": sessions.nodes,
        "names": hosts.names,
    }


def run(program: Callable[[], dict[str, pulumi.Output[Any]]], *, preview: bool = False) -> Record:
    """Run a program under mocks, wait for all its registrations, and return the record."""
    record = Record()
    monitor = _Monitor(record, preview=preview)
    pulumi.runtime.set_mocks(monitor.mocks, project="django-cluster", stack="dev", preview=preview, monitor=monitor)

    @pulumi.runtime.test  # type: ignore[untyped-decorator]
    def waited() -> pulumi.Output[Any]:
        def keep(found: dict[str, Any]) -> None:
            record.outputs.update(found)

        return pulumi.Output.all(**program()).apply(keep)

    waited()
    return record


def record_of(
    values: dict[str, Any], work: Path, *, preview: bool = False, live: Live | None = None, root: Path = ROOT
) -> Record:
    """Return the record of a whole stack."""
    return run(lambda: whole(parts(values, work, live=live, root=root)), preview=preview)
