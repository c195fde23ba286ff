"""HTTP/3 on a host, whose nginx is its distribution's: a client asks by UDP, and a plan says what a reload costs."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from tests.conformance import assert_up, servers
from tests.e2e.remote import remote_stand
from tests.h3_client import Client

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.remote import RemoteStand
    from tests.h3_client import Answer

#: Seconds that an answer may take.
PATIENCE = 30.0

PORT = 8443


def ask(stand: RemoteStand) -> Answer:
    """Ask by HTTP/3, on a connection of its own."""
    authority = (stand.root / ".cluster" / stand.name / "authority.pem").read_text()
    with contextlib.closing(Client(PORT, "cluster", authority, PATIENCE, stand.address[0])) as client:
        return client.ask("/whoami")


def test_it_answers_and_a_plan_says_what_a_reload_costs(tmp_path: Path) -> None:
    tls = {"self_signed": True, "listen": PORT, "http3": True, "discard_http3_requests": True}
    site = {"server_names": ["cluster"], "listen": 8080, "tls": tls}
    with remote_stand(tmp_path, site=site, upstream={"servers": [{"name": "app1"}, {"name": "app2"}]}) as stand:
        assert_up(stand)
        answer = ask(stand)
        assert (answer.status, answer.of("alt-svc")) == (200, [f'h3=":{PORT}"; ma=3600'])
        verified = stand.verify()
        assert verified.status == 0, verified.output
        assert "HTTP/3 answers by UDP" in verified.output
        stand.edit_stack(lambda stack: servers(stack)["app1"].update(weight=5))
        planned = stand.run("plan", stand.name)
        assert "requests that are asked by HTTP/3 meanwhile may be lost" in planned.output, planned.output
        assert_up(stand)
        assert ask(stand).status == 200
