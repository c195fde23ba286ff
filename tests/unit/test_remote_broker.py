"""A broker that several hosts ask: how it is started and told, who gets in while hosts change, and what it is asked."""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509

from cluster.config import parse_config
from cluster.release import variables
from cluster.services import Kind, refused_without
from cluster.tls.hosts import authority_of, certificate_of_broker
from cluster.tls.hosts_keys import HostsKeys
from cluster.topology import build_topology
from platforms.pulumi.preview import Preview
from platforms.remote import broker as asked
from platforms.remote.believed import disbelieved
from platforms.remote.host import broker, broker_client, credentials, daemons, guarding, look, releases
from platforms.remote.host.paths import HostPaths
from platforms.remote.host.running import HostError
from platforms.remote.made import made_secrets, needs_hosts_key
from platforms.remote.reached import checked_broker, reaching
from platforms.remote.told import Told
from platforms.remote.units import daemon_unit
from tests.unit import test_remote_hosts as hosts
from tests.unit.pulumi_mocks import COMMAND, SECRETS, is_secret
from tests.unit.remote_machine import Machine, set_up
from tests.unit.remote_stack import command, there, values
from tests.unit.remote_stack import hosts as stack_hosts
from tests.unit.test_remote import HOSTS_KEY, VALUES

if TYPE_CHECKING:
    from pathlib import Path

OTHER = "07" * 32

HOSTS = [
    hosts.a_host(11, "web1", "app", "nginx"),
    hosts.a_host(12, "web2", "app"),
    hosts.a_host(21, "edge1", "nginx"),
    hosts.a_host(41, "jobs1", "broker"),
]

NAMES = [one["name"] for one in HOSTS]

SEVERAL: dict[str, Any] = {
    **VALUES,
    "hosts": HOSTS,
    "upstream": {"servers": 2},
    "database": {"engine": "external"},
    "workers": [{"name": "mail", "command": "celery -A shop worker", "count": 2}],
    "broker": {"engine": "valkey", "memory": "64m"},
}

PLACES = HostPaths("shop")


def topology_of(**changes: Any) -> Any:
    return build_topology(parse_config({**SEVERAL, **changes}))


def wanted(keys: HostsKeys | None = None, **changes: Any) -> dict[str, Any]:
    """Return what the host is told, as it reads it."""
    told = asked.wanted(topology_of(**changes), PLACES, keys or HostsKeys(key=HOSTS_KEY))
    found: dict[str, Any] = json.loads(json.dumps(told))
    return found


def password(key: str = HOSTS_KEY) -> str:
    return str(urlsplit(asked.url(topology_of(), PLACES, key)).password)


# --- what is told


def test_the_project_gets_a_url_by_which_the_certificate_is_checked_and_no_socket() -> None:
    topology = topology_of()
    made = made_secrets(topology, PLACES, HOSTS_KEY)
    url = urlsplit(made["broker_url"])
    assert (url.scheme, url.hostname, url.port, url.path) == ("rediss", "10.1.0.41", 6380, "/0")
    assert parse_qs(url.query) == {
        "ssl_cert_reqs": ["required"],
        "ssl_ca_certs": [str(PLACES.authority)],
        "ssl_check_hostname": ["true"],
    }
    assert variables(topology, {}, "/x/authority.pem") == {"CLUSTER_BROKER_AUTHORITY": "/x/authority.pem"}
    assert needs_hosts_key(topology)
    assert made_secrets(topology_of(broker=None, hosts=HOSTS[:3]), PLACES, HOSTS_KEY) == {}


def test_a_broker_on_the_one_host_with_instances_is_asked_there() -> None:
    one = [hosts.a_host(11, "web1", "app", "nginx", "broker")]
    assert urlsplit(asked.url(topology_of(hosts=one), PLACES, HOSTS_KEY)).hostname == "127.0.0.1"
    assert wanted(hosts=one)["allowed"] == []


def test_without_the_role_it_has_a_socket_alone() -> None:
    one = build_topology(parse_config({**SEVERAL, "hosts": HOSTS[:1]}))
    (service,) = [found for found in one.daemons if found.name == "broker"]
    unit = daemon_unit(service, PLACES)
    assert "--tls" not in unit
    assert "LoadCredential" not in unit
    assert {*variables(one, {})} == {"CLUSTER_BROKER_URL", "CLUSTER_BROKER_SOCKET"}


def test_it_listens_by_tls_alone_and_has_its_key_from_systemd() -> None:
    unit = wanted()["unit"]
    given = "/run/credentials/cluster-shop.broker.service/cluster_"
    for option in (
        *("--port 0", "--tls-port 6380", "--bind 127.0.0.1 10.1.0.41", "--appendonly yes", "--appendfsync always"),
        *(f"--tls-key-file {given}certificate.key", f"--tls-cert-file {given}certificate.pem"),
        f"--aclfile {given}users.acl",
    ):
        assert f" {option}" in unit, option
    assert "LoadCredential=cluster:/etc/cluster/shop/broker" in unit
    assert password() not in unit


def test_its_certificate_names_where_it_is_asked() -> None:
    shown = certificate_of_broker(HOSTS_KEY, "shop", "jobs1", "127.0.0.1", "10.1.0.41").certificate
    found = x509.load_pem_x509_certificate(shown.encode()).extensions
    names = found.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "10.1.0.41"]
    assert names.get_values_for_type(x509.DNSName) == ["broker", "jobs1"]


def test_both_passwords_are_good_while_one_is_changed_for_the_other() -> None:
    users = wanted(HostsKeys(key=OTHER, fallbacks=(HOSTS_KEY,)))["given"]["users.acl"]
    hashed = [hashlib.sha256(password(key).encode()).hexdigest() for key in (OTHER, HOSTS_KEY)]
    assert users == f"user default on #{hashed[0]} #{hashed[1]} ~* &* +@all -@admin\n"
    assert password() not in users


def test_its_digest_tells_all_but_secrets() -> None:
    one, other = wanted(), wanted(HostsKeys(key=OTHER))
    assert broker.digest(one) != broker.digest(other)
    assert broker.digest({**one, "ping": [], "given": {**one["given"], "certificate.key": ""}}) == broker.digest(one)


def test_the_program_starts_it_before_the_release_and_shows_no_secret(tmp_path: Path) -> None:
    changed = {key: SEVERAL[key] for key in ("hosts", "upstream", "database", "workers", "broker")}
    secrets = {**SECRETS, "hosts_key": HOSTS_KEY, "database_url": "postgres://shop:x@10.1.0.9/shop"}
    found = hosts.run(tmp_path, secrets=secrets, **changed)
    made = found.named("jobs1-broker", COMMAND)
    assert is_secret(made.inputs["stdin"])
    hosts.waits(found, "jobs1-broker", "jobs1-host")
    hosts.waits(found, "web1-prepare", "jobs1-broker")
    plain = json.dumps([{k: v for k, v in one.inputs.items() if not is_secret(v)} for one in found.registrations])
    assert password() not in plain
    assert "10.1.0.41" not in plain.replace(json.dumps(SEVERAL["hosts"]), "")


@pytest.mark.parametrize(("was", "is_now"), [(HOSTS, HOSTS[:1]), (HOSTS[:1], HOSTS)])
def test_a_release_that_asks_it_otherwise_does_not_serve_again(was: list[Any], is_now: list[Any]) -> None:
    before, after = ({**SEVERAL, "hosts": one} for one in (was, is_now))
    runtime = {"environment": variables(build_topology(parse_config(before)), {})}
    assert "release r1 asks the broker by" in str(refused_without(parse_config(after), "r1", runtime))
    assert refused_without(parse_config(before), "r1", runtime) is None
    assert "puts its jobs" in str(
        refused_without(parse_config({**before, "hosts": HOSTS[:3], "broker": None}), "r1", runtime)
    )


# --- on the host


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A host that has the program and nft, whose broker answers."""
    made = Machine(tmp_path, monkeypatch)
    set_up(made)
    programs = tmp_path / "programs"
    for name, said in (("nft", "echo reject"), ("valkey-server", "")):
        (programs / name).write_text(f"#!/bin/sh\n{said}\n")
        (programs / name).chmod(0o755)
    (programs / "systemctl").write_text(f'#!/bin/sh\necho systemctl "$@" >>{made.said}\necho active\n')
    monkeypatch.setattr(daemons, "_answered", lambda _one: True)
    monkeypatch.setattr(guarding, "check_port", lambda *_anything: None)
    return made


def restarts(machine: Machine) -> int:
    return sum("restart cluster-shop.broker.service" in line for line in machine.asked())


def admitted(machine: Machine) -> str:
    rules = machine.places.broker_guard.rules.read_text()
    return next((line.strip() for line in rules.splitlines() if "ip saddr" in line), "")


def test_it_is_started_once_and_again_where_its_key_or_password_is_another_one(machine: Machine) -> None:
    for _again in range(2):
        broker.make(machine.places, wanted())
    assert restarts(machine) == 1
    broker.make(machine.places, wanted(HostsKeys(key=HOSTS_KEY, fallbacks=(OTHER,))))
    assert restarts(machine) == 2
    given = machine.places.broker_given
    assert {path.name for path in given.iterdir()} == {"certificate.pem", "certificate.key", "users.acl"}
    assert {path.stat().st_mode & 0o777 for path in given.iterdir()} == {credentials.FILE}
    assert given.stat().st_mode & 0o777 == credentials.DIRECTORY


def test_one_that_was_killed_before_it_was_started_again_is(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.make(machine.places, wanted())
    with monkeypatch.context() as killed:
        killed.setattr(daemons, "start", lambda *_anything: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            broker.make(machine.places, wanted(HostsKeys(key=OTHER)))
    assert restarts(machine) == 1
    broker.make(machine.places, wanted(HostsKeys(key=OTHER)))
    assert restarts(machine) == 2


def test_a_host_that_is_to_have_no_instances_asks_until_it_has_none(machine: Machine) -> None:
    broker.make(machine.places, wanted())
    assert admitted(machine) == "ip saddr { 10.1.0.11, 10.1.0.12 } accept"
    fewer = wanted(hosts=[HOSTS[0], HOSTS[2], HOSTS[3]])
    for _again in range(2):
        broker.make(machine.places, fewer)
        assert admitted(machine) == "ip saddr { 10.1.0.11, 10.1.0.12 } accept"
        assert (broker.found(machine.places) or {})["left"] == ["10.1.0.12"]
    broker.shut_out(machine.places)
    assert admitted(machine) == "ip saddr { 10.1.0.11 } accept"
    found = broker.found(machine.places)
    assert found is not None
    assert (found["left"], found["digest"], found["safe"]) == ([], broker.digest(fewer), True)


def test_a_host_says_whether_its_instances_ask_for_one(machine: Machine) -> None:
    credentials.write(machine.places, "r1", {"secret_key": "x"})
    assert not broker.is_asked(machine.places)
    credentials.write(machine.places, "r2", {"secret_key": "x", "broker_url": "rediss://x"})
    assert broker.is_asked(machine.places)


def test_a_host_without_instances_keeps_what_its_broker_is_given(machine: Machine) -> None:
    broker.make(machine.places, wanted())
    releases.retire(machine.places, "r1", [], [])
    assert (broker.found(machine.places) or {})["whole"]
    (machine.places.broker_given / "users.acl").write_text("user default on nopass ~* +@all\n")
    assert not (broker.found(machine.places) or {})["whole"]
    broker.make(machine.places, wanted())
    assert (broker.found(machine.places) or {})["whole"]
    (machine.places.broker_given / "certificate.key").unlink()
    assert not (broker.found(machine.places) or {})["whole"]


def test_nothing_of_it_is_left_but_what_it_keeps(machine: Machine) -> None:
    broker.make(machine.places, wanted())
    kept = machine.places.kept_by("broker") / "appendonly.aof"
    kept.parent.mkdir()
    kept.write_text("jobs")
    daemons.forget(machine.places, set())
    broker.forget(machine.places)
    assert kept.exists()
    credentials.remove(machine.places)
    assert not (machine.places.root / "etc/cluster").exists()
    assert broker.found(machine.places) is None
    places = machine.places
    assert not any(one.exists() for one in (places.broker_given, places.broker_guard.rules, places.broker_guard.unit))
    assert machine.places.daemons() == []


def test_what_guards_it_is_none_of_the_programs_that_it_guards(machine: Machine) -> None:
    broker.make(machine.places, wanted())
    assert [path.name for path in machine.places.daemons()] == ["cluster-shop.broker.service"]
    assert machine.places.broker_guard.table != machine.places.database_guard.table


def test_a_port_that_another_has_is_refused(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HostError, match=f"port {port} is taken: say another one in broker.port"):
            guarding.check_port(port, "broker.port")


# --- whoever asks


class Answering(threading.Thread):
    """A server on a port that answers each line by what it is told, by TLS or without."""

    def __init__(self, answers: dict[str, str], context: ssl.SSLContext | None) -> None:
        super().__init__(daemon=True)
        self.answers, self.context = answers, context
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]

    def run(self) -> None:
        while True:
            try:
                connection, _who = self.server.accept()
            except OSError:
                return
            with connection:
                try:
                    with self.context.wrap_socket(connection, server_side=True) if self.context else connection as one:
                        asked_for = one.recv(1000).decode(errors="replace").splitlines()
                        one.sendall("".join(f"{self.answers.get(line, '-ERR')}\r\n" for line in asked_for).encode())
                except OSError:
                    continue


@pytest.fixture
def release(tmp_path: Path) -> tuple[HostPaths, ssl.SSLContext]:
    """A host that knows the stack's broker, and what that shows."""
    shown = certificate_of_broker(HOSTS_KEY, "shop", "jobs1", "127.0.0.1")
    for name, text in (("pem", shown.certificate), ("key", shown.key), ("authority", shown.authority)):
        (tmp_path / name).write_text(text)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem", tmp_path / "key")
    return HostPaths("shop", tmp_path), context


def problems(
    places: HostPaths, context: ssl.SSLContext | None, answers: dict[str, str], host: str = "127.0.0.1"
) -> list[str]:
    server = Answering(answers, context)
    server.start()
    directory = places.credentials / "r1"
    directory.mkdir(parents=True, exist_ok=True)
    url = f"rediss://:secret@{host}:{server.port}/0?ssl_ca_certs={places.root}/authority"
    (directory / "broker_url").write_text(url)
    try:
        return broker_client.problems(places, "r1")
    finally:
        server.server.close()


GOOD = {"AUTH secret": "+OK", "PING": "+PONG"}


def test_a_broker_that_answers_anybody_or_without_tls_is_told(release: tuple[HostPaths, ssl.SSLContext]) -> None:
    places, context = release
    assert problems(places, context, GOOD) == ["it asks for no password"]
    assert problems(places, context, {"PING": "-NOAUTH Authentication required."}) == [
        "it does not take the instances' password"
    ]
    (why,) = problems(places, None, GOOD)
    assert why.startswith("it does not answer: ")


def test_a_broker_of_somebody_else_s_is_not_believed(release: tuple[HostPaths, ssl.SSLContext]) -> None:
    places, context = release
    other = certificate_of_broker(OTHER, "shop", "jobs1", "127.0.0.1")
    (places.root / "authority").write_text(other.authority)
    (why,) = problems(places, context, GOOD)
    assert "certificate verify failed" in why
    with pytest.raises(HostError, match="broker_url: No such file"):
        broker_client.problems(places, "r2")


def test_verify_asks_every_host_who_gets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for = []

    def ask(names: list[str], what: str, *words: str) -> dict[str, str]:
        asked_for.append((sorted(names), what, words))
        said = {"reaches": "yes" if names == ["edge1"] else "no", "ask-broker": json.dumps([])}
        return dict.fromkeys(names, said[what])

    monkeypatch.setattr("platforms.remote.reached.reaches", lambda *_where: True)
    assert reaching(topology_of(), ask, set()) == [
        "edge1 gets to the broker at 10.1.0.41:6380",
        "this machine gets to the broker at 10.1.0.41:6380",
    ]
    assert asked_for == [(["edge1"], "reaches", ("10.1.0.41", "6380"))]
    checks = checked_broker(topology_of(), ask, ["web1", "web2"], "r1")
    assert [(one.name, one.ok) for one in checks] == [
        ("instances on web1 get to the broker", True),
        ("instances on web2 get to the broker", True),
    ]
    bad = checked_broker(topology_of(), lambda names, *_: dict.fromkeys(names, '["no"]'), ["web1"], "r1")
    assert [(one.ok, one.found) for one in bad] == [(False, "no")]
    assert checked_broker(topology_of(broker=None, hosts=HOSTS[:3]), ask, ["web1"], "r1") == []


def test_its_port_is_no_instance_s(machine: Machine) -> None:
    """It runs as their user, and any other port of that user's is told."""
    with closing(socket.create_server(("127.0.0.1", 0))) as one, closing(socket.create_server(("127.0.0.1", 0))) as two:
        ports = [server.getsockname()[1] for server in (one, two)]
        assert set(ports) <= {*look.listening(machine.places, broker.port(machine.places))}
        broker.make(machine.places, {**wanted(), "port": ports[0]})
        found = look.listening(machine.places, broker.port(machine.places))
        assert ports[0] not in found
        assert ports[1] in found


@pytest.mark.parametrize(
    ("keys", "refused"),
    [
        (HostsKeys(key=HOSTS_KEY), False),
        (HostsKeys(key=HOSTS_KEY, fallbacks=(OTHER,)), False),
        (HostsKeys(key=OTHER, fallbacks=(HOSTS_KEY,)), True),
        (HostsKeys(key=OTHER), True),
    ],
    ids=["none", "the first step", "the second, without the first", "in one step"],
)
def test_a_broker_is_not_told_of_a_key_that_those_who_ask_do_not_know(keys: HostsKeys, refused: bool) -> None:
    topology = topology_of()
    authority = hashlib.sha256(authority_of(HOSTS_KEY, "t").encode()).hexdigest()
    shown = asked.certificate(HOSTS_KEY, "t", topology.config.host("jobs1")).certificate
    found = hosts.seen(
        SEVERAL,
        web1={"between": {"shown": "", "believed": [], "instances": [authority]}},
        jobs1={"broker": {"shown": hashlib.sha256(shown.encode()).hexdigest()}},
    )
    assert bool(disbelieved(topology, found, keys)) == refused


@pytest.mark.parametrize(
    ("changed", "again"),
    [("environment.GIVEN", ["broker"]), ("environment.DIGEST", [])],
    ids=["another key or password", "other hosts ask it"],
)
def test_a_plan_says_whether_it_is_started_again(changed: str, again: list[str]) -> None:
    topology = topology_of()
    (service,) = topology.of_kind(Kind.BROKER)
    digest = hashlib.sha256(daemon_unit(service, PLACES).encode()).hexdigest()
    daemons_there = {"cluster-shop.broker.service": {"state": "active", "unit": digest, "started": digest}}
    stack = {**there(values(), instances={}), "daemons": daemons_there, "units": {}}
    found = Preview()
    found.take(command("update", "sessions", "jobs1-broker", {}, {}, changed, "environment.TURN"))
    told = Told(
        found,
        topology,
        stack_hosts({name: stack if name == "jobs1" else None for name in NAMES}, SEVERAL),
        None,
        serves=True,
    )
    assert told.daemons("replace", among=[Kind.BROKER]) == again
