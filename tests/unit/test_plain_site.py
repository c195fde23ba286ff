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
            "321ed25b2ed9fbb954c611fc301ecbfb96a748c0310fc7737388650ff0ef44b7",
            "b5078c6a01dc4be950ad2ab5ec0963cc3b535e18490b3bca60b42b265786980c",
        ),
    ),
    "uploads": (
        MEDIA,
        {},
        (
            "bac907d8ee83e2a0a22b38f3483ad19a331a825bad6c72405acb0f37ec8c1ff4",
            "5867dc59faa942ea184771aa76764aa1d260ea9e69791e060aee9e619b12793c",
        ),
    ),
    "ports of instances, for anybody": (
        {},
        {"server_names": ["_"], "instance_ports": 8000},
        (
            "8839c4a97c5db2678aac1cb09951e300e6d42687c929d6433b307d1a8bf40323",
            "2a074b017eaf4607846ac4feb9eef2ab0952d7a4f1e71fd348daac31644cbb3b",
        ),
    ),
    "no static files, no limit": (
        {},
        {"static_url": None, "connections_per_address": 0},
        (
            "8a06dd5dfea63d88b9f062a10571be0e22e781f9aa4ccf89ef791e8c37ba550b",
            "88f2e9e8fb0e03abb542b8bd752fcbca5546eb96c814daffd42aa81c16569100",
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
