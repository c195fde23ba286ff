"""An address that hosts hold in turn: what each is told, what it writes, and what is said of it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from cluster.config import StackFileError, parse_config
from cluster.plan.costs import Cost
from cluster.plan.held_address import may_move, steps_of_address
from cluster.topology import build_topology
from platforms.remote import program as remote_program
from platforms.remote.address import router_of, shared
from platforms.remote.drift import drift
from platforms.remote.host import address, site
from platforms.remote.host.paths import HostPaths
from platforms.remote.host.running import HostError
from platforms.remote.looked import Looked, Seen
from platforms.remote.observe import Observed
from platforms.remote.told import Told
from tests.unit import remote_stack
from tests.unit.pulumi_mocks import COMMAND, SECRETS, program, record, write_stack
from tests.unit.remote_machine import Machine
from tests.unit.test_remote import HOSTS_KEY, MACHINE, VALUES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from platforms.remote.told import Hosted
    from tests.unit.pulumi_mocks import Record

ADDRESS = "203.0.113.10"

#: Where the stack's database is.
DATABASE = "postgres://shop:not-a-password@192.0.2.31/shop"

WANTED: dict[str, Any] = {
    "addresses": [ADDRESS],
    "own": "10.1.0.11",
    "peers": ["10.1.0.12", "10.1.0.13"],
    "priority": 254,
    "router": 77,
    "interface": None,
    "unit": "unit\n",
    "answers": "#!/bin/sh\n",
}

#: What `ip` says, by its words after `-json`.
ROUTES: dict[str, Any] = {
    f"-4 route show match {ADDRESS}": [
        {"dst": "default", "gateway": "203.0.113.1", "dev": "eth0"},
        {"dst": "203.0.113.0/24", "dev": "eth0", "scope": "link"},
    ],
    "-6 route show match 2001:db8::10": [{"dst": "2001:db8::/64", "dev": "eth0"}],
    "address show to 10.1.0.11": [{"ifname": "eth1"}],
    "link show dev eth7": [{"ifname": "eth7"}],
}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A host with a keepalived that accepts what has no word `refused`."""
    made = Machine(tmp_path, monkeypatch)
    programs = tmp_path / "programs"
    (programs / "keepalived").write_text(
        "#!/bin/sh\n"
        f'echo keepalived "$@" >>{made.said}\nif grep -q refused "${{2#*=}}"; then echo why not >&2; exit 5; fi\n'
    )
    says(made, ROUTES)
    (programs / "systemctl").write_text(f'#!/bin/sh\necho systemctl "$@" >>{made.said}\necho active\n')
    for one in programs.iterdir():
        one.chmod(0o755)
    monkeypatch.setattr(address, "SETTLED_WITHIN", 0.0)
    monkeypatch.setattr(address, "READ_WITHIN", 0.0)
    return made


def says(machine: Machine, routes: Mapping[str, Any]) -> None:
    """Let `ip` say this, and nothing else."""
    (machine.places.root / "routes.json").write_text(json.dumps(dict(routes)))
    script = machine.places.root / "programs" / "ip"
    script.write_text(
        f"#!{sys.executable} -ISB\n"
        "import json, sys\n"
        f"open({str(machine.said)!r}, 'a').write('ip ' + ' '.join(sys.argv[1:]) + '\\n')\n"
        f"said = json.load(open({str(machine.places.root / 'routes.json')!r}))\n"
        "print(json.dumps(said.get(' '.join(sys.argv[2:]), [])))\n"
    )
    script.chmod(0o755)


def config(machine: Machine) -> str:
    return (machine.places.address / "keepalived.conf").read_text()


def peers(machine: Machine) -> list[str]:
    found = re.search(r"unicast_peer \{(.*?)\}", config(machine), re.DOTALL)
    assert found is not None
    return found[1].split()


# --- what a host does


def test_a_host_hears_the_others_alone_and_takes_the_address_from_nobody(machine: Machine) -> None:
    address.hold(machine.places, WANTED)
    text = config(machine)
    assert peers(machine) == ["10.1.0.12", "10.1.0.13"]
    for line in (
        "state BACKUP",
        "nopreempt",
        "interface eth1",
        "virtual_router_id 77",
        "priority 254",
        "check_unicast_src",
        "unicast_src_ip 10.1.0.11",
        f"{ADDRESS}/32 dev eth0",
        "script_user www-data www-data",
        "enable_script_security",
        "init_fail",
    ):
        assert f"    {line}\n" in text, line
    instance = text[text.index("vrrp_instance cluster_shop {") :]
    # Without these the address stays where nginx is stopped, or where the network of the visitors is gone.
    assert "    track_script {\n        answers\n    }" in instance
    assert "    track_interface {\n        eth0\n    }" in instance
    assert [line for line in machine.asked() if line.startswith("systemctl") and "is-active" not in line] == [
        "systemctl daemon-reload",
        "systemctl enable --quiet cluster-shop.keepalived.service",
        "systemctl restart cluster-shop.keepalived.service",
    ]
    assert (machine.places.address / "answers").stat().st_mode & 0o777 == 0o755
    found = address.found(machine.places)
    assert found is not None
    assert (found["digest"], found["edited"], found["held"]) == (address.digest(WANTED), [], [])


def test_another_host_more_is_read_and_nothing_is_started_anew(machine: Machine) -> None:
    address.hold(machine.places, WANTED)
    before = len(machine.asked())
    address.hold(machine.places, {**WANTED, "peers": [*WANTED["peers"], "10.1.0.14"]})
    asked = [line for line in machine.asked()[before:] if line.startswith("systemctl") and "is-active" not in line]
    assert asked == [
        "systemctl enable --quiet cluster-shop.keepalived.service",
        "systemctl reload cluster-shop.keepalived.service",
    ]
    before = len(machine.asked())
    address.hold(machine.places, {**WANTED, "peers": [*WANTED["peers"], "10.1.0.14"]})
    assert not [line for line in machine.asked()[before:] if re.search(r"restart|reload", line)]


def test_a_host_that_is_to_hold_it_no_more_is_heard_until_it_has_let_go(machine: Machine) -> None:
    """Else two would have the address: it and who misses it."""
    address.hold(machine.places, WANTED)
    fewer = {**WANTED, "peers": ["10.1.0.12"]}
    for _again in range(2):
        address.hold(machine.places, fewer)
        assert peers(machine) == ["10.1.0.12", "10.1.0.13"]
    found = address.found(machine.places)
    assert found is not None
    assert (found["left"], found["digest"]) == (["10.1.0.13"], address.digest(fewer))
    address.part(machine.places)
    assert peers(machine) == ["10.1.0.12"]
    found = address.found(machine.places)
    assert found is not None
    assert (found["left"], found["edited"], found["digest"]) == ([], [], address.digest(fewer))


def test_the_last_host_tells_nobody(machine: Machine) -> None:
    """Without any address of another host keepalived would tell the whole network, and hear it."""
    address.hold(machine.places, {**WANTED, "peers": []})
    assert peers(machine) == ["127.0.0.1"]


def test_both_addresses_go_together(machine: Machine) -> None:
    address.hold(machine.places, {**WANTED, "addresses": [ADDRESS, "2001:db8::10"]})
    assert "virtual_ipaddress_excluded {\n        2001:db8::10/128 dev eth0\n" in config(machine)


def test_what_keepalived_refuses_is_not_left_in_place(machine: Machine) -> None:
    address.hold(machine.places, WANTED)
    before = config(machine)
    says(machine, {**ROUTES, "link show dev refused": [{}]})
    with pytest.raises(HostError, match=r"keepalived refuses its configuration:\nwhy not"):
        address.hold(machine.places, {**WANTED, "interface": "refused"})
    assert config(machine) == before
    assert not (machine.places.address / "keepalived.conf.new").exists()


BY_GATEWAY = [{"dst": "default", "gateway": "10.1.0.1", "dev": "eth1"}]


@pytest.mark.parametrize(
    ("routes", "wanted", "refused"),
    [
        ({f"-4 route show match {ADDRESS}": BY_GATEWAY}, {}, r"is on no network of this host's .*10\.1\.0\.1"),
        ({f"-4 route show match {ADDRESS}": []}, {}, r"is on no network of this host's .*nothing"),
        ({"address show to 10.1.0.11": []}, {}, r"10\.1\.0\.11, by which other hosts know this one, is no address"),
        ({}, {"interface": "eth8"}, "there is no interface eth8"),
    ],
)
def test_a_host_that_can_not_have_the_address_says_why(
    machine: Machine, routes: dict[str, Any], wanted: dict[str, Any], refused: str
) -> None:
    says(machine, {**ROUTES, **routes})
    with pytest.raises(HostError, match=refused):
        address.hold(machine.places, {**WANTED, **wanted})
    assert not machine.places.address_unit.exists()


def test_an_interface_that_is_said_needs_no_route(machine: Machine) -> None:
    says(machine, {**ROUTES, f"-4 route show match {ADDRESS}": BY_GATEWAY})
    address.hold(machine.places, {**WANTED, "interface": "eth7"})
    assert f"{ADDRESS}/32 dev eth7" in config(machine)


def test_a_number_of_another_one_s_is_refused_and_its_file_is_not_touched(machine: Machine) -> None:
    theirs = machine.places.root / "etc/keepalived/keepalived.conf"
    theirs.parent.mkdir()
    theirs.write_text("vrrp_instance a {\n  virtual_router_id 77\n}\n")
    other = HostPaths("blog", machine.places.root).address / "keepalived.conf"
    other.parent.mkdir(parents=True)
    other.write_text("    virtual_router_id 78\n")
    assert address.others_routers(machine.places) == {"77": str(theirs), "78": str(other)}
    with pytest.raises(HostError, match=r"virtual_router_id 77 is .*/etc/keepalived/keepalived\.conf's"):
        address.hold(machine.places, WANTED)
    assert theirs.read_text() == "vrrp_instance a {\n  virtual_router_id 77\n}\n"
    assert not machine.places.address_unit.exists()


def test_an_address_of_somebody_else_s_is_refused(machine: Machine) -> None:
    theirs = machine.places.root / "etc/keepalived/keepalived.conf"
    theirs.parent.mkdir()
    for text, refused in ((f"a {{\n  {ADDRESS}/24\n}}\n", True), (f"{ADDRESS}1\n", False), (f"1{ADDRESS}\n", False)):
        theirs.write_text(text)
        if refused:
            with pytest.raises(HostError, match=rf"{ADDRESS} is held by .*keepalived\.conf already"):
                address.hold(machine.places, WANTED)
        else:
            address.hold(machine.places, WANTED)
            address.leave(machine.places)
    by_hand = {**ROUTES, f"address show to {ADDRESS}": [{"ifname": "eth0"}]}
    says(machine, by_hand)
    with pytest.raises(HostError, match=rf"{ADDRESS} is this host's already"):
        address.hold(machine.places, WANTED)
    says(machine, ROUTES)
    address.hold(machine.places, WANTED)
    says(machine, by_hand)
    address.hold(machine.places, WANTED)  # its own


def test_a_host_that_leaves_has_nothing_of_it_and_not_the_address(machine: Machine) -> None:
    address.hold(machine.places, WANTED)
    says(machine, {**ROUTES, f"address show to {ADDRESS}": [{"ifname": "eth0"}]})
    address.leave(machine.places)
    assert not machine.places.address.exists()
    assert not machine.places.address_unit.exists()
    assert "systemctl disable --now --quiet cluster-shop.keepalived.service" in machine.asked()
    assert f"ip address del {ADDRESS}/32 dev eth0" in machine.asked(), "a killed keepalived leaves it"
    assert address.found(machine.places) is None


def test_what_was_edited_is_told(machine: Machine) -> None:
    address.hold(machine.places, WANTED)
    for path in (machine.places.address / "keepalived.conf", machine.places.address_unit):
        path.write_text("other\n")
    found = address.found(machine.places)
    assert found is not None
    assert found["edited"] == [str(machine.places.address / "keepalived.conf"), str(machine.places.address_unit)]
    address.hold(machine.places, WANTED)
    found = address.found(machine.places)
    assert found is not None
    assert found["edited"] == []


def test_a_site_that_goes_takes_its_address_with_it_first(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    from platforms.remote import host  # noqa: PLC0415
    from platforms.remote.host import __main__ as commands  # noqa: PLC0415 - a program
    from platforms.remote.host import relaying, releases, removing, renewing  # noqa: F401, PLC0415 - a command's

    done: list[str] = []
    monkeypatch.setattr(address, "leave", lambda _places: done.append("leave"))
    monkeypatch.setattr(site, "withdraw", lambda _places: done.append("withdraw"))
    monkeypatch.setattr(site, "remove", lambda _places: done.append("remove"))
    for one in ("daemons", "releases", "renewing", "relaying"):
        monkeypatch.setattr(host, one, _Nothing())
    told = {"relayed": [], "visited": False, "renewed": False, "polite": True, "release": "", "instances": []}
    told |= {"services": [], "daemons": []}
    for told_, expected in ((told, ["leave", "withdraw"]), ({**told, "holds": True, "visited": True}, [])):
        done.clear()
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(told_)))
        commands.COMMANDS["retire"](machine.places, [])
        assert done == expected
    done.clear()
    machine.places.state.mkdir(parents=True, exist_ok=True)
    machine.places.owner.write_text("x\n")
    for name in ("retire_all", "daemons", "postgres", "renewing"):
        monkeypatch.setattr(removing, name, _Nothing())
    removing.remove(machine.places, data=False)
    assert done == ["leave", "remove"]


class _Nothing:
    def __getattr__(self, _name: str) -> Any:
        return lambda *_words, **_options: None

    def __call__(self, *_words: Any, **_options: Any) -> None:
        return None


# --- what asks nginx


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", 0),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", 1),
        (b"", 1),
        (None, 1),
    ],
)
def test_nginx_answers_where_it_says_200_in_time(tmp_path: Path, answer: bytes | None, status: int) -> None:
    """None: it takes the connection, and says nothing."""
    path = tmp_path / "internal.sock"
    script = site.__file__.replace("site.py", "answers.py")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        held: list[socket.socket] = []

        def serve() -> None:
            connection, _where = listener.accept()
            held.append(connection)
            if answer is not None:
                connection.recv(1000)
                connection.sendall(answer)
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        done = subprocess.run([sys.executable, "-ISB", script, str(path)], check=False, timeout=60)
        thread.join()
        for one in held:
            one.close()
    assert done.returncode == status


def test_no_nginx_is_none_that_answers(tmp_path: Path) -> None:
    script = site.__file__.replace("site.py", "answers.py")
    assert os.access(script, os.X_OK), "keepalived runs it by itself"
    words = [sys.executable, "-ISB", script, str(tmp_path / "none.sock")]
    assert subprocess.run(words, check=False, timeout=60).returncode == 1


# --- what each is told


def host(number: int, **more: Any) -> dict[str, Any]:
    inside = {"internal": f"10.1.0.{10 + number}", "host_key": f"ssh-ed25519 AAAA{number}"}
    return {"name": f"web{number}", "address": f"203.0.113.{10 + number}", "roles": ["app", "nginx"], **inside, **more}


def stack(*hosts: dict[str, Any], shared_: Any = ADDRESS, **more: Any) -> dict[str, Any]:
    with_it = {**VALUES["site"], **({"address": shared_} if shared_ is not None else {}), **more}
    database = {"database": {"engine": "external"}, "sessions": {"engine": "db"}}
    return {**VALUES, **database, "hosts": [*hosts], "site": with_it, "upstream": {"servers": 3}}


def found_on(told: Any = None, **more: Any) -> dict[str, Any]:
    """Return what a look says of the address on a host."""
    digest, unit_ = ("", "") if told is None else (told.digest, remote_stack.digest(told.wanted["unit"]))
    said: dict[str, Any] = {
        "digest": digest,
        "router": 1,
        "left": [],
        "active": True,
        "enabled": True,
        "unit": unit_,
        "edited": [],
    }
    return {**said, "held": [], "answers": True, **more}


def seen(values: dict[str, Any], each: Mapping[str, dict[str, Any] | None], routers: Any = None) -> Seen:
    machine = {**MACHINE, "routers": routers or {}}
    looked = {
        name: Looked(
            host=name,
            places=remote_stack.PLACES,
            machine=machine,
            stack=remote_stack.there(values, address=one),
        )
        for name, one in each.items()
    }
    return Seen(each=looked, topology=build_topology(parse_config(values)))


THREE = stack(host(1), host(2), host(3))


def told(values: dict[str, Any], each: Mapping[str, dict[str, Any] | None]) -> dict[str, Any]:
    found = seen(values, each)
    return dict(shared(found.topology, remote_stack.PLACES, found))


def test_each_host_is_told_of_the_others_by_their_inner_addresses() -> None:
    found = told(THREE, {"web1": None, "web2": None, "web3": None})
    assert {name: (one.wanted["own"], one.wanted["peers"]) for name, one in found.items()} == {
        "web1": ("10.1.0.11", ["10.1.0.12", "10.1.0.13"]),
        "web2": ("10.1.0.12", ["10.1.0.11", "10.1.0.13"]),
        "web3": ("10.1.0.13", ["10.1.0.11", "10.1.0.12"]),
    }
    priorities = [one.wanted["priority"] for one in found.values()]
    assert priorities == [254, 204, 154], "so far apart that of two that miss it one is first"
    assert len({one.wanted["router"] for one in found.values()}) == 1


def test_twenty_hosts_have_priorities_of_their_own() -> None:
    many = stack(*(host(number) for number in range(1, 21)))
    found = told(many, {f"web{number}": None for number in range(1, 21)})
    priorities = [one.wanted["priority"] for one in found.values()]
    assert len({*priorities}) == 20
    assert min(priorities) >= 1


def test_hosts_that_hear_each_other_are_told_first_and_the_holder_last_of_them() -> None:
    each = {"web1": found_on(held=[ADDRESS]), "web2": None, "web3": found_on()}
    assert [*told(THREE, each)] == ["web3", "web1", "web2"]


def test_the_address_of_the_kind_by_which_hosts_hear_each_other_comes_first() -> None:
    both = stack(host(1), host(2), shared_=["2001:db8::10", ADDRESS], ipv6=True)
    assert told(both, {"web1": None, "web2": None})["web1"].wanted["addresses"] == [ADDRESS, "2001:db8::10"]


def test_a_stack_keeps_its_number_and_avoids_those_of_others() -> None:
    def number(routers: list[int], *own: int) -> int:
        looked = [
            Looked(
                host="web1",
                places=remote_stack.PLACES,
                machine={**MACHINE, "routers": dict.fromkeys(map(str, routers), "x")},
                stack={"address": found_on(router=one)},
            )
            for one in own or (0,)
        ]
        return router_of("cluster-shop", looked)

    first = number([])
    assert 1 <= first <= 255
    assert number([]) == first
    assert number([first]) not in {first, 0}
    assert number([first], 9, 9) == 9
    assert number([9], 9) == first
    assert number([one for one in range(1, 256) if one != 255]) == 255


def test_a_host_is_as_it_should_be_or_is_told_again() -> None:
    one = told(THREE, {"web1": None, "web2": None, "web3": None})["web1"]
    for more, done in (
        ({}, True),
        ({"active": False}, False),
        ({"enabled": False}, False),
        ({"edited": ["/x"]}, False),
        ({"digest": "other"}, False),
        ({"unit": "other"}, False),
        ({"left": ["10.1.0.9"], "held": [ADDRESS]}, True),
    ):
        looked = seen(THREE, {"web1": found_on(one, **more)}).each["web1"]
        assert one.is_done(looked) is done, more
    assert not one.is_done(seen(THREE, {"web1": None}).each["web1"])


def test_the_unit_is_in_a_sandbox_and_stops_before_nginx() -> None:
    unit = told(THREE, {"web1": None, "web2": None, "web3": None})["web1"].wanted["unit"]
    assert "After=network-online.target nginx.service\n" in unit
    assert "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_SETUID CAP_SETGID CAP_KILL\n" in unit
    assert unit.count("CapabilityBoundingSet=") == 1
    assert "ProtectSystem=strict\n" in unit
    assert "AF_NETLINK AF_PACKET\n" in unit
    (stop,) = (line for line in unit.splitlines() if line.startswith("ExecStop="))
    # Who comes must find nobody before those that are there are cut: else they ask again what goes.
    steps = ("grep -q . || exit 0", "touch ", "sleep 2", "route del local", "ss --tcp --kill", "kill $$MAINPID")
    assert [stop.index(step) for step in steps] == sorted(stop.index(step) for step in steps)
    assert f"src {ADDRESS} " in stop


def test_another_unit_s_name_is_no_daemon_s(machine: Machine) -> None:
    machine.places.address_unit.write_text("x")
    assert machine.places.daemons() == []


# --- the program


def run(root: Path, values: dict[str, Any], each: Mapping[str, dict[str, Any] | None]) -> Record:
    """Run the program on hosts on which this was found."""
    write_stack(root, values)
    found = seen(values, each)
    with contextlib.ExitStack() as patched, contextlib.chdir(root):
        patched.enter_context(patch.object(remote_program, "look", lambda *_arguments: found))
        for name in ("make_environment", "make_release"):
            patched.enter_context(patch(f"platforms.remote.release_steps.{name}"))
        return record(program, secrets={**SECRETS, "hosts_key": HOSTS_KEY, "database_url": DATABASE})


def waits(found: Record, later: str) -> set[str]:
    return {one.name for one in found.before(found.named(later, COMMAND))}


def holds(found: Record, name: str) -> bool:
    """Tell whether what lets go of things on a host leaves it the address."""
    return bool(json.loads(found.named(f"{name}-retire", COMMAND).inputs["stdin"]).get("holds", False))


def test_the_first_hosts_get_it_one_after_another_once_the_site_is_there(tmp_path: Path) -> None:
    found = run(tmp_path, THREE, {"web1": None, "web2": None, "web3": None})
    sites = {f"web{number}-nginx-config" for number in (1, 2, 3)}
    for number in (1, 2, 3):
        before = waits(found, f"web{number}-address")
        assert sites <= before
        assert {name for name in before if name.endswith("-address")} == {f"web{n}-address" for n in range(1, number)}
        assert holds(found, f"web{number}")


def test_a_host_that_leaves_gives_it_up_after_others_heard_and_before_new_ones_begin(tmp_path: Path) -> None:
    values = stack(host(1, roles=["app"]), host(2), host(3))
    found = run(tmp_path, values, {"web1": found_on(held=[ADDRESS]), "web2": found_on(), "web3": None})
    assert {name for name in found.names(COMMAND) if name.endswith("-address")} == {"web2-address", "web3-address"}
    assert "web2-address" in waits(found, "web1-retire")
    assert "web3-address" not in waits(found, "web1-retire")
    assert {"web2-address", "web1-retire"} <= waits(found, "web3-address")
    assert not holds(found, "web1")


def test_where_none_stays_the_new_ones_begin_before_the_others_leave(tmp_path: Path) -> None:
    values = stack(host(1, roles=["app"]), host(2), host(3))
    found = run(tmp_path, values, {"web1": found_on(held=[ADDRESS]), "web2": None, "web3": None})
    assert {"web2-address", "web3-address"} <= waits(found, "web1-retire")


def test_without_an_address_no_host_is_told_of_one_and_what_is_there_goes(tmp_path: Path) -> None:
    values = stack(host(1), host(2), shared_=None)
    found = run(tmp_path, values, {"web1": found_on(held=[ADDRESS]), "web2": None})
    assert not [name for name in found.names(COMMAND) if name.endswith("-address")]
    assert "holds" not in json.loads(found.named("web1-retire", COMMAND).inputs["stdin"])


# --- what is said


def observed(values: dict[str, Any], each: Mapping[str, dict[str, Any] | None]) -> Observed:
    found = seen(values, each)
    return Observed(seen=found, topology=found.topology, places=remote_stack.PLACES, certificate=None)


@pytest.mark.parametrize(
    ("held", "trouble"),
    [
        ([[ADDRESS], [], []], []),
        ([[], [], []], [f"{ADDRESS} is held by no host"]),
        ([[ADDRESS], [], [ADDRESS]], [f"{ADDRESS} is held by web1 and web3"]),
    ],
)
def test_one_host_holds_it_or_that_is_told(held: list[list[str]], trouble: list[str]) -> None:
    each = {f"web{number}": found_on(held=one) for number, one in enumerate(held, 1)}
    found = observed(THREE, each)
    assert [line for line in found._troubles() if "held by" in line] == trouble
    rows = found._addresses()
    assert [(row.service, row.state) for row in rows] == [
        (f"address@web{number}", f"holds {ADDRESS}" if one else "waits") for number, one in enumerate(held, 1)
    ]


@pytest.mark.parametrize(
    ("more", "state", "words"),
    [
        ({"active": False}, "not running", ""),
        ({"answers": False}, "waits", "nginx does not answer"),
        ({"edited": ["/x"]}, "waits", "/x was edited"),
        ({"left": ["10.1.0.9"]}, "waits", "10.1.0.9 is still heard"),
    ],
)
def test_what_is_wrong_with_a_host_is_told(more: dict[str, Any], state: str, words: str) -> None:
    each = {"web1": found_on(held=[ADDRESS]), "web2": found_on(**more), "web3": None}
    rows = {row.service: row for row in observed(THREE, each)._addresses()}
    assert (rows["address@web2"].ok, rows["address@web2"].state) == (False, state)
    assert words in rows["address@web2"].message
    assert (rows["address@web3"].ok, rows["address@web3"].state) == (False, "not running")


def test_a_stack_without_an_address_says_nothing_of_it() -> None:
    found = observed(stack(host(1), host(2), shared_=None), {"web1": None, "web2": None})
    assert found._addresses() == []
    assert found.holders == {}


# --- plans


def hosted(values: dict[str, Any], each: Mapping[str, dict[str, Any] | None]) -> list[Hosted]:
    stacks = {name: None if one is None else remote_stack.there(values, address=one) for name, one in each.items()}
    return remote_stack.hosts(stacks, values)


def planned(values: dict[str, Any], each: Mapping[str, dict[str, Any] | None]) -> Told:
    step = remote_stack.command("update", "nginx", "web1-address", {"stdin": "a"}, {"stdin": "b"}, "stdin")
    preview = remote_stack.preview()
    preview.take(step)
    topology = build_topology(parse_config(values))
    return Told(preview, topology, hosted(values, each), remote_stack.FORMER, serves=True)


def test_a_plan_says_which_host_gives_the_address_up_and_that_it_costs() -> None:
    all_told = told(THREE, {"web1": None, "web2": None, "web3": None})
    as_told = {name: found_on(one) for name, one in all_told.items()}
    as_told["web1"]["held"] = [ADDRESS]
    stays = planned(THREE, as_told)
    assert Cost.ADDRESS_MOVED not in stays.costs()

    loses = stack(host(1, roles=["app"]), host(2), host(3))
    moved = planned(loses, as_told)
    assert Cost.ADDRESS_MOVED in moved.costs()
    assert f"~ address: {ADDRESS}, held by one of web2, web3; web1 gives it up" in [*moved._of_address()]

    another = planned(THREE, {**as_told, "web1": {**as_told["web1"], "unit": "former"}})
    assert Cost.ADDRESS_MOVED in another.costs()

    gone = planned(stack(host(1), host(2), host(3), shared_=None), as_told)
    assert Cost.ADDRESS_MOVED in gone.costs()
    assert [*gone._of_address()] == ["- address: it is given up"]


def test_a_plan_of_the_first_address_costs_nothing() -> None:
    found = planned(THREE, {"web1": None, "web2": None, "web3": None})
    assert Cost.ADDRESS_MOVED not in found.costs()
    assert [*found._of_address()] == [f"+ address: {ADDRESS}, held by one of web1, web2, web3"]


def test_two_stack_files_are_compared() -> None:
    def compared(old: dict[str, Any], new: dict[str, Any]) -> tuple[list[str], bool]:
        one, other = parse_config(old), parse_config(new)
        return steps_of_address(one, other), may_move(one, other)

    without = stack(host(1), host(2), host(3), shared_=None)
    assert compared(without, without) == ([], False)
    assert compared(THREE, THREE) == ([], False)
    assert compared(without, THREE) == ([f"+ address: {ADDRESS}, held by one of web1, web2, web3"], False)
    assert compared(THREE, without) == ([f"- address: {ADDRESS} is given up"], True)
    fewer = stack(host(1), host(2))
    assert compared(THREE, fewer) == ([f"~ address: {ADDRESS}, held by one of web1, web2"], True)
    assert compared(fewer, THREE) == ([f"~ address: {ADDRESS}, held by one of web1, web2, web3"], False)
    other = stack(host(1), host(2), host(3), shared_="203.0.113.99")
    words = f"~ address: {ADDRESS} -> 203.0.113.99, held by one of web1, web2, web3"
    assert compared(THREE, other) == ([words], True)


def test_drift_tells_what_was_stopped_edited_or_removed() -> None:
    preview = remote_stack.preview()
    step = remote_stack.command("same", "nginx", "web1-address", {"stdin": "a"}, {"stdin": "a"})
    preview.take(step)

    def drifted(found: dict[str, Any] | None) -> list[str]:
        one = remote_stack.host(remote_stack.there(address=found))
        return [line for line in drift(one, preview) if "keepalived" in line or "/x" in line]

    called = "cluster-shop.keepalived.service on web1"
    assert drifted(found_on()) == []
    assert drifted(None) == [f"{called} is gone"]
    assert drifted(found_on(active=False)) == [f"{called} is stopped"]
    assert drifted(found_on(enabled=False)) == [f"{called} is not started at boot"]
    assert drifted(found_on(edited=["/x"])) == ["/x on web1 was edited"]


# --- the stack file


@pytest.mark.parametrize(
    "value", ["203.0.113.10/24", "web1", "127.0.0.1", "::1", "224.0.0.1", "fe80::1", "0.0.0.0", ""]
)
def test_what_is_no_address_for_visitors_is_refused(value: str) -> None:
    with pytest.raises(StackFileError, match=r"site\.address: must be an address"):
        parse_config(stack(host(1), host(2), shared_=value))


def test_two_addresses_are_of_two_kinds() -> None:
    with pytest.raises(StackFileError, match=r"site\.address: must be one address, or two"):
        parse_config(stack(host(1), host(2), shared_=[ADDRESS, "203.0.113.11"]))
    found = parse_config(stack(host(1), host(2), shared_=[ADDRESS, "2001:DB8:0::10"], ipv6=True))
    assert found.site.address == [ADDRESS, "2001:db8::10"]
