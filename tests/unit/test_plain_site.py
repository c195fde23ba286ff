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
            "c0f2efecdaaa24e4bec4fb1e1d30eac949eacb8662cc85c34b10ed6f89c34f63",
            "6aff2c7cf9df160a3cac422b9aaea189df3f1f7fa1b174cabef7f00e09541339",
        ),
    ),
    "uploads": (
        MEDIA,
        {},
        (
            "758d0e08e0c55fef46a38a05baa4ae3c9ab99921f327134a5836569073d9039b",
            "7fb6b3cd5b1a553c00526b4bdb183154301288f4507b436f787437f97538e75d",
        ),
    ),
    "ports of instances, for anybody": (
        {},
        {"server_names": ["_"], "instance_ports": 8000},
        (
            "d4428643d0790c98ec8987687c70ffe6e540ca96874151d3fc82118751bd6f7c",
            "fddfd866ee9d9af2b1aa8b0610a311d34b8e6e3212726b47d5653c66448ff218",
        ),
    ),
    "no static files, no limit": (
        {},
        {"static_url": None, "connections_per_address": 0},
        (
            "10b4448c2f091f6b1cb31e2d62cf725190c9136cf116d702e612d85b0ed59f6c",
            "866d9d25f13abca51096ec313e88c6ad90c80c8bb0ea32ffdc4c6f4e90e4096c",
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
