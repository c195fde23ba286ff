"""Stacks that are not the usual one: other engines, another interface, files, own ports, batches, a named engine."""

from __future__ import annotations

import contextlib
from typing import Any

import httpx
import pytest

from tests.conformance import assert_nothing_lost
from tests.e2e.stand import SERVERS, DockerStand, docker_port
from tests.load import Load
from tests.local.stand import free_port

VARIANTS: dict[str, dict[str, Any]] = {
    "asgi, sqlite, files, own ports": {
        "app": {"interface": "asgi"},
        "sessions": {"engine": "file"},
        "database": {"engine": "sqlite"},
        "site": {"instance_ports": 0},
    },
    "cache, hash, one at a time": {
        "app": {"rollout": {"batch": 1}},
        "sessions": {"engine": "cache", "memcached": {"nodes": 2, "memory": "32m"}},
        "upstream": {"method": "hash"},
    },
    "signed cookies, least_conn, the project's own database": {
        "app": {"migrate": False, "environment": {"LOGGING_LEVEL": "INFO"}},
        "sessions": {"engine": "signed_cookies"},
        "database": {"engine": "sqlite"},
        "upstream": {"method": "least_conn"},
    },
}


def stack_of(changes: dict[str, Any]) -> dict[str, Any]:
    base: dict[str, Any] = {
        "platform": "docker",
        "app": {"project": "./example", "settings": "example.settings", "memory": "256m"},
        "upstream": {"servers": [dict(server) for server in SERVERS]},
        "database": {"engine": "postgres"},
        "site": {"server_names": ["cluster", "localhost"], "listen": docker_port()},
    }
    for key, value in changes.items():
        base[key] = {**base.get(key, {}), **value}
    if "instance_ports" in base["site"]:
        base["site"]["instance_ports"] = free_port(consecutive=4)
    return base


@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_variant_comes_up_is_verified_and_is_released_without_a_loss(name: str) -> None:
    with contextlib.closing(DockerStand(stack_of(VARIANTS[name]), name="v")) as stand:
        if "cookies" in name:  # its tables are made once, by hand
            stand.edit_stack(lambda stack: stack["app"].update(migrate=True))
            assert stand.up().status == 0
            stand.edit_stack(lambda stack: stack["app"].update(migrate=False))
        result = stand.up()
        assert result.status == 0, result.output
        result = stand.verify()
        assert result.status == 0, result.output
        ports = stand.stack["site"].get("instance_ports")
        for number in range(4) if ports else ():
            with httpx.Client(trust_env=False) as client:
                answer = client.get(f"http://127.0.0.1:{ports + number}/whoami").json()
            assert answer["instance"] == f"app{number + 1}"
        with Load(stand.address, host="cluster") as load:
            load.wait_for(200)
            stand.edit_code("visits/apps.py", f"# {name}\n")
            result = stand.up()
            load.wait_for(200)
        assert result.status == 0, result.output
        print(f"{name}: {load.counts}")
        assert_nothing_lost(load.counts)
        assert "no changes" in stand.up().output
