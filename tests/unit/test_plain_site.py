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
            "4b6391ed9631381f2c3ffb277f715630b34e922ec433981966327ad0f65117f1",
            "fe64fd8e81106fcea33b28552d35fba6cb323f29b59099700da4a7ea4f2e7b1d",
        ),
    ),
    "uploads": (
        MEDIA,
        {},
        (
            "c6611204452f54a8c0836fe72ef56b66d851fd49266783590fda317ca98eb66c",
            "02bfa9b036eff89dcaf87559bdb6509a6ab97829ea6c08708a3441a9a33fe6b8",
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
            "63cfaf0e6d9659e832e559f0c42f659ce734c097b62d390ec077cd82fe623b98",
            "43d0fff033cb02a48cd7c74c3adecea288eb0ec69659c841d54c56deb0444f6c",
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
