"""The PostgreSQL of a stack on its host: what is written there, by whom, and who gets in while hosts change."""

from __future__ import annotations

import json
import re
import socket
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from platforms.remote.host import guarding, postgres, running
from platforms.remote.host.running import HostError
from tests.unit.remote_machine import Machine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WANTED: dict[str, Any] = {
    "owner": "django-cluster/shop",
    "port": 5432,
    "listen": ["10.1.0.31"],
    "allowed": ["10.1.0.11", "10.1.0.12"],
    "certificate": "certificate\n",
    "key": "key\n",
    "user": "cluster_shop",
    "database": "cluster_shop",
    "logins": ["cluster_shop_5e5e5e5e"],
    "verifiers": {"cluster_shop_5e5e5e5e": "SCRAM-SHA-256$4096:c2FsdA==$a:b"},
}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A host on which PostgreSQL and nft are installed, and say what they are asked."""
    made = Machine(tmp_path, monkeypatch)
    programs = tmp_path / "programs"
    etc = tmp_path / "etc/postgresql"
    (tmp_path / "usr/lib/postgresql/17/bin").mkdir(parents=True)
    (tmp_path / "usr/lib/postgresql/17/bin/postgres").touch()
    (programs / "pg_createcluster").write_text(f'#!/bin/sh\nmkdir -p "{etc}/$1/$2/conf.d"\n')
    (programs / "pg_dropcluster").write_text(f'#!/bin/sh\nrm -f "{etc}/$1/$2/pg_hba.conf"\n')
    (programs / "runuser").write_text("#!/bin/sh\necho 1\n")
    (programs / "nft").write_text("#!/bin/sh\necho reject\n")
    (programs / "systemctl").write_text(f'#!/bin/sh\necho systemctl "$@" >>{made.said}\necho active\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setattr(running, "_be", lambda _name: None)
    monkeypatch.setattr(postgres, "reaches", lambda _address, _port: True)
    return made


def admitted(machine: Machine) -> tuple[list[str], list[str]]:
    """Return whom the server lets in, and whom the kernel does."""
    directory = machine.places.root / "etc/postgresql/17/cluster_shop"
    hba = re.findall(r"hostssl cluster_shop \+cluster_shop (10[0-9.]+)/32 ", (directory / "pg_hba.conf").read_text())
    rules = re.search(r"ip saddr \{ (.*) \} accept", machine.places.database_guard.rules.read_text())
    return hba, rules[1].split(", ") if rules else []


def test_a_host_that_is_to_have_no_instances_asks_until_it_has_none(machine: Machine) -> None:
    """Before that its instances serve, and `up` may fail on its way, any number of times."""
    postgres.make(machine.places, WANTED)
    assert admitted(machine) == (["10.1.0.11", "10.1.0.12"],) * 2
    for _again in range(2):
        postgres.make(machine.places, {**WANTED, "allowed": ["10.1.0.11", "10.1.0.13"]})
        assert admitted(machine) == (["10.1.0.11", "10.1.0.13", "10.1.0.12"],) * 2
        found = postgres.found(machine.places)
        assert found is not None
        assert found["left"] == ["10.1.0.12"]
    postgres.shut_out(machine.places)
    assert admitted(machine) == (["10.1.0.11", "10.1.0.13"],) * 2
    found = postgres.found(machine.places)
    assert found is not None
    assert found["left"] == []
    assert found["digest"] == postgres.digest({**WANTED, "allowed": ["10.1.0.11", "10.1.0.13"]})


def test_the_last_host_beside_the_database_s_own_leaves_the_port_shut(machine: Machine) -> None:
    postgres.make(machine.places, WANTED)
    postgres.make(machine.places, {**WANTED, "allowed": []})
    postgres.shut_out(machine.places)
    assert admitted(machine) == ([], [])
    assert "reject" in machine.places.database_guard.rules.read_text()


def test_what_is_the_server_s_own_is_written_as_its_user(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is that user may make anything of its directory, a link to root's own files too."""
    written: list[str] = []

    def put(path: Path, text: str, mode: int = 0o644) -> bool:
        assert not path.is_relative_to(machine.places.root / "etc/postgresql"), f"root writes {path}"
        return running.put(path, text, mode)

    def done_by(user: str, what: Callable[[], Any], _problem: str) -> Any:
        written.append(user)
        with monkeypatch.context() as its_own:
            its_own.setattr(postgres, "put", running.put)
            return what()

    monkeypatch.setattr(postgres, "put", put)
    monkeypatch.setattr(postgres, "done_by", done_by)
    postgres.make(machine.places, WANTED)
    postgres.make(machine.places, WANTED)
    postgres.stop(machine.places)
    assert set(written) == {"postgres"}


def test_no_link_of_the_server_s_user_leads_root_anywhere(machine: Machine, tmp_path: Path) -> None:
    postgres.make(machine.places, WANTED)
    mine = tmp_path / "root's"
    mine.write_text("mine")
    for name in ("start.conf", "pg_hba.conf", "server.key", ".server.key.new"):
        there = tmp_path / "etc/postgresql/17/cluster_shop" / name
        there.unlink(missing_ok=True)
        there.symlink_to(mine)
    postgres.make(machine.places, WANTED)
    postgres.stop(machine.places)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("port", [5432, 5433])
def test_a_port_that_another_has_is_refused_also_for_a_database_that_runs(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    def taken(*_arguments: Any) -> None:
        raise OSError(98, "Address already in use")

    postgres.make(machine.places, WANTED)
    monkeypatch.setattr(socket.socket, "bind", taken)
    refused = nullcontext() if port == WANTED["port"] else pytest.raises(HostError, match="port 5433 is taken")
    with refused:
        postgres.make(machine.places, {**WANTED, "port": port})


def test_of_two_versions_the_newer_is_the_stack_s_and_is_set_up_anew(machine: Machine) -> None:
    postgres.make(machine.places, WANTED)
    before = postgres.found(machine.places)
    assert before is not None
    assert before["digest"] == postgres.digest(WANTED)
    (machine.places.root / "etc/postgresql/18/cluster_shop/conf.d").mkdir(parents=True)
    (machine.places.root / "etc/postgresql/9/cluster_shop/conf.d").mkdir(parents=True)
    found = postgres.found(machine.places)
    assert found is not None
    assert (found["version"], found["digest"]) == ("18", "")
    postgres.drop(machine.places)
    assert postgres.found(machine.places) is None
    # Of its own files the distribution's tool removes its own alone.
    assert not list((machine.places.root / "etc/postgresql").glob("*/cluster_shop"))


def test_a_server_that_a_boot_started_too_early_is_not_well_and_is_started_anew(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.make(machine.places, WANTED)
    dropin = machine.places.unit.parent / "postgresql@17-cluster_shop.service.d/django-cluster.conf"
    assert "After=network-online.target" in dropin.read_text()
    monkeypatch.setattr(postgres, "reaches", lambda _address, _port: False)
    found = postgres.found(machine.places)
    assert found is not None
    assert not found["active"]
    machine.said.unlink()
    postgres.make(machine.places, WANTED)
    assert "systemctl restart postgresql@17-cluster_shop.service" in machine.asked()


def test_rules_that_others_flush_are_missed_and_come_back_with_theirs(machine: Machine) -> None:
    postgres.make(machine.places, WANTED)
    unit = machine.places.database_guard.unit.read_text()
    for line in ("PartOf=nftables.service", "ReloadPropagatedFrom=nftables.service", "After=.* nftables.service"):
        assert re.search(f"^{line}$", unit, re.MULTILINE), line
    assert "WantedBy=sysinit.target nftables.service" in unit
    assert guarding.holds(machine.places.database_guard)
    (machine.places.root / "programs/nft").write_text("#!/bin/sh\necho table\n")
    assert not guarding.holds(machine.places.database_guard)


def test_nothing_of_what_is_kept_of_it_is_a_secret(machine: Machine) -> None:
    postgres.make(machine.places, WANTED)
    told = json.loads((machine.places.state / "database.json").read_text())
    assert not {"key", "verifiers", "owner"} & set(told)
    assert WANTED["verifiers"]["cluster_shop_5e5e5e5e"] not in json.dumps(told)
