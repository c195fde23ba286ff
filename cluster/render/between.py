"""Between hosts: an nginx that has visitors asks the nginx of the host on which an instance runs, by TLS.

What both show each other is a certificate of the stack's (cluster.tls.hosts); what the other one does is in
cluster.render.relay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.config.units import Duration
from cluster.render.directives import Directive, d
from cluster.tls.certificates import RELAY

if TYPE_CHECKING:
    from cluster.config.site import Site
    from cluster.render.paths import Between, NginxPaths

#: Milliseconds that another host's nginx has to say that an instance took too long.
MARGIN = 1000

#: How long another host may take to accept a connection, the handshake of TLS included. One that is down takes all of
#: it.
CONNECT_TIMEOUT = "250ms"


def kept_between(connections: int) -> list[Directive]:
    """Return how connections to other hosts' nginx are kept; it lives through releases, so that they have no age.

    A connection by TLS costs as much as ten requests. Its reload is announced by the end of each (`polite` in
    cluster.render.locations), but for one that nobody uses meanwhile: a POST that takes it just as it is closed is
    lost. To close those sooner loses more: after each rest many would be made at once, and what is not accepted in
    time counts as a failure of the host.
    """
    return [d("keepalive", connections), d("keepalive_timeout", "60s"), d("keepalive_requests", 100_000)]


def retried(site: Site, paths: NginxPaths) -> list[Directive]:
    """Return where a request is sent to another instance.

    Where this one could not be reached, or ended before it answered; nginx never sends a POST twice by this. One that
    is slow is waited for, and not begun again elsewhere: over a unix socket a connection is made or refused at once, a
    full queue included, so that `timeout` would be of a slow one alone; between hosts a connection may be given up, and
    when the time to read is over, that to try another one is, too.
    """
    if paths.between is None:
        return [d("proxy_next_upstream", "error")]
    return [
        d("proxy_next_upstream", "error", "timeout"),
        d("proxy_next_upstream_timeout", str(site.proxy_read_timeout)),
        # Else nginx takes an address that begins with an upstream's name for one of its own.
        d("proxy_redirect", "off"),
        *asking(paths.between),
    ]


def waited(timeout: Duration) -> Duration:
    """Return how long another host's nginx is waited for, whose instances have so long.

    It says itself that they took too long. If this one did, it would take that for a failure of the host: a few slow
    requests at a time would keep all hosts from being asked.
    """
    return Duration(timeout + MARGIN)


def asking(between: Between) -> list[Directive]:
    """Return how another host's nginx is asked."""
    return [
        d("proxy_ssl_certificate", between.certificate),
        d("proxy_ssl_certificate_key", between.key),
        d("proxy_ssl_trusted_certificate", between.authority),
        d("proxy_ssl_verify", "on"),
        d("proxy_ssl_name", RELAY),
        d("proxy_ssl_protocols", "TLSv1.3"),
    ]
