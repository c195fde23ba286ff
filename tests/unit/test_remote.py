"""Platform remote without a host: what is sent and asked, what a host's commands do in a directory, and the program."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pulumi
import pytest
import yaml

from cluster.config import parse_config
from cluster.errors import ClusterError
from cluster.sdists import unbuilt
from cluster.topology import build_topology
from platforms.remote import looked as looking
from platforms.remote import program as remote_program
from platforms.remote.environments import built_for_this_machine
from platforms.remote.host import receiving, releases, removing, site
from platforms.remote.host.paths import HostPaths
from platforms.remote.host.running import HostError
from platforms.remote.looked import Looked, Seen, check_name
from platforms.remote.ssh import HostError as UnreachableError
from platforms.remote.ssh import Ssh, explain
from platforms.remote.units import SANDBOX, instance_unit
from tests.unit.pulumi_mocks import COMMAND, ROOT, SECRETS, is_secret, leaks, program, record, write_stack
from tests.unit.remote_machine import Machine, a_release, set_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.pulumi_mocks import Record

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBcCxH294WIErvVopQHoMUdyYHGdElVli1qM"

#: Of which hosts' certificates are made.
HOSTS_KEY = "ab" * 32

HOST: dict[str, Any] = {"name": "web1", "address": "10.0.0.11", "user": "deploy", "host_key": KEY}

VALUES: dict[str, Any] = {
    "platform": "remote",
    "app": {"project": "./example", "settings": "example.settings"},
    "upstream": {"servers": 2},
    "database": {"engine": "sqlite"},
    "site": {"server_names": ["shop.test"], "listen": 8080},
    "hosts": [HOST],
}

MACHINE = {
    "distribution": "debian",
    "codename": "trixie",
    "architecture": "x86_64",
    "python": [3, 13, 5],
    "nginx": [1, 26, 3],
    "systemd": True,
    "free": 10 * 1024**3,
    "fullest": "/srv",
    "boot": "0",
    "clock": time.time(),
}


def ssh_of(root: Path, **host: Any) -> Ssh:
    config = parse_config({**VALUES, "hosts": [{**HOST, **host}]})
    ssh = Ssh(root, root / ".cluster" / "shop" / "ssh", "shop", tuple(config.hosts))
    ssh.write()
    return ssh


# --- ssh


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A home directory of a length that people have: its path is a part of a socket's."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        monkeypatch.setenv("HOME", directory)
        yield


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `ssh` that keeps its words and runs the command on this machine, where sudo is nobody else."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "ssh").write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/said\nfor last do :; done\nexec sh -c "$last"\n'
    )
    (programs / "sudo").write_text('#!/bin/sh\nshift\nexec "$@"\n')
    for path in programs.iterdir():
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return tmp_path


def test_a_host_is_known_by_its_key_and_by_nothing_else(tmp_path: Path) -> None:
    ssh = ssh_of(tmp_path, port=2222, identity_file="keys/deploy", jump={"address": "bastion", "host_key": KEY})
    config = (ssh.directory / "config").read_text()
    for line in ("StrictHostKeyChecking yes", "GlobalKnownHostsFile none", "BatchMode yes", "UpdateHostKeys no"):
        assert f"  {line}\n" in config
    assert "Host web1\n  HostName 10.0.0.11\n  Port 2222\n  User deploy\n" in config
    assert f'  IdentityFile "{tmp_path}/keys/deploy"\n  IdentitiesOnly yes\n  ProxyJump web1-jump\n' in config
    assert (ssh.directory / "known_hosts").read_text() == f"web1 {KEY}\nweb1-jump {KEY}\n"
    assert ssh.directory.stat().st_mode & 0o777 == 0o700


def test_another_key_is_another_connection(tmp_path: Path) -> None:
    """One that is open already would not be asked for its key."""

    def path(**host: Any) -> str:
        text = (ssh_of(tmp_path, **host).directory / "config").read_text()
        (found,) = re.findall(r"ControlPath (\S+)", text)
        return str(found)

    assert path() == path()
    assert path() != path(host_key=KEY.replace("AAAAC3", "AAAAC4"))


def test_what_a_step_says_holds_no_address_no_user_and_no_place_of_this_machine(tmp_path: Path) -> None:
    ssh = ssh_of(tmp_path)
    script = ssh.script("web1", "serve", "serve=$TURN", "it's")
    assert script == "sh .cluster/shop/ssh/on web1 serve shop 'serve=$TURN' 'it'\"'\"'s'"
    assert str(tmp_path) not in script


def test_a_command_runs_there_with_its_words_and_input_as_they_are(here: Path) -> None:
    ssh = ssh_of(here)
    words = ["a b", "it's", '"$HOME"', "ä", "-x", "`id`", "a\\b"]
    done = subprocess.run(
        ["sh", "-c", ssh.script("web1", "look")], cwd=here, capture_output=True, text=True, check=False, input=""
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stack"] is None
    said = (here / "said").read_text()
    assert said.startswith("-F\n.cluster/shop/ssh/config\nweb1\n")
    # Each word arrives as one: the command does not know the first and says so.
    script = ssh.script("web1", *words)
    done = subprocess.run(["sh", "-c", script], cwd=here, capture_output=True, text=True, check=False, input="")
    assert "KeyError: 'a b'" in done.stderr
    (last,) = (line for line in (here / "said").read_text().splitlines() if "sys.exit(main" in line)
    assert shlex.split(last.partition("sys.exit(main(sys.argv[1:]))' ")[2]) == [words[0], "shop", *words[1:]]


def test_what_ssh_says_is_told_in_a_line_that_says_what_to_do() -> None:
    assert "another one than the host_key" in explain("Host key verification failed.")
    assert "NOPASSWD" in explain("sudo: a password is required")
    assert explain("something else") == "something else"


def test_a_host_that_says_nothing_is_not_waited_for(here: Path) -> None:
    (here / "programs" / "ssh").write_text("#!/bin/sh\nexec sleep 30\n")
    with pytest.raises(UnreachableError, match=r"^web1: does not answer within 0\.3 s$"):
        ssh_of(here).run("web1", "look", seconds=0.3)


def test_a_file_is_sent_as_it_is(here: Path) -> None:
    (here / "programs" / "ssh").write_text("#!/bin/sh\ntail -n +2 | sha256sum\n")
    sent, content = here / "sent", b"\0\n\xff" * 100_000
    sent.write_bytes(content)
    assert ssh_of(here).send("web1", "build", sent=sent).split()[0] == hashlib.sha256(content).hexdigest()
    (here / "programs" / "ssh").write_text("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
    with pytest.raises(UnreachableError, match=r"^web1: sudo asks for a password"):
        ssh_of(here).send("web1", "build", sent=sent)


def test_a_connection_s_socket_has_room_however_long_the_home_directory_s_path_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ssh adds 17 characters while it opens it, and gives up where that is too long (`too long for Unix domain`)."""
    short = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setattr("platforms.remote.ssh.CONNECTIONS", short / ("a" * (107 - 17 - 17 - len(str(short)) - 1)))
    (path,) = re.findall(r'ControlPath "(.*)"', (ssh_of(tmp_path).directory / "config").read_text())
    assert len(path) + 17 == 107
    monkeypatch.setattr("platforms.remote.ssh.CONNECTIONS", tmp_path / ("long" * 20))
    assert "  ControlPath none\n" in (ssh_of(tmp_path).directory / "config").read_text()
    shutil.rmtree(short)


def test_a_host_is_asked_by_its_distribution_s_python_whatever_else_is_called_so(here: Path) -> None:
    (here / "programs" / "python3").write_text("#!/bin/sh\necho 'another Python' >&2\nexit 1\n")
    (here / "programs" / "python3").chmod(0o755)
    done = ssh_of(here).run("web1", "look")
    assert json.loads(done)["machine"]["python"][0] == 3


# --- what is sent


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("error: Failed to build `mysqlclient==2.2.7`\n  cause: The build backend returned an error", "mysqlclient"),
        (
            "error: The built wheel `markupsafe-3.0.4-cp311-cp311-linux_x86_64.whl` is not compatible with the target",
            "markupsafe",
        ),
    ],
)
def test_a_package_that_can_t_be_built_here_is_known_by_its_name(said: str, name: str) -> None:
    lacking = unbuilt(said)
    assert lacking is not None
    assert lacking.name == name
    assert unbuilt("No solution found") is None


def test_what_was_built_here_of_more_than_python_is_seen(tmp_path: Path) -> None:
    """Its tag fits another machine of the same Python, and its libraries may not."""
    for name, tag in {
        "pure-1": "py3-none-any",
        "published-1": "cp313-cp313-manylinux_2_17_x86_64",
        "built_here-1": "cp313-cp313-linux_x86_64",
    }.items():
        (tmp_path / f"{name}.dist-info").mkdir()
        (tmp_path / f"{name}.dist-info" / "WHEEL").write_text(f"Wheel-Version: 1.0\nTag: {tag}\n\n")
    assert [one.name for one in built_for_this_machine(tmp_path)] == ["built-here"]
    assert not list(built_for_this_machine(tmp_path, {"built-here"}))


# --- what a host is


def looked(stack: dict[str, Any] | None = None, **machine: Any) -> Looked:
    return Looked(host="web1", places=HostPaths("shop"), machine={**MACHINE, **machine}, stack=stack)


def test_what_keeps_a_host_from_being_one_is_said_all_at_once() -> None:
    found = looked(systemd=False, distribution="fedora", nginx=[1, 18, 0]).problems()
    assert [line.partition(": ")[0] for line in found] == ["hosts"] * 3
    assert all(line.startswith("hosts: web1: ") for line in found)
    assert looked().problems() == []


def test_a_full_disk_keeps_a_release_away_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is to make room says `down`, or looks at what there is."""
    told = json.dumps({"machine": {**MACHINE, "free": 12 * 1024**2}, "stack": None})
    monkeypatch.setattr(Ssh, "run", lambda *_arguments, **_options: told)
    found = looking.look(ssh_of(tmp_path), build_topology(parse_config(VALUES))).leader
    with pytest.raises(
        UnreachableError, match=r"^hosts: web1: 12 MB are free in /srv: 500 MB are needed for a release$"
    ):
        found.check_room()
    with pytest.raises(pulumi.RunError, match="12 MB are free"):
        run(tmp_path, machine={"free": 12 * 1024**2})


def test_a_host_without_nginx_gets_its_distribution_s() -> None:
    assert looked(nginx=None).nginx == (1, 26, 3)
    assert looked(nginx=None, codename="bookworm").nginx == (1, 22, 1)


@pytest.mark.parametrize("name", ["Shop", "1shop", "shop_a", "s" * 25, "shop.a"])
def test_a_stack_that_can_t_be_a_user_s_name_is_refused(name: str) -> None:
    with pytest.raises(ClusterError, match="on a host its user is called after it"):
        check_name(name)


def test_a_step_is_done_again_only_where_it_is_undone() -> None:
    found = looked({"turns": {"set-up": 7}})
    assert found.turn("set-up", done=True) == "7"
    assert int(found.turn("set-up", done=False)) > 1_700_000_000
    assert int(found.turn("retire", done=True)) > 1_700_000_000


# --- what a host does


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path / "machine", monkeypatch)


def test_a_stack_of_another_program_is_left_alone(machine: Machine) -> None:
    set_up(machine)
    before = machine.asked()
    with pytest.raises(HostError, match="is here already, and is django-cluster/shop's"):
        set_up(machine, "other/shop")
    assert machine.asked() == before


def test_a_copy_of_a_program_does_not_take_over_a_stack_of_the_same_name(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "stacks").mkdir()
    tags = []
    for salt in ("v1:a", "v1:b", "v1:a"):
        (tmp_path / "stacks" / "Pulumi.shop.yaml").write_text(f"config: {{}}\nencryptionsalt: {salt}\n")
        tags.append(remote_program.stack_file_tag(tmp_path, "shop"))
    assert tags[0] == tags[2] != tags[1]
    set_up(machine, "django-cluster/shop")
    set_up(machine, f"django-cluster/shop {tags[0]}")  # an older set-up said no more
    set_up(machine, f"django-cluster/shop {tags[2]}")
    with pytest.raises(HostError, match=f"is here already, and is django-cluster/shop {tags[0]}'s.*remove /.*/owner$"):
        set_up(machine, f"django-cluster/shop {tags[1]}")


def test_a_mirror_that_is_away_is_told_in_a_line(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """`apt-get update` says so in a warning, and succeeds."""
    (machine.places.root / "programs" / "apt-get").write_text(
        '#!/bin/sh\ncase "$*" in\n*install*) echo "E: Unable to locate package nginx" >&2; exit 100 ;;\n'
        '*) echo "W: Failed to fetch http://deb.debian.org/x" >&2 ;;\nesac\n'
    )
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(HostError, match=r"within reach\? Failed to fetch http://deb\.debian\.org/x$"):
        set_up(machine)


def test_a_set_up_that_was_done_tells_systemd_nothing(machine: Machine) -> None:
    set_up(machine)
    assert "systemctl daemon-reload" in machine.asked()
    machine.said.unlink()
    set_up(machine)
    assert "systemctl daemon-reload" not in machine.asked()


def test_a_release_is_root_s_own_whoever_sent_it(machine: Machine) -> None:
    set_up(machine)
    receiving.receive(machine.places, "release", "r1", io.BytesIO(a_release(("tree/run", "#!/bin/sh\n", "file"))))
    there = machine.places.releases / "r1"
    assert (there / "environment").readlink() == machine.places.environments / "e1"
    assert (there / "tree/run").stat().st_mode & 0o7777 == 0o755
    assert not [path for path in machine.places.releases.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    "member",
    [("../out", "x", "file"), ("/etc/passwd", "x", "file"), ("tree/a", None, "device"), ("a/../../out", "x", "file")],
    ids=["above", "absolute", "device", "above in mid-way"],
)
def test_what_no_release_holds_is_refused_whole(machine: Machine, member: tuple[str, str | None, str]) -> None:
    set_up(machine)
    with pytest.raises(HostError, match="not what a release holds"):
        receiving.receive(machine.places, "release", "r1", io.BytesIO(a_release(member)))
    assert not (machine.places.releases / "r1").exists()
    assert not (machine.places.releases.parent / "out").exists()


def test_a_link_in_a_release_is_not_written_through(machine: Machine, tmp_path: Path) -> None:
    set_up(machine)
    out = tmp_path / "out"
    out.mkdir()
    evil = a_release(("tree/way", str(out), "link"), ("tree/way/file", "x", "file"))
    with contextlib.suppress(HostError, OSError):
        receiving.receive(machine.places, "release", "r1", io.BytesIO(evil))
    assert list(out.iterdir()) == []


def test_what_the_project_holds_is_where_uploads_begin_and_never_takes_their_place(machine: Machine) -> None:
    set_up(machine)
    receiving.receive(machine.places, "release", "r1", io.BytesIO(a_release(("seed/media/a.txt", "first", "file"))))
    there = machine.places.shared / "media"
    assert (there / "a.txt").read_text() == "first"
    (there / "a.txt").write_text("a visitor's")
    (there / "b.txt").write_text("another's")
    receiving.receive(machine.places, "release", "r2", io.BytesIO(a_release(("seed/media/a.txt", "second", "file"))))
    assert {path.name: path.read_text() for path in there.iterdir()} == {"a.txt": "a visitor's", "b.txt": "another's"}
    removing.remove(machine.places, data=False)
    assert (there / "b.txt").read_text() == "another's"
    assert not machine.places.releases.exists()


def test_a_resource_that_is_called_otherwise_now_takes_nothing_away(machine: Machine) -> None:
    """Pulumi makes the new one, and then deletes the old one."""
    set_up(machine)
    machine.said.unlink()
    removing.remove(machine.places, data=False, made_by="app-hosts-host")
    assert machine.asked() == []
    assert machine.places.unit.exists()
    removing.remove(machine.places, data=False, made_by="sessions-host")
    assert not machine.places.unit.exists()


def wanted(text: str, digest: str = "d1") -> dict[str, Any]:
    return {
        "files": {"sites-available/zz-cluster-shop": text},
        "links": {"sites-enabled/zz-cluster-shop": "../sites-available/zz-cluster-shop"},
        "private": {},
        "users": "",
        "digest": digest,
        "polite": False,
        "shown": {},
        "relays": [],
    }


def test_a_site_that_nginx_refuses_leaves_all_as_it_was(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(machine)
    monkeypatch.setattr(site, "ask", lambda _socket, _url: "d1")
    site.deliver(machine.places, wanted("server { one; }\n"))
    before = machine.tree()
    assert before["sites-enabled/zz-cluster-shop"] == "../sites-available/zz-cluster-shop"
    machine.said.unlink()
    with pytest.raises(HostError, match=r"(?s)nginx -t refuses the configuration.*unknown directive"):
        site.deliver(machine.places, wanted("no_such_directive;\n", "d2"))
    assert machine.tree() == before
    assert not any("reload" in line for line in machine.asked())


def test_a_second_site_for_all_names_is_told_what_to_do(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(machine)
    monkeypatch.setattr(site, "ask", lambda _socket, _url: None)
    (machine.places.root / "programs" / "nginx").write_text(
        "#!/bin/sh\necho 'a duplicate default server for 0.0.0.0:80' >&2\nexit 1\n"
    )
    with pytest.raises(HostError, match=r"sites-enabled/default\), or let site\.server_names say"):
        site.deliver(machine.places, wanted("server { one; }\n"))


def test_a_site_that_nginx_does_not_take_is_put_back(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(machine)
    monkeypatch.setattr(site, "TAKEN_WITHIN", 0.1)
    monkeypatch.setattr(site, "ask", lambda _socket, _url: None)
    before = machine.tree()
    with pytest.raises(HostError, match="did not take the configuration"):
        site.deliver(machine.places, wanted("server { one; }\n"))
    assert machine.tree() == before


def test_a_site_that_is_there_already_reloads_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(machine)
    monkeypatch.setattr(site, "ask", lambda _socket, _url: "d1")
    site.deliver(machine.places, wanted("server { one; }\n"))
    machine.said.unlink()
    site.deliver(machine.places, wanted("server { one; }\n"))
    assert machine.asked() == []


def test_users_are_there_before_nginx_asks_for_them_and_go_after_it_does(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up(machine)
    seen: list[bool] = []

    def reload_until(*_words: Any, **_more: Any) -> bool:
        seen.append(machine.places.users.exists())
        return True

    monkeypatch.setattr(site, "ask", lambda _socket, _url: "d1")
    monkeypatch.setattr(site, "reload_until", reload_until)
    site.deliver(machine.places, {**wanted("one;\n"), "users": "ada:$6$x\n"})
    site.deliver(machine.places, wanted("two;\n"))
    assert seen == [True, True]
    assert not machine.places.users.exists()


def test_users_of_a_site_that_is_refused_are_those_of_before(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(machine)
    monkeypatch.setattr(site, "ask", lambda _socket, _url: "d1")
    site.deliver(machine.places, {**wanted("one;\n"), "users": "ada:$6$x\n"})
    with pytest.raises(HostError, match="refuses"):
        site.deliver(machine.places, {**wanted("no_such_directive;\n"), "users": "eve:$6$y\n"})
    assert machine.places.users.read_text() == "ada:$6$x\n"


def test_what_is_removed_leaves_other_sites_as_they_are(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    before = machine.tree()
    set_up(machine)
    monkeypatch.setattr(site, "ask", lambda _socket, _url: "d1")
    site.deliver(machine.places, wanted("server { one; }\n"))
    machine.places.logs.mkdir(parents=True)
    for name in ("cluster-shop.access.log", "cluster-shop.access.log.2.gz", "cluster-shop-b.access.log", "access.log"):
        (machine.places.logs / name).touch()
    removing.remove(machine.places, data=True)
    assert {path.name for path in machine.places.logs.iterdir()} == {"cluster-shop-b.access.log", "access.log"}
    assert machine.tree() == before
    assert not machine.places.state.exists()
    assert not machine.places.unit.exists()
    assert machine.places.code.parent.exists() is False


# --- units


def test_an_instance_s_unit_keeps_it_from_what_is_not_its_own() -> None:
    text = instance_unit(build_topology(parse_config(VALUES)), HostPaths("shop"))
    for line in (*SANDBOX, "User=cluster-shop", "Type=notify", "Restart=always", "StartLimitIntervalSec=0"):
        assert f"\n{line}\n" in text
    assert "/var/lib/cluster-shop/secrets" not in text, "nothing but what prepares a release writes secrets"
    words = releases.in_release(HostPaths("shop"), "r1", text)
    assert "User=cluster-shop" in words
    assert "ProtectSystem=strict" in words
    assert not any(word.startswith(("ExecStart", "Restart", "# ")) for word in words)


def test_a_unit_s_command_finds_the_instance_and_its_release() -> None:
    text = instance_unit(build_topology(parse_config(VALUES)), HostPaths("shop"))
    (line,) = (line for line in text.splitlines() if line.startswith("ExecStart="))
    script = line.partition("-c '")[2].rpartition("' sh %i")[0].replace("$$", "$").replace("%%", "%")
    told = script.replace("exec ", "echo ")
    done = subprocess.run(["sh", "-c", told, "sh", "app_1-abc"], capture_output=True, text=True, check=True)
    assert "--instance app_1 --config /srv/cluster/shop/releases/abc/config.json" in done.stdout


# --- the program


def run(
    root: Path,
    *,
    preview: bool = False,
    stack: dict[str, Any] | None = None,
    machine: dict[str, Any] | None = None,
    **changes: Any,
) -> Record:
    write_stack(root, {**VALUES, **changes})
    topology = build_topology(parse_config({**VALUES, **changes}))
    each = {host.name: replace(looked(stack, **(machine or {})), host=host.name) for host in topology.config.hosts}
    found = Seen(each=each, topology=topology)
    with contextlib.ExitStack() as patched, contextlib.chdir(root):
        patched.enter_context(patch.object(remote_program, "look", lambda *_arguments: found))
        for name in ("make_environment", "make_release"):
            patched.enter_context(patch(f"platforms.remote.release_steps.{name}"))
        return record(program, preview=preview, secrets={**SECRETS, "hosts_key": HOSTS_KEY})


@pytest.mark.parametrize("preview", [False, True], ids=["up", "preview"])
def test_the_steps_follow_each_other_and_hold_no_secret(tmp_path: Path, preview: bool) -> None:
    found = run(tmp_path, preview=preview)
    order = ["host", "sent", "prepare", "start1", "static", "serve1", "nginx-config", "retire"]
    order = [f"web1-{step}" for step in order]
    assert {one.name for one in found.of(COMMAND)} == set(order)
    for earlier, later in itertools.pairwise(order):
        before = {one.name for one in found.before(found.named(later, COMMAND))}
        assert earlier in before, f"{later} does not wait for {earlier}"
    assert is_secret(found.named("web1-prepare", COMMAND).inputs["stdin"])
    assert leaks([one.inputs for one in found.registrations]) == set()
    texts = json.dumps([one.inputs for one in found.of(COMMAND)])
    assert str(tmp_path) not in texts
    assert "10.0.0.11" not in texts


def test_a_weight_is_one_step(tmp_path: Path) -> None:
    stack: dict[str, Any] = {"owner": "x", "nginx": None, "nginx_turn": 3, "static": None, "static_turn": 1}
    stack |= {name: {} for name in ("turns", "units", "files", "instances")}
    stack |= {name: [] for name in ("releases", "environments")}
    before = run(tmp_path, stack=stack)
    after = run(tmp_path, stack=stack, upstream={"servers": [{"name": "app1", "weight": 3}, {"name": "app2"}]})
    former, latter = before.inputs(), after.inputs()
    # Turns are of the time where a step was never done.
    changed = {name for name in former if _timeless(former[name]) != _timeless(latter[name])}
    assert {name for name in changed if name.startswith("Command ")} == {"Command web1-nginx-config"}


def _timeless(text: str) -> str:
    found = json.loads(text)
    found.get("environment", {}).pop("TURN", None)
    return json.dumps(found)


def test_one_at_a_time_starts_the_next_batch_when_the_former_serves(tmp_path: Path) -> None:
    app = {**VALUES["app"], "rollout": {"batch": 1}}
    found = run(tmp_path, app=app, upstream={"servers": 3})
    assert {"web1-start1", "web1-start2", "web1-start3"} <= found.names(COMMAND)
    assert "web1-serve1" in {one.name for one in found.before(found.named("web1-start2", COMMAND))}
    assert '"$RELEASE" alone' in found.named("web1-serve1", COMMAND).inputs["create"]


def test_a_host_that_is_away_is_told_in_a_line(tmp_path: Path) -> None:
    write_stack(tmp_path, VALUES)

    def away(*_arguments: Any) -> None:
        raise UnreachableError("web1: accepts the connection and says nothing")

    with (
        patch.object(remote_program, "look", away),
        contextlib.chdir(tmp_path),
        pytest.raises(pulumi.RunError, match=r"^web1: accepts the connection and says nothing$"),
    ):
        record(program)


def test_what_can_t_be_a_host_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = json.dumps({"machine": {**MACHINE, "systemd": False}, "stack": None})
    monkeypatch.setattr(Ssh, "run", lambda *_arguments, **_options: told)
    with pytest.raises(UnreachableError, match="systemd does not run there"):
        looking.look(ssh_of(tmp_path), build_topology(parse_config(VALUES)))


def test_the_example_of_the_document_is_a_stack_file() -> None:
    text = (ROOT / "docs" / "remote.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"(?s)```yaml\n( *config:.*?)```", text)
    document = yaml.safe_load(textwrap.dedent(example))
    found = {key.removeprefix("cluster:"): value for key, value in document["config"].items()}
    assert parse_config(found).hosts[0].name == "web1"
