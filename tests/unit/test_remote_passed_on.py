"""A rollback where a host has come meanwhile: it gets the former release from one that has it, and nothing is built."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from platforms.remote.host import receiving, sending
from platforms.remote.host.running import HostError
from platforms.remote.passed_on import pass_on, sources
from platforms.remote.ssh import HostError as NotThere
from platforms.remote.ssh import Ssh
from tests.unit import test_remote_hosts as hosts
from tests.unit.remote_machine import Machine, a_release, archive, set_up

if TYPE_CHECKING:
    from pathlib import Path

    from platforms.remote.looked import Seen

VERSION = ".".join(map(str, sys.version_info[:2]))


def seen(*having: str, other: str = "") -> Seen:
    """Return hosts of which these have release r1; other: the one that is of another distribution."""
    found = hosts.seen(
        hosts.SEVERAL,
        **{name: {"releases": ["r1"] if name in having else [], "environments": []} for name in ("web1", "web2")},
    )
    if not other:
        return found
    changed = replace(found.each[other], machine={**found.each[other].machine, "codename": "bookworm"})
    return replace(found, each={**found.each, other: changed})


def test_a_host_that_lacks_it_gets_it_from_one_of_its_kind() -> None:
    assert sources(seen("web1", "web2"), "r1") == {}
    assert sources(seen("web1"), "r1") == {"web2": "web1"}
    assert sources(seen("web2"), "r1") == {"web1": "web2"}
    assert sources(seen("web1", other="web2"), "r1") is None
    assert sources(seen(), "r1") is None


def test_what_is_sent_on_is_what_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (Machine(tmp_path / name, monkeypatch) for name in ("one", "two"))
    packages = f"lib/python{VERSION}/site-packages"
    environment = archive((f"{packages}/shop.py", "A = 1\n", "file"), ("bin/shop", "#!/x/bin/python\n", "file"))
    for machine in (one, two):
        set_up(machine)
    receiving.receive(one.places, "environment", "e1", io.BytesIO(environment))
    sent = a_release(
        ("tree/run", "#!/bin/sh\n", "file"), ("tree/way", "run", "link"), ("runtime/a.py", "B = 1\n", "file")
    )
    receiving.receive(one.places, "release", "r1", io.BytesIO(sent))
    assert sending.environment_of(one.places, "r1") == "e1"
    for kind, name in (("environment", "e1"), ("release", "r1")):
        there = io.BytesIO()
        sending.send(one.places, kind, name, there)
        receiving.receive(two.places, kind, name, io.BytesIO(there.getvalue()))

    def tree(machine: Machine) -> dict[str, Any]:
        top = machine.places.code
        return {
            str(path.relative_to(top)): (
                str(path.readlink()).replace(str(top), "")
                if path.is_symlink()
                else (path.read_bytes(), path.stat().st_mode)
            )
            for path in top.rglob("*")
            if (path.is_symlink() or path.is_file()) and path.suffix != ".pyc" and path.name != "shop"
        }

    assert tree(two) == tree(one)
    assert (
        (two.places.environments / "e1" / "bin" / "shop").read_text().startswith(f"#!{two.places.environments}/e1/bin/")
    )
    assert list((two.places.releases / "r1" / "runtime" / "__pycache__").glob("a.*.pyc"))


def test_what_is_not_there_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path, monkeypatch)
    set_up(machine)
    for kind in ("release", "environment"):
        there = io.BytesIO()
        with pytest.raises(HostError, match="is not here"):
            sending.send(machine.places, kind, "r9", there)
        assert there.getvalue() == b""


def test_a_host_gets_only_what_it_lacks_and_says_why_it_got_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def run(_self: Ssh, _host: str, what: str, *_words: str) -> str:
        asked.append(what)
        return "e1\n"

    monkeypatch.setattr(Ssh, "run", run)
    monkeypatch.setattr(
        Ssh, "script", lambda _self, host, *words: f"echo {host} {' '.join(words[:1] + words[-2:])} >>said;true"
    )
    found = seen("web1")
    ssh = Ssh(tmp_path, tmp_path / "ssh", "t", tuple(found.topology.config.hosts))
    said: list[tuple[str, str]] = []
    pass_on(ssh, found, "r1", {"web2": "web1"}, lambda *words: said.append(words))
    assert (tmp_path / "said").read_text().splitlines() == [
        *("web1 send environment e1", "web2 receive environment e1"),
        *("web1 send release r1", "web2 receive release r1"),
    ]
    assert said == [("web2", "sending the release")]
    assert asked == ["environment-of"]
    failing = {"send": "true", "receive": "sh -c 'echo no room >&2; exit 1'"}
    monkeypatch.setattr(Ssh, "script", lambda _self, _host, what, *_words: failing[what])
    with pytest.raises(NotThere, match="web2: no room"):
        pass_on(ssh, found, "r1", {"web2": "web1"}, lambda *_words: None)
