"""Headers that a site adds to its answers. Each is left out where the project's own answer has it already.

nginx gives a location that adds a header of its own none of its server's: these are said there again.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from cluster.config.site import ROBOTS
from cluster.render.directives import Directive, block, d

if TYPE_CHECKING:
    from cluster.config.site import Site

#: What nginx takes over into the answer that X-Accel-Redirect leads to, of those that a site may add.
_CARRIED = ("cache-control",)

#: Of a header's name that stands in a variable's.
LONGEST_WORD = 31

#: What nothing loses by standing twice: browsers keep to both.
_ADDITIVE = ("content-security-policy",)


#: By which browsers are told to ask by https alone.
STRICT = "Strict-Transport-Security"

#: By which clients are told where HTTP/3 answers (RFC 7838), and for how many seconds they may remember it.
ALTERNATIVE = "Alt-Svc"
ALTERNATIVE_SECONDS = 3600


def header_maps(site: Site) -> list[Directive]:
    """Return a variable for each header: empty where the project's answer has it."""
    return [
        block("map", f"$upstream_http_{_word(name)}", _variable(name), of=[d("default", ""), d("", value)])
        for name, value in site.headers.items()
    ]


def server_headers(site: Site) -> list[Directive]:
    """Return what a server adds to its answers."""
    return [*(_add(name, _variable(name)) for name in site.headers), *_robots_tag(site)]


def file_headers(site: Site, own: list[Directive]) -> list[Directive]:
    """Return what a location of files adds: its `own` headers, and the site's but for those.

    An instance's answer that led here (X-Accel-Redirect) is not the one that is given: what it says counts only where
    nginx takes it over.
    """
    given = {name.lower() for name in site.headers}
    kept = [one for one in own if one["args"][0].lower() not in given or one["args"][1].startswith("$")]
    said = {one["args"][0].lower() for one in kept}
    added = [
        _add(name, _variable(name) if name.lower() in _CARRIED else value)
        for name, value in site.headers.items()
        if name.lower() not in said or name.lower() in _ADDITIVE
    ]
    return [*kept, *added, *_robots_tag(site), *secure_headers(site)]


def secure_headers(site: Site) -> list[Directive]:
    """Return what is added to what answers by https."""
    strict, alternative = hsts_value(site), alternative_value(site)
    return [
        *([] if strict is None else [_add(STRICT, strict)]),
        *([] if alternative is None else [_add(ALTERNATIVE, alternative)]),
    ]


def alternative_value(site: Site) -> str | None:
    """Return where clients are told that HTTP/3 answers; None where nginx says nothing of that."""
    return f'h3=":{site.https_port}"; ma={ALTERNATIVE_SECONDS}' if site.http3 else None


def hsts_value(site: Site) -> str | None:
    """Return what browsers are told to keep to; None where nginx says nothing of that."""
    wanted = site.tls.hsts if site.tls is not None else None
    if wanted is None:
        return None
    words = [f"max-age={wanted.max_age.seconds:.0f}"]
    words += ["includeSubDomains"] if wanted.include_subdomains else []
    words += ["preload"] if wanted.preload else []
    return "; ".join(words)


def hidden_headers(site: Site) -> list[Directive]:
    """Return what is not passed on of a project's answer: what nginx says itself."""
    return [d("proxy_hide_header", one["args"][0]) for one in secure_headers(site)]


def robots_location(site: Site) -> list[Directive]:
    """Return the answer to search engines."""
    if site.robots is None:
        return []
    return [
        block(
            "location",
            "=",
            ROBOTS,
            of=[d("default_type", "text/plain"), d("return", 200, "User-agent: *\nDisallow: /\n")],
        )
    ]


def _robots_tag(site: Site) -> list[Directive]:
    return [] if site.robots is None else [_add("X-Robots-Tag", site.robots.value)]


def _add(name: str, value: str) -> Directive:
    return d("add_header", name, value, "always")


def _word(name: str) -> str:
    return name.lower().replace("-", "_")


def _variable(name: str) -> str:
    # nginx has room for 46 bytes in a variable's name (variables_hash_bucket_size).
    word = _word(name) if len(name) <= LONGEST_WORD else hashlib.sha256(name.lower().encode()).hexdigest()[:12]
    return f"$cluster_header_{word}"
