"""A release's secrets on a host: whose they are, which unit is given them, and when they go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.config import parse_config
from cluster.topology import build_topology
from cluster_runtime.secret_files import hold_release, is_held
from platforms.remote.host import credentials, look, releases, removing
from platforms.remote.host.paths import HostPaths
from platforms.remote.host.running import HostError
from platforms.remote.units import daemon_unit, instance_unit, service_unit
from tests.unit.remote_machine import Machine, set_up
from tests.unit.remote_stack import host, there
from tests.unit.test_remote import VALUES

SECRETS = {"secret_key": "canary-key", "secret_environment": '{"TOKEN": "canary-token"}'}

RUNTIME = Path(__file__).resolve().parents[2] / "runtime"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path / "machine", monkeypatch)
    set_up(machine)
    return machine


def keep(machine: Machine, release: str, *, files: bool = False) -> Path:
    """Let a release be there; files: one that reads its secrets as files of its own."""
    directory = machine.places.releases / release
    directory.mkdir()
    (directory / "environment").symlink_to(machine.places.environments / "e1")
    secrets = str(machine.places.secrets / release) if files else ""
    (directory / "config.json").write_text(json.dumps({"release": release, "secrets": secrets}))
    if files:
        (machine.places.secrets / release).mkdir(parents=True)
        (machine.places.secrets / release / "secret_key").write_text("canary-key")
    return directory


def modes(places: HostPaths) -> set[tuple[str, int]]:
    above = places.credentials.parent
    return {
        ("file" if path.is_file() else "directory", path.stat().st_mode & 0o777)
        for path in (above, *above.rglob("*"))
        if not path.is_symlink()
    }


# --- where they lie


def test_they_are_root_s_alone_each_release_s_in_a_directory_of_its_own(machine: Machine) -> None:
    credentials.write(machine.places, "r1", SECRETS)
    credentials.write(machine.places, "r1", {**SECRETS, "secret_key": "another"})
    assert modes(machine.places) == {("directory", 0o700), ("file", 0o600)}
    directory = machine.places.root / "etc/cluster/shop/secrets/r1"
    assert sorted(path.name for path in directory.iterdir()) == sorted(SECRETS)
    assert (directory / "secret_key").read_text() == "another"
    assert [path.name for path in directory.parent.iterdir()] == ["r1"]


def test_those_that_are_there_already_are_left_alone(machine: Machine) -> None:
    credentials.write(machine.places, "r1", SECRETS)
    before = (machine.places.credentials / "r1" / "secret_key").stat().st_ino
    credentials.write(machine.places, "r1", SECRETS)
    assert (machine.places.credentials / "r1" / "secret_key").stat().st_ino == before


@pytest.mark.parametrize("what", ["read by others", "gone", "empty"])
def test_a_look_finds_those_that_systemd_can_give_and_nobody_else_reads(machine: Machine, what: str) -> None:
    credentials.write(machine.places, "r1", SECRETS)
    assert credentials.there(machine.places) == ["r1"]
    secret = machine.places.credentials / "r1" / "secret_key"
    if what == "read by others":
        secret.chmod(0o644)
    elif what == "empty":
        secret.unlink()
    else:
        removing.remove(machine.places, data=False)
    assert credentials.there(machine.places) == []
    looked = host(there(secrets=[])).looked
    assert not looked.has_secrets("r1")
    assert host(there(secrets=["r1"])).looked.has_secrets("r1")
    assert host(there(secrets=[], releases=["r1"])).looked.lacks_secrets("r1")
    assert not host(there(secrets=[], releases=["r1"], read_files=["r1"])).looked.lacks_secrets("r1")
    credentials.write(machine.places, "r1", SECRETS)
    assert credentials.there(machine.places) == ["r1"]


# --- who is given them


def test_each_unit_of_a_release_is_given_that_release_s_and_no_daemon_any(machine: Machine) -> None:
    places = HostPaths("shop")
    topology = build_topology(
        parse_config(
            {
                **VALUES,
                "workers": [{"name": "mail", "command": "python manage.py mail", "count": 2}],
                "sessions": {"engine": "cached_db", "memcached": {"nodes": 1}},
            }
        )
    )
    line = "LoadCredential=cluster:/etc/cluster/shop/units/%i"
    units = [instance_unit(topology, places), *(service_unit(one, topology, places) for one in topology.beside)]
    assert all(line in text.splitlines() for text in units)
    assert "LoadCredential" not in daemon_unit(topology.daemons[0], places)
    called = [
        places.unit_of("app-1", "abc"),
        *(places.unit_of_service(one.name, one.generation("abc")) for one in topology.beside),
    ]
    credentials.write(machine.places, "abc", SECRETS)
    credentials.give(machine.places, called)
    for unit in called:
        link = machine.places.given / unit.partition("@")[2].removesuffix(".service")
        assert (link / "secret_key").read_text() == "canary-key"


def test_what_runs_once_in_a_release_is_given_them_where_systemd_has_them(machine: Machine) -> None:
    unit = instance_unit(build_topology(parse_config(VALUES)), HostPaths("shop"))
    line = "LoadCredential=cluster:/etc/cluster/shop/secrets/r1"
    assert line in releases.in_release(HostPaths("shop"), "r1", unit)
    words = releases.in_release(HostPaths("shop"), "r1", unit, given=False)
    assert not any("LoadCredential" in word for word in words), "of a stack before its first `up`"
    assert "/var/lib/cluster-shop/secrets" not in " ".join(words)


def test_before_units_change_what_runs_has_its_link_and_systemd_was_seen_to_give_something(machine: Machine) -> None:
    programs = machine.places.root / "programs"
    unit = machine.places.unit_of("app1", "r1")
    (programs / "systemctl").write_text(f'#!/bin/sh\ncase "$1" in list-units) echo {unit};; esac\n')
    texts = {"owner": "django-cluster/shop", "tmpfiles": "d\n", "made_by": "sessions-host", "unit": "another\n"}
    (programs / "systemd-run").write_text("#!/bin/sh\nexit 1\n")
    from platforms.remote.host import setting_up  # noqa: PLC0415 - as the machine has it

    with pytest.raises(HostError, match="mount --make-rshared /"):
        setting_up.set_up(machine.places, texts)
    assert machine.places.unit.read_text() == "unit\n", "what serves could not start again by the new one"
    (programs / "systemd-run").write_text("#!/bin/sh\nexit 0\n")
    setting_up.set_up(machine.places, texts)
    assert (machine.places.given / "app1-r1").is_dir()
    assert list((machine.places.given / "app1-r1").iterdir()) == [], "it reads files of its own"


def test_systemd_reads_units_that_a_killed_set_up_has_put_in_place(machine: Machine) -> None:
    machine.places.not_read.touch()
    machine.said.unlink()
    set_up(machine)
    assert "systemctl daemon-reload" in machine.asked()
    assert not machine.places.not_read.exists()


# --- what a release is told of them


def told(machine: Machine, *, files: bool) -> str:
    """Return what the program of a release reads, which is prepared."""
    (machine.places.root / "programs" / "systemd-run").write_text(f"#!/bin/sh\ncat >{machine.places.root}/told\n")
    keep(machine, "r1", files=files)
    releases.prepare(machine.places, "r1", ["release"], json.dumps(SECRETS))
    return (machine.places.root / "told").read_text()


def test_a_release_is_told_none_of_them_and_a_former_one_all_as_it_was(machine: Machine) -> None:
    assert told(machine, files=False) == ""
    assert not machine.places.secrets.exists()


def test_a_release_that_reads_files_is_told_them_and_has_where_to_write_them(machine: Machine) -> None:
    assert json.loads(told(machine, files=True)) == SECRETS
    assert machine.places.secrets.stat().st_mode & 0o777 == 0o700
    words = releases._python(machine.places, "r1")
    assert f"ReadWritePaths={machine.places.static} {machine.places.secrets}" in words


# --- when they go


def test_only_those_of_the_release_that_serves_are_left(machine: Machine) -> None:
    for release in ("r1", "r2"):
        keep(machine, release)
        credentials.write(machine.places, release, SECRETS)
        credentials.give(machine.places, [machine.places.unit_of("app1", release)])
    releases.retire(machine.places, "r2", ["app1"], [])
    assert [path.name for path in machine.places.credentials.iterdir()] == ["r2"]
    assert [path.name for path in machine.places.given.iterdir()] == ["app1-r2"]


def test_those_of_a_release_that_did_not_get_healthy_go_with_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first release that serves, and beside one: whoever goes on writes them again."""
    running, at_boot = set[str](), set[str]()
    monkeypatch.setattr(releases, "units_there", lambda _places: running)
    monkeypatch.setattr(HostPaths, "enabled", lambda _places: at_boot)
    credentials.write(machine.places, "r1", SECRETS)
    releases.tidy(machine.places, stop=False)
    assert credentials.there(machine.places) == []
    for release in ("r1", "r2"):
        credentials.write(machine.places, release, SECRETS)
        credentials.give(machine.places, [machine.places.unit_of("app1", release)])
    credentials.give(machine.places, [machine.places.unit_of_service("mail1", "r1.a1")])
    running.update({machine.places.unit_of("app1", "r1"), machine.places.unit_of_service("mail1", "r1.a1")})
    releases.tidy(machine.places, stop=False)
    assert credentials.there(machine.places) == ["r1"]
    assert {path.name for path in machine.places.given.iterdir()} == {"app1-r1", "r1.a1"}
    assert not [line for line in machine.asked() if line.startswith("systemctl stop")]
    releases.tidy(machine.places, stop=True)  # another host has failed: what is to start at no boot won't serve
    assert sum(line.startswith("systemctl stop") for line in machine.asked()) == 1
    running.clear()
    at_boot.add(machine.places.unit_of("app1", "r1"))  # systemd starts it again
    releases.tidy(machine.places, stop=False)
    assert credentials.there(machine.places) == ["r1"]


def test_files_of_former_releases_go_with_the_last_process_that_reads_them(machine: Machine) -> None:
    keep(machine, "r1", files=True)
    keep(machine, "r2")
    held = hold_release(str(machine.places.secrets / "r1"), Path("/none"))
    releases.retire(machine.places, "r2", ["app1"], [])
    assert [path.name for path in machine.places.secrets.iterdir()] == ["r1"], "a command runs in it"
    os.close(held)
    releases.retire(machine.places, "r2", ["app1"], [])
    assert not machine.places.secrets.exists()


def test_those_of_a_former_release_that_serves_again_stay(machine: Machine) -> None:
    keep(machine, "r1", files=True)
    keep(machine, "r2", files=True)
    releases.retire(machine.places, "r1", ["app1"], [])
    assert [path.name for path in machine.places.secrets.iterdir()] == ["r1"]


def test_a_command_keeps_its_release_by_its_configuration(machine: Machine) -> None:
    for number in range(releases.KEPT + 2):
        os.utime(keep(machine, f"r{number}"), (number, number))
    held = hold_release("", machine.places.releases / "r0" / "config.json")
    assert is_held(machine.places.releases / "r0", "config.json")
    releases.retire(machine.places, "r4", ["app1"], [])
    assert {path.name for path in machine.places.releases.iterdir()} == {"r0", "r2", "r3", "r4"}
    os.close(held)
    releases.retire(machine.places, "r4", ["app1"], [])
    assert {path.name for path in machine.places.releases.iterdir()} == {"r2", "r3", "r4"}


def test_a_release_that_served_before_there_were_marks_has_one_once_another_serves(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three that failed since would have pushed it out."""
    os.utime(keep(machine, "r1"), (1, 1))
    assert look.releases_there(machine.places)["served"] == ["r1"]
    for number in range(releases.KEPT):
        os.utime(keep(machine, f"failed{number}"), (100 + number, 100 + number))
    keep(machine, "r2")
    monkeypatch.setattr(HostPaths, "enabled", lambda places: {places.unit_of("app1", "r1")})
    monkeypatch.setattr(releases, "run", lambda *_words, **_more: "")
    releases.serve(machine.places, "r2", ["app1"], ["2"], alone=False)
    releases.retire(machine.places, "r2", ["app1"], [])
    found = look.releases_there(machine.places)
    assert found["served"] == ["r1", "r2"]
    assert found["releases"] == ["r1", "failed1", "failed2", "r2"]


def test_what_failed_takes_no_place_of_a_release_that_served(machine: Machine) -> None:
    for number, release in enumerate(["r1", "r2"]):
        keep(machine, release)
        releases.retire(machine.places, release, ["app1"], [])
        os.utime(machine.places.releases / release, (number, number))
    for number in range(releases.KEPT + 1):
        os.utime(keep(machine, f"failed{number}"), (100 + number, 100 + number))
    keep(machine, "r3")
    releases.retire(machine.places, "r3", ["app1"], [])
    found = look.releases_there(machine.places)
    assert found["served"] == ["r1", "r2", "r3"]
    assert found["releases"] == ["r1", "r2", "failed2", "failed3", "r3"]


@pytest.mark.parametrize("how", ["its instances", "all"])
def test_a_host_that_has_no_instances_any_more_has_no_secrets(machine: Machine, how: str) -> None:
    keep(machine, "r1")
    credentials.write(machine.places, "r1", SECRETS)
    if how == "all":
        removing.remove(machine.places, data=False)
    else:
        releases.retire(machine.places, "r1", [], [])
    assert not (machine.places.root / "etc/cluster").exists()


# --- a release's own program


@pytest.mark.parametrize("given", ["whole", "empty", "nowhere", "unset"])
def test_a_program_of_a_release_refuses_to_go_on_without_its_secrets(tmp_path: Path, given: str) -> None:
    config: dict[str, Any] = {"release": "r1", "project": str(tmp_path), "settings": "s", "secrets": ""}
    (tmp_path / "config.json").write_text(json.dumps(config))
    directory = tmp_path / "given"
    if given in ("whole", "empty"):
        directory.mkdir()
    if given == "whole":
        (directory / "cluster_secret_key").write_text("canary-key\n")
    environment = {**os.environ, "PYTHONPATH": str(RUNTIME)}
    environment.pop("CREDENTIALS_DIRECTORY", None)
    if given != "unset":
        environment["CREDENTIALS_DIRECTORY"] = str(directory)
    words = ["instance", "run", "--instance", "app1", "--sockets", str(tmp_path / "s"), "--config"]
    if given == "whole":
        code = "from cluster_runtime.config import RuntimeConfig as C; import sys; c = C.load(sys.argv[1])"
        code += "; print(c.secret('secret_key'), c.secret('database_url'))"
        command = [sys.executable, "-P", "-c", code, str(tmp_path / "config.json")]
    else:
        command = [sys.executable, "-P", "-m", *words, str(tmp_path / "config.json")]
        command[3] = "cluster_runtime.instance"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if given == "whole":
        assert done.stdout == "canary-key None\n"
    else:
        assert done.returncode != 0
        assert "systemd has given this process none (LoadCredential; there is no " in done.stderr
        assert "Traceback" not in done.stderr
