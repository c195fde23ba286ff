"""A host that lets nobody in but another one, through which it is reached: its site is verified from itself."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import httpx

from tests.conformance import assert_up
from tests.e2e.remote import Host, Network, RemoteStand
from tests.e2e.test_hosts_change import firewall

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Behind(Host):
    """A host that has a way in through another one alone."""

    through: Host

    def in_stack(self) -> dict[str, Any]:
        way = {key: value for key, value in self.through.in_stack().items() if key in {"address", "user", "host_key"}}
        return {**super().in_stack(), "jump": {**way, "identity_file": str(self.through.key)}}


@contextlib.contextmanager
def behind(directory: Path, **more: Any) -> Iterator[RemoteStand]:
    """Make a host that takes no packets but from one that lets people in, and a stand on it."""
    with contextlib.ExitStack() as there:
        network = there.enter_context(contextlib.closing(Network()))
        bastion = there.enter_context(contextlib.closing(Host(directory, "bastion", (), network.place())))
        host = there.enter_context(contextlib.closing(Behind(directory, "web1", ("app", "nginx"), network.place())))
        host.through = bastion
        for words in (["INPUT", "--in-interface", "lo"], ["INPUT", "--source", bastion.address]):
            firewall(host, "--append", *words, "--jump", "ACCEPT")
        firewall(host, "--append", "INPUT", "--jump", "DROP")
        yield there.enter_context(contextlib.closing(RemoteStand(host, upstream={"servers": 2}, **more)))


def checks(stand: RemoteStand) -> dict[str, bool | None]:
    result = stand.run("verify", stand.name, "--json")
    found: dict[str, bool | None] = {one["name"]: one["ok"] for one in json.loads(result.output)["checks"]}
    assert result.status == 0, result.output
    return found


def test_the_site_of_a_host_behind_another_one_is_verified_from_itself(tmp_path: Path) -> None:
    with behind(tmp_path) as stand:
        assert_up(stand)
        with contextlib.suppress(httpx.TimeoutException), httpx.Client(trust_env=False, timeout=3) as client:
            raise AssertionError(client.get(f"http://{stand.address[0]}:8080/"))
        found = checks(stand)
        assert found["page /"]
        assert found["the runtime's pages are not public"]


def test_and_so_is_its_certificate(tmp_path: Path) -> None:
    tls = {"self_signed": True, "listen": 8443}
    with behind(tmp_path, site={"server_names": ["cluster"], "listen": 8080, "tls": tls}) as stand:
        assert_up(stand)
        found = checks(stand)
        assert found["the certificate is one that clients believe"]
        assert found["http leads / to https"]
