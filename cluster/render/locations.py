"""What a server does with a path: the project's, static files, uploads, and what is nobody's."""

from __future__ import annotations

import re
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from cluster.render.auth import exempt
from cluster.render.between import waited
from cluster.render.directives import Directive, block, d
from cluster.render.headers import file_headers, robots_location
from cluster.render.limits import rate_limit
from cluster.render.snippets import error_pages, guard
from cluster.render.versions import KEEPALIVE_MIN_TIMEOUT_SINCE, Version
from cluster.source import location_of
from cluster.topology import served_static_url

if TYPE_CHECKING:
    from cluster.config.models import Media
    from cluster.config.site import Location, Site
    from cluster.render.paths import NginxPaths
    from cluster.topology import Topology

#: Files that a location keeps open, of which a site has eight at most. A worker of a distribution's nginx may have 1024
#: open, connections among them; beyond that it takes none, and answers 500.
KEPT_OPEN = 64


def media_of(topology: Topology) -> list[tuple[Media, bool]]:
    """Return the directories of uploads that nginx serves, each with whether only the project may say so."""
    app = topology.config.app
    found = [(app.media, False), (app.protected_media, True)]
    return [(media, internal) for media, internal in found if media is not None and media.root and media.url]


def locations(
    topology: Topology, paths: NginxPaths, version: Version, upstream: str, *, limited: bool
) -> list[Directive]:
    """Return what is in a server that passes requests on to `upstream`. limited: by how many an address sends."""
    site = topology.config.site
    closes = version < KEEPALIVE_MIN_TIMEOUT_SINCE
    proxied = _Proxied(site, paths, upstream, closes=closes, limited=limited)
    locations = [
        # What the runtime answers is not the public's, by nginx's reading of the path and by the client's.
        block("if", "$cluster_internal", of=[d("return", 404)]),
        block("location", "^~", "/-/", of=[d("return", 404)]),
        *proxied.everything(),
        *(directive for location in site.locations for directive in proxied.one(location)),
        *robots_location(site),
    ]
    static_url = served_static_url(topology.config)
    if static_url is not None:
        locations += _static_locations(site, static_url, paths, closes=closes)
    for number, (media, internal) in enumerate(media_of(topology)):
        closing = f"@closing_media{number}"
        files = _media(topology, paths, media, internal=internal)
        locations.append(
            block(
                "location",
                "^~",
                str(media.url),
                of=[*_closing(site, paths, closing, closes=closes and not internal), *files],
            )
        )
        if closes and not internal:
            locations.append(block("location", closing, of=[d("keepalive_timeout", 0), *files]))
    return locations


def untidy_map(site: Site) -> list[Directive]:
    """Return what tells a path with dots between slashes (/a/../b, also as /a%2f%2e%2e/b), as the client wrote it.

    nginx takes the location of /b, with whom that lets in and how often, and passes on what a project may answer as
    something below /a/. No browser sends one.
    """
    if not _tells_paths_apart(site):
        return []
    dots = r"~*^[^?#]*(/|%2f)(\.|%2e){1,2}(/|%2f|[?#]|$)"
    return [block("map", "$request_uri", "$cluster_untidy", of=[d("default", ""), d(dots, "1")])]


def _untidy(site: Site) -> list[Directive]:
    return [block("if", "$cluster_untidy", of=[d("return", 400)])] if _tells_paths_apart(site) else []


def _tells_paths_apart(site: Site) -> bool:
    return bool(site.locations or site.snippets.server)


@dataclass(frozen=True)
class _Proxied:
    """Locations that pass requests on."""

    site: Site
    paths: NginxPaths
    upstream: str
    _: KW_ONLY
    closes: bool
    limited: bool

    def everything(self) -> list[Directive]:
        """Return the location of what has none of its own."""
        return [self._open(None, "/"), *self._closed(None)]

    def one(self, location: Location) -> list[Directive]:
        """Return a location of the stack file's."""
        path = location.path
        if not path.endswith("/"):
            return [self._open(location, "=", path), *self._closed(location)]
        found = [self._open(location, "^~", path), *self._closed(location)]
        bare = path[:-1]
        if all(bare != other.path for other in self.site.locations):
            # Else nginx would redirect it to the path with the slash, which is the project's to do or not.
            found.append(self._open(self._around(bare), "=", bare))
        return found

    def _around(self, path: str) -> Location | None:
        """Return the location in which a path is."""
        fitting = [one for one in self.site.locations if one.path.endswith("/") and path.startswith(one.path)]
        return max(fitting, key=lambda one: len(one.path), default=None)

    def _open(self, location: Location | None, *match: str) -> Directive:
        closing = _closing(self.site, self.paths, self._name(location), closes=self.closes)
        return block("location", *match, of=[*closing, *self._directives(location)])

    def _closed(self, location: Location | None) -> list[Directive]:
        if not self.closes:
            return []
        of = [d("keepalive_timeout", 0), *guard(self.site), *self._directives(location)]
        return [block("location", self._name(location), of=of)]

    def _waited_for(self, location: Location | None) -> list[Directive]:
        """Return how long another host's nginx is waited for, where a location says how long an instance is."""
        timeout = None if location is None else location.proxy_read_timeout
        if timeout is None or self.paths.between is None:
            return []
        return [
            d("proxy_read_timeout", str(waited(timeout))),
            d("proxy_next_upstream_timeout", str(timeout)),
        ]

    def _name(self, location: Location | None) -> str:
        return "@closing" if location is None else f"@closing_location{self.site.locations.index(location)}"

    def _directives(self, location: Location | None) -> list[Directive]:
        waits = self._waited_for(location)
        own = _own(location) if location is not None else []
        return [
            *_untidy(self.site),
            *(one for one in own if not waits or one["directive"] != "proxy_read_timeout"),
            *waits,
            *(exempt(self.site) if location is not None and not location.auth_basic else []),
            *(rate_limit(self.site, location) if self.limited else []),
            d("proxy_pass", f"{self.paths.passes_by}://{self.upstream}"),
        ]


def _own(location: Location) -> list[Directive]:
    size, timeout = location.client_max_body_size, location.proxy_read_timeout
    return [
        *([d("client_max_body_size", str(size))] if size is not None else []),
        *([d("proxy_read_timeout", str(timeout))] if timeout is not None else []),
        *([] if location.buffering else [d("proxy_request_buffering", "off"), d("proxy_buffering", "off")]),
    ]


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
        d("open_file_cache", f"max={KEPT_OPEN}", "inactive=30s"),
        d("open_file_cache_valid", "2s"),
    ]


def _closing(site: Site, paths: NginxPaths, location: str, *, closes: bool) -> list[Directive]:
    """Return `polite` for a location of the site, with the error pages that a snippet says: they are lost beside it."""
    return [*(error_pages(site) if closes else []), *polite(paths, location, closes=closes)]


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
    closing = _closing(site, paths, "@closing_static", closes=closes)
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
        d("open_file_cache", f"max={KEPT_OPEN}", "inactive=30s"),
        d("open_file_cache_valid", "2s"),
    ]
