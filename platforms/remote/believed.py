"""Tells where a change of what hosts make their certificates of would cost requests: what they show and believe now.

Hosts with an authority do not believe those of another. So a change has three steps, of which each is an `up`: all
believe both, all show what is of the new one, all believe the new one alone.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING

from cluster.tls.hosts import authority_of, certificate_of_database, certificate_of_host
from platforms.remote import broker
from platforms.remote.made import makes_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster.tls.hosts import HostCertificate
    from cluster.tls.hosts_keys import HostsKeys
    from cluster.topology import Topology
    from platforms.remote.looked import Seen

REMEDY = (
    "changed so it costs requests for most of an `up`. Put the former value back, and say `cluster rotate-key {stack} "
    "--hosts`; where nobody has that any more, `cluster down {stack}`, and then `cluster up {stack}`"
)


def disbelieved(topology: Topology, seen: Seen, keys: HostsKeys) -> str | None:
    """Return why hosts must not be told so yet; None where what serves goes on being believed by all.

    What somebody has broken there is none of that: it is put right.
    """
    if not keys.key:
        return None
    stack = seen.leader.places.stack
    known, own = {_digest(authority_of(key, stack)) for key in keys.all}, _digest(authority_of(keys.key, stack))
    believed = list(_believed(topology, seen))
    for host, found in believed:
        if own not in found and found & known:
            return f"{host} believes the one in hosts_key_fallbacks alone: {REMEDY.format(stack=stack)}"
    if not any(found - known for _host, found in believed):
        return None
    for host, found_there, made in _shown(topology, seen):
        if found_there not in {_digest(made(key, stack, host).certificate) for key in keys.all}:
            return f"{host} shows what is made of another one: {REMEDY.format(stack=stack)}"
    return None


def _believed(topology: Topology, seen: Seen) -> Iterator[tuple[str, set[str]]]:
    """Yield digests of the authorities that a host's nginx, and what runs there, believes."""
    for host, looked in seen.each.items():
        yield host, {*looked.between.get("believed", ())}
        if makes_secrets(topology):
            yield host, {*looked.between.get("instances", ())}


def _shown(topology: Topology, seen: Seen) -> Iterator[tuple[str, str, Callable[[str, str, str], HostCertificate]]]:
    """Yield the digest of each certificate that a host shows, and what makes one in its place."""
    for host, looked in seen.each.items():
        if looked.between.get("shown"):
            yield host, looked.between["shown"], certificate_of_host
        shown = ((looked.stack or {}).get("database") or {}).get("shown")
        if shown and topology.config.makes_postgres and host == seen.placement.database:
            yield host, shown, certificate_of_database
        shown = ((looked.stack or {}).get("broker") or {}).get("shown")
        if shown and host == seen.placement.broker:
            yield host, shown, partial(_of_broker, topology)


def _of_broker(topology: Topology, key: str, stack: str, host: str) -> HostCertificate:
    return broker.certificate(key, stack, topology.config.host(host))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
