"""Which addresses of a site a change leaves, by nginx's own text."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cluster.config import parse_config
from cluster.plan.addresses import addresses, cut, left
from cluster.plan.costs import Cost
from cluster.plan.side import nginx_paths
from cluster.render.nginx import render_nginx
from cluster.render.versions import NEW_NGINX
from cluster.tls.certificates import Certificate
from cluster.topology import build_topology
from platforms.local.planning import Planning
from tests.unit.pulumi_mocks import stack_values

NAMES = ["cluster", "localhost"]
PLAIN: dict[str, Any] = {"server_names": NAMES, "listen": 8080}
TLS: dict[str, Any] = {**PLAIN, "tls": {"listen": 8443, "self_signed": True}}

HTTP3 = {**TLS, "tls": {**TLS["tls"], "http3": True, "discard_http3_requests": True}}

NOTHING: tuple[list[Cost], list[str]] = ([], [])
OF_8080 = "http://cluster:8080, http://localhost:8080"


def files(site: dict[str, Any]) -> list[str]:
    topology = build_topology(parse_config({**stack_values(), "site": site}))
    certificate = Certificate(label="one") if "tls" in site else None
    return [*render_nginx(topology, nginx_paths(topology), NEW_NGINX, certificate).files.values()]


CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[list[Cost], list[str]]]] = {
    "nothing": (TLS, TLS, NOTHING),
    "HTTP/3 comes": (TLS, HTTP3, NOTHING),
    "HTTP/3 goes": (HTTP3, TLS, NOTHING),
    "what is no address": (PLAIN, {**PLAIN, "client_max_body_size": "20m", "instance_ports": 8000}, NOTHING),
    "instances' own ports go": ({**PLAIN, "instance_ports": 8000}, PLAIN, NOTHING),
    "a name more": (PLAIN, {**PLAIN, "server_names": [*NAMES, "www.example.org"]}, NOTHING),
    "a wider name": (
        {**PLAIN, "server_names": ["cluster", "a.example.org"]},
        {**PLAIN, "server_names": ["cluster", ".example.org"]},
        NOTHING,
    ),
    "every name": (PLAIN, {**PLAIN, "server_names": ["_"]}, NOTHING),
    "a narrower name": (
        {**PLAIN, "server_names": ["cluster", ".example.org"]},
        {**PLAIN, "server_names": ["cluster", "*.example.org"]},
        ([Cost.ADDRESS_LEFT], ["- http://.example.org:8080: answered no more"]),
    ),
    "a name less": (
        PLAIN,
        {**PLAIN, "server_names": NAMES[:1]},
        ([Cost.ADDRESS_LEFT], ["- http://localhost:8080: answered no more"]),
    ),
    "another port": (PLAIN, {**PLAIN, "listen": 80}, ([Cost.ADDRESS_LEFT], [f"- {OF_8080}: answered no more"])),
    "from the usual port": (
        {**PLAIN, "listen": 80},
        PLAIN,
        ([Cost.ADDRESS_LEFT], ["- http://cluster, http://localhost: answered no more"]),
    ),
    "IPv6 no more": (
        {**PLAIN, "ipv6": True},
        {**PLAIN, "ipv6": False},
        ([Cost.ADDRESS_LEFT], [f"- {OF_8080}: answered no more"]),
    ),
    "TLS": (PLAIN, TLS, ([Cost.REDIRECTED], [f"~ {OF_8080}: only redirected from now on"])),
    "TLS no more": (
        TLS,
        PLAIN,
        ([Cost.ADDRESS_LEFT], ["- https://cluster:8443, https://localhost:8443: answered no more"]),
    ),
    "a name that leads to another": (
        PLAIN,
        {**PLAIN, "server_names": NAMES[:1], "redirects": {"localhost": "cluster"}},
        ([Cost.REDIRECTED], ["~ http://localhost:8080: only redirected from now on"]),
    ),
    "a name that led to another": (
        {**PLAIN, "redirects": {"old.example.org": "cluster"}},
        PLAIN,
        ([Cost.ADDRESS_LEFT], ["- http://old.example.org:8080: answered no more"]),
    ),
    "TLS at another plain port": (
        PLAIN,
        {**TLS, "listen": 80},
        ([Cost.ADDRESS_LEFT], [f"- {OF_8080}: answered no more"]),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_addresses_that_a_change_leaves_are_told_with_their_cost(change: str) -> None:
    before, after, found = CHANGES[change]
    assert left(files(before), files(after)) == found


def test_what_somebody_has_broken_has_no_address() -> None:
    (site,) = [text for text in files(PLAIN) if "server_name cluster" in text]
    assert len(addresses([site]).of_site) == 2
    assert addresses([f"{site}}}\n"]) == addresses([]) == (frozenset(), frozenset())


def test_a_reload_costs_clients_of_http3_where_it_is_spoken() -> None:
    assert cut(files(HTTP3)) == [Cost.QUIC_CUT]
    assert [cut(files(site)) for site in (TLS, PLAIN)] == [[], []]
    assert cut([]) == cut([""]) == []
    # What a line of the project's says is none of nginx's.
    assert cut(["    # listen 443 quic\n    add_header X-Listen 'listen 443 quic';\n"]) == []


@pytest.mark.parametrize(("step", "costs"), [("reload", [Cost.QUIC_CUT]), ("start", []), ("restart", []), (None, [])])
def test_this_machine_s_plan_says_so_of_a_reload_alone(step: str | None, costs: list[Cost]) -> None:
    topology = build_topology(parse_config({**stack_values(), "site": HTTP3}))
    rendered = render_nginx(topology, nginx_paths(topology), NEW_NGINX, Certificate(label="one"))
    planning = Planning.__new__(Planning)
    place = SimpleNamespace(current_text=lambda path: rendered.files[path])
    planning.cluster = SimpleNamespace(nginx=place, nginx_config=lambda: rendered)  # type: ignore[assignment]
    assert planning._left(SimpleNamespace(nginx=step)) == (costs, [])  # type: ignore[arg-type]
