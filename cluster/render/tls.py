"""TLS in nginx's words.

Source: Mozilla's intermediate table, version 5.7 (https://ssl-config.mozilla.org), without its DHE ciphers: they need a
file of parameters, and no client that it names needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.acme.kept import CHAIN as ACME_CHAIN
from cluster.acme.kept import KEY as ACME_KEY
from cluster.acme.kept import LIVE
from cluster.endpoints import HTTPS
from cluster.render.directives import Directive, d
from cluster.tls.certificates import is_address

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.config.models import ClusterConfig
    from cluster.config.site import Site, Tls
    from cluster.render.paths import NginxPaths
    from cluster.render.versions import Version
    from cluster.tls.certificates import Certificate

#: From here on a server says `http2 on`; before that `listen` does.
HTTP2_DIRECTIVE_SINCE: Version = (1, 25, 1)

#: Beside nginx.conf; nginx finds them from its directory.
CHAIN, KEY = "certificate.pem", "certificate.key"

PROTOCOLS = ("TLSv1.2", "TLSv1.3")
CURVES = "X25519:prime256v1:secp384r1"
CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)


def private_files(certificate: Certificate | None) -> dict[str, str]:
    """Return what nginx alone may read, by its path in the configuration's directory."""
    return {} if certificate is None or not certificate.key else {CHAIN: certificate.chain, KEY: certificate.key}


def defaults(certificate: Certificate | None, paths: NginxPaths) -> list[Directive]:
    """Return what all listeners of TLS share; empty where there are none.

    Sessions are resumed from a memory that this nginx's workers share, of 40,000 clients: where there are several nginx
    hosts, another one makes a whole handshake. Tickets would need a key that all have, and that changes.
    """
    if certificate is None:
        return []
    return [
        # Another certificate is another configuration: nginx tells by its digest which one it has.
        {"directive": "#", "line": 1, "args": [], "comment": f" certificate: {certificate.label}"},
        d("ssl_certificate", f"{paths.acme}/{LIVE}/{ACME_CHAIN}" if certificate.renewed else CHAIN),
        d("ssl_certificate_key", f"{paths.acme}/{LIVE}/{ACME_KEY}" if certificate.renewed else KEY),
        d("ssl_protocols", *PROTOCOLS),
        d("ssl_ciphers", CIPHERS),
        d("ssl_ecdh_curve", CURVES),
        d("ssl_prefer_server_ciphers", "off"),
        d("ssl_session_cache", "shared:cluster_tls:10m"),
        d("ssl_session_timeout", "1d"),
        d("ssl_session_tickets", "off"),
        # A response begins with small records, so that a browser need not wait for a whole one.
        d("ssl_buffer_size", "4k"),
    ]


def listening(tls: Tls, addresses: Sequence[str], version: Version, *options: str) -> list[Directive]:
    """Return what makes a server listen with TLS."""
    on = version >= HTTP2_DIRECTIVE_SINCE
    word = ["http2"] if tls.http2 and not on else []
    listen = [d("listen", address, "ssl", *word, *options) for address in addresses]
    quic = [d("listen", address, "quic") for address in addresses] if tls.http3 else []
    return [
        *listen,
        *quic,
        *([d("http2", "on")] if tls.http2 and on else []),
        *([d("http3", "on")] if quic else []),
    ]


def of_each_worker(listening: Sequence[Directive]) -> list[Directive]:
    """Return listeners with a socket of each worker's own for QUIC, so that one gets all packets of a connection.

    For the first server of a port alone: nginx refuses options of a socket that are said twice.
    """
    return [
        {**one, "args": [*one["args"], "reuseport"]} if one["directive"] == "listen" and "quic" in one["args"] else one
        for one in listening
    ]


def refusal(config: ClusterConfig) -> list[Directive]:
    """Return what refuses a handshake by a name that is not the site's.

    A client that asks for an address names none in its handshake: where the site has an address for a name, the Host
    header alone tells.
    """
    addressed = any(is_address(name) for name in config.site.server_names)
    return [] if addressed else [d("ssl_reject_handshake", "on")]


def https(site: Site, host: str) -> str:
    """Return where a visitor of the plain port is sent."""
    port = "" if site.https_port == HTTPS else f":{site.https_port}"
    return f"https://{host}{port}$request_uri"
