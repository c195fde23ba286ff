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
            "4edf8ee16d788c94a67355692bbef83294ac8aa89ccc442244da3b2a0e4bad41",
            "3c138f47728cdb56a85efde7c531045564071b1888e882bdcb29b5f05b5af063",
        ),
    ),
    "uploads": (
        MEDIA,
        {},
        (
            "3f5ff2b322f418de6e03ecec4e2cf950b9809f03e754749a54a6872b5e7763c1",
            "1807e9200cfba84deb546545d8d4668709c8e9b0c21437020beeeab39415644b",
        ),
    ),
    "ports of instances, for anybody": (
        {},
        {"server_names": ["_"], "instance_ports": 8000},
        (
            "6ddaa1f313d6e436c234cafbff65bd46590e7ac01d424dc50f97d05fbac8fc10",
            "e1b9ede66501b52683074e75e8c3ef31399cab2c0ff17e878c00084fc7042b6f",
        ),
    ),
    "no static files, no limit": (
        {},
        {"static_url": None, "connections_per_address": 0},
        (
            "4b7ad8500440cee09e802981f372f504e4f2e5c1e9d0608cbd91173f449dfbe0",
            "1ea37a05b8753d4a33f3f4455fd1b65abae0253b9a33d176eadd7f8b9eccd4b1",
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
