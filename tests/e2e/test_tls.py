"""https by containers: changes under load by HTTP/1.1 and HTTP/2, and who can read the key."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import TYPE_CHECKING

import pytest

from tests.conformance import AROUND, assert_nothing_lost, assert_up, servers
from tests.e2e.stand import DockerStand, docker_stack
from tests.e2e.tools import docker
from tests.load import SPARSE
from tests.local.stand import free_port
from tests.secure_load import Secure, SecureLoad
from tests.trees import files_with

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def stand() -> Iterator[DockerStand]:
    stack = docker_stack()
    stack["upstream"]["servers"] = stack["upstream"]["servers"][:2]
    stack["site"]["tls"] = {"listen": free_port(consecutive=4) + 3, "self_signed": True}
    with contextlib.closing(DockerStand(stack, name="s")) as found:
        assert_up(found)
        yield found


def load_of(stand: DockerStand) -> SecureLoad:
    port: int = stand.stack["site"]["tls"]["listen"]
    return SecureLoad(port, authority(stand), pause=SPARSE)


def authority(stand: DockerStand) -> Path:
    return stand.root / ".cluster" / stand.name / "authority.pem"


def test_no_change_loses_a_request_or_a_session_over_tls(stand: DockerStand) -> None:
    first = stand.release()
    load = load_of(stand)
    with load:
        load.wait_for(AROUND)
        stand.edit_stack(lambda stack: servers(stack)["app1"].update(weight=5))
        assert_up(stand)
        stand.edit_code("visits/views.py", "\n# another release\n")
        assert_up(stand)
        stand.edit_stack(lambda stack: stack["site"]["server_names"].append("renewed.example"))
        assert_up(stand)
        load.wait_for(AROUND)
    print(f"over TLS, weights, two releases, another certificate: {load.counts}, {load.again} asked again")
    assert_nothing_lost(load.counts)
    assert load.counts.total >= 2 * AROUND
    assert first in {release for _instance, release in load.counts.by}
    assert len({release for _instance, release in load.counts.by}) >= 3


def test_the_key_is_nginx_s_alone_and_no_state_has_it_in_plain(stand: DockerStand) -> None:
    (nginx,) = stand.containers("nginx")
    modes = docker("exec", nginx, "sh", "-c", "stat -c '%a %u' /var/lib/cluster/*/certificate.key").split("\n")
    assert {mode for mode in modes if mode} == {"600 10002"}
    first = docker("exec", nginx, "cat", "/var/lib/cluster/current/certificate.key").splitlines()[1]
    (found,) = json.loads(docker("inspect", nginx))
    assert first not in json.dumps(found)
    others = [one for one in stand.containers() if one != nginx]
    mounted = {mount.get("Name") for mount in found["Mounts"] if mount["Destination"] == "/var/lib/cluster"}
    for one in json.loads(docker("inspect", *others)):
        assert not mounted & {mount.get("Name") for mount in one["Mounts"]}, one["Name"]
    assert not files_with(stand.root, first)


def test_another_authority_is_another_certificate_though_nginx_tells_the_same_digest(stand: DockerStand) -> None:
    former = authority(stand).read_text()
    assert stand.pulumi("config", "rm", "cluster:tls_authority").returncode == 0
    assert_up(stand)
    assert authority(stand).read_text() != former
    with load_of(stand) as load:
        load.wait_for(AROUND)
    assert_nothing_lost(load.counts)


def ask_for(stand: DockerStand, user: str | None = None, address: str = "127.0.0.1") -> int:
    """Return the status of a page by https, as that user."""
    port: int = stand.stack["site"]["tls"]["listen"]
    headers = {"Host": f"cluster:{port}"}
    if user is not None:
        headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    with contextlib.closing(Secure((address, port), "cluster", authority(stand).read_text(), 30)) as connection:
        connection.request("GET", "/whoami", headers=headers)
        return connection.getresponse().status


def allow(stand: DockerStand, **users: str) -> None:
    done = stand.pulumi("config", "set", "--secret", "cluster:auth_basic_users", json.dumps(users))
    assert done.returncode == 0, done.stdout


def test_a_user_is_asked_for_and_others_are_one_reload_that_tells_nothing_of_them(stand: DockerStand) -> None:
    password, other = "a password of ann's", "a password of zoe's"
    stand.edit_stack(lambda stack: stack["site"].update(auth_basic="Staging"))
    result = stand.up()
    assert result.status != 0
    assert "pulumi config set --secret cluster:auth_basic_users" in result.output
    allow(stand, ann=password)
    assert_up(stand)
    assert [ask_for(stand), ask_for(stand, f"ann:{password}"), ask_for(stand, f"zoe:{other}")] == [401, 200, 401]
    (nginx,) = stand.containers("nginx")
    assert docker("exec", nginx, "stat", "-c", "%a %u", "/var/lib/cluster/users").strip() == "600 10002"
    hashed = docker("exec", nginx, "cat", "/var/lib/cluster/users").strip()
    assert hashed.startswith("ann:$6$")
    assert password not in hashed
    told = json.dumps(json.loads(docker("inspect", *stand.containers())))
    assert not [secret for secret in (password, hashed) if secret in told]
    assert not files_with(stand.root, password, hashed)
    before = stand.release()
    allow(stand, ann=password, zoe=other)
    result = stand.up()
    assert result.status == 0, result.output
    assert "~ users: others, or with other passwords" in result.output
    assert not [word for word in (other, "zoe", "$6$") if word in result.output]
    assert [ask_for(stand, f"ann:{password}"), ask_for(stand, f"zoe:{other}")] == [200, 200]
    assert (stand.release(), stand.containers("nginx")) == (before, [nginx])
    assert "no changes" in stand.up().output
    result = stand.run("verify", stand.name)
    assert result.status == 0, result.output
    assert "nginx asks for a user" in result.output
    stand.edit_stack(lambda stack: stack["site"].pop("auth_basic"))
    assert_up(stand)
    assert ask_for(stand) == 200
    assert "users" not in docker("exec", nginx, "ls", "/var/lib/cluster").split()
