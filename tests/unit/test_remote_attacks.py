"""A host with somebody on it who may do what they like with what is theirs: the site's own user, another one."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from cluster.config import parse_config
from cluster.topology import build_topology
from cluster_runtime import secret_files
from platforms.remote.host import __main__ as commands
from platforms.remote.host import asking, receiving, releases, running
from platforms.remote.host import look as host_look
from platforms.remote.host.paths import HostPaths
from platforms.remote.units import tmpfiles
from tests.unit.remote_machine import Machine, a_release, set_up

#: Who owns nothing of this machine's.
NOBODY = 65534


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path / "machine", monkeypatch)


# --- what the instances' user makes of what is its own


def retire(machine: Machine) -> None:
    (machine.places.releases / "r1").mkdir(exist_ok=True)
    (machine.places.releases / "r1" / "environment").unlink(missing_ok=True)
    (machine.places.releases / "r1" / "environment").symlink_to(machine.places.environments / "e1")
    releases.retire(machine.places, "r1", ["app1"], [])


def test_what_is_swept_is_not_what_a_link_leads_to(machine: Machine, tmp_path: Path) -> None:
    set_up(machine)
    others = tmp_path / "others" / "data"
    others.mkdir(parents=True)
    machine.places.sockets.mkdir()
    (machine.places.sockets / ".services").symlink_to(others.parent)
    (machine.places.sockets / "gone").mkdir()
    retire(machine)
    assert others.is_dir()
    assert not (machine.places.sockets / "gone").exists()


def test_what_is_swept_is_swept_as_the_user_whose_it_is(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link may take a directory's place between a look and a step."""
    set_up(machine)
    (machine.places.sockets / "gone").mkdir(parents=True)
    monkeypatch.setattr(releases, "told_by", lambda _places, _what: [])
    retire(machine)
    assert (machine.places.sockets / "gone").exists(), "root itself removes nothing there"


@pytest.mark.parametrize("what", ["pipe", "link", "directory", "closed"])
def test_whatever_stands_for_a_secret_an_old_release_is_forgotten(machine: Machine, what: str) -> None:
    set_up(machine)
    for number in range(6):
        made = machine.places.releases / f"old{number}"
        made.mkdir()
        (made / "environment").symlink_to(machine.places.environments / "e1")
        os.utime(made, (number, number))
    secret = machine.places.secrets / "old0" / "secret_key"
    secret.parent.mkdir(parents=True)
    if what == "pipe":
        os.mkfifo(secret)
    elif what == "link":
        secret.symlink_to("/etc/passwd")
    elif what == "directory":
        secret.mkdir()
    else:
        secret.write_text("x")
        secret.chmod(0)
    retire(machine)
    assert not (machine.places.releases / "old0").exists()


def be_nobody(_places: HostPaths) -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


@pytest.mark.parametrize("what", ["instance", "status", "all", "services", "static"])
def test_what_can_t_be_read_keeps_nobody_from_looking(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Else whoever got into the site could keep it from being mended."""
    set_up(machine)
    places = machine.places
    (places.sockets / "app1").mkdir(parents=True)
    (places.sockets / ".services").mkdir()
    (places.sockets / "app1" / "r1.json").write_text("{}")
    closed = {
        "instance": places.sockets / "app1",
        "status": places.sockets / "app1" / "r1.json",
        "all": places.sockets,
        "services": places.sockets / ".services",
        "static": places.static,
    }[what]
    closed.chmod(0)
    if os.getuid() == 0:
        monkeypatch.setattr(running, "become", be_nobody)
        for path in (machine.places.root, *machine.places.root.parents):
            if path != Path("/") and path != Path("/tmp"):
                path.chmod(path.stat().st_mode | 0o111)
        for path in (places.sockets, *places.sockets.rglob("*"), places.static):
            os.lchown(path, NOBODY, NOBODY)
    found = running.told_by(places, lambda: host_look._said_by_processes(places))
    closed.chmod(0o700)
    assert set(found) == {"static", "static_turn", "statics", "kept", "services", "instances"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter everywhere")
def test_secrets_are_forgotten_and_directories_swept_whatever_is_closed(tmp_path: Path) -> None:
    the_closed_directory(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_secrets_are_forgotten_and_directories_swept_whatever_is_closed_to_their_user(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as top:
        os.chown(top, NOBODY, NOBODY)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                be_nobody(HostPaths("shop"))
                the_closed_directory(Path(top))
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0


def the_closed_directory(top: Path) -> None:
    """An instance's directory that nobody may enter keeps no release away."""
    secrets, sockets = top / "secrets", top / "sockets"
    for number in range(6):
        (secrets / f"r{number}").mkdir(parents=True)
        os.utime(secrets / f"r{number}", (number, number))
    (sockets / "app1").mkdir(parents=True)
    (sockets / "app1" / "http.sock").symlink_to("r0.sock")
    (sockets / "closed" / "inner").mkdir(parents=True)
    (sockets / "closed").chmod(0)
    secret_files.forget_old(secrets, sockets)
    assert {path.name for path in secrets.iterdir()} == {"r0", "r3", "r4", "r5"}
    (sockets / "gone").mkdir()
    releases._sweep(sockets, {"app1"})
    assert not (sockets / "gone").exists()


@pytest.mark.parametrize("how", ["drips", "without end"])
def test_an_answer_that_does_not_end_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(asking, "SECONDS", 0.5)
    path = Path(tempfile.mkdtemp()) / "s"
    sent = b"x" if how == "drips" else b"x" * 4096
    over = threading.Event()

    def answer(listener: socket.socket) -> None:
        there, _ = listener.accept()
        with there, contextlib.suppress(OSError):
            there.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while not over.wait(0.05 if how == "drips" else 0):
                there.sendall(sent)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        try:
            assert asking.ask(path, "/") is None
        finally:
            over.set()
            thread.join()
    shutil.rmtree(path.parent)


def test_a_lock_is_nobody_else_s_to_hold(machine: Machine) -> None:
    """/run/lock is everybody's to write: whoever was there first would be waited for."""
    set_up(machine)
    with running.alone(machine.places.lock):
        held = machine.places.lock.parent
        assert held.stat().st_mode & 0o022 == 0
        assert held.parent == machine.places.root / "run"
        assert machine.places.lock.stat().st_mode & 0o077 == 0


def test_nginx_s_own_sockets_are_nobody_s_but_root_s_and_nginx_s() -> None:
    values = {
        "platform": "remote",
        "app": {"project": "./example", "settings": "example.settings"},
        "upstream": {"servers": 1},
        "site": {"server_names": ["shop.test"], "listen": 80},
    }
    topology = build_topology(parse_config(values))
    (line,) = (line for line in tmpfiles(topology, HostPaths("shop")).splitlines() if "-nginx " in line)
    assert line.split()[2:5] == ["0750", "root", "www-data"]


# --- a full disk


def test_a_full_disk_is_told_in_a_line_and_leaves_nothing_half_made(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up(machine)

    def full(*_arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/srv/cluster")

    monkeypatch.setattr(receiving, "unpack", full)
    monkeypatch.setattr(commands, "HostPaths", lambda _stack: machine.places)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(a_release())))
    assert commands.main(["receive", "shop", "receive=1", "release", "r1"]) == 1
    assert capsys.readouterr().err == "No space left on device: /srv/cluster\n"
    assert list(machine.places.releases.iterdir()) == []
