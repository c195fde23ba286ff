"""A site that asks each visitor for a user.

Source: https://nginx.org/en/docs/http/ngx_http_auth_basic_module.html . What `return` says, nginx answers before it
asks: redirects, the runtime's own paths, a page of maintenance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.render.directives import Directive, d

if TYPE_CHECKING:
    from cluster.config.site import Site
    from cluster.render.paths import NginxPaths

#: What an instance is told of Authorization: nothing where it was nginx that was told a password by it.
TOLD = "$cluster_authorization"


def asks(site: Site, paths: NginxPaths) -> list[Directive]:
    """Return what lets a server ask for a user, for all of its locations that don't say otherwise."""
    if site.auth_basic is None:
        return []
    return [
        d("auth_basic", site.auth_basic),
        # Its workers read it with each request, so that it is no part of a configuration that may be gone by then.
        d("auth_basic_user_file", paths.users),
        d("set", TOLD, ""),
    ]


def exempt(site: Site) -> list[Directive]:
    """Return what lets a location be without it."""
    return [] if site.auth_basic is None else [d("auth_basic", "off"), *passed_on(site)]


def passed_on(site: Site) -> list[Directive]:
    """Return what passes Authorization on, in a location or a server that asks for no user."""
    return [] if site.auth_basic is None else [d("set", TOLD, "$http_authorization")]


def told(site: Site) -> list[Directive]:
    """Return what tells an instance of Authorization; without a user to ask for it is what the client sent."""
    return [] if site.auth_basic is None else [d("proxy_set_header", "Authorization", TOLD)]
