"""nginx's own text from the stack file, in files of its own: nginx itself sees to it that each ends what it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.config.snippets import own_directives
from cluster.render.directives import Directive, block, d

if TYPE_CHECKING:
    from cluster.config.site import Site

HTTP, SERVER = "snippets/http.conf", "snippets/server.conf"


def snippet_files(site: Site) -> dict[str, str]:
    """Return the text of each snippet by its file's path."""
    texts = {HTTP: site.snippets.http, SERVER: site.snippets.server}
    return {path: text.removesuffix("\n") + "\n" for path, text in texts.items() if text is not None}


def http_snippet(site: Site) -> list[Directive]:
    """Return what takes the snippet into http."""
    return [d("include", HTTP)] if site.snippets.http is not None else []


def server_snippet(site: Site) -> list[Directive]:
    """Return what takes the snippet into the site's server."""
    return [d("include", SERVER)] if site.snippets.server is not None else []


def error_pages(site: Site) -> list[Directive]:
    """Return the snippets' pages of errors, for a location that has one of its own: nginx gives it none of these."""
    said = own_directives(site.snippets.server, "error_page") or own_directives(site.snippets.http, "error_page")
    return [d("error_page", *args) for args in said]


def guard(site: Site) -> list[Directive]:
    """Keep the runtime's paths from a named location, to which a snippet can lead whatever path it has made."""
    if site.snippets.server is None:
        return []
    return [block("if", "$uri", "~", "^/-/", of=[d("return", 404)])]
