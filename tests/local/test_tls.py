"""A site with TLS on this machine: changes of all kinds under load by HTTP/1.1 and HTTP/2, and its certificates."""

from __future__ import annotations

import contextlib
import http.client
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from cluster.machine.owner import find_owner
from platforms.local.nginx import Nginx
from platforms.local.supervisor import Supervisor
from tests.conformance import AROUND, assert_nothing_lost, assert_up, servers, wait_until
from tests.load import SPARSE
from tests.local.stand import Stand, free_port
from tests.secure_load import Secure, SecureLoad
from tests.trees import files_with

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with contextlib.closing(Stand()) as found:
        found.stack["site"]["tls"] = {"listen": free_port(consecutive=3) + 2, "self_signed": True}
        found.write()
        assert_up(found)
        yield found


def port(stand: Stand) -> int:
    found: int = stand.stack["site"]["tls"]["listen"]
    return found


def load_of(stand: Stand) -> SecureLoad:
    return SecureLoad(port(stand), stand.paths.authority, pause=SPARSE)


def key_in_place(stand: Stand) -> bytes:
    return (stand.paths.nginx / "current" / "certificate.key").read_bytes()


def test_nobody_but_nginx_can_read_the_key_and_no_instance_has_the_authority(stand: Stand) -> None:
    keys = [*stand.paths.nginx.glob("*/certificate.key"), stand.paths.secrets / "tls_authority"]
    assert len(keys) >= 2
    for key in keys:
        assert key.stat().st_mode & 0o777 == 0o600
        assert key.stat().st_uid == os.geteuid()
    secret = (stand.paths.secrets / "tls_authority").read_bytes()[:200]
    assert not files_with(stand.paths.releases, secret, links=True)


@pytest.mark.wide
def test_no_change_loses_a_request_or_a_session_over_tls(stand: Stand) -> None:
    """Weights, a release, another certificate by other names, another authority, and the way back."""
    first = stand.release()
    load = load_of(stand)
    with load:
        load.wait_for(AROUND)
        stand.edit_stack(lambda stack: servers(stack)["app1"].update(weight=5))
        assert_up(stand)
        stand.edit_code("visits/views.py", "\n# another release\n")
        assert_up(stand)
        before = key_in_place(stand)
        stand.edit_stack(lambda stack: stack["site"]["server_names"].append("renewed.example"))
        assert_up(stand)
        assert key_in_place(stand) != before
        result = stand.rollback()
        assert result.status == 0, result.output
        load.wait_for(AROUND)
    print(f"over TLS, weights, two releases, another certificate, a rollback: {load.counts}, {load.again} asked again")
    assert_nothing_lost(load.counts)
    assert load.counts.total >= 2 * AROUND
    assert len({release for _instance, release in load.counts.by}) >= 3
    assert first in {release for _instance, release in load.counts.by}


def test_without_care_a_reload_over_tls_loses_requests(stand: Stand) -> None:
    """The same load, while nginx is told to reload over and over as nothing else does."""
    load = load_of(stand)
    with load:
        load.wait_for(AROUND)
        for _ in range(60):
            stand.supervisor().signal("nginx", "HUP")
            load.wait_for(20)
            if load.counts.failed:
                break
    print(f"over TLS, reloads without care: {load.counts}")
    assert load.counts.failed


def test_another_authority_is_another_certificate_though_nginx_tells_the_same_digest(stand: Stand) -> None:
    former, digest = stand.paths.authority.read_text(), stand.nginx_digest()
    (stand.paths.secrets / "tls_authority").unlink()
    result = stand.up()
    assert result.status == 0, result.output
    assert "browsers are to trust" in result.output
    assert stand.paths.authority.read_text() != former
    assert stand.nginx_digest() == digest
    wait_until(lambda: shakes(stand, stand.paths.authority), "nginx has the new one")
    (stand.root / "former.pem").write_text(former)
    assert not shakes(stand, stand.root / "former.pem")


def test_an_up_that_was_killed_before_nginx_was_told_of_another_key_is_ended_by_the_next(stand: Stand) -> None:
    (stand.paths.nginx / "untold").touch()
    result = stand.up()
    assert result.status == 0, result.output
    assert "nginx: one reload" in result.output
    assert not (stand.paths.nginx / "untold").exists()
    assert "no changes" in stand.up().output


def test_an_up_that_begins_while_another_reloads_nginx_leaves_it_its_politeness(stand: Stand) -> None:
    """As a renewer does that has a new certificate: without it a reload by an old nginx loses requests."""
    paths, results = stand.paths, list[Any]()
    nginx = Nginx(paths, Supervisor(paths), find_owner(paths.state))
    by_hand = threading.Thread(target=lambda: results.append(stand.up()))
    with nginx.locked():
        paths.closing.touch()
        by_hand.start()
        by_hand.join(5)
        assert not results, "it waits"
        assert paths.closing.exists()
    by_hand.join()
    assert results[0].status == 0, results[0].output
    assert not paths.closing.exists(), "what is left by who was killed is removed"


def shakes(stand: Stand, authority: Path) -> bool:
    with contextlib.closing(Secure(("127.0.0.1", port(stand)), "cluster", authority.read_text(), 10)) as connection:
        try:
            connection.request("GET", "/whoami", headers={"Host": f"cluster:{port(stand)}"})
            return connection.getresponse().status == 200
        except OSError:
            return False


def test_a_certificate_that_is_given_is_checked_before_anything_is_changed_and_renewed_by_a_reload(
    stand: Stand,
) -> None:
    source = stand.paths.nginx / "current"
    names = ("site.pem", "site.key")
    for name, found in zip(names, ("certificate.pem", "certificate.key"), strict=True):
        (stand.root / name).write_bytes((source / found).read_bytes())
        (stand.root / name).chmod(0o600)
    files = {"certificate": names[0], "key": names[1]}
    stand.edit_stack(lambda stack: stack["site"].update(tls={"listen": port(stand), "files": files}))
    assert_up(stand)
    assert shakes(stand, stand.paths.authority)
    kept = key_in_place(stand)
    whole = (stand.root / "site.key").read_text()
    (stand.root / "site.key").write_text("-----BEGIN PRIVATE KEY-----\n")
    result = stand.up()
    assert result.status != 0
    assert "site.tls.files.key: site.key: " in result.output
    assert "holds no private key in PEM" in result.output
    assert key_in_place(stand) == kept
    assert shakes(stand, stand.paths.authority), "what served still serves"
    (stand.root / "site.key").unlink()
    status = stand.run("status", stand.name)
    assert "site.tls.files.key: site.key: No such file" in status.output
    assert "app1" in status.output, "what runs is shown all the same"
    (stand.root / "site.key").write_text(whole)


SSL_REDIRECT = "\nSECURE_SSL_REDIRECT = True\n"


def test_a_project_that_sends_all_to_https_itself_works_over_tls(stand: Stand) -> None:
    """SECURE_SSL_REDIRECT is nginx's work here, and does no harm."""
    stand.edit_code("example/settings.py", SSL_REDIRECT)
    assert_up(stand)
    assert shakes(stand, stand.paths.authority)


def test_behind_a_proxy_that_ends_tls_it_works_too_and_a_plain_site_refuses_it() -> None:
    with contextlib.closing(Stand(instances=1)) as stand:
        stand.edit_code("example/settings.py", SSL_REDIRECT)
        result = stand.up()
        assert result.status != 0
        assert "SECURE_SSL_REDIRECT must be off for this stack" in result.output
        stand.edit_stack(lambda stack: stack["site"].update(trusted_proxies=["127.0.0.2"]))
        result = stand.up()
        assert result.status == 0, result.output
        assert "https://cluster/" in result.output
        for source, told, status, location in (
            ("127.0.0.2", "https", 200, None),
            ("127.0.0.2", "http", 301, "https://cluster/whoami"),
            ("127.0.0.1", "https", 301, "https://cluster/whoami"),
        ):
            connection = http.client.HTTPConnection(*stand.address, timeout=10, source_address=(source, 0))
            connection.request("GET", "/whoami", headers={"Host": "cluster", "X-Forwarded-Proto": told})
            answer = connection.getresponse()
            assert (answer.status, answer.headers["Location"]) == (status, location), (source, told)
            cookie = answer.headers["Set-Cookie"] or ""
            assert ("Secure" in cookie) == (status == 200)
            connection.close()
