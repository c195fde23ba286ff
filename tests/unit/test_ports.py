"""Which ports of this machine are free, by IPv4 and by IPv6, and what a machine without IPv6 is told."""

from __future__ import annotations

import errno
import os
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from cluster.config import parse_config
from cluster.machine.ports import has_ipv6, is_free
from cluster.topology import build_topology
from platforms.local import cluster
from platforms.local.cluster import LocalCluster
from platforms.local.listeners import listening_ports, ports_held
from platforms.local.site import UpError
from tests.nginx.running import free_ports, stack

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.fixture
def by_ipv6() -> Iterator[int]:
    """A port on which somebody listens by IPv6 alone."""
    port = free_ports()
    with socket.socket(socket.AF_INET6) as there:
        there.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        there.bind(("::", port))
        there.listen()
        yield port


@needs_ipv6
def test_a_port_that_is_taken_by_ipv6_is_free_by_ipv4(by_ipv6: int) -> None:
    assert not is_free("::", by_ipv6)
    assert is_free("0.0.0.0", by_ipv6)


@needs_ipv6
def test_a_port_that_is_taken_by_ipv4_is_free_by_ipv6() -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        port = there.getsockname()[1]
        assert not is_free("127.0.0.1", port)
        assert is_free("::", port)


@needs_ipv6
def test_who_listens_by_which_is_told_apart(by_ipv6: int) -> None:
    assert (os.getpid(), by_ipv6) in listening_ports({os.getpid()})
    assert (True, by_ipv6) in ports_held({os.getpid()})
    assert (False, by_ipv6) not in ports_held({os.getpid()})


def checked(monkeypatch: pytest.MonkeyPatch, held: set[tuple[bool, int]], **site: Any) -> None:
    config = parse_config(stack(1, **site))
    monkeypatch.setattr(cluster, "stack_processes", lambda _paths: [])
    monkeypatch.setattr(cluster, "ports_held", lambda _pids: held)
    there = SimpleNamespace(config=config, topology=build_topology(config), paths=None)
    LocalCluster.check_ports(there)  # type: ignore[arg-type]


@needs_ipv6
def test_a_port_that_another_program_has_by_ipv6_is_said_before_anything_is_changed(
    by_ipv6: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = f"^site.listen: port {by_ipv6} is in use by another program"
    with pytest.raises(UpError, match=words):
        checked(monkeypatch, set(), listen=by_ipv6, ipv6=True)
    with pytest.raises(UpError, match=words):  # nginx has the other one already
        checked(monkeypatch, {(False, by_ipv6)}, listen=by_ipv6, ipv6=True)
    checked(monkeypatch, {(True, by_ipv6)}, listen=by_ipv6, ipv6=True)
    checked(monkeypatch, set(), listen=by_ipv6)


def test_a_machine_without_ipv6_is_told_so_in_place_of_an_nginx_that_does_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = socket.socket

    def without(family: int = socket.AF_INET, *rest: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        return real(family, *rest)

    monkeypatch.setattr(socket, "socket", without)
    assert not has_ipv6()
    with pytest.raises(UpError, match=r"^site\.ipv6: the kernel of this machine has no IPv6"):
        checked(monkeypatch, set(), listen=free_ports(), ipv6=True)
    checked(monkeypatch, set(), listen=free_ports())
