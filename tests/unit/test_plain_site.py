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
            "60f3a67900974aa8a6a5117509b420c1e5c566f431f21fc25ddb6645a6cb7940",
            "c37b6f91a6025bce8e13c098d33202f5f43ca7728fb3d00e99aba8d5b55709e1",
        ),
    ),
    "uploads": (
        MEDIA,
        {},
        (
            "45456a91ab824a636f1a16491b08f0d500157edd1822bde500eb63a0a884ffe4",
            "2b93e6bb42848f0c713c38a9141814dc5235d6ca3d87bea6bb6d2a129c33ffcb",
        ),
    ),
    "ports of instances, for anybody": (
        {},
        {"server_names": ["_"], "instance_ports": 8000},
        (
            "62d549280fde40c19587ac6837f571ae5568c97d6a719d4ff81a1e62fe9c71b1",
            "894756cab69c0aff65415b188504d8cc5cc917da620756d3c5dd6749ac6530aa",
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
