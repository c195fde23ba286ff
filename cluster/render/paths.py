"""Where nginx finds things on a platform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster.endpoints import Endpoint


@dataclass(frozen=True, kw_only=True)
class Between:
    """What nginx shows to the nginx of another host, and by what it knows that: PEM files, absolute."""

    authority: str
    certificate: str
    key: str


@dataclass(frozen=True, kw_only=True)
class NginxPaths:
    """Where things are on a platform; absolute paths.

    user: nginx's `user` (and its group, after a space), or None where nginx is not started by root and can't change it.
    instances: where nginx reaches each of them, by name.
    shared: the directory of what the project writes, its uploads among it.
    static: a directory in which `current` and `previous` lead to the files of the two last releases.
    closing: while this file exists, an nginx before 1.27.4 closes clients' connections after each response.
    maintenance: the file that keeps visitors out while it is there, without its ending (cluster.render.maintenance).
    acme: the directory of what a renewer keeps (cluster.acme.kept).
    users: the file of the users for whom nginx asks, which its workers read.
    internal: the socket on which nginx tells its config's digest and passes probes to the instances.
    access_log: the log of requests; None for the one in `logs`.
    listen_address, listen_address_ipv6: where the site listens; empty for every address of IPv4.
    instance_address: where instances' own ports listen; in a container everywhere, since the engine publishes them to
        the loopback address alone.
    between: where instances are behind a host's nginx, which is asked by TLS; None where they are asked themselves.
    """

    user: str | None
    instances: Mapping[str, Endpoint]
    static: str
    shared: str
    logs: str
    temp: str
    pid: str
    internal: str
    closing: str
    maintenance: str
    acme: str
    users: str
    access_log: str | None = None
    listen_address: str = ""
    listen_address_ipv6: str = "[::]"
    instance_address: str = "127.0.0.1"
    between: Between | None = None

    @property
    def passes_by(self) -> str:
        """How requests are passed on: http, or https to another host's nginx."""
        return "https" if self.between is not None else "http"
