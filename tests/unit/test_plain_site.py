"""A site that asks for nothing special is configured as it was, byte for byte: what a new key adds is its own users'."""

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
            "7d3f55f315f50eb560b1cc3e3e0ccd3450ff8ae47067fa0daa9c6cc88cd75bb0",
            "82e3f39208d78c5bcc0931c97c1a947c73dedb81964e7ba1acb64a60851a3594",
        ),
    ),
    "uploads": (
        MEDIA,
        {},
        (
            "a9954cd15e1827c3c09663bb021866f5beb5a0d934361713f7311e4ac3656999",
            "c8d09b07027713bdc2e0a0b9e00dccd830fd3d60758e05058d10dc5c4d557663",
        ),
    ),
    "ports of instances, for anybody": (
        {},
        {"server_names": ["_"], "instance_ports": 8000},
        (
            "0de61e67a3938b2aea0a62d3bd9f29254a80cd009a319a0e114dd22dc9e2294d",
            "604d1f56ae3ebdcae8d8a14c5935ad89349fd07b3aa1f595ae19c1e431942893",
        ),
    ),
    "no static files, no limit": (
        {},
        {"static_url": None, "connections_per_address": 0},
        (
            "870446bef49f17decedffddd1e801e6e205e01b18084746b68bfdb0d028edc28",
            "cf8377407255e8119d8a4802c99aeef12fbf261a7e0b4c61a66c883df29bcaeb",
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
