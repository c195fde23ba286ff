"""A change of what hosts make their certificates of: what they show and believe says whether it would cost requests."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest

from cluster.config import parse_config
from cluster.tls.hosts import authority_of, certificate_of_database, certificate_of_host
from cluster.tls.hosts_keys import HostsKeys, read_fallbacks
from cluster.topology import build_topology
from platforms.remote.believed import disbelieved
from platforms.remote.host import relaying
from platforms.remote.host.paths import HostPaths
from platforms.remote.looked import Looked, Seen
from tests.unit.remote_machine import Machine, set_up
from tests.unit.remote_stack import there
from tests.unit.test_remote import MACHINE, VALUES

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW, THIRD = "5e" * 32, "07" * 32, "a1" * 32

ASKED: dict[str, Any] = {
    **VALUES,
    "hosts": [
        {**VALUES["hosts"][0], "name": name, "address": f"10.0.0.{number}", "roles": roles}
        for number, (name, roles) in enumerate(
            (("web1", ["app", "nginx"]), ("web2", ["app"]), ("db1", ["database"])), start=11
        )
    ],
    "database": {"engine": "postgres"},
    "sessions": {"engine": "db"},
}

#: The keys of each step.
BEFORE, BOTH, SHOWN, AFTER = (
    HostsKeys(key=OLD),
    HostsKeys(key=OLD, fallbacks=(NEW,)),
    HostsKeys(key=NEW, fallbacks=(OLD,)),
    HostsKeys(key=NEW),
)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def host(name: str, keys: HostsKeys | None, **more: Any) -> Looked:
    """Return a host that was told these keys last; None: nothing is there."""
    if keys is None:
        return Looked(host=name, places=HostPaths("shop"), machine=MACHINE, stack=None)
    authorities = [digest(authority_of(key, "shop")) for key in keys.all]
    between: dict[str, Any] = {"shown": "", "believed": [], "instances": []}
    database = None
    if name == "db1":
        database = {"shown": digest(certificate_of_database(keys.key, "shop", name).certificate)}
    else:
        between = {
            "shown": digest(certificate_of_host(keys.key, "shop", name).certificate),
            "believed": authorities,
            "instances": authorities,
        }
    stack = {**there(), "between": {**between, **more}, "database": database}
    return Looked(host=name, places=HostPaths("shop"), machine=MACHINE, stack=stack)


def told(wanted: HostsKeys, *found: HostsKeys | None, **web1: Any) -> str | None:
    """Return why hosts on which these keys were found must not be told others."""
    names = ("web1", "web2", "db1")
    each = {name: host(name, keys, **(web1 if name == "web1" else {})) for name, keys in zip(names, found, strict=True)}
    topology = build_topology(parse_config(ASKED))
    return disbelieved(topology, Seen(each=each, topology=topology), wanted)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (BEFORE, [BEFORE] * 3),
        (BOTH, [BEFORE] * 3),
        (BOTH, [BOTH, BEFORE, BEFORE]),
        (SHOWN, [BOTH] * 3),
        (SHOWN, [SHOWN, BOTH, BOTH]),
        (AFTER, [SHOWN] * 3),
        (AFTER, [AFTER, SHOWN, SHOWN]),
        (BEFORE, [BOTH] * 3),
        (BOTH, [SHOWN] * 3),
        (AFTER, [None] * 3),
        (BEFORE, [BEFORE, None, BEFORE]),
        (HostsKeys(), [None] * 3),
    ],
)
def test_each_step_may_follow_the_one_before_also_one_that_was_killed(
    wanted: HostsKeys, found: list[HostsKeys | None]
) -> None:
    assert told(wanted, *found) is None


@pytest.mark.parametrize(
    ("wanted", "found", "words"),
    [
        (AFTER, [BEFORE] * 3, "web1 shows what is made of another one"),
        (AFTER, [AFTER, BEFORE, BEFORE], "web2 shows"),
        (AFTER, [None, None, BEFORE], None),
        (SHOWN, [BEFORE] * 3, "web1 believes the one in hosts_key_fallbacks alone"),
        (SHOWN, [BOTH, BEFORE, BOTH], "web2 believes"),
        (AFTER, [BOTH] * 3, "web1 shows"),
        (AFTER, [SHOWN, BOTH, SHOWN], "web2 shows"),
        (AFTER, [SHOWN, SHOWN, BOTH], "db1 shows"),
        (HostsKeys(key=THIRD, fallbacks=(NEW,)), [SHOWN] * 3, "web1 believes"),
        (HostsKeys(key=THIRD), [SHOWN] * 3, "web1 shows"),
    ],
)
def test_a_step_that_is_left_out_is_refused(
    wanted: HostsKeys, found: list[HostsKeys | None], words: str | None
) -> None:
    said = told(wanted, *found)
    if words is None:
        assert said is None, "nothing asks it any more"
        return
    assert said is not None
    assert said.startswith(words)
    assert "`cluster rotate-key shop --hosts`" in said
    assert "`cluster down shop`" in said


@pytest.mark.parametrize("broken", [{"shown": "x"}, {"shown": ""}, {"believed": []}, {"instances": ["x"]}])
def test_what_somebody_has_broken_is_put_right(broken: dict[str, Any]) -> None:
    assert told(BEFORE, BEFORE, BEFORE, BEFORE, **broken) is None


# --- what a host says


def test_a_host_says_what_nginx_shows_and_believes_where_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path / "machine", monkeypatch)
    set_up(machine)
    places = machine.places
    assert relaying.between(places) == {"shown": "", "believed": [], "instances": []}
    made = certificate_of_host(NEW, "shop", "web1")
    places.shown.mkdir()
    (places.shown / "certificate.pem").write_text(made.certificate)
    (places.shown / "authority.pem").write_text(SHOWN.authorities("shop"))
    places.authority.write_text(BEFORE.authorities("shop"))
    authorities = [digest(authority_of(key, "shop")) for key in (NEW, OLD)]
    # Of a host that asks no other one any more.
    assert relaying.between(places) == {"shown": "", "believed": [], "instances": authorities[1:]}
    (places.nginx / "sites-enabled" / "zz-cluster-shop").write_text(f"ssl_certificate {places.shown}/certificate.pem;")
    assert relaying.between(places) == {
        "shown": digest(made.certificate),
        "believed": authorities,
        "instances": authorities[1:],
    }
    places.unit.unlink()
    assert relaying.between(places)["instances"] == [], "nothing runs there"


# --- what the stack file says


@pytest.mark.parametrize("text", ["{", "{}", "[1]", '["5e"]', "null"])
def test_fallbacks_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be "):
        read_fallbacks(text)
    assert read_fallbacks(None) == read_fallbacks("[]") == ()


def test_a_key_that_is_among_its_fallbacks_counts_once() -> None:
    assert HostsKeys(key=OLD, fallbacks=(NEW, OLD)).all == (OLD, NEW)
    assert HostsKeys(key=OLD, fallbacks=(NEW, OLD)).authorities("shop").count("BEGIN CERTIFICATE") == 2
    assert "5e5e" not in repr(HostsKeys(key=OLD, fallbacks=(NEW,)))
