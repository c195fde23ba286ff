"""A stack on hosts as a look finds it, and as the engine tells of it, without either."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.config import parse_config
from cluster.stack.opened import Stack
from cluster.topology import build_topology
from platforms.pulumi.preview import Preview
from platforms.remote.host.paths import HostPaths
from platforms.remote.looked import Looked, Seen
from platforms.remote.paths import nginx_config
from platforms.remote.planning import Site
from platforms.remote.units import daemon_unit, instance_unit, nginx_unit, tmpfiles
from tests.unit.pulumi_mocks import PROJECT
from tests.unit.test_remote import MACHINE, VALUES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from platforms.remote.told import Hosted
    from tests.unit.remote_machine import Machine


#: The releases: the one that serves, and the one that is wanted.
FORMER, WANTED = "aee6bc29a566", "94cd6efe7d00"


#: The first instance gets three of four requests.
SERVERS = {"servers": [{"name": "app1", "weight": 3}, {"name": "app2"}]}


PLACES = HostPaths("shop")


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
        "secrets": [release],
        "read_files": [],
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
