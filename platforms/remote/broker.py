"""The broker that is made on a host for instances and workers on others: how they ask, and what its host is told."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from cluster.endpoints import Endpoint
from cluster.placement import place
from cluster.services import BROKER_CERTIFICATE, BROKER_KEY, BROKER_USERS, LOOPBACK, PACKAGED, Kind
from cluster.tls.hosts_keys import HostsKeys, password_of
from platforms.remote.units import daemon_unit, socket_of

if TYPE_CHECKING:
    from cluster.config.hosts import Host
    from cluster.config.models import Broker
    from cluster.services import Service
    from cluster.tls.hosts import HostCertificate
    from cluster.topology import Topology
    from platforms.remote.host.paths import HostPaths

#: Who has the password may do all but what changes the server itself: where it writes, whose copy it is, who may what.
MAY = "~* &* +@all -@admin"


def _host(topology: Topology) -> Host:
    return topology.config.host(str(place(topology).broker))


def _broker(topology: Topology) -> Broker:
    assert topology.config.broker is not None  # noqa: S101 - there is one
    return topology.config.broker


def service_of(topology: Topology) -> Service:
    """Return the broker as a service."""
    (service,) = topology.of_kind(Kind.BROKER)
    return service


def reached_at(topology: Topology) -> tuple[str, int]:
    """Return the address and the port at which instances and workers ask for it."""
    address = _host(topology).between if place(topology).asks_broker else LOOPBACK
    return address, _broker(topology).port


def url(topology: Topology, places: HostPaths, secret: str) -> str:
    """Return the URL of the broker, which is a secret, as kombu and redis-py read it."""
    address, port = reached_at(topology)
    checked = {"ssl_cert_reqs": "required", "ssl_ca_certs": str(places.authority), "ssl_check_hostname": "true"}
    password = password_of(secret, "broker")
    return f"rediss://:{password}@{Endpoint(host=address, port=port)}/0?{urlencode(checked, safe='/')}"


def certificate(secret: str, stack: str, host: Host) -> HostCertificate:
    """Return what the broker on a host shows."""
    from cluster.tls.hosts import certificate_of_broker  # noqa: PLC0415 - cryptography takes its time

    return certificate_of_broker(secret, stack, host.name, LOOPBACK, *([host.internal] if host.internal else []))


def wanted(topology: Topology, places: HostPaths, keys: HostsKeys) -> dict[str, Any]:
    """Return what the host is told (platforms.remote.host.broker.make)."""
    placement, host, service = place(topology), _host(topology), service_of(topology)
    assert service.daemon is not None  # noqa: S101 - it is a program of the distribution's
    assert service.daemon.ping is not None  # noqa: S101 - it says when it is ready
    shown = certificate(keys.key, places.stack, host)
    # By their digests: each of two is good while one is changed for the other.
    passwords = [hashlib.sha256(password_of(one, "broker").encode()).hexdigest() for one in keys.all]
    question, answer = service.daemon.ping
    return {
        "name": service.name,
        "unit": daemon_unit(service, places),
        "programs": [*PACKAGED[service.kind].names],
        "port": _broker(topology).port,
        "listen": [host.internal] if host.internal is not None else [],
        "allowed": [topology.config.host(name).between for name in placement.app] if placement.asks_broker else [],
        "given": {
            BROKER_CERTIFICATE: shown.certificate,
            BROKER_KEY: shown.key,
            BROKER_USERS: f"user default on {' '.join(f'#{one}' for one in passwords)} {MAY}\n",
        },
        "socket": socket_of(service, places),
        "ping": [f"AUTH {password_of(keys.key, 'broker')}\r\n{question}", f"+OK\r\n{answer}"],
        "seconds": service.start_seconds,
    }
