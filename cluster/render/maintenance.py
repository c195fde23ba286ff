"""A site in maintenance, for nginx: what every configuration has for it, and the file that turns it on.

The configuration is the same whether a site is in maintenance or not, and so is its digest. It looks four things up:
who is kept out, the page, Retry-After, and a digest of the three, which nginx's internal socket tells. A file that is
included into each of these maps, where it is there, says them: without it nobody is kept out.

Static files and uploads are kept back as the rest is, and the page needs none: it is in the file, and nginx holds it in
memory. What an instance is asked by its own port is not: it leads to one who looks after it.
"""

from __future__ import annotations

import hashlib
import html
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.render.directives import Directive, block, build, d
from cluster.render.proxies import MAPPED
from cluster.render.versions import KEEPALIVE_MIN_TIMEOUT_SINCE, Version

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.maintenance import Maintenance, Network
    from cluster.render.paths import NginxPaths

#: The ending of the file that says who is kept out. It is included by a pattern, which may match nothing.
SUFFIX = ".map"

#: What the maps look up: `client` with the bytes of its address after it, and three that are the same for all.
CLIENT, PAGE, RETRY_AFTER, DIGEST = "client ", "page", "retry-after", "digest"

#: Where the page is, for nginx alone.
LOCATION = "/-/maintenance"

_TEMPLATE = (
    '<!DOCTYPE html><html><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    "<title>503</title><style>body{{font:1.2em/1.5 sans-serif;max-width:32em;margin:20vh auto;padding:0 1em}}</style>"
    "</head><body><p>{message}</p></body></html>"
)


@dataclass(frozen=True, kw_only=True)
class MaintenanceFile:
    """The file that turns maintenance on; `digest`: what nginx tells where it has read it."""

    text: str
    digest: str


def page(message: str) -> str:
    """Return the page in plain ASCII, with nothing of the message in it that a browser or nginx would read."""
    lines = "<br>".join(html.escape(line) for line in message.splitlines())
    # nginx would look up what follows a $, and Python's quoting is for nginx only where nothing has to be escaped.
    safe = lines.replace("$", "&#36;").replace("\\", "&#92;").encode("ascii", "xmlcharrefreplace").decode()
    return _TEMPLATE.format(message=safe)


def render_maintenance(maintenance: Maintenance) -> MaintenanceFile:
    """Render the file: the networks that are let in before all others, who are not."""
    tree = []
    for text, network in zip(maintenance.allow, maintenance.networks, strict=True):
        tree += [{"directive": "#", "comment": f" {text}", "line": 1, "args": []}, d(_pattern(network), "")]
    tree += [d(f"~^{CLIENT}", 1), d(PAGE, page(maintenance.message)), d(RETRY_AFTER, maintenance.retry_after)]
    digest = hashlib.sha256(build(tree).encode()).hexdigest()
    return MaintenanceFile(text=build([*tree, d(DIGEST, digest)]), digest=digest)


def digest_of(wanted: Maintenance | None) -> str:
    """Return what nginx tells on its internal socket where it does what is wanted."""
    return "" if wanted is None else render_maintenance(wanted).digest


def _pattern(network: Network) -> str:
    """Return the regular expression of a network's clients, of the bytes of whose address nginx makes the key."""
    address = network.network_address.packed
    whole, bits = divmod(network.prefixlen, 8)
    pattern = "".join(f"\\x{byte:02x}" for byte in address[:whole])
    if bits:
        pattern += f"[\\x{address[whole]:02x}-\\x{address[whole] | 0xFF >> bits:02x}]"
    mapped = f"({MAPPED})?" if network.version == 4 else ""  # noqa: PLR2004 - of IPv4
    return rf"~(?s)^{CLIENT}{mapped}{pattern}.{{{len(address) - whole - bool(bits)}}}\z"


def maps(paths: NginxPaths) -> list[Directive]:
    """Return what nginx looks up in the file."""
    sources = {
        "$cluster_maintained": f"{CLIENT}$binary_remote_addr",
        "$cluster_maintenance_page": PAGE,
        "$cluster_maintenance_retry_after": RETRY_AFTER,
        "$cluster_maintenance": DIGEST,
    }
    include = d("include", f"{paths.maintenance}*{SUFFIX}")
    return [block("map", source, variable, of=[d("default", ""), include]) for variable, source in sources.items()]


def keeps_out(paths: NginxPaths, version: Version, headers: Sequence[Directive] = ()) -> list[Directive]:
    """Return what answers with the page, for the end of a server: the runtime's paths stay what they are.

    headers: what the site adds to every answer.
    """
    answer = [
        # Whatever was asked for, and however it was sent.
        block("types", of=[]),
        d("default_type", "text/html"),
        d("client_max_body_size", 0),
        d("add_header", "Retry-After", "$cluster_maintenance_retry_after", "always"),
        d("add_header", "Cache-Control", "no-store", "always"),
        # The page is kept by nobody, whatever the site says of its other answers.
        *(one for one in headers if one["args"][0].lower() != "cache-control"),
        d("return", 503, "$cluster_maintenance_page"),
    ]
    found = [block("if", "$cluster_maintained", of=[d("rewrite", "^(?!/-/)", LOCATION, "last")])]
    if version >= KEEPALIVE_MIN_TIMEOUT_SINCE:
        return [*found, block("location", "=", LOCATION, of=[d("internal"), *answer])]
    # As everywhere in the site (cluster.render.locations): before a reload each response ends its connection.
    closing = [
        d("error_page", 418, "=", "@closing_maintenance"),
        block("if", "-f", paths.closing, of=[d("return", 418)]),
    ]
    return [
        *found,
        block("location", "=", LOCATION, of=[d("internal"), *closing, *answer]),
        block("location", "@closing_maintenance", of=[d("keepalive_timeout", 0), *answer]),
    ]


def told() -> Directive:
    """Return what tells on the internal socket which maintenance nginx has read; nothing where there is none."""
    return block(
        "location",
        "=",
        LOCATION,
        of=[d("default_type", "text/plain"), d("return", 200, "$cluster_maintenance")],
    )
