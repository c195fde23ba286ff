"""HTTP/3 on this machine: refused where nginx does not speak it, and a whole site by one that does."""

from __future__ import annotations

import contextlib
import os
import shlex
from typing import TYPE_CHECKING

import pytest

from cluster.machine.nginx import find_nginx
from cluster.render.versions import HTTP3_SINCE
from tests.h3_client import Client
from tests.local.stand import Stand, free_port
from tests.nginx_versions import nginx_versions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.h3_client import Answer

#: Seconds that an answer may take.
PATIENCE = 30.0


@pytest.fixture
def stand() -> Iterator[Stand]:
    with contextlib.closing(Stand()) as found:
        tls = {
            "listen": free_port(consecutive=4) + 3,
            "self_signed": True,
            "http3": True,
            "discard_http3_requests": True,
        }
        found.edit_stack(lambda stack: stack["site"].update(tls=tls))
        yield found


def ask(stand: Stand, path: str) -> Answer:
    port = stand.stack["site"]["tls"]["listen"]
    with contextlib.closing(Client(port, "cluster", stand.paths.authority.read_text(), PATIENCE)) as client:
        return client.ask(path)


def test_an_nginx_that_does_not_speak_it_is_told_before_anything_is_changed(stand: Stand) -> None:
    if find_nginx()[1] >= HTTP3_SINCE:
        pytest.skip("the nginx of this machine may speak it")
    result = stand.up()
    assert result.status != 0
    assert "site.tls.http3: nginx " in result.output
    assert "speaks no HTTP/3, which is of 1.26.0 and later ones." in result.output
    assert not stand.paths.authority.exists()


def test_a_site_answers_and_verify_sees_that(stand: Stand, tmp_path: Path) -> None:
    able = [one for one in nginx_versions() if one.version >= HTTP3_SINCE]
    if not able:
        pytest.skip("no nginx that speaks it is here; `python -m tests.nginx_versions` fetches one")
    (tmp_path / "nginx").write_text(f'#!/bin/sh\nexec {shlex.join(able[-1].command)} "$@"\n')
    (tmp_path / "nginx").chmod(0o755)

    path = f"{tmp_path}:{os.environ['PATH']}"
    up = stand.run("up", stand.name, PATH=path)
    assert up.status == 0, up.output
    answer = ask(stand, "/")
    assert (answer.status, len(answer.of("alt-svc"))) == (200, 1)
    verified = stand.run("verify", stand.name, PATH=path)
    assert verified.status == 0, verified.output
    assert "HTTP/3 answers by UDP" in verified.output
