"""Redirects: of names, each with a server of its own, and of paths, which one variable tells.

The rest of a path is taken from what the client sent, never from what nginx decoded of it: a decoded %0d%0a would end
the header, and what follows would be one of the client's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cluster.config.redirects import host_redirects, path_redirects
from cluster.render.directives import Directive, block, d

if TYPE_CHECKING:
    from cluster.config.redirects import PathRedirect
    from cluster.config.site import Site
    from cluster.topology import Topology

#: Permanent; and a client sends the same method and body again: a POST is not turned into a GET.
STATUS = 308


def redirect_map(topology: Topology) -> list[Directive]:
    """Return where each path leads; empty is nowhere."""
    found = path_redirects(topology.config.site.redirects)
    entries = [entry for one in found for entry in (_prefix(one) if one.is_prefix else _exact(one))]
    return [block("map", "$request_uri", "$cluster_redirect", of=[d("default", ""), *entries])] if found else []


def redirect_paths(topology: Topology) -> list[Directive]:
    """Return what the site's server does with paths that lead elsewhere."""
    if not path_redirects(topology.config.site.redirects):
        return []
    return [
        # As the client reached the site, whatever stands before it.
        d("absolute_redirect", "off"),
        block("if", "$cluster_redirect", of=[d("return", STATUS, "$cluster_redirect")]),
    ]


def by_name(site: Site) -> dict[str, Directive]:
    """Return the names that lead to another one, by that one."""
    return {target: d("server_name", *names) for target, names in host_redirects(site.redirects).items()}


def _pattern(path: str) -> str:
    """Return nginx's pattern of a path that a client sent; of escapes both spellings."""
    return re.sub("%[0-9A-Fa-f]{2}", lambda found: f"(?i:{found[0]})", re.escape(path))


def _prefix(one: PathRedirect) -> list[Directive]:
    # What would be read as another host, were it to begin the address, is no part of the rest.
    return [d(f"~^{_pattern(one.source)}[/\\x5c]*(?<cluster_rest>.*)$", f"{one.target}$cluster_rest")]


def _exact(one: PathRedirect) -> list[Directive]:
    pattern = f"~^{_pattern(one.source)}"
    if "?" in one.target:
        with_query = d(rf"{pattern}\?(?<cluster_query>.*)$", f"{one.target}&$cluster_query")
        return [d(f"{pattern}$", one.target), with_query]
    return [d(rf"{pattern}(?<cluster_query>(\?.*)?)$", f"{one.target}$cluster_query")]
