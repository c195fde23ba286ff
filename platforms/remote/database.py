"""The PostgreSQL that is made on a host: how instances ask for it, and what the host is told."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING, Any

from cluster.placement import place
from cluster.services import LOOPBACK
from cluster.tls.hosts_keys import HostsKeys, password_of

if TYPE_CHECKING:
    from cluster.config.hosts import Host
    from cluster.topology import Topology
    from platforms.remote.host.paths import HostPaths

#: Hexadecimal digits that tell a user of the database from the one of another key.
TAG_LENGTH = 8

#: How often PostgreSQL hashes a password; its default (RFC 7677).
ROUNDS = 4096

SALT_BYTES = 16


def _host(topology: Topology) -> Host:
    return topology.config.host(str(place(topology).database))


def _port(topology: Topology) -> int:
    assert topology.config.database is not None  # noqa: S101 - one is made
    return topology.config.database.port


def reached_at(topology: Topology) -> tuple[str, int]:
    """Return the address and the port at which instances ask for it."""
    if not place(topology).asks_database:
        return LOOPBACK, _port(topology)
    return _host(topology).between, _port(topology)


def url(topology: Topology, places: HostPaths, secret: str) -> str:
    """Return the URL of the database, which is a secret. It is known by its host's name, wherever that is."""
    address, port = reached_at(topology)
    login = f"{login_of(places, secret)}:{password_of(secret, 'database')}"
    options = f"hostaddr={address}&sslmode=verify-full&sslrootcert={places.authority}"
    return f"postgres://{login}@{_host(topology).name}:{port}/{places.table}?{options}"


def login_of(places: HostPaths, secret: str) -> str:
    """Return the user as whom instances log in: each secret has one of its own, so that two are good at a time."""
    return f"{places.table}_{password_of(secret, 'login')[:TAG_LENGTH]}"


def wanted(topology: Topology, places: HostPaths, keys: HostsKeys, owner: str) -> dict[str, Any]:
    """Return what the host is told (platforms.remote.host.postgres.make)."""
    from cluster.tls.hosts import certificate_of_database  # noqa: PLC0415 - cryptography takes its time

    placement, host = place(topology), _host(topology)
    shown = certificate_of_database(keys.key, places.stack, host.name)
    verifiers = {
        login_of(places, one): verifier(password_of(one, "database"), password_of(one, "salt")) for one in keys.all
    }
    return {
        "owner": owner,
        "port": _port(topology),
        # From the beginning: a server that is to listen elsewhere has to be started anew.
        "listen": [host.internal] if host.internal is not None else [],
        "allowed": [topology.config.host(name).between for name in placement.app] if placement.asks_database else [],
        "certificate": shown.certificate,
        "key": shown.key,
        "user": places.table,
        "database": places.table,
        "logins": sorted(verifiers),
        "verifiers": verifiers,
    }


def verifier(password: str, salt: str) -> str:
    """Return what PostgreSQL keeps of a password (RFC 5803). It is the same for the same salt."""
    salted = bytes.fromhex(salt)[:SALT_BYTES]
    key = hashlib.pbkdf2_hmac("sha256", password.encode(), salted, ROUNDS)
    client = hmac.digest(key, b"Client Key", "sha256")
    stored, server = hashlib.sha256(client).digest(), hmac.digest(key, b"Server Key", "sha256")
    told = [base64.b64encode(one).decode() for one in (salted, stored, server)]
    return f"SCRAM-SHA-256${ROUNDS}:{told[0]}${told[1]}:{told[2]}"
