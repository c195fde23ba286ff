"""The server for whoever runs the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.render import acme, maintenance
from cluster.render.directives import Directive, block, d

if TYPE_CHECKING:
    from cluster.config.site import Site
    from cluster.render.paths import NginxPaths

#: Stands in the text for the digest while it is being computed.
DIGEST_PLACE = "0" * 64


def internal_server(paths: NginxPaths, site: Site) -> Directive:
    """Return the server for whoever runs the cluster: the digest of this config, and probes to the instances."""
    return block(
        "server",
        of=[
            d("listen", f"unix:{paths.internal}"),
            d("server_name", "internal"),
            d("access_log", "off"),
            # A probe says which client it stands for, so that ip_hash has something to hash.
            d("set_real_ip_from", "unix:"),
            d("real_ip_header", "X-Probe-Address"),
            block(
                "location",
                "=",
                "/-/config",
                of=[d("default_type", "text/plain"), d("return", 200, DIGEST_PLACE)],
            ),
            maintenance.told(),
            *acme.told(site),
            block("location", "=", "/-/connections", of=[d("stub_status")]),
            block(
                "location",
                "/-/probe",
                of=[
                    d("proxy_pass", f"{paths.passes_by}://cluster"),
                    d("proxy_set_header", "Connection", ""),
                    d("proxy_set_header", "Host", "$host"),
                    d("proxy_set_header", "X-Forwarded-Proto", "https"),
                ],
            ),
            block("location", "/", of=[d("return", 404)]),
        ],
    )
