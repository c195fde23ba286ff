"""A filesystem that hosts share, without one: what is refused, what systemd and nginx are told, what a host does."""

from __future__ import annotations

import io
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pulumi
import pytest

from cluster.config import parse_config
from cluster.services import Kind
from cluster.topology import build_topology
from platforms.remote import filesystem
from platforms.remote.host import filesystem as there
from platforms.remote.host import receiving, releases, removing, running, setting_up
from platforms.remote.host.paths import HostPaths
from platforms.remote.host.running import HostError
from platforms.remote.misplaced import misplaced
from platforms.remote.paths import nginx_config
from platforms.remote.ssh import HostError as AskedError
from platforms.remote.units import daemon_unit, instance_unit, service_unit
from tests.unit import test_remote_hosts as hosts
from tests.unit.pulumi_mocks import COMMAND
from tests.unit.remote_machine import Machine, archive
from tests.unit.test_remote import MACHINE, VALUES

if TYPE_CHECKING:
    from collections.abc import Callable

    from platforms.remote.looked import Seen

PATH = "/mnt/shop"

APP = {**VALUES["app"], "shared": ["var/up_loads", "media"], "shared_filesystem": PATH}

SHARING: dict[str, Any] = {**hosts.SEVERAL, "app": APP}

#: The hosts with a part of the site.
SITE = ("web1", "web2", "edge1")

#: A number of the stack's user, and what a look says of the filesystem where all is well.
NUMBER = 998
THERE = {"problem": "", "owner": NUMBER, "group": 33, "token": "a", "claimed": "x", "holds": True}
NUMBERS = {"own": NUMBER, "nginx": 33, "taken": [33, 100, NUMBER, 999]}
RECORDED = {"path": PATH, "token": "a", "seen": True, "holds": True}


def seen(
    values: dict[str, Any] | None = None,
    *,
    found: dict[str, dict[str, Any]] | None = None,
    numbers: dict[str, dict[str, Any]] | None = None,
    **stacks: dict[str, Any],
) -> Seen:
    """Return hosts that share a filesystem, but for what is said of some of them."""
    plain = hosts.seen(values or SHARING, **stacks)
    each = {
        name: replace(
            looked,
            machine={
                **MACHINE,
                "filesystem": {**THERE, **(found or {}).get(name, {})},
                "numbers": {**NUMBERS, **(numbers or {}).get(name, {})},
            },
        )
        for name, looked in plain.each.items()
    }
    return replace(plain, each=each)


NOWHERE = {"owner": None, "group": None, "token": "", "claimed": "", "holds": False}


# --- what was found


def test_hosts_that_share_it_have_no_problem() -> None:
    assert filesystem.problems(seen()) == []
    assert filesystem.problems(hosts.seen()) == [], "without one nobody looks"
    new = {name: {**NOWHERE, "own": None} for name in SITE}
    assert filesystem.problems(seen(found=new, numbers=new)) == []


@pytest.mark.parametrize(
    ("found", "numbers", "told"),
    [
        ({"problem": "nothing is mounted at /mnt/shop"}, {}, "hosts: web2: nothing is mounted at /mnt/shop"),
        ({"token": "b"}, {}, "hosts: web2: what is mounted at /mnt/shop is not what web1 has there"),
        (NOWHERE, {}, "hosts: web2: what is mounted at /mnt/shop is not what web1 has there"),
        ({}, {"own": 997}, "the user cluster-t has different numbers (998 on web1, 997 on web2, 998 on edge1)"),
        (
            {},
            {"own": None},
            "hosts: web2: number 998 is another user's there, and cluster-t has it elsewhere",
        ),
        ({"owner": 4}, {}, "hosts: web2: /mnt/shop/cluster-t is the user 4's, and cluster-t is 998"),
        ({}, {"nginx": 34}, "nginx's group has different numbers (33 on web1, 34 on web2, 33 on edge1)"),
    ],
)
def test_what_keeps_a_host_from_sharing_is_told_with_its_name(
    found: dict[str, Any], numbers: dict[str, Any], told: str
) -> None:
    (line,) = filesystem.problems(seen(found={"web2": found}, numbers={"web2": numbers}))
    assert told in line
    assert "\n" not in line


def test_hosts_that_have_no_part_of_the_site_need_none_of_it() -> None:
    assert filesystem.problems(seen(found={"db1": {"problem": "no"}}, numbers={"db1": {"own": 3}})) == []
    assert filesystem.wanted(seen(), "db1") is None
    assert filesystem.wanted(seen(), "edge1") == {"path": PATH, "number": NUMBER, "shared": ["media", "var%2Fup_loads"]}


def test_the_number_is_that_of_the_user_or_of_the_files_or_one_that_is_free_on_all() -> None:
    nobody: dict[str, dict[str, Any]] = {name: {"own": None} for name in SITE}
    assert filesystem.number(seen(numbers={**nobody, "web2": {"own": 700}})) == 700
    assert filesystem.number(seen(found={"web1": {"owner": 600}}, numbers=nobody)) == 600
    nowhere = dict.fromkeys(SITE, NOWHERE)
    taken = {"web1": {"taken": [999]}, "web2": {"taken": [998]}, "edge1": {"taken": [997, 33]}}
    free = {name: {"own": None, **one} for name, one in taken.items()}
    assert filesystem.number(seen(found=nowhere, numbers=free)) == 996
    full = {name: {"own": None, "taken": [*range(1000)]} for name in nobody}
    assert filesystem.problems(seen(found=nowhere, numbers=full)) == [
        "hosts: no number of a system's user is free on all of them"
    ]


@pytest.mark.parametrize(
    ("kept", "path", "is_left"),
    [
        (RECORDED, PATH, False),
        (RECORDED, "/mnt/elsewhere", False),  # the same one, mounted elsewhere
        ({**RECORDED, "token": "b"}, PATH, True),
        ({**RECORDED, "token": "b", "holds": False}, PATH, False),
        ({**RECORDED, "token": "b", "holds": False, "seen": False}, PATH, True),
        (RECORDED, None, True),
        ({**RECORDED, "holds": False}, None, False),
        (None, None, False),
    ],
)
def test_what_is_on_another_filesystem_is_not_left_behind(
    kept: dict[str, Any] | None, path: str | None, is_left: bool
) -> None:
    app = {**APP, "shared_filesystem": path}
    values = {**SHARING, "app": app, "hosts": hosts.HOSTS[:1], "database": {"engine": "external"}}
    stack = {**hosts.a_stack(values, "web1"), "filesystem": kept, "database": None}
    found = seen(values, web1=stack)
    told = misplaced(found.topology, found, list)
    assert (told is not None) == is_left, told
    if told is not None:
        assert "web1 has what the project has written at /mnt/shop" in told
        assert "`database.discard: true`" in told
    may = {**values, "database": {"engine": "external", "discard": True}}
    found = seen(may, web1=stack)
    assert misplaced(found.topology, found, list) is None


def test_what_a_host_has_itself_is_copied_and_only_what_can_t_be_is_refused() -> None:
    values = {**SHARING, "database": {"engine": "external"}, "hosts": hosts.HOSTS[:3]}
    kept = {**hosts.a_stack(values, "web2"), "kept": ["shared"], "database": None}
    found = seen(values, web2=kept)
    assert misplaced(found.topology, found, list) is None
    former = replace(found.each["web2"], host="old")
    assert "old has what the project has written" in str(misplaced(found.topology, seen(values), lambda: [former]))


# --- that all see the same


class Hosts:
    """Hosts of which each says what it was told to say."""

    def __init__(self, answers: dict[tuple[str, str], Any]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str, dict[str, Any]]] = []

    def run(self, host: str, what: str, *_words: str, told: str = "") -> str:
        asked = json.loads(told)
        self.asked.append((host, what, asked))
        found = self.answers.get((host, what), {"unread": [], "blind": []})
        if isinstance(found, Exception):
            raise found
        return json.dumps(found(asked) if callable(found) else found)


def proven(answers: dict[tuple[str, str], Any], **more: Any) -> tuple[list[str], Hosts]:
    asked = Hosts(answers)
    ssh: Any = asked
    return filesystem.unproven(ssh, seen(), **more), asked


def test_each_host_with_instances_writes_and_all_read() -> None:
    lines, asked = proven({})
    assert lines == []
    assert sorted((host, what) for host, what, _told in asked.asked) == [
        *(("edge1", "unread"), ("web1", "prove"), ("web1", "unread"), ("web2", "prove"), ("web2", "unread")),
    ]
    written = {told["name"]: told["mark"] for _host, what, told in asked.asked if what == "prove"}
    read = {host: told for host, what, told in asked.asked if what == "unread"}
    assert all(told["marks"] == written for told in read.values())
    assert (read["edge1"]["number"], read["edge1"]["visited"]) == (None, True)
    assert (read["web2"]["number"], read["web2"]["visited"], read["web2"]["shared"]) == (NUMBER, False, None)
    assert filesystem.unproven(Hosts({}), hosts.seen()) == [], "without one nobody is asked"  # type: ignore[arg-type]


def test_a_host_that_does_not_see_what_another_writes_is_told() -> None:
    lines, _asked = proven({("edge1", "unread"): lambda told: {"unread": sorted(told["marks"]), "blind": []}})
    assert lines == ["hosts: edge1: what web1 and web2 has just written at /mnt/shop is not there"]
    lines, asked = proven({("web2", "prove"): AskedError("web2: /mnt/shop/cluster-t can't be written: Read-only")})
    assert lines == ["hosts: web2: /mnt/shop/cluster-t can't be written: Read-only"]
    assert not [what for _host, what, _told in asked.asked if what == "unread"]
    lines, asked = proven({("web1", "unread"): {"unread": [], "blind": ["cluster-t@app1-r1.service"]}}, instances=True)
    assert lines == ["hosts: web1: cluster-t@app1-r1.service does not see what is at /mnt/shop"]
    assert next(told for host, what, told in asked.asked if (host, what) == ("web1", "unread"))["shared"]
    lines, asked = proven({}, away=["web2"])
    assert not [host for host, _what, _told in asked.asked if host == "web2"]


def test_verify_says_what_is_wrong_in_one_check() -> None:
    ssh: Any = Hosts({("web1", "prove"): AskedError("web1: no")})
    (check,) = filesystem.checked(ssh, seen())
    assert (check.ok, check.found) == (False, "hosts: web1: no")
    ssh = Hosts({})
    assert [check.ok for check in filesystem.checked(ssh, seen())] == [True]
    (check,) = filesystem.checked(ssh, seen(found={"web1": {"problem": "gone"}}))
    assert (check.ok, check.found) == (False, "hosts: web1: gone")
    assert filesystem.checked(ssh, hosts.seen()) == []


# --- the program


def run(tmp_path: Path, found: Seen | None = None, *, preview: bool = False, lines: tuple[str, ...] = ()) -> Any:
    before = found or seen()
    with (
        patch.object(hosts, "seen", lambda *_arguments, **_more: before),
        patch.object(filesystem, "unproven", lambda *_arguments: list(lines)),
    ):
        return hosts.run(tmp_path, app=APP, preview=preview)


def test_hosts_are_told_the_number_and_copy_what_they_have_before_anything_runs(tmp_path: Path) -> None:
    found = run(tmp_path)
    names = {one.name for one in found.of(COMMAND)}
    assert {name for name in names if name.endswith("-uploads")} == {"web1-uploads", "web2-uploads", "edge1-uploads"}
    for name in ("web1", "web2", "edge1"):
        told = json.loads(found.named(f"{name}-host", COMMAND).inputs["stdin"])
        assert told["filesystem"] == {"path": PATH, "number": NUMBER, "shared": ["media", "var%2Fup_loads"]}
    assert "filesystem" not in json.loads(found.named("db1-host", COMMAND).inputs["stdin"])
    hosts.waits(found, "web1-sent", "web1-host", "web2-host", "web1-uploads", "web2-uploads")
    assert not [one for one in hosts.run(tmp_path).of(COMMAND) if one.name.endswith("-uploads")]


def test_up_refuses_before_it_makes_anything_and_a_preview_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(pulumi.RunError, match="hosts: web2: gone"):
        run(tmp_path, seen(found={"web2": {"problem": "gone"}}), preview=True)
    with pytest.raises(pulumi.RunError, match="hosts: web1: not there"):
        run(tmp_path, lines=("hosts: web1: not there",))
    run(tmp_path, lines=("hosts: web1: not there",), preview=True)


# --- what is told systemd and nginx


def test_units_get_what_is_written_where_a_release_looks_for_it_and_start_with_it_alone() -> None:
    topology, places = build_topology(parse_config(SHARING)), HostPaths("t")
    units = [instance_unit(topology, places)]
    units += [service_unit(one, topology, places) for one in topology.beside]
    assert len(units) == 4
    for unit in units:
        lines = unit.splitlines()
        assert "BindPaths=/mnt/shop/cluster-t/media:/var/lib/cluster-t/shared/media" in lines
        assert "BindPaths=/mnt/shop/cluster-t/var%%2Fup_loads:/var/lib/cluster-t/shared/var%%2Fup_loads" in lines
        (check,) = (line for line in lines if line.startswith("ExecStartPre="))
        assert check.startswith("ExecStartPre=+/bin/sh -c "), "by root, who sees the host as it is"
        assert "cmp -s /mnt/shop/cluster-t/.token /var/lib/cluster-t/filesystem.token" in check
        assert "After=network-online.target remote-fs.target" in lines
    plain = build_topology(parse_config(hosts.SEVERAL))
    for unit in [instance_unit(plain, places), *(service_unit(one, plain, places) for one in plain.beside)]:
        assert not [word for word in ("BindPaths", "ExecStartPre", "remote-fs") if word in unit]


def test_a_memcached_node_has_nothing_of_it() -> None:
    values = {**SHARING, "hosts": hosts.HOSTS[:1], "database": {"engine": "external"}, "sessions": {"engine": "cache"}}
    node, *_others = build_topology(parse_config(values)).of_kind(Kind.MEMCACHED)
    assert "/mnt/shop" not in daemon_unit(node, HostPaths("t"))


def test_what_runs_once_in_a_release_has_it_too() -> None:
    unit = instance_unit(build_topology(parse_config(SHARING)), HostPaths("t"))
    words = releases.in_release(HostPaths("t"), "r1", unit)
    assert "BindPaths=/mnt/shop/cluster-t/var%2Fup_loads:/var/lib/cluster-t/shared/var%2Fup_loads" in words


def test_a_unit_does_not_start_into_a_hole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words of its check, run by a shell: it is another filesystem, and the one that the set-up has found."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "setpriv").write_text('#!/bin/sh\nwhile [ "$1" != cmp ]; do shift; done\nexec "$@"\n')
    (programs / "stat").write_text(
        f'#!/bin/sh\nfor l do :; done\ncase "$l" in /) echo 1;; *) cat {tmp_path}/device;; esac\n'
    )
    for path in programs.iterdir():
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    mount = tmp_path / "mnt"
    (mount / "cluster-t").mkdir(parents=True)
    places = HostPaths("t", tmp_path)
    places.token.parent.mkdir(parents=True)
    topology = build_topology(parse_config({**SHARING, "app": {**APP, "shared_filesystem": "/mnt/x"}}))
    (line,) = (one for one in instance_unit(topology, places).splitlines() if one.startswith("ExecStartPre="))
    script = line.partition(" -c ")[2].strip("'").replace("$$", "$").replace("%%", "%").replace("/mnt/x", str(mount))

    def starts(device: str, token: str) -> bool:
        (tmp_path / "device").write_text(device)
        (mount / "cluster-t" / ".token").write_text(token)
        places.token.write_text("a\n")
        done = running.output("sh", "-c", script)
        assert (done.returncode == 0) == (not done.stderr)
        return done.returncode == 0

    assert starts("2", "a\n")
    assert not starts("1", "a\n"), "nothing is mounted"
    assert not starts("2", "b\n"), "something else is"


def test_nginx_reads_uploads_where_they_are_on_hosts_without_instances_too() -> None:
    values = {**SHARING, "app": {**APP, "media": {"root": "media"}}}
    topology = build_topology(parse_config(values))
    for host in ("web1", "edge1"):
        text = "\n".join(nginx_config(topology, HostPaths("t"), host, (1, 26, 3)).files.values())
        assert "root /mnt/shop/cluster-t/media;" in text
        assert "/var/lib/cluster-t/shared" not in text


# --- what a host does


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A host whose commands do as this process what they would do as the stack's user."""

    def done(_who: Any, what: Callable[[], Any], problem: str, *, seconds: float | None = None) -> Any:
        try:
            return json.loads(json.dumps(what()))
        except OSError as error:
            raise HostError(f"{problem}: {error.strerror}") from error

    monkeypatch.setattr(there, "done_by_number", done)
    monkeypatch.setattr(there, "problem_of", lambda _places, _path: "")
    (tmp_path / "mnt").mkdir()
    return Machine(tmp_path / "machine", monkeypatch)


def told(machine: Machine, **more: Any) -> dict[str, Any]:
    shared = ["media"]
    return {"path": str(machine.places.root.parent / "mnt"), "number": os.getuid(), "shared": shared, **more}


def set_up(machine: Machine, owner: str = "django-cluster/shop", **more: Any) -> Path:
    texts = {"unit": "unit\n", "nginx_unit": "more\n", "tmpfiles": "d\n", "made_by": "x"}
    setting_up.set_up(machine.places, {"owner": owner, **texts, "filesystem": told(machine), **more})
    return machine.places.root.parent / "mnt" / "cluster-shop"


def test_a_set_up_makes_the_stack_s_directory_once_and_knows_it_again(machine: Machine) -> None:
    own = set_up(machine)
    assert own.stat().st_mode & 0o7777 == 0o2750
    token = (own / ".token").read_text()
    assert machine.places.token.read_text() == token
    assert machine.places.written() == own
    set_up(machine)
    assert (own / ".token").read_text() == token
    assert sorted(path.name for path in own.iterdir()) == [".owner", ".token", ".unseeded-media", "media"]
    assert (own / "media").stat().st_mode & 0o7777 == 0o2750
    assert sorted(path.name for path in machine.places.shared.iterdir()) == [".databases", ".schedules", "media"]
    machine.places.owner.write_text("other/shop\n")
    with pytest.raises(HostError, match=r"mnt/cluster-shop is django-cluster/shop's: call this stack otherwise"):
        set_up(machine, "other/shop")
    copy = "django-cluster/shop of another stack file"
    machine.places.owner.write_text(f"{copy}\n")
    (own / ".owner").write_text("django-cluster/shop of this one")
    with pytest.raises(HostError, match="is django-cluster/shop of this one's: call this stack otherwise"):
        set_up(machine, copy)
    machine.places.owner.unlink()
    set_up(machine, filesystem=None)
    assert machine.places.written() == machine.places.shared


def test_a_user_is_made_with_the_number_that_it_has_elsewhere(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setting_up, "has_user", lambda _places: False)
    set_up(machine)
    assert any(line.startswith("useradd ") and f"--uid {os.getuid()} " in line for line in machine.asked())


def test_a_directory_that_is_somebody_else_s_or_can_t_be_made_says_what_to_do(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = machine.places.root.parent / "mnt"
    (mount / "cluster-shop").mkdir(mode=0o755)
    with pytest.raises(HostError, match=rf"with mode 755, and must be {os.getuid()}'s .* with 2750: chown"):
        set_up(machine)
    (mount / "cluster-shop").rmdir()

    def refused(*_arguments: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refused)
    line = rf"can't be made by root: Operation not permitted; make it .*: install -d -o {os.getuid()} -g \d+ -m 2750"
    with pytest.raises(HostError, match=line):
        set_up(machine)
    assert list(mount.iterdir()) == []


def test_what_the_user_has_put_in_a_mount_point_s_place_is_refused(machine: Machine, tmp_path: Path) -> None:
    """Else a unit would get another directory where its code is."""
    machine.places.shared.mkdir(parents=True)
    (machine.places.shared / "media").symlink_to(tmp_path)
    with pytest.raises(HostError, match="shared/media is no directory"):
        set_up(machine)


def test_a_place_is_a_filesystem_of_its_own(tmp_path: Path) -> None:
    places = HostPaths("shop", tmp_path)
    assert "No such file" in there.problem_of(places, tmp_path / "none")
    (tmp_path / "file").write_text("x")
    assert there.problem_of(places, tmp_path / "file").endswith("is no directory")
    assert there.problem_of(places, tmp_path).startswith(f"nothing is mounted at {tmp_path}")
    assert there.problem_of(HostPaths("shop", Path("/proc")), tmp_path) == ""


def test_a_filesystem_that_does_not_answer_is_told_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(there, "ANSWERS", 0.2)
    monkeypatch.setattr(there, "problem_of", lambda *_arguments: time.sleep(60))
    assert there.found(HostPaths("shop"), str(tmp_path))["problem"] == f"{tmp_path}: no answer within 0.2 s"


def test_a_look_says_what_is_there(machine: Machine) -> None:
    mount = str(machine.places.root.parent / "mnt")
    assert there.found(machine.places, mount) == {**there.NOTHING}
    own = set_up(machine)
    found = there.found(machine.places, mount)
    assert (found["owner"], found["claimed"], found["holds"]) == (os.getuid(), "django-cluster/shop", False)
    assert found["token"] == machine.places.token.read_text().strip()
    (own / "media" / "a").write_text("x")
    assert there.found(machine.places, mount)["holds"]
    assert os.getgid() == there.numbers(machine.places)["nginx"]


def test_what_one_host_writes_another_has_to_read(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(there, "SEEN_WITHIN", 0.0)
    own = set_up(machine)
    (own / ".proof-old.web1").write_text("x")
    os.utime(own / ".proof-old.web1", (1, 1))
    there.write_proof(machine.places, {**told(machine), "name": "n.web1", "mark": "m"})
    assert not (own / ".proof-old.web1").exists()
    asked = {**told(machine), "visited": True}
    assert there.unread(machine.places, {**asked, "marks": {"n.web1": "m"}}) == []
    assert there.unread(machine.places, {**asked, "marks": {"n.web1": "other", "n.web2": "m"}}) == ["n.web1", "n.web2"]


def test_an_instance_that_has_something_else_there_is_told(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(machine)
    (machine.places.root / "programs" / "systemctl").write_text(
        f"#!/bin/sh\n[ $1 = list-units ] && echo cluster-shop@app1-r1.service loaded || echo {os.getpid()}\n"
    )
    assert there.blind(machine.places, ["media"]) == ["cluster-shop@app1-r1.service"]
    device = (machine.places.root.parent / "mnt" / "cluster-shop").stat().st_dev
    mounts = {(f"{os.major(device)}:{os.minor(device)}", str(machine.places.shared / "media"))}
    monkeypatch.setattr(there, "_mounts", lambda *_arguments: mounts)
    assert there.blind(machine.places, ["media"]) == []


def test_what_was_written_before_is_copied_and_put_aside_and_nothing_is_lost(machine: Machine) -> None:
    local = machine.places.shared
    (local / "media").mkdir(parents=True)
    (local / "media" / "a").write_text("local")
    (local / "logs").mkdir()
    (local / "logs" / "b").write_text("b")
    own = set_up(machine)
    (own / "media" / "a").write_text("of another host")
    os.utime(own / "media" / "a", (1, 1))
    mount_point = (local / "media").stat().st_ino
    there.gather(machine.places)
    assert (own / "media" / "a").read_text() == "local"
    assert (own / "media" / "a.1~").read_text() == "of another host"
    assert (local / "media" / "a").exists(), "those that run read it"
    (local / "media" / "late").write_text("late")
    there.put_aside(machine.places)
    assert (own / "media" / "late").read_text() == "late"
    assert (own / "logs" / "b").read_text() == "b"
    assert not list((local / "media").iterdir())
    assert (local / "media").stat().st_ino == mount_point, "instances have something mounted on it"
    assert sorted(path.name for path in (local / ".moved").rglob("*") if path.is_file()) == ["a", "b", "late"]
    there.put_aside(machine.places)


def test_a_host_without_a_shared_filesystem_puts_nothing_aside(machine: Machine) -> None:
    set_up(machine, filesystem=None)
    (machine.places.shared / "media").mkdir()
    (machine.places.shared / "media" / "a").write_text("x")
    there.put_aside(machine.places)
    assert (machine.places.shared / "media" / "a").exists()


def test_a_release_brings_what_the_project_holds_and_another_host_may_be_quicker(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = set_up(machine)
    held = archive(("tree/a", "", "file"), ("environment", "e1", "file"), ("seed/docs/x", "theirs", "file"))
    original = receiving._take_place

    def late(new: Path, place: Path) -> None:
        place.mkdir()
        (place / "x").write_text("quicker")
        original(new, place)

    monkeypatch.setattr(receiving, "_take_place", late)
    receiving.receive(machine.places, "release", "r1", io.BytesIO(held))
    assert (own / "docs" / "x").read_text() == "quicker"
    assert sorted(path.name for path in own.iterdir()) == [".owner", ".token", "docs", "media"]


def test_what_the_project_holds_is_put_once_into_what_instances_may_have_already(machine: Machine) -> None:
    """It is mounted before a release comes, and what somebody has removed since does not come back."""
    own = set_up(machine)
    there.gather(machine.places)  # this host has nothing of its own
    mounted = (own / "media").stat().st_ino
    (own / "media" / "y").write_text("an upload")
    held = archive(
        *(("tree/a", "", "file"), ("environment", "e1", "file")),
        *(("seed/media/x", "theirs", "file"), ("seed/media/y", "theirs", "file")),
    )
    receiving.receive(machine.places, "release", "r1", io.BytesIO(held))
    assert (own / "media").stat().st_ino == mounted
    assert [(own / "media" / name).read_text() for name in ("x", "y")] == ["theirs", "an upload"]
    (own / "media" / "x").unlink()
    set_up(machine)
    receiving.receive(machine.places, "release", "r2", io.BytesIO(held))
    assert sorted(path.name for path in (own / "media").iterdir()) == ["y"]


def test_what_is_copied_from_a_host_is_not_filled_up_with_what_the_project_holds(machine: Machine) -> None:
    local = machine.places.shared / "media"
    local.mkdir(parents=True)
    (local / "y").write_text("an upload")
    own = set_up(machine)
    there.gather(machine.places)
    held = archive(("tree/a", "", "file"), ("environment", "e1", "file"), ("seed/media/x", "theirs", "file"))
    receiving.receive(machine.places, "release", "r1", io.BytesIO(held))
    assert sorted(path.name for path in (own / "media").iterdir()) == ["y"]


def test_deleting_data_deletes_the_stack_s_alone_and_says_where_it_can_t(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = set_up(machine)
    (own / "media" / "a").write_text("x")
    (own.parent / "cluster-blog").mkdir()
    removing.remove(machine.places, data=False)
    assert (own / "media" / "a").exists()
    monkeypatch.setattr(there, "problem_of", lambda *_arguments: "nothing is mounted at /mnt")
    with pytest.raises(HostError, match=r"nothing is mounted at /mnt\. What is on the filesystem is not deleted"):
        removing.remove(machine.places, data=True)
    assert machine.places.state.exists(), "it can be said again"
    monkeypatch.setattr(there, "problem_of", lambda *_arguments: "")
    token = (own / ".token").read_text()
    (own / ".token").write_text("of another one")
    with pytest.raises(HostError, match="is not what this host had"):
        removing.remove(machine.places, data=True)
    (own / ".token").write_text(token)
    removing.remove(machine.places, data=True)
    assert [path.name for path in own.parent.iterdir()] == ["cluster-blog"]
    there.delete(machine.places)
