"""Certificates by ACME with the real nginx: it answers an authority before all else, and any of several for another."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cluster.acme.kept import Store, new_key
from cluster.acme.renewer import Renewer
from cluster.acme.wanted import Wanted
from cluster.maintenance import asked_for
from cluster.render.acme import LOCATION
from tests.conformance import wait_until
from tests.nginx.running import ACCOUNT, PATIENCE, THUMBPRINT, Running, ask, free_ports, stack
from tests.nginx.test_maintenance import turn
from tests.pebble import Pebble, needs_pebble, shown
from tests.secure_load import Secure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.nginx.running import Values
    from tests.nginx_versions import Nginx

NAMES = ["www.example.test", "example.test"]
PATH = "/.well-known/acme-challenge/abc_DEF-123"


def by_acme(**site: Any) -> Values:
    port = free_ports(2)
    values = stack(
        2,
        listen=port,
        tls={"listen": port + 1, "acme": {}},
        redirects={"old.example.test": "example.test", "/.well-known/": "/elsewhere/"},
        limit="1r/m",
        burst=0,
        **site,
    )
    values["site"]["server_names"] = list(NAMES)
    return values


@pytest.fixture(scope="module")
def running(nginx: Nginx) -> Iterator[Running]:
    with Running(nginx, by_acme()) as found:
        yield found


def https_port(running: Running) -> int:
    port: int = running.values["site"]["tls"]["listen"]
    return port


@pytest.mark.parametrize("name", [*NAMES, "old.example.test"])
def test_nginx_answers_the_authority_on_every_name_and_no_instance_is_asked(running: Running, name: str) -> None:
    for _ in range(3):  # more than the limit
        reply = running.request(PATH, host=name)
        assert (reply.status, reply.body.decode()) == (200, f"abc_DEF-123.{THUMBPRINT}")
    authority = (running.directory / "acme" / "live" / "fullchain.pem").read_text()
    with contextlib.closing(Secure(("127.0.0.1", https_port(running)), name, authority, PATIENCE)) as connection:
        assert ask(connection, PATH, host=name).body.decode() == f"abc_DEF-123.{THUMBPRINT}"
    assert not running.requests


@pytest.mark.parametrize(
    "path",
    [
        "/.well-known/acme-challenge/",
        "/.well-known/acme-challenge/a.b",
        "/.well-known/acme-challenge/<script>",
        f"{PATH}/x",
        f"{PATH};x",
        f"{PATH}%0d%0aX-Other:%20x",
        f"{PATH}%20HTTP/1.1",
    ],
)
def test_what_is_no_token_is_a_path_as_any_other(running: Running, path: str) -> None:
    assert running.request(path, host=NAMES[0]).status == 308


@pytest.mark.parametrize(
    "request_text",
    [
        f"GET {PATH} HTTP/1.0\r\nHost: {NAMES[0]}",
        f"GET {PATH}?x HTTP/1.1\r\nHost: {NAMES[0]}:80",
        f"GET http://{NAMES[0]}{PATH} HTTP/1.1\r\nHost: other.test",
        f"GET /x/..{PATH} HTTP/1.1\r\nHost: {NAMES[0].upper()}.",
        f"GET {PATH} HTTP/1.1\r\nHost: {NAMES[0]}\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: other.test",
        f"POST {PATH} HTTP/1.1\r\nHost: {NAMES[0]}\r\nContent-Length: 99999999999",
    ],
)
def test_however_it_is_asked_it_answers_itself_and_with_nothing_but_the_token(
    running: Running, request_text: str
) -> None:
    before = len(running.requests)
    reply = running.raw(f"{request_text}\r\nConnection: close\r\n\r\n".encode())
    assert reply is not None
    assert (reply.status, reply.body.decode()) == (200, f"abc_DEF-123.{THUMBPRINT}")
    assert reply.headers["Content-Type"] in {"application/octet-stream", "text/plain"}
    assert len(running.requests) == before


def test_a_name_that_is_not_the_sites_gets_no_answer(running: Running) -> None:
    assert running.raw(f"GET {PATH} HTTP/1.1\r\nHost: other.test\r\n\r\n".encode()) is None


def test_maintenance_keeps_everybody_out_but_the_authority(running: Running) -> None:
    turn(running, asked_for("closed", "10m", []))
    try:
        assert running.request(PATH, host=NAMES[0]).body.decode() == f"abc_DEF-123.{THUMBPRINT}"
    finally:
        turn(running, None)


def test_a_new_certificate_is_read_by_a_reload_and_the_digest_stays(running: Running) -> None:
    store, digest = Store(running.directory / "acme"), running.config.digest
    before = shown(https_port(running), NAMES[0])
    assert running.internal(LOCATION).body.decode() == store.told()
    shutil.rmtree(running.directory / "acme" / "certificates")
    store.prepare(NAMES, THUMBPRINT)
    assert running.internal(LOCATION).body.decode() != store.told()
    load(running)
    wait_until(lambda: shown(https_port(running), NAMES[0]) != before, "the old workers accept no more")
    assert running.config.digest == digest


def load(running: Running) -> None:
    """Let nginx read the certificate that is there."""
    running.reload(running.values)
    store = Store(running.directory / "acme")
    wait_until(lambda: running.internal(LOCATION).body.decode() == store.told(), "nginx has read it")


@pytest.fixture(scope="module")
def pair(nginx: Nginx) -> Iterator[tuple[Running, Running]]:
    """Two hosts' nginx of one stack: one account, and a certificate each."""
    with Running(nginx, by_acme()) as one, Running(nginx, by_acme()) as other:
        yield one, other


def wanted(running: Running, pebble: Pebble, account: Path) -> Wanted:
    account.write_text(ACCOUNT)
    names = (*NAMES, "old.example.test")
    asked = ("127.0.0.1", running.port)
    return Wanted(directory=pebble.url, names=names, account=str(account), trusted=str(pebble.ca), asked=asked)


@needs_pebble
def test_each_of_two_nginx_gets_a_certificate_though_the_authority_asks_one_of_them_alone(
    pair: tuple[Running, Running], tmp_path: Path
) -> None:
    """And it refuses one of twenty nonces: each is replaced at once."""
    with contextlib.closing(Pebble(pair[1].port)) as pebble:
        keys = set()
        for running in pair:
            store, lines = Store(running.directory / "acme"), list[str]()
            keeper = Renewer(wanted(running, pebble, tmp_path / "account"), store, lines.append)
            keeper.step()
            assert store.said().issuer == pebble.url, (lines, pebble.said())
            keys.add((store.live / "privkey.pem").read_bytes())
            load(running)
            with contextlib.closing(
                Secure(("127.0.0.1", https_port(running)), NAMES[1], pebble.root(), PATIENCE)
            ) as connection:
                assert ask(connection, "/", host=f"{NAMES[1]}:{https_port(running)}").status == 200
        assert len(keys) == 2
        assert pebble.issued() == 2
        refused = pebble.said().count("badNonce")
        print(f"{pebble.issued()} certificates, {refused} nonces refused")


BOUND = {
    "ours": "dGhlIGtleSB0aGF0IHRoZSBhdXRob3JpdHkgZ2F2ZSE",
    "other": "YW5vdGhlciBrZXkgdGhhdCB0aGUgYXV0aG9yaXR5IGdhdmU",
}


@needs_pebble
def test_an_authority_that_takes_accounts_of_those_whom_it_knows_is_told_whose_it_is(
    pair: tuple[Running, Running], tmp_path: Path
) -> None:
    """And where it is not told, or told something else, it says so, and nothing of the key."""
    running, key = pair[0], tmp_path / "eab"
    with contextlib.closing(Pebble(running.port, bound=BOUND)) as pebble:
        told = wanted(running, pebble, tmp_path / "account")
        binding = replace(told, eab="ours", eab_key=str(key))
        for number, (now, text, words) in enumerate(
            (
                (told, "", "give the id of the key that it gave by site.tls.acme.eab"),
                (binding, BOUND["other"], "unauthorized"),
                (replace(binding, eab="unknown"), BOUND["ours"], "unauthorized"),
                (binding, "not base64url!", "is no key in base64url"),
                (binding, "", "is no key in base64url"),
            )
        ):
            key.write_text(text)
            keeper = Renewer(now, Store(tmp_path / f"acme{number}"), lambda _line: None)
            keeper.step()
            assert keeper.said.failures == 1
            assert words in keeper.said.message
            assert not text or text not in keeper.said.message
        assert pebble.issued() == 0
        key.unlink()
        keeper.step()
        assert "FileNotFoundError" in keeper.said.message
        key.write_text(f"{BOUND['ours']}\n")
        keeper.step()
        assert keeper.said.issuer == pebble.url, "another key is tried at once"
        assert (pebble.issued(), keeper.said.failures) == (1, 0)


@needs_pebble
def test_with_another_account_the_authority_believes_no_answer(pair: tuple[Running, Running], tmp_path: Path) -> None:
    """The saboteur: what nginx answers is what the certificate hangs on."""
    with contextlib.closing(Pebble(pair[0].port)) as pebble:
        running, lines = pair[0], list[str]()
        store = Store(tmp_path / "acme")
        told = wanted(running, pebble, tmp_path / "account")
        (tmp_path / "account").write_text(new_key())
        keeper = Renewer(told, store, lines.append)
        keeper.step()
        assert not lines, "nginx does not answer for it: nothing is asked"
        keeper._answered = lambda *_arguments: True  # type: ignore[method-assign]
        keeper.step()
        assert store.said().failures == 1
        assert "The key authorization file from the server did not match" in store.said().message
        assert pebble.issued() == 0
