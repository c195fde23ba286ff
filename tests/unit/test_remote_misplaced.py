"""What a stack keeps on a host is not left behind by a change of its hosts, unless its stack file says that it may."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pulumi
import pytest

from cluster.config import parse_config
from cluster.topology import build_topology
from platforms.remote.host import leaving, releases, walking
from platforms.remote.host.__main__ import COMMANDS
from platforms.remote.host.paths import HostPaths
from platforms.remote.looked import Looked, Seen
from platforms.remote.misplaced import let_go, misplaced
from tests.unit import test_remote_hosts as hosts
from tests.unit.remote_machine import Machine, set_up
from tests.unit.test_remote import MACHINE, VALUES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cluster.topology import Topology

#: What is kept on a host, what asks for it, and which key lets it be left behind.
KEPT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "data": ({"database": {"engine": "sqlite"}}, {"database": {"engine": "sqlite", "discard": True}}),
    "shared": (
        {"app": {**VALUES["app"], "shared": ["media"]}, "database": {"engine": "external"}},
        {"app": {**VALUES["app"], "shared": ["media"]}, "database": {"engine": "external", "discard": True}},
    ),
    "sessions": ({"sessions": {"engine": "file"}}, {"sessions": {"engine": "file", "discard": True}}),
    "broker": ({"broker": {"engine": "valkey"}}, {"broker": {"engine": "valkey", "discard": True}}),
    "database": ({"database": {"engine": "postgres"}}, {"database": {"engine": "postgres", "discard": True}}),
}


def judged(kind: str, *holders: str, discard: bool = False, former: bool = False, left: bool = False) -> str | None:
    """Judge hosts of which `old` had the roles before, and `new` has them now. left: it was let be left there."""
    return misplaced(*stack_of(kind, *holders, discard=discard, former=former, left=left))


def stack_of(
    kind: str, *holders: str, discard: bool, former: bool, left: bool = False
) -> tuple[Topology, Seen, Callable[[], list[Looked]]]:
    known = {"old": [] if former else ["nginx"], "new": ["app", "nginx"]}
    if kind == "database":
        known["new"].append("database")
    named = [hosts.a_host(11 + n, name, *roles) for n, (name, roles) in enumerate(known.items()) if roles]
    topology = build_topology(parse_config({**VALUES, "hosts": named, **KEPT[kind][discard]}))

    def looked(name: str) -> Looked:
        has = name in holders
        stack = {"kept": [kind] if has else [], "database": {"active": True} if has else None, "instances": {}}
        stack["let_go"] = [kind] if left else []
        more = {"nginx": None, "nginx_turn": 0, "static": None, "static_turn": 0}
        return Looked(host=name, places=HostPaths("t"), machine=MACHINE, stack={**stack, **more})

    seen = Seen(each={one["name"]: looked(one["name"]) for one in named}, topology=topology)
    return topology, seen, lambda: [looked("old")] if former else []


@pytest.mark.parametrize("former", [False, True], ids=["named", "not named any more"])
@pytest.mark.parametrize("kind", KEPT)
def test_what_another_host_has_is_not_left_behind(kind: str, former: bool) -> None:
    refused = judged(kind, "old", former=former)
    assert refused is not None
    assert "old has" in refused
    assert "discard: true" in refused


@pytest.mark.parametrize("kind", KEPT)
def test_what_is_where_it_should_be_or_nowhere_or_may_be_left_is_no_reason(kind: str) -> None:
    assert judged(kind) is None
    assert judged(kind, "new") is None
    assert judged(kind, "old", "new") is None
    assert judged(kind, "old", discard=True) is None


@pytest.mark.parametrize("former", [False, True], ids=["named", "not named any more"])
@pytest.mark.parametrize("kind", [kind for kind in KEPT if kind != "database"])
def test_what_was_let_be_left_behind_is_not_asked_for_again(kind: str, former: bool) -> None:
    """The new host may have nothing of its own for long: nobody has sent a file there yet."""
    assert judged(kind, "old", former=former) is not None
    assert let_go(*stack_of(kind, "old", discard=True, former=former)) == {"old": [kind]}
    assert let_go(*stack_of(kind, "old", discard=False, former=former)) == {}
    assert let_go(*stack_of(kind, "old", discard=True, former=former, left=True)) == {}
    assert judged(kind, "old", former=former, left=True) is None


def test_a_host_keeps_what_was_let_go_until_it_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, monkeypatch)
    set_up(machine)
    for kinds in (["shared"], ["broker", "shared"]):
        COMMANDS["let-go"](machine.places, kinds)
    assert machine.places.let_go.read_text().split() == ["broker", "shared"]
    leaving.use_again(machine.places, "broker")
    assert machine.places.let_go.read_text().split() == ["shared"]
    monkeypatch.setattr(releases, "_python", lambda *_anything: ["true"])
    releases.prepare(machine.places, "r1", [], '{"secret_key": "x"}')
    assert not machine.places.let_go.exists()


def test_a_database_s_host_that_is_another_machine_now_is_told_by_what_serves() -> None:
    """Its name is the same, and so is what the instances call the database."""
    said = {"database": "postgres db1:5432/cluster_t", "path": "", "key": "", "shared": []}
    one = {"holder": "r1", "turn": 1, "given": "r1", "answers": True, "said": {"r1": {"sessions": said}}}
    there = hosts.a_stack(hosts.SEVERAL, "web1", instances={"app1": one})
    found = hosts.seen(web1=there, db1=hosts.a_stack(hosts.SEVERAL, "db1", database=None))
    found = replace(found, each={**found.each, "web1": replace(found.each["web1"], stack={**there, "database": None})})
    refused = misplaced(found.topology, found, list)
    assert refused is not None
    assert refused.startswith("database: another machine of that name has the data")


@pytest.mark.parametrize(
    ("kept", "discard", "refused"), [([], False, True), ([], True, False), (["broker"], False, False)]
)
def test_a_broker_s_host_that_is_away_or_another_machine_is_told_by_what_serves(
    kept: list[str], discard: bool, refused: bool
) -> None:
    named = [
        hosts.a_host(11, "web1", "app", "nginx"),
        hosts.a_host(12, "web2", "app"),
        hosts.a_host(41, "b1", "broker"),
    ]
    broker = {"engine": "valkey", "discard": discard}
    values = {
        **VALUES,
        "hosts": named,
        "upstream": {"servers": 2},
        "database": {"engine": "external"},
        "broker": broker,
    }
    found = hosts.seen(values, web1={"asks_broker": True}, b1={"kept": kept})
    said = misplaced(found.topology, found, list)
    assert (said is not None) == refused
    assert said is None or said.startswith("broker: a host that does not answer, or another machine of that name has")


def test_the_program_refuses_before_it_makes_anything(tmp_path: Path) -> None:
    moved = [
        {**hosts.HOSTS[0], "roles": ["app", "nginx", "database"]},
        *hosts.HOSTS[1:3],
        hosts.a_host(31, "db1", "app"),
    ]
    stack = hosts.a_stack(hosts.SEVERAL, "db1", instances={})
    found = partial(hosts.seen, db1=stack)
    with patch.object(hosts, "seen", found), pytest.raises(pulumi.RunError, match="database: db1 has the data"):
        hosts.run(tmp_path, hosts=moved)


def test_a_host_says_what_it_keeps_whatever_its_user_makes_of_it(tmp_path: Path) -> None:
    (tmp_path / "media" / "2026").mkdir(parents=True)
    (tmp_path / ".schedules").mkdir()
    (tmp_path / ".schedules" / "digest").write_text("x")
    assert not walking.holds_files(tmp_path)
    (tmp_path / "media" / "2026" / "loop").symlink_to(tmp_path)
    assert not walking.holds_files(tmp_path / "nowhere")
    (tmp_path / "media" / "2026" / "a.png").write_text("x")
    assert walking.holds_files(tmp_path)
