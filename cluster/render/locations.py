"""What a server does with a path: the project's, static files, uploads, and what is nobody's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cluster.render.directives import Directive, block, d
from cluster.render.headers import file_headers, robots_location
from cluster.render.versions import KEEPALIVE_MIN_TIMEOUT_SINCE, Version
from cluster.source import location_of
from cluster.topology import served_static_url

if TYPE_CHECKING:
    from cluster.config.models import Media
    from cluster.config.site import Site
    from cluster.render.paths import NginxPaths
    from cluster.topology import Topology


def media_of(topology: Topology) -> list[tuple[Media, bool]]:
    """Return the directories of uploads that nginx serves, each with whether only the project may say so."""
    app = topology.config.app
    found = [(app.media, False), (app.protected_media, True)]
    return [(media, internal) for media, internal in found if media is not None and media.root and media.url]


def locations(topology: Topology, paths: NginxPaths, version: Version, upstream: str) -> list[Directive]:
    """Return what is in a server that passes requests on to `upstream`."""
    proxy = [d("proxy_pass", f"http://{upstream}")]
    closes = version < KEEPALIVE_MIN_TIMEOUT_SINCE
    locations = [
        # What the runtime answers is not the public's, by nginx's reading of the path and by the client's.
        block("if", "$cluster_internal", of=[d("return", 404)]),
        block("location", "^~", "/-/", of=[d("return", 404)]),
        block("location", "/", of=[*polite(paths, "@closing", closes=closes), *proxy]),
    ]
    if closes:
        locations.append(block("location", "@closing", of=[d("keepalive_timeout", 0), *proxy]))
    locations += robots_location(topology.config.site)
    static_url = served_static_url(topology.config)
    if static_url is not None:
        locations += _static_locations(topology.config.site, static_url, paths, closes=closes)
    for number, (media, internal) in enumerate(media_of(topology)):
        closing = f"@closing_media{number}"
        files = _media(topology, paths, media, internal=internal)
        locations.append(
            block(
                "location",
                "^~",
                str(media.url),
                of=[*polite(paths, closing, closes=closes and not internal), *files],
            )
        )
        if closes and not internal:
            locations.append(block("location", closing, of=[d("keepalive_timeout", 0), *files]))
    return locations


def _media(topology: Topology, paths: NginxPaths, media: Media, *, internal: bool) -> list[Directive]:
    """Serve uploads as files and nothing else; what only the project may let out keeps the headers that it gave."""
    where = f"{paths.shared}/{location_of(topology.config, str(media.root))}"
    headers = [
        *([] if internal else [d("add_header", "Content-Disposition", "$cluster_media_disposition")]),
        d("add_header", "Content-Security-Policy", "$cluster_media_policy"),
        d("add_header", "X-Content-Type-Options", "nosniff"),
    ]
    return [
        *([d("internal")] if internal else []),
        d("root", where),
        # Not `alias`: it can't stand where old nginx closes connections, in a named location.
        d("rewrite", f"^{re.escape(str(media.url))}(.*)$", "/$1", "break"),
        # A link that an instance made leads no further than its own files do.
        d("disable_symlinks", "if_not_owner", f"from={where}"),
        *file_headers(topology.config.site, headers),
        d("open_file_cache", "max=1000", "inactive=30s"),
        d("open_file_cache_valid", "2s"),
    ]


def polite(paths: NginxPaths, location: str, *, closes: bool) -> list[Directive]:
    """Before 1.27.4 a reload closes idle client connections at once, and a request that is on its way is lost.

    So before a reload `closing` is made: every response then ends its connection, and when the reload comes there are
    no busy clients left with an idle connection.
    """
    if not closes:
        return []
    return [d("error_page", 418, "=", location), block("if", "-f", paths.closing, of=[d("return", 418)])]


def _static_locations(site: Site, url: str, paths: NginxPaths, *, closes: bool) -> list[Directive]:
    """Return where static files are; a page of the former release may still ask for that one's."""
    closing = polite(paths, "@closing_static", closes=closes)
    current, previous = f"{paths.static}/current", f"{paths.static}/previous"
    found = [
        block("location", "^~", url, of=[*closing, *_static(site, current, "@previous_static")]),
        block("location", "@previous_static", of=_static(site, previous, "=404")),
    ]
    if closes:
        last = d("keepalive_timeout", 0)
        found += [
            block("location", "@closing_static", of=[last, *_static(site, current, "@closing_previous_static")]),
            block("location", "@closing_previous_static", of=[last, *_static(site, previous, "=404")]),
        ]
    return found


def _static(site: Site, where: str, otherwise: str) -> list[Directive]:
    headers = [
        d("add_header", "Cache-Control", "$cluster_static_cache"),
        d("add_header", "X-Content-Type-Options", "nosniff"),
    ]
    return [
        d("root", where),
        d("try_files", "$uri", otherwise),
        # A link that the project made among them leads no further than its own files do.
        d("disable_symlinks", "if_not_owner", f"from={where}"),
        *file_headers(site, headers),
        d("gzip_static", "on"),
        d("open_file_cache", "max=1000", "inactive=30s"),
        d("open_file_cache_valid", "2s"),
    ]
