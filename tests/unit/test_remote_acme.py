"""Certificates by ACME on platform remote, without a host: the program's steps, the units, and what a host does."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from cluster.acme.kept import Said, Store, new_key, stamp
from cluster.acme.wanted import read_wanted
from cluster.config import parse_config
from cluster.plan import Planned
from cluster.tls.renewing import Account
from cluster.topology import build_topology
from platforms.remote import archives
from platforms.remote import program as remote_program
from platforms.remote.drift import drift
from platforms.remote.host import receiving, removing, renewing
from platforms.remote.host.paths import HostPaths
from platforms.remote.host.running import HostError
from platforms.remote.looked import Looked, Seen
from platforms.remote.observe import Observed
from platforms.remote.renewing import code, digest_of, renewer_of
from platforms.remote.told import Told
from tests.unit.pulumi_mocks import COMMAND, SECRETS, is_secret, leaks, program, record, write_stack
from tests.unit.remote_machine import Machine, archive, set_up
from tests.unit.remote_stack import FORMER, command, preview, there
from tests.unit.remote_stack import host as hosted
from tests.unit.remote_stack import values as plain
from tests.unit.test_remote import HOST, HOSTS_KEY, MACHINE, VALUES

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.pulumi_mocks import Record

ACCOUNT = new_key()

#: A word that stands in the account's key alone.
CANARY = ACCOUNT.splitlines()[1]

EDGE = {**HOST, "name": "edge1", "address": "10.0.0.21", "internal": "192.168.0.21", "roles": ["nginx"]}

BY_ACME: dict[str, Any] = {
    **VALUES,
    "site": {"server_names": ["shop.test"], "listen": 80, "tls": {"listen": 443, "acme": {"email": "a%b@shop.test"}}},
}


def looked(name: str = "web1", stack: dict[str, Any] | None = None, **machine: Any) -> Looked:
    return Looked(host=name, places=HostPaths("shop"), machine={**MACHINE, **machine}, stack=stack)


def renewer(values: dict[str, Any] = BY_ACME, host: str = "web1", **machine: Any) -> Any:
    topology = build_topology(parse_config(values))
    return renewer_of(topology, HostPaths("shop"), looked(host, **machine), Account(key=ACCOUNT))


# --- the program


def run(root: Path, *, preview: bool = False, stack: dict[str, Any] | None = None, **changes: Any) -> Record:
    values = {**BY_ACME, **changes}
    write_stack(root, values)
    topology = build_topology(parse_config(values))
    found = Seen(each={host.name: looked(host.name, stack) for host in topology.config.hosts}, topology=topology)
    secrets = {**SECRETS, "hosts_key": HOSTS_KEY, "acme_account": ACCOUNT}
    with contextlib.ExitStack() as patched, contextlib.chdir(root):
        patched.enter_context(patch.object(remote_program, "look", lambda *_arguments: found))
        for name in ("release_steps.make_environment", "release_steps.make_release", "site_steps.make_renewer"):
            patched.enter_context(patch(f"platforms.remote.{name}"))
        return record(program, preview=preview, secrets=secrets)


@pytest.mark.parametrize("preview", [False, True], ids=["up", "preview"])
def test_nginx_gets_its_configuration_when_there_is_a_certificate_and_the_account_is_a_secret(
    tmp_path: Path, preview: bool
) -> None:
    found = run(tmp_path, preview=preview, hosts=[HOST, EDGE])
    for host in ("web1", "edge1"):
        for earlier, later in (("host", "renewer-sent"), ("renewer-sent", "renewer"), ("renewer", "nginx-config")):
            before = {one.name for one in found.before(found.named(f"{host}-{later}", COMMAND))}
            assert f"{host}-{earlier}" in before, f"{later} does not wait for {earlier}"
        step = found.named(f"{host}-renewer", COMMAND)
        assert is_secret(step.inputs["stdin"])
        assert step.inputs["logging"] == "none"
    assert leaks([one.inputs for one in found.registrations], (CANARY,)) == set()
    texts = json.dumps([{**one.inputs, "stdin": ""} for one in found.of(COMMAND)])
    assert CANARY not in texts
    assert "192.168.0.21" not in texts


def test_without_acme_nothing_keeps_a_certificate(tmp_path: Path) -> None:
    found = run(tmp_path, site=VALUES["site"])
    assert not [name for name in found.names(COMMAND) if "renewer" in name]
    told = json.loads(found.named("web1-retire", COMMAND).inputs["stdin"])
    assert told["renewed"] is False


def test_a_host_without_nginx_keeps_none(tmp_path: Path) -> None:
    found = run(tmp_path, hosts=[{**HOST, "roles": ["app"]}, EDGE])
    assert {name for name in found.names(COMMAND) if "renewer" in name} == {"edge1-renewer-sent", "edge1-renewer"}
    renewed = {
        host: json.loads(found.named(f"{host}-retire", COMMAND).inputs["stdin"])["renewed"]
        for host in ("web1", "edge1")
    }
    assert renewed == {"web1": False, "edge1": True}


# --- units


def test_a_renewer_finds_what_it_is_told_and_the_other_nginx() -> None:
    units = renewer({**BY_ACME, "hosts": [HOST, EDGE]}).units
    (line,) = (line for line in units["renewer"].splitlines() if line.startswith("ExecStart="))
    word = line.partition(" '")[2].rpartition("' ")[0]
    told = read_wanted(word.replace("%%", "%").replace("$$", "$").replace("\\'", "'").replace("\\\\", "\\"))
    assert told.names == ("shop.test",)
    assert told.email == "a%b@shop.test"
    assert (told.asked, told.others) == (("127.0.0.1", 80), (("192.168.0.21", 80),))
    assert told.account == "/run/credentials/cluster-shop.acme.service/account.key"
    assert line.endswith(" /var/lib/cluster-shop/acme")
    for one in (
        "DynamicUser=yes",
        "StateDirectory=cluster-shop/acme",
        "CapabilityBoundingSet=",
        "StateDirectoryMode=0700",
    ):
        assert f"\n{one}\n" in units["renewer"]
    assert not any(CANARY in text for text in units.values())


def test_what_lets_nginx_load_a_certificate_reaches_no_network_and_is_as_polite_as_that_nginx_needs() -> None:
    text = renewer(nginx=[1, 26, 3]).units["load"]
    for one in ("RestrictAddressFamilies=AF_UNIX", "PrivateNetwork=yes", "CapabilityBoundingSet=CAP_DAC_READ_SEARCH"):
        assert f"\n{one}\n" in text
    assert " load shop polite\n" in text
    assert " load shop\n" in renewer(nginx=[1, 30, 0]).units["load"]


def test_a_renewer_is_as_it_should_only_with_the_same_units_and_the_same_account() -> None:
    wanted = renewer()
    there = {
        "units": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in wanted.units.items()},
        "active": ["renewer", "path"],
        "enabled": ["renewer", "path"],
        "started": wanted.started,
    }
    assert wanted.runs_on(looked(stack={"renewal": there}))
    for other in (
        {"active": ["path"]},
        {"enabled": ["renewer"]},
        {"started": "another account"},
        {"units": {**there["units"], "load": "x"}},
    ):
        assert not wanted.runs_on(looked(stack={"renewal": {**there, **other}}))
    assert not wanted.runs_on(looked())


# --- what is sent


def test_what_is_sent_keeps_a_certificate_without_the_tool(tmp_path: Path) -> None:
    """Its own code, and that of a host's commands, in an environment that has the packages alone."""
    packages = tmp_path / "packages"
    for place, text in code().items():
        (packages / place).parent.mkdir(parents=True, exist_ok=True)
        (packages / place).write_bytes(text)
    # A command imports what it needs when it begins.
    commands = [place.removesuffix(".py").replace("/", ".") for place in code() if "/host/" in place]
    assert "platforms.remote.host.renewing" in commands
    script = (
        f"import importlib, sys; sys.path.insert(0, {str(packages)!r})\n"
        f"for name in {['cluster.acme.renewer', *commands]!r}: print(importlib.import_module(name).__file__)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if not line.startswith(str(packages))] == []


def test_another_python_or_another_code_is_another_renewer() -> None:
    assert digest_of(looked()) == digest_of(looked("edge1"))
    assert digest_of(looked()) != digest_of(looked(python=[3, 11, 2], codename="bookworm"))


def test_the_archive_is_of_the_packages_for_the_host_s_python(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("")

    def installed(words: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
        assert words[words.index("--python-version") + 1] == "3.11"
        assert "--require-hashes" in words
        return subprocess.CompletedProcess(words, 0, "", "")

    with patch.object(archives, "run_program", installed):
        archives.make_renewer(
            tmp_path / "sent" / "r.tar.gz", lock, {"cluster/x.py": b"1"}, "3.11", "x86_64-manylinux_2_36"
        )
    with tarfile.open(tmp_path / "sent" / "r.tar.gz") as made:
        assert "./lib/python3.11/site-packages/cluster/x.py" in made.getnames()


# --- what a host does


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine(tmp_path / "machine", monkeypatch)
    set_up(found)
    said = found.said
    (found.places.root / "programs" / "systemctl").write_text(
        f'#!/bin/sh\necho systemctl "$@" >>{said}\n[ "$1" != is-active ] || echo active\n'
    )
    return found


def wanted(**changes: Any) -> dict[str, Any]:
    units = {"renewer": "[Service]\n", "load": "[Service]\n", "path": "[Path]\n"}
    return {"renewer": "r2", "units": units, "given": {"account.key": "KEY\n"}, "seconds": 0.3, **changes}


def a_certificate(machine: Machine) -> Store:
    store = Store(machine.places.acme)
    store.prepare(["shop.test"], "thumb")
    return store


def test_a_renewer_is_started_with_its_account_which_root_alone_reads(machine: Machine) -> None:
    a_certificate(machine)
    for name in ("r1", "r2"):
        (machine.places.renewers / name).mkdir(parents=True)
    renewing.renew(machine.places, wanted())
    assert [path.name for path in machine.places.renewers.iterdir()] == ["r2"]
    account = machine.places.account / "account.key"
    assert account.read_text() == "KEY\n"
    assert account.stat().st_mode & 0o777 == 0o600
    assert machine.places.account.stat().st_mode & 0o777 == 0o700
    asked = machine.asked()
    assert "systemctl restart cluster-shop.acme.service" in asked
    assert asked.index("systemctl restart cluster-shop.acme.service") < asked.index(
        "systemctl start --no-block cluster-shop.acme-load.service"
    )
    machine.said.unlink()
    renewing.renew(machine.places, wanted())
    assert not [line for line in machine.asked() if "acme.service" in line and "restart" in line]
    renewing.renew(machine.places, wanted(given={"account.key": "OTHER\n"}))
    assert "systemctl restart cluster-shop.acme.service" in machine.asked()
    assert machine.places.daemons() == [], "it is no program of the distribution's"


def test_what_is_given_no_more_is_gone(machine: Machine) -> None:
    a_certificate(machine)
    (machine.places.renewers / "r2").mkdir(parents=True)
    renewing.renew(machine.places, wanted(given={"account.key": "KEY\n", "eab.key": "x\n"}))
    renewing.renew(machine.places, wanted())
    assert [path.name for path in machine.places.account.iterdir()] == ["account.key"]


def test_a_renewer_that_makes_nothing_is_told(machine: Machine) -> None:
    with pytest.raises(HostError, match=r"^what keeps the certificate has made none within 0\.3 s"):
        renewing.renew(machine.places, wanted())
    assert not machine.places.started("cluster-shop.acme.service").exists()


def test_a_renewer_s_packages_are_everybody_s_to_read_and_root_s(machine: Machine) -> None:
    version = ".".join(map(str, sys.version_info[:2]))
    sent = archive((f"lib/python{version}/site-packages/cluster/acme/__init__.py", "", "file"))
    receiving.receive(machine.places, "renewer", "r1", io.BytesIO(sent))
    there = machine.places.renewers / "r1"
    assert there.stat().st_mode & 0o777 == 0o755
    assert (there / "bin" / "python").readlink().name == f"python{version}"


class Answers:
    """An nginx that has read a certificate, and reads another one once it is reloaded."""

    def __init__(self, machine: Machine, monkeypatch: pytest.MonkeyPatch, *, takes: bool = True) -> None:
        self.machine, self.takes = machine, takes
        self.told: str | None = "thumb 0123456789abcdef"
        self.reloads: list[bool] = []
        monkeypatch.setattr(renewing, "ask", lambda _socket, _url: self.told)
        monkeypatch.setattr(renewing, "reload_until", self.reload)

    def reload(self, places: HostPaths, taken: Any, *, polite: bool) -> bool:
        self.reloads.append(polite)
        if self.takes:
            self.told = renewing.kept(places)
        return bool(taken())


def test_nginx_loads_another_certificate_once_with_the_care_that_it_needs(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_certificate(machine)
    nginx = Answers(machine, monkeypatch)
    renewing.load(machine.places, polite=True)
    renewing.load(machine.places, polite=True)
    assert nginx.reloads == [True]


def test_a_certificate_that_nginx_does_not_load_is_told_and_one_that_does_not_run_loads_it_when_it_starts(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_certificate(machine)
    nginx = Answers(machine, monkeypatch, takes=False)
    with pytest.raises(HostError, match="nginx has not loaded the certificate"):
        renewing.load(machine.places, polite=False)
    nginx.told = None
    renewing.load(machine.places, polite=False)
    assert len(nginx.reloads) == 1


def test_what_a_renewer_puts_in_its_directory_leads_root_nowhere(machine: Machine) -> None:
    (machine.places.root / "etc" / "shadow").write_text("root:secret:;\n")
    machine.places.acme.mkdir()
    (machine.places.acme / "acme.map").symlink_to(machine.places.root / "etc" / "shadow")
    (machine.places.acme / "renewal.json").symlink_to(machine.places.root / "etc" / "shadow")
    assert renewing.kept(machine.places) == ""
    assert renewing.said(machine.places)["said"] == {}


def test_what_a_renewer_says_is_no_command_of_a_terminal_s(machine: Machine) -> None:
    a_certificate(machine).say(Said(message="\x1b[2Jgone"))
    assert "\x1b" not in renewing.said(machine.places)["said"]["message"]


def test_who_keeps_no_certificate_any_more_keeps_those_that_are_there(machine: Machine) -> None:
    store = a_certificate(machine)
    (machine.places.renewers / "r2").mkdir(parents=True)
    renewing.renew(machine.places, wanted())
    removing.remove(machine.places, data=False)
    assert not [path for path in machine.places.renewer_units.values() if path.exists()]
    assert not machine.places.account.exists()
    assert not machine.places.renewers.exists()
    assert store.issued() is not None
    assert any("disable --now --quiet cluster-shop.acme.service" in line for line in machine.asked())


def test_with_the_data_the_certificates_go_too(machine: Machine) -> None:
    kept = machine.places.acme_kept / "acme"
    kept.mkdir(parents=True)
    machine.places.acme.symlink_to(kept)
    a_certificate(machine)
    removing.remove(machine.places, data=True)
    assert not machine.places.acme_kept.exists()
    assert not machine.places.state.exists()


def test_a_look_says_what_the_renewer_says(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    store = a_certificate(machine)
    store.say(Said(at="2026-03-01T12:00:00+00:00", message="rateLimited: too many"))
    (machine.places.renewers / "r2").mkdir(parents=True)
    Answers(machine, monkeypatch)
    renewing.renew(machine.places, wanted())
    found = renewing.found(machine.places)
    assert found["said"]["message"] == "rateLimited: too many"
    assert found["told"] == "thumb 0123456789abcdef"
    assert found["sent"] == ["r2"]
    assert {*found["units"]} == {"renewer", "load", "path"}


# --- what is told


def observed(*renewals: dict[str, Any]) -> Observed:
    hosts = [HOST, EDGE][: len(renewals)]
    topology = build_topology(parse_config({**BY_ACME, "hosts": hosts}))
    each = {
        host["name"]: looked(
            str(host["name"]),
            {"renewal": renewal, "instances": {}, "nginx": None, "nginx_turn": 0} | {"static": None, "static_turn": 0},
        )
        for host, renewal in zip(hosts, renewals, strict=True)
    }
    seen = Seen(each=each, topology=topology)
    return Observed(seen=seen, topology=topology, places=HostPaths("shop"), certificate=None)


def said(**changes: Any) -> dict[str, Any]:
    now = dt.datetime.now(dt.UTC)
    ends = now + dt.timedelta(days=80)
    told: dict[str, Any] = {"at": stamp(now), "issuer": "https://a.example", "begins": stamp(now), "ends": stamp(ends)}
    return {**told, "loaded": "t c", **changes}


def test_status_tells_how_the_certificate_of_each_nginx_stands() -> None:
    runs = ["renewer", "path"]
    (row,) = observed({"active": runs, "said": said(), "told": "t c"})._certificates()
    assert (row.service, row.state, row.ok) == ("acme", "valid", True)
    rows = observed(
        {"active": runs, "said": said(issuer="", message="dns: no such name", failures=2), "told": "t c"},
        {"active": [], "said": said(), "told": "t c"},
    )._certificates()
    assert [(row.service, row.state, row.ok) for row in rows] == [
        ("acme@web1", "placeholder", False),
        ("acme@edge1", "not running", False),
    ]
    assert "dns: no such name" in rows[0].message


def test_what_hosts_were_given_is_counted_together() -> None:
    given = [["2026-03-01T12:00:00+00:00", "shop.test"]]
    seen = observed({"said": said(issued=given)}, {"said": said(issued=given * 2)}).seen
    assert len(seen.issued) == 3
    assert replace(seen, each={}).issued == []


# --- what would be done


def step(operation: str, *, before: str = "a", after: str = "a") -> dict[str, Any]:
    old, new = (
        {"environment": {f"UNIT_{name}": one for name in ("RENEWER", "LOAD", "PATH")}} for one in (before, after)
    )
    return command(operation, "nginx", "web1-renewer", old if operation != "create" else {}, new, "environment")


@pytest.mark.parametrize(
    ("operation", "line"),
    [("create", "+ acme"), ("update", "~ acme: started again"), ("delete", "- acme: stop")],
)
def test_a_plan_tells_what_is_done_with_a_renewer(operation: str, line: str) -> None:
    found = preview()
    found.take(step(operation, after="b"))
    told = Told(found, build_topology(parse_config(plain())), [hosted(there())], FORMER, serves=True)
    assert told.steps(Planned(stack="shop", changes=True).release, (), migrate=False) == (line,)


@pytest.mark.parametrize(
    ("renewal", "words"),
    [
        ({}, ()),
        ({"units": {"renewer": "a", "path": "a", "load": "x"}}, (".acme-load.service was edited",)),
        ({"units": {"renewer": "a", "path": "a"}}, (".acme-load.service is gone",)),
        ({"active": ["path"]}, (".acme.service is stopped",)),
        ({"enabled": ["renewer"]}, (".acme-load.path is not started at boot",)),
    ],
)
def test_a_renewer_that_was_stopped_or_edited_by_hand_is_told(renewal: dict[str, Any], words: tuple[str, ...]) -> None:
    well = {"units": dict.fromkeys(("renewer", "load", "path"), "a"), "active": ["renewer", "path"]}
    found = preview()
    found.take(step("same"))
    looked = there(renewal={**well, "enabled": ["renewer", "path"], **renewal})
    said = drift(hosted(looked), found)
    assert len(said) == len(words)
    assert all(line.endswith(end) for line, end in zip(said, words, strict=True)), said
