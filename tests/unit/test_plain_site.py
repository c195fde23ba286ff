"""A site that asks for nothing special is configured as it was, byte for byte: a key is for those who use it."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.config import parse_config
from cluster.endpoints import Endpoint
from cluster.render.nginx import render_nginx
from cluster.render.paths import NginxPaths
from cluster.topology import build_topology

NAMES = ("app1", "app2")

PATHS = NginxPaths(
    user="www-data",
    instances={name: Endpoint(path=f"/run/{name}/http.sock") for name in NAMES},
    static="/srv/static",
    shared="/srv/shared",
    logs="/var/log",
    temp="/var/temp",
    pid="/run/nginx.pid",
    internal="/run/nginx.sock",
    closing="/run/closing",
    maintenance="/var/maintenance",
    acme="/var/acme",
    users="/var/users",
)

STACK: dict[str, Any] = {
    "platform": "local",
    "app": {"project": "./example", "settings": "example.settings"},
    "upstream": {"servers": len(NAMES)},
    "site": {"server_names": ["cluster", "localhost"]},
}

MEDIA = {"media": {"root": "media"}, "protected_media": {"root": "private"}}

#: The digests by which nginx tells its configuration, before and from 1.27.4. Who changes one changes what every site
#: runs, and says so.
DIGESTS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, str]]] = {
    "plain": (
        {},
        {},
        (
            "2e3faa47475a539f3528b54f5a9b9cbfea20cc36a4ae1eedd18fe1e0d927040f",
            "154701ce9008a54ef59cfcafbbe5a09e52ab8e2cf3b4b61a0cfb9bb3fe25ffa0",
        ),
    ),
    "uploads": (
        MEDIA,
        {},
        (
            "28b6fcff14a6e8bf8304af7f7cfa28c0e7f6e0287564ff4f47057609b1e9af81",
            "24236a0e8f648fcaf08c27284efd1c55e368f94325c98ece40ebd64af994e06a",
        ),
    ),
    "ports of instances, for anybody": (
        {},
        {"server_names": ["_"], "instance_ports": 8000},
        (
            "a7e7c722f4d7374b195ffb4a0fd238d171ae40dffdf43fbad935b7c12b7fcb3f",
            "fe8bc985f1f5c7ed9e46e2111ac46ba91c636ac1673b1105726e9d98aba6bec1",
        ),
    ),
    "no static files, no limit": (
        {},
        {"static_url": None, "connections_per_address": 0},
        (
            "cfaada8bd3625ff57aa96696c9ad9fe0cca5d2c8e56f742384d7594f21843ae5",
            "d42a67f87b004d8aa30ec5be7778b7592c185739cc78840be3f2948231823fc4",
        ),
    ),
}


@pytest.mark.parametrize("what", DIGESTS)
def test_a_site_without_a_new_key_is_what_it_was(what: str) -> None:
    app, site, digests = DIGESTS[what]
    values = {**STACK, "app": {**STACK["app"], **app}, "site": {**STACK["site"], **site}}
    topology = build_topology(parse_config(values))
    rendered = tuple(render_nginx(topology, PATHS, version).digest for version in ((1, 22, 0), (1, 30, 0)))
    assert rendered == digests
