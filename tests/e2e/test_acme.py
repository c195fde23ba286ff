"""A certificate by ACME with containers: a renewer beside nginx, renewals under load, and who can read the key."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.by_acme import LASTS, assert_renewals_lose_nothing, certificate_row, load_of, tls_of
from tests.conformance import AROUND, assert_nothing_lost, assert_up
from tests.e2e.stand import DockerStand, docker_stack
from tests.e2e.tools import docker, gateway
from tests.local.stand import free_port
from tests.pebble import Pebble, needs_pebble
from tests.trees import files_with

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = needs_pebble

#: The authority takes no account that this key does not bind, by its id.
KID, EAB_KEY = "ours", "dGhlIGtleSB0aGF0IHRoZSBhdXRob3JpdHkgZ2F2ZSE"


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    found = docker_stack()
    found["upstream"]["servers"] = found["upstream"]["servers"][:2]
    found["site"]["server_names"] = ["cluster", "localhost"]
    return found


@pytest.fixture(scope="module")
def pebble(stack: dict[str, Any]) -> Iterator[Pebble]:
    bound = {KID: EAB_KEY}
    with contextlib.closing(Pebble(stack["site"]["listen"], host=gateway(), seconds=LASTS, bound=bound)) as found:
        yield found


@pytest.fixture(scope="module")
def stand(stack: dict[str, Any], pebble: Pebble) -> Iterator[DockerStand]:
    tls = tls_of(pebble, free_port(consecutive=40) + 39)
    stack["site"]["tls"] = {**tls, "acme": {**tls["acme"], "eab": KID}}
    with contextlib.closing(DockerStand(stack, name="m")) as found:
        result = found.run("init", found.name)
        assert result.status == 0, result.output
        result = found.up()
        assert result.status != 0
        assert "pulumi config set --secret cluster:acme_eab_key" in result.output
        done = found.pulumi("config", "set", "--secret", "cluster:acme_eab_key", EAB_KEY)
        assert done.returncode == 0, done.stdout
        assert_up(found)
        yield found


def test_renewals_a_release_and_a_weight_lose_no_request_and_no_session(stand: DockerStand, pebble: Pebble) -> None:
    assert_renewals_lose_nothing(stand, pebble)
    assert certificate_row(stand)["state"] == "valid"


def test_the_key_is_nginx_s_and_its_renewer_s_alone_and_the_account_the_renewer_s(stand: DockerStand) -> None:
    (nginx,), (renewer,) = stand.containers("nginx"), stand.containers("acme")
    modes = docker("exec", nginx, "sh", "-c", "stat -c '%a %u' /srv/acme/certificates/*/privkey.pem").split("\n")
    assert {mode for mode in modes if mode} == {"600 10002"}
    for one in json.loads(docker("inspect", *stand.containers())):
        mounted = {mount["Destination"]: mount["RW"] for mount in one["Mounts"]}
        short = one["Id"][:12]
        assert mounted.get("/srv/acme") == {nginx[:12]: False, renewer[:12]: True}.get(short), one["Name"]
        assert ("/srv/account" in mounted) == (short == renewer[:12]), one["Name"]
        assert not [word for word in ("PRIVATE KEY", EAB_KEY) if word in json.dumps(one)]
    assert docker("exec", renewer, "stat", "-c", "%a %u", "/srv/account/eab.key").strip() == "400 10002"
    account = docker("exec", renewer, "cat", "/srv/account/account.key").splitlines()[1].encode()
    key = docker("exec", renewer, "cat", "/srv/acme/live/privkey.pem").splitlines()[1].encode()
    assert not files_with(stand.root, account, key, EAB_KEY)


def test_a_certificate_outlives_down(stand: DockerStand, pebble: Pebble) -> None:
    """Told by a file beside the certificates: of these each may be renewed meanwhile, and more than once."""
    (renewer,) = stand.containers("acme")
    docker("exec", renewer, "touch", "/srv/acme/beside")
    assert docker("exec", renewer, "ls", "/srv/acme/certificates").split()
    assert stand.down().status == 0
    assert_up(stand)
    (renewer,) = stand.containers("acme")
    assert {"beside", "certificates"} <= set(docker("exec", renewer, "ls", "/srv/acme").split())
    assert docker("exec", renewer, "ls", "/srv/acme/certificates").split()
    with load_of(stand, pebble) as load:
        load.wait_for(AROUND)
    assert_nothing_lost(load.counts)
