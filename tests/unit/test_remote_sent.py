"""What one host sends another, and what one stack leaves another on the same host."""

from __future__ import annotations

import io
import os
import tarfile
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import ANY, patch

import pytest

from platforms.remote.host import receiving, relaying, releases, sending
from platforms.remote.host.ports import listened
from platforms.remote.host.running import HostError
from tests.unit import test_remote_hosts as hosts
from tests.unit.pulumi_mocks import COMMAND
from tests.unit.remote_machine import Machine, a_release, set_up


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path, monkeypatch)
    monkeypatch.setattr(sending, "become", lambda _places: None)
    set_up(made)
    return made


def collected(machine: Machine) -> Path:
    directory = machine.places.static / "r1"
    (directory / "static").mkdir(parents=True)
    for number in range(3):
        (directory / "static" / f"{number}.css").write_text("body {}\n")
    return directory


def test_static_files_that_are_sent_on_come_whole(machine: Machine) -> None:
    directory, sent = collected(machine), io.BytesIO()
    sending.send_static(machine.places, "r1", sent)
    before = {path.name for path in directory.rglob("*")}
    sending.receive_static(machine.places, "r1", io.BytesIO(sent.getvalue()))
    assert {path.name for path in directory.rglob("*")} == before


def test_static_files_of_which_one_could_not_be_read_are_not_taken_for_all(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tarfile ends an archive well, whatever has ended its making; and a pipe has the exit status of its last part."""
    directory, sent = collected(machine), io.BytesIO()
    add = tarfile.TarFile.add

    def fails(archive: tarfile.TarFile, name: Any, *arguments: Any, **options: Any) -> None:
        if Path(name).name == "1.css":
            raise PermissionError(name)
        add(archive, name, *arguments, **options)

    monkeypatch.setattr(tarfile.TarFile, "add", fails)
    with pytest.raises(PermissionError):
        sending.send_static(machine.places, "r1", sent)
    for path in (directory / "static").iterdir():
        path.unlink()
    with pytest.raises(HostError, match="did not come whole"):
        sending.receive_static(machine.places, "r1", io.BytesIO(sent.getvalue()))
    assert not (machine.places.static / ".r1.new").exists()


@pytest.mark.parametrize("what", ["file", "link", "pipe", "closed"])
def test_a_host_that_gives_its_instances_away_keeps_no_secret_whatever_its_user_made(
    machine: Machine, tmp_path: Path, what: str
) -> None:
    secrets, others = machine.places.secrets, tmp_path / "others"
    others.mkdir()
    (others / "mine").touch()
    secrets.mkdir()  # of a release that reads files
    made = secrets / "a-first"
    if what == "file":
        made.touch()
    elif what == "link":
        made.symlink_to(others)
    elif what == "pipe":
        os.mkfifo(made)
    else:
        made.mkdir(mode=0o500)
    (secrets / "r1").mkdir()
    (secrets / "r1" / "secret_key").write_text("x")
    releases.retire(machine.places, "r1", [], [])
    assert [path.name for path in secrets.iterdir()] == []
    assert (others / "mine").exists()


@pytest.mark.parametrize("place", ["tree", "runtime", "packages", "sources/libs/common"])
def test_whatever_of_a_release_is_python_is_compiled_there(machine: Machine, place: str) -> None:
    """Nobody may write beside it later, and each process would compile it anew."""
    receiving.receive(
        machine.places, "release", "r1", io.BytesIO(a_release((f"{place}/shop.py", "WORD = 1\n", "file")))
    )
    compiled = list((machine.places.releases / "r1" / place / "__pycache__").glob("shop.*.pyc"))
    assert len(compiled) == 1


# --- ports of two stacks


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("listen 8440 ssl;\n    listen 10.1.0.11:8441 ssl;\n  listen [fd00::1]:8442;\n", {8440, 8441, 8442}),
        ("listen unix:/run/cluster-shop-nginx/8443;\n# listen 8444;\n", set()),
    ],
)
def test_ports_are_read_at_whatever_address(text: str, ports: set[int]) -> None:
    assert listened([text]) == ports


@pytest.mark.parametrize("where", ["sites-enabled/zz-cluster-blog.relay", "cluster-blog/relay/app1.conf"])
def test_a_port_of_another_stack_s_is_refused_before_anything_is_changed(machine: Machine, where: str) -> None:
    """Both servers would be called relay, and nginx takes the one whose file comes first."""
    (machine.places.nginx / "sites-enabled" / "zz-cluster-blog.relay").write_text("")
    other = machine.places.nginx / where
    other.parent.mkdir(parents=True, exist_ok=True)
    other.write_text("server {\n    listen 10.1.0.11:8441 ssl;\n    server_name relay;\n}\n")
    before = machine.tree()
    files = {"sites-available/zz-cluster-shop.relay": "listen 8440 ssl;\n", "x": "listen 8441 ssl;\n"}
    with pytest.raises(HostError, match=rf"nginx listens on port 8441 for {where} already: .*upstream.relay_port"):
        relaying.deliver(machine.places, {"files": files, "private": {}, "polite": False})
    assert machine.tree() == before


# --- whose a host is


class _Every(dict[str, str]):
    """Files that are as they should be."""

    def get(self, _name: str, _default: Any = None) -> Any:
        return ANY


@pytest.mark.parametrize(
    ("made_by", "again"), [("sessions-web2-host", False), ("sessions-web1-host", True), ("", True)]
)
def test_a_host_that_was_set_up_by_another_name_is_set_up_again(tmp_path: Path, made_by: str, again: bool) -> None:
    """Of two hosts whose addresses were swapped each would else be the other one's to remove."""
    stack = hosts.a_stack(hosts.SEVERAL, "web2", made_by=made_by, turns={"set-up": 7}, files=_Every(), database=None)
    with patch.object(hosts, "seen", partial(hosts.seen, web2=stack)):
        step = hosts.run(tmp_path, preview=True).named("web2-host", COMMAND)
    assert (step.inputs["environment"]["TURN"] != "7") == again


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_release_that_was_cut_off_is_not_there_and_says_so(machine: Machine, share: float) -> None:
    whole = a_release(("tree/a", os.urandom(4000).hex(), "file"))
    with pytest.raises(HostError, match="the release r1 did not come whole"):
        receiving.receive(machine.places, "release", "r1", io.BytesIO(whole[: int(len(whole) * share)]))
    assert [*machine.places.releases.iterdir()] == []


def test_an_archive_is_read_as_it_comes(machine: Machine) -> None:
    """Of what is larger than a host's memory no more than a part is there at a time."""
    asked: list[int] = []

    class Coming(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            asked.append(-1 if size is None else size)
            return super().read(size)

    whole = a_release(("tree/a", os.urandom(2 * receiving.CHUNK).hex(), "file"))
    receiving.receive(machine.places, "release", "r1", Coming(whole))
    assert 0 < max(asked) <= receiving.CHUNK
    assert min(asked) > 0
