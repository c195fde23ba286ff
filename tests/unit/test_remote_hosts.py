"""Several hosts without one: what the program does on each of them, and what `status` says of what was found."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock, patch

import pulumi
import pytest

from cluster.config import parse_config
from cluster.console import Terminal
from cluster.errors import CommandError
from cluster.placement import place
from cluster.stack.opened import Stack
from cluster.topology import build_topology
from platforms.pulumi.engine import Pulumi
from platforms.remote import looked as looking
from platforms.remote import platform as remote_platform
from platforms.remote import program as remote_program
from platforms.remote.database import url, verifier
from platforms.remote.host.paths import HostPaths
from platforms.remote.looked import Looked, Seen
from platforms.remote.observe import Observed
from platforms.remote.paths import nginx_config, relay_files
from platforms.remote.progress import host_of
from platforms.remote.settling import shut_out, tidied
from platforms.remote.ssh import AwayError, HostError, Ssh
from tests.unit.pulumi_mocks import COMMAND, SECRETS, is_secret, leaks, program, record, write_stack
from tests.unit.test_remote import HOST, HOSTS_KEY, KEY, MACHINE, VALUES

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.pulumi_mocks import Record


def a_host(number: int, name: str, *roles: str) -> dict[str, Any]:
    return {**HOST, "name": name, "address": f"203.0.113.{number}", "internal": f"10.1.0.{number}", "roles": [*roles]}


HOSTS = [
    a_host(11, "web1", "app", "nginx"),
    a_host(12, "web2", "app"),
    a_host(21, "edge1", "nginx"),
    a_host(31, "db1", "database"),
]

SEVERAL: dict[str, Any] = {
    **VALUES,
    "hosts": HOSTS,
    "upstream": {"servers": 4},
    "database": {"engine": "postgres"},
    "workers": [{"name": "mail", "command": "manage.py db_worker", "count": 2}],
    "schedule": [{"name": "digest", "command": "manage.py digest", "at": "0 6 * * *"}],
}

PASSWORD = url(build_topology(parse_config(SEVERAL)), HostPaths("t"), HOSTS_KEY).partition("@")[0].rpartition(":")[2]


def seen(values: dict[str, Any] = SEVERAL, **stacks: dict[str, Any]) -> Seen:
    topology = build_topology(parse_config(values))
    each = {
        host.name: Looked(host=host.name, places=HostPaths("t"), machine=MACHINE, stack=stacks.get(host.name))
        for host in topology.config.hosts
    }
    return Seen(each=each, topology=topology)


def run(root: Path, *, preview: bool = False, secrets: dict[str, str] | None = None, **changes: Any) -> Record:
    values = {**SEVERAL, **changes}
    write_stack(root, values)
    given = {**SECRETS, "hosts_key": HOSTS_KEY} if secrets is None else secrets
    with contextlib.ExitStack() as patched, contextlib.chdir(root):
        patched.enter_context(patch.object(remote_program, "look", lambda *_arguments: seen(values)))
        for name in ("make_environment", "make_release"):
            patched.enter_context(patch(f"platforms.remote.release_steps.{name}"))
        return record(program, preview=preview, secrets=given)


def waits(found: Record, later: str, *earlier: str) -> None:
    before = {one.name for one in found.before(found.named(later, COMMAND))}
    assert set(earlier) <= before, f"{later} waits for {before}"


# --- the program


@pytest.mark.parametrize("preview", [False, True], ids=["up", "preview"])
def test_each_host_does_its_part_when_the_others_have_done_theirs(tmp_path: Path, preview: bool) -> None:
    found = run(tmp_path, preview=preview)
    names = {one.name for one in found.of(COMMAND)}
    assert {name for name in names if name.startswith("db1-")} == {"db1-host", "db1-postgres", "db1-retire"}
    assert {name for name in names if name.startswith("edge1-")} == {
        *("edge1-host", "edge1-static-files", "edge1-static", "edge1-nginx-config", "edge1-retire"),
    }
    assert "web2-nginx-config" not in names
    waits(found, "web1-prepare", "web1-sent", "web2-sent", "db1-postgres")
    for host in ("web2", "edge1"):
        waits(found, f"{host}-static-files", "web1-prepare")
    for host in ("web1", "web2"):
        waits(found, f"{host}-start1", "web2-secrets", "edge1-static-files")
        # Nobody takes a name before all are healthy, wherever they are.
        waits(found, f"{host}-serve1", "web1-start1", "web2-start1", "edge1-static")
    for host in ("web1", "edge1"):
        waits(found, f"{host}-nginx-config", "web1-relays", "web2-relays", "web1-serve1", "web2-serve1")
    for host in ("web1", "web2", "edge1", "db1"):
        waits(found, f"{host}-retire", "web1-nginx-config", "edge1-nginx-config")


def test_instances_and_workers_are_dealt_out_and_a_schedule_runs_once(tmp_path: Path) -> None:
    found = run(tmp_path)

    def of(name: str) -> str:
        return str(found.named(name, COMMAND).inputs["create"])

    assert of("web1-start1").endswith('"$RELEASE" app1 app3')
    assert of("web2-start1").endswith('"$RELEASE" app2 app4')
    assert " mail1=" in of("web1-services-beside")
    assert " digest=" in of("web1-services-beside")
    assert " mail2=" in of("web2-services-beside")
    assert "digest" not in of("web2-services-beside")


def test_one_at_a_time_is_one_of_all_hosts(tmp_path: Path) -> None:
    found = run(tmp_path, app={**VALUES["app"], "rollout": {"batch": 1}})
    order = ["web1-start1", "web1-serve1", "web2-start2", "web2-serve2", "web1-start3", "web1-serve3", "web2-start4"]
    for earlier, later in itertools.pairwise(order):
        waits(found, later, earlier)


def test_no_address_and_no_secret_is_in_the_state(tmp_path: Path) -> None:
    found = run(tmp_path)
    inputs = [one.inputs for one in found.registrations]
    assert leaks(inputs) == set()
    plain = json.dumps([{key: one for key, one in given.items() if not is_secret(one)} for given in inputs])
    for secret in (HOSTS_KEY, PASSWORD, "PRIVATE KEY", "SCRAM-SHA-256"):
        assert secret not in plain
    for name in ("web1-relays", "edge1-nginx-config", "db1-postgres", "web1-prepare", "web2-secrets"):
        assert is_secret(found.named(name, COMMAND).inputs["stdin"]), name
    assert "203.0.113." not in json.dumps([one["create"] for one in inputs if "create" in one])


def test_a_stack_whose_hosts_have_no_secret_yet_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(pulumi.RunError, match=r"cluster:hosts_key: missing; `cluster up` makes it"):
        run(tmp_path, secrets=dict(SECRETS))
    with pytest.raises(pulumi.RunError, match=r"cluster:hosts_key: must be 64 hexadecimal digits; remove it"):
        run(tmp_path, secrets={**SECRETS, "hosts_key": "short"})


def test_a_host_whose_own_nginx_has_all_instances_needs_none_of_it(tmp_path: Path) -> None:
    found = run(tmp_path, hosts=[HOST], database={"engine": "sqlite"}, secrets=dict(SECRETS))
    assert not [one.name for one in found.of(COMMAND) if "relays" in one.name]


# --- what is rendered


def test_an_edge_asks_by_tls_and_a_host_with_both_asks_itself_by_a_socket() -> None:
    topology = build_topology(parse_config(SEVERAL))

    def servers(host: str) -> list[str]:
        (text,) = nginx_config(topology, HostPaths("t"), host, (1, 26, 3)).files.values()
        return [line.split()[1].rstrip(";") for line in text.splitlines() if line.startswith("    server ")][:4]

    assert servers("edge1") == ["10.1.0.11:8441", "10.1.0.12:8442", "10.1.0.11:8443", "10.1.0.12:8444"]
    sockets = [f"unix:/run/cluster-t-nginx/relay.{name}.sock" for name in ("app1", "app3")]
    assert servers("web1") == [sockets[0], "10.1.0.12:8442", sockets[1], "10.1.0.12:8444"]


def test_what_the_stack_file_says_of_failures_stays() -> None:
    def line(**server: Any) -> str:
        values = {**SEVERAL, "upstream": {"servers": [{"name": "app1", **server}, {"name": "app2"}]}}
        (text,) = nginx_config(build_topology(parse_config(values)), HostPaths("t"), "edge1", (1, 26, 3)).files.values()
        return next(line for line in text.splitlines() if ":8441" in line).strip()

    assert line() == "server 10.1.0.11:8441 max_fails=2 fail_timeout=2s;"
    assert line(max_fails=5, fail_timeout="20s") == "server 10.1.0.11:8441 max_fails=5 fail_timeout=20s;"
    assert line(max_fails=0) == "server 10.1.0.11:8441 max_fails=0;"


def test_a_relay_has_its_own_instances_alone_at_the_internal_address() -> None:
    topology = build_topology(parse_config(SEVERAL))
    files = relay_files(topology, HostPaths("t"), "web2", (1, 26, 3))
    assert sorted(path.rpartition("/")[2] for path in files) == ["8442.conf", "8444.conf", "zz-cluster-t.relay"]
    listens = [line.strip() for text in files.values() for line in text.splitlines() if " listen " in line]
    assert "listen 10.1.0.12:8442 ssl;" in listens
    assert not [line for line in listens if line.startswith("listen 8") or "*" in line]
    assert relay_files(topology, HostPaths("t"), "edge1", (1, 26, 3)) == {}


# --- status


def a_stack(values: dict[str, Any], host: str, release: str = "r1", **changes: Any) -> dict[str, Any]:
    """Return what a host says of a stack of which all is well."""
    topology = build_topology(parse_config(values))
    placement, places = seen(values).placement, HostPaths("t")
    names = placement.on(host, topology.names)
    beside = [one for one in topology.beside if placement.host_of[one.name] == host]
    files = relay_files(topology, places, host, (1, 26, 3))
    serving = {"state": "serving", "since": 1.0}
    digest = nginx_config(topology, places, host, (1, 26, 3)).digest if host in placement.nginx else None
    one = {"holder": release, "turn": 1, "given": release, "answers": True, "said": {release: serving}}
    active = {"state": "active", "pid": 7, "enabled": True}
    units = {places.unit_of(name, release): active for name in names}
    units |= {places.unit_of_service(each.name, each.generation(release)): active for each in beside}
    hashed = Looked(host=host, places=places, machine=MACHINE, stack=None)
    assert not hashed.has_relay({"x": "y"}, alone=True)
    return {
        "nginx": digest,
        "nginx_runs": True,
        "nginx_turn": 1,
        "static": release,
        "static_turn": 1,
        "releases": [release],
        "instances": dict.fromkeys(names, one),
        "units": units,
        "services": {each.name: {each.generation(release): {"state": "running", "well": True}} for each in beside},
        "relay": {"files": looking_digests(files), "runs": True},
        "database": {"digest": "d", "active": True, "safe": True},
        "maintenance": {"kept": None, "told": None},
        **changes,
    }


def looking_digests(files: dict[str, str]) -> dict[str, str]:
    return {path: hashlib.sha256(text.encode()).hexdigest() for path, text in files.items()}


def observed(away: dict[str, str] | None = None, **changes: dict[str, Any]) -> Observed:
    stacks = {one["name"]: a_stack(SEVERAL, one["name"], **changes.get(one["name"], {})) for one in HOSTS}
    found = seen(**{name: stack for name, stack in stacks.items() if name not in (away or {})})
    found = replace(found, away=away or {})
    return Observed(seen=found, topology=found.topology, places=HostPaths("t"), certificate=None)


def test_all_is_well() -> None:
    status = observed().status(None)
    assert status.troubles == []
    assert [one.service for one in status.services if not one.ok] == []
    assert (status.ok, status.release) == (True, "r1")
    assert {one.service for one in status.services} == {
        *("mail1", "mail2", "digest", "postgres", "nginx@web1", "nginx@web2", "nginx@edge1"),
    }


@pytest.mark.parametrize(
    ("host", "change", "service"),
    [
        ("web2", {"services": {}}, "mail2"),
        ("db1", {"database": {"digest": "d", "active": False, "safe": True}}, "postgres"),
        ("db1", {"database": {"digest": "d", "active": True, "safe": False}}, "postgres"),
        ("web2", {"relay": {"files": {}, "runs": True}}, "nginx@web2"),
        ("edge1", {"nginx": "another"}, "nginx@edge1"),
        ("edge1", {"nginx_runs": False}, "nginx@edge1"),
    ],
)
def test_what_is_wrong_on_one_host_is_wrong(host: str, change: dict[str, Any], service: str) -> None:
    status = observed(**{host: change}).status(None)
    assert not status.ok
    assert [one.service for one in status.services if not one.ok] == [service]


def test_a_host_that_is_away_is_said_and_the_others_are_shown() -> None:
    status = observed(away={"web2": "web2: does not answer within 18 s"}).status(None)
    assert not status.ok
    assert status.troubles == ["web2: does not answer within 18 s"]
    assert status.release == "r1"
    assert {one.instance: one.ok for one in status.instances} == {
        "app1": True,
        "app2": False,
        "app3": True,
        "app4": False,
    }


def test_visitors_of_two_hosts_who_are_told_different_things_are_a_trouble() -> None:
    kept = json.dumps({"message": "back soon", "retry_after": 60, "allow": []})
    found = observed(edge1={"maintenance": {"kept": kept, "told": None}})
    assert found.is_divided
    assert found.maintenance is not None
    assert not observed().is_divided


# --- looking


def answers(monkeypatch: pytest.MonkeyPatch, **told: str | HostError) -> Ssh:
    def run_there(_self: Ssh, host: str, *_words: str, **_more: Any) -> str:
        found = told[host]
        if isinstance(found, HostError):
            raise found
        return found

    monkeypatch.setattr(Ssh, "run", run_there)
    return Ssh.__new__(Ssh)


def test_all_problems_of_all_hosts_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {**SEVERAL, "hosts": HOSTS[:3]}
    fine = json.dumps({"machine": MACHINE, "stack": None})
    old = json.dumps({"machine": {**MACHINE, "nginx": [1, 18, 0]}, "stack": None})
    answers(monkeypatch, web1=fine, web2=HostError("web2: does not answer within 18 s"), edge1=old)
    config = parse_config(values)
    ssh = Ssh(tmp_path, tmp_path / "ssh", "t", tuple(config.hosts))
    with pytest.raises(HostError) as told:
        looking.look(ssh, build_topology(config))
    assert str(told.value).splitlines() == [
        "web2: does not answer within 18 s",
        "hosts: edge1: its nginx is 1.18.0: 1.22.0 is needed",
    ]
    around = looking.look_around(ssh, build_topology(config))
    assert set(around.away) == {"web2", "edge1"}
    assert around.each["web1"].machine["nginx"] == MACHINE["nginx"]


def test_clocks_that_differ_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    fine = json.dumps({"machine": {**MACHINE, "clock": now}, "stack": None})
    late = json.dumps({"machine": {**MACHINE, "clock": now - 300}, "stack": None})
    answers(monkeypatch, web1=fine, web2=late)
    config = parse_config({**SEVERAL, "hosts": HOSTS[:2]})
    with pytest.raises(HostError, match=r"^hosts: the clocks of web1 and web2 differ by (299|30\d) s"):
        looking.look(Ssh(tmp_path, tmp_path / "ssh", "t", tuple(config.hosts)), build_topology(config))


# --- hosts that are not named any more


def test_the_way_to_a_host_that_is_not_named_any_more_is_kept_until_it_is_forgotten(tmp_path: Path) -> None:
    def ssh(*hosts: dict[str, Any]) -> Ssh:
        made = Ssh(tmp_path, tmp_path / "ssh", "t", tuple(parse_config({**SEVERAL, "hosts": [*hosts]}).hosts))
        made.write()
        return made

    ssh(*HOSTS)
    left = ssh(*HOSTS[:2])
    assert [host.name for host in left.former()] == ["edge1", "db1"]
    config = (tmp_path / "ssh" / "config").read_text()
    assert "Host edge1\n  HostName 203.0.113.21\n" in config
    assert f"edge1 {KEY}\n" in (tmp_path / "ssh" / "known_hosts").read_text()
    left.forget("edge1")
    assert [host.name for host in left.former()] == ["db1"]
    assert "Host edge1" not in (tmp_path / "ssh" / "config").read_text()
    (tmp_path / "ssh" / "hosts.json").write_text("[]")
    assert ssh(*HOSTS).former() == ()


# --- the database


def test_postgres_takes_the_verifier_of_its_password() -> None:
    """An example of RFC 7677's, with what PostgreSQL keeps of it (RFC 5803)."""
    salt = hashlib.sha256(b"salt").hexdigest()
    told = verifier("pencil", salt)
    assert told == verifier("pencil", salt)
    assert told != verifier("pencils", salt)
    scheme, salted, keys = told.split("$")
    assert (scheme, salted.partition(":")[0]) == ("SCRAM-SHA-256", "4096")
    assert [len(one) for one in keys.split(":")] == [44, 44]


def test_the_database_is_known_by_its_host_wherever_that_is() -> None:
    def address(**changes: Any) -> str:
        return url(build_topology(parse_config({**SEVERAL, **changes})), HostPaths("t"), HOSTS_KEY)

    assert "@db1:5432/cluster_t?hostaddr=10.1.0.31&sslmode=verify-full&" in address()
    moved = [*HOSTS[:3], {**HOSTS[3], "internal": "10.9.0.31"}]
    assert "@db1:5432/cluster_t?hostaddr=10.9.0.31&" in address(hosts=moved)
    alone = [{**HOSTS[0], "roles": ["app", "nginx", "database"]}]
    assert "@web1:5432/cluster_t?hostaddr=127.0.0.1&" in address(hosts=alone)


def test_a_database_to_which_a_host_gets_that_left_is_not_well_and_is_shut_once_up_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: dict[str, Any] = {"database": {"digest": "d", "active": True, "safe": True, "left": ["10.1.0.99"]}}
    found = observed(db1=left)
    status = found.status(None)
    (database,) = [one for one in status.services if one.service == "postgres"]
    assert (status.ok, database.ok) == (False, False)
    assert database.message == "10.1.0.99 still gets to its port: `cluster up` ends that"
    run = MagicMock()
    monkeypatch.setattr(Ssh, "run", run)
    ssh = Ssh(tmp_path, tmp_path / "ssh", "t", tuple(found.topology.config.hosts))
    shut_out(ssh, observed().seen)
    shut_out(ssh, observed({"db1": "it does not answer"}, db1=left).seen)
    run.assert_not_called()
    shut_out(ssh, found.seen)
    run.assert_called_once_with("db1", "shut-out")


def test_a_command_runs_as_instances_do_on_the_host_now_whatever_the_stack_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says of a filesystem, or of who may what, may never have been brought up."""
    found = observed()
    unit = "[Service]\n# sandbox\nUser=cluster-t\nBindPaths=/mnt/old/cluster-t/media:/x\n# end\n"
    run = MagicMock(return_value=unit)
    monkeypatch.setattr(Ssh, "run", run)
    ssh = Ssh(tmp_path, tmp_path / "ssh", "t", tuple(found.topology.config.hosts))
    monkeypatch.setattr(remote_platform.RemotePlatform, "ssh", ssh)
    monkeypatch.setattr(remote_platform.RemotePlatform, "observe", lambda _self: found)
    platform = remote_platform.RemotePlatform(Stack(tmp_path, "t", found.topology.config), MagicMock())
    command = " ".join(platform.program(["manage"], terminal=False).command)
    assert "BindPaths=/mnt/old/cluster-t/media:/x" in command
    assert "ProtectSystem" not in command
    run.assert_called_once_with("web1", "unit")


def test_what_an_up_has_started_that_fails_is_tidied_on_each_host_with_instances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = MagicMock(side_effect=[HostError("web1: away"), ""])
    monkeypatch.setattr(Ssh, "run", run)
    config = parse_config(SEVERAL)
    ssh = Ssh(tmp_path, tmp_path / "ssh", "t", tuple(config.hosts))
    assert "web1: away" in tidied(ssh, place(build_topology(config)))
    assert [one.args for one in run.call_args_list] == [("web1", "tidy", "stop"), ("web2", "tidy", "stop")]
    run = MagicMock(return_value="")
    monkeypatch.setattr(Ssh, "run", run)
    config = parse_config({**SEVERAL, "hosts": [{**HOSTS[0], "roles": ["app", "nginx", "database"]}]})
    assert tidied(ssh, place(build_topology(config))) == ""
    run.assert_called_once_with("web1", "tidy")


@pytest.mark.parametrize(
    ("create", "host"),
    [
        ("exec sh .cluster/t/ssh/on web2 serve t 'serve=1'", "web2"),
        ("sh .cluster/t/ssh/on web1 static-of t r | sh .cluster/t/ssh/on web2 receive-static t", "web2"),
        ("exec sh .cluster/t/ssh/on eu-web2 serve t", "eu-web2"),
        ("echo web2", ""),
    ],
)
def test_whose_step_it_is_is_told_by_what_it_runs(create: str, host: str) -> None:
    """Not by its name alone: that of one host may be the end of another's."""
    assert host_of({"create": create}) == host


class Kept(Pulumi):
    """An engine whose state is here."""

    def __init__(self, deployment: dict[str, Any]) -> None:
        self.stack = "t"
        self.kept: dict[str, Any] = {"version": 3, "deployment": deployment}

    def _explained(self, *arguments: str, stdin: str | None = None) -> str:
        if arguments[:2] == ("stack", "export"):
            return json.dumps(self.kept)
        assert arguments[:2] == ("stack", "import")
        self.kept = json.loads(stdin or "")
        return ""


def test_a_host_that_is_forgotten_leaves_nothing_that_waits_for_it() -> None:
    def step(host: str, what: str, *after: str) -> dict[str, Any]:
        urn = f"urn:pulumi:t::django-cluster::command:local:Command::app-{host}-{what}"
        waits_for = [f"urn:pulumi:t::django-cluster::command:local:Command::app-{one}" for one in after]
        told = {"create": f"exec sh .cluster/t/ssh/on {host} {what} t"}
        return {"urn": urn, "inputs": told, "dependencies": waits_for, "propertyDependencies": {"stdin": waits_for}}

    steps = [step("web1", "host"), step("web2", "host"), step("web1", "retire", "web1-host", "web2-host")]
    engine = Kept({"resources": steps, "pending_operations": [{"resource": steps[1]}, {"resource": steps[0]}]})
    assert engine.forget(lambda one: host_of(one["inputs"]) == "web2") == 1
    left = engine.kept["deployment"]
    assert [one["urn"].rpartition("::")[2] for one in left["resources"]] == ["app-web1-host", "app-web1-retire"]
    assert "web2" not in json.dumps(left)
    assert len(left["pending_operations"]) == 1
    before = json.dumps(engine.kept)
    assert engine.forget(lambda one: host_of(one["inputs"]) == "web9") == 0
    assert json.dumps(engine.kept) == before


@pytest.mark.parametrize(
    ("said", "away"),
    [
        ("exit 255 ssh: connect to host 10.0.0.9 port 22: No route to host", True),
        ("exit 255 Connection timed out during banner exchange", True),
        ("exit 255 root@10.0.0.9: Permission denied (publickey).", False),
        ("exit 255 Host key verification failed.", False),
        ("exit 1 sudo: a password is required", False),
    ],
)
def test_who_answers_is_not_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, away: bool) -> None:
    _exit, status, words = said.split(" ", 2)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "ssh").write_text(f"#!/bin/sh\necho '{words}' >&2\nexit {status}\n")
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    ssh = Ssh(tmp_path, tmp_path / "ssh", "t", tuple(parse_config(SEVERAL).hosts))
    ssh.write()
    with pytest.raises(HostError) as told:
        ssh.run("web1", "look")
    assert isinstance(told.value, AwayError) == away


@pytest.mark.parametrize(
    ("known", "error", "words"),
    [
        (True, None, "web9 answers: `cluster up"),
        (True, HostError("web9: sudo asks for a password"), "It answers, and can't be looked at: `cluster forget-host"),
        (False, None, "hosts: where web9 was is not known here"),
        (True, AwayError("web9: does not answer within 18 s"), ""),
    ],
)
def test_only_a_host_that_does_not_answer_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool, error: HostError | None, words: str
) -> None:
    def look(*_words: Any, **_more: Any) -> str:
        if error is not None:
            raise error
        return "{}"

    monkeypatch.setattr(Ssh, "run", look)
    web9 = parse_config({**SEVERAL, "hosts": [a_host(99, "web9", "app")]}).hosts[0]
    monkeypatch.setattr(Ssh, "former", lambda _self: (web9,) if known else ())
    write_stack(tmp_path, SEVERAL)
    stack = Stack(tmp_path, "t", parse_config(SEVERAL))
    platform = remote_platform.RemotePlatform(stack, Terminal())
    if words:
        with pytest.raises(CommandError, match=re.escape(words)):
            platform._check_gone("web9")
    else:
        platform._check_gone("web9")
