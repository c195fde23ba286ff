"""A site on this machine that asks for a user: others by a reload that loses nothing, and who can read the hashes."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
from typing import TYPE_CHECKING

import pytest

from cluster.machine.owner import find_owner
from cluster.stack.secrets import write_secret
from tests.conformance import AROUND, assert_nothing_lost, assert_up, wait_until
from tests.load import SPARSE, Load
from tests.local.stand import Stand
from tests.trees import files_with

if TYPE_CHECKING:
    from collections.abc import Iterator

ANN, ZOE = {"ann": "a password of ann's"}, {"zoe": "a password of zoe's"}


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with contextlib.closing(Stand(instances=1)) as found:
        found.stack["site"]["auth_basic"] = "Staging"
        found.write()
        result = found.up()
        assert result.status != 0
        assert "site.auth_basic: nginx would ask for a user, and the stack has none" in result.output
        assert "secrets/auth_basic_users (chmod 600). [auth-basic-users]" in result.output
        allow(found, ANN)
        assert_up(found)
        yield found


def allow(stand: Stand, users: dict[str, str]) -> None:
    stand.paths.secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_secret(stand.paths.secrets / "auth_basic_users", json.dumps(users))


def status_of(stand: Stand, path: str, users: dict[str, str] | None = None) -> int:
    headers = {"Host": "cluster"}
    for name, password in (users or {}).items():
        headers["Authorization"] = basic(name, password)
    with contextlib.closing(http.client.HTTPConnection(*stand.address, timeout=30)) as connection:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def test_only_a_user_gets_in_and_all_that_looks_after_the_site_works(stand: Stand) -> None:
    assert [status_of(stand, path) for path in ("/whoami", "/static/none", "/-/health")] == [401, 401, 404]
    assert [status_of(stand, path, ANN) for path in ("/whoami", "/static/none", "/-/health")] == [200, 404, 404]
    assert status_of(stand, "/whoami", ZOE) == 401
    assert stand.status()["ok"]
    result = stand.verify()
    assert result.status == 0, result.output
    assert "nginx asks for a user" in result.output
    assert "no changes" in stand.up().output


def test_verify_sees_an_nginx_that_asks_no_more(stand: Stand) -> None:
    site = stand.paths.nginx / "current" / "sites-available" / "cluster"
    text = site.read_text()
    site.write_text(text.replace("auth_basic Staging;", "auth_basic off;"))
    try:
        stand.supervisor().signal("nginx", "HUP")
        wait_until(lambda: status_of(stand, "/whoami") == 200, "nginx asks no more")
        result = stand.verify()
        assert result.status != 0
        assert "nginx asks for a user" in result.output
    finally:
        site.write_text(text)
        stand.supervisor().signal("nginx", "HUP")
        wait_until(lambda: status_of(stand, "/whoami") == 401, "nginx asks again")


def test_nobody_but_nginxs_workers_can_read_the_hashes_and_the_password_is_in_no_file_but_the_secret(
    stand: Stand,
) -> None:
    found, owner = stand.paths.users.stat(), find_owner(stand.paths.state)
    assert found.st_uid == os.geteuid()
    assert (found.st_mode & 0o777, found.st_gid) == ((0o640 if owner.changed else 0o600), owner.gid)
    (hashed,) = stand.paths.users.read_text().splitlines()
    assert files_with(stand.paths.state, ANN["ann"]) == [stand.paths.secrets / "auth_basic_users"]
    assert files_with(stand.paths.state, hashed) == [stand.paths.users]


def test_other_users_are_one_reload_that_is_said_before_and_loses_nobody(stand: Stand) -> None:
    allow(stand, {**ANN, **ZOE})
    load = Load(stand.address, pause=SPARSE)
    load.headers = {**load.headers, "Authorization": basic("ann", ANN["ann"])}
    with load:
        load.wait_for(AROUND)
        before = stand.release()
        result = stand.up()
        assert result.status == 0, result.output
        assert "nginx: one reload; no process of the app is touched by it" in result.output
        assert "    ~ users: others, or with other passwords" in result.output
        assert not [word for word in (ZOE["zoe"], "zoe:", "$6$") if word in result.output]
        load.wait_for(AROUND)
    assert_nothing_lost(load.counts)
    assert stand.release() == before
    assert status_of(stand, "/whoami", ZOE) == 200


def test_who_is_asked_no_more_is_refused_by_no_worker_and_the_hashes_go_with_that_change(stand: Stand) -> None:
    load = Load(stand.address, pause=SPARSE)
    load.headers = {**load.headers, "Authorization": basic("ann", ANN["ann"])}
    with load:
        load.wait_for(AROUND)
        stand.edit_stack(lambda stack: stack["site"].pop("auth_basic"))
        assert_up(stand)
        load.wait_for(AROUND)
    assert_nothing_lost(load.counts)
    assert status_of(stand, "/whoami") == 200
    assert not stand.paths.users.exists()
