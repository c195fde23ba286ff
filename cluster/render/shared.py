"""A site's file for an nginx that is not ours alone: a distribution's own, with other sites beside it.

Whatever stands in `http` there is every site's: headers for upstreams, timeouts, compression. So here it stands in our
servers, and in `http` is left only what has no other place and is called after the stack: upstreams, zones, maps, the
format of the log. Other sites' answers, and what their upstreams are sent, stay what they are.

The tree is the same that an nginx of our own has (cluster.render.site), moved and renamed.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.render.directives import Directive, block, build, d
from cluster.render.internal import DIGEST_PLACE
from cluster.render.mime import MEDIA_TYPES
from cluster.render.nginx import NginxConfig, digest_of_files, for_every_server
from cluster.render.site import site
from cluster.render.snippets import http_snippet, snippet_files
from cluster.render.tls import CHAIN, KEY, private_files

if TYPE_CHECKING:
    from cluster.render.paths import NginxPaths
    from cluster.render.versions import Version
    from cluster.tls.certificates import Certificate
    from cluster.topology import Topology

#: What nginx takes in `http` alone, and what is no directive.
_OF_HTTP = frozenset(("map", "upstream", "server", "log_format", "limit_req_zone", "limit_conn_zone", "#"))

#: Directives that say a name of ours, and how it begins there.
_NAMED = {
    "upstream": re.compile(r"^cluster(?=_|$)"),
    "zone": re.compile(r"^cluster$"),
    "limit_conn": re.compile(r"^cluster(?=_)"),
    "limit_conn_zone": re.compile(r"(?<=^zone=)cluster(?=_)"),
    "limit_req_zone": re.compile(r"(?<=^zone=)cluster(?=_)"),
    "limit_req": re.compile(r"(?<=^zone=)cluster(?=_)"),
    "ssl_session_cache": re.compile(r"(?<=^shared:)cluster(?=_)"),
    "proxy_pass": re.compile(r"(?<=://)cluster(?=_|$)"),
    "log_format": re.compile(r"^cluster$"),
    "access_log": re.compile(r"^cluster$"),
}

#: Files that are beside the configuration.
_BESIDE = {"ssl_certificate": CHAIN, "ssl_certificate_key": KEY}

#: A variable of ours, where it is used and where a pattern makes it.
_VARIABLE = re.compile(r"(\$\{?|\(\?<)cluster_")

#: Hexadecimal digits that tell the variables of one stack from another's: `cluster_` and this are as long.
_TAG_LENGTH = 6


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a stack's files are beside an nginx that is not ours alone.

    name: what is called after the stack: its upstreams, zones and logs are, or begin with it.
    directory: of the files that the site's own names, absolute.
    """

    name: str
    directory: str

    @property
    def site(self) -> str:
        """The name of the site's file. The last in its directory: of listeners without a default, others stay it."""
        return f"zz-{self.name}"

    @property
    def variables(self) -> str:
        """What the names of its variables begin with: no longer than ours, since nginx has room for no more."""
        return f"c{hashlib.sha256(self.name.encode()).hexdigest()[:_TAG_LENGTH]}_"


def render_shared(  # noqa: PLR0913, PLR0917 - what a site is made of
    topology: Topology,
    paths: NginxPaths,
    version: Version,
    place: Place,
    certificate: Certificate | None = None,
    users: str = "",
) -> NginxConfig:
    """Render the site's file, and those that it names; arguments as of `render_nginx`.

    Paths of the files are from the directory that holds sites-available and sites-enabled, and absolute ones.
    """
    tree = [*for_every_server(topology, paths, version), *http_snippet(topology.config.site)]
    moved = _moved([*tree, *site(topology, paths, version, certificate)])
    told = {"directive": "#", "line": 1, "comment": f" {place.name}: its variables are ${place.variables}…", "args": []}
    text = build([told, *renamed(moved, place)])
    beside = {f"{place.directory}/{path}": found for path, found in snippet_files(topology.config.site).items()}
    files = {f"sites-available/{place.site}": text, **beside}
    digest = digest_of_files(files)
    return NginxConfig(
        files={path: text.replace(DIGEST_PLACE, digest) for path, text in files.items()},
        links={f"sites-enabled/{place.site}": f"../sites-available/{place.site}"},
        digest=digest,
        private={f"{place.directory}/{path}": text for path, text in private_files(certificate).items()},
        users=users,
    )


def _moved(tree: list[Directive]) -> list[Directive]:
    """Return the tree with what is every server's in each of ours."""
    common = [one for one in tree if one["directive"] not in _OF_HTTP and not _is_include(one)]
    return [
        one if one["directive"] != "server" else {**one, "block": [*_common(common, one), *one["block"]]}
        for one in tree
        if one not in common
    ]


def _is_include(one: Directive) -> bool:
    return bool(one["directive"] == "include")


def _common(common: list[Directive], server: Directive) -> list[Directive]:
    """Return what is every server's and not said by this one otherwise, as far as it does what that is about."""
    said = {one["directive"] for one in server["block"]}
    does = {inner["directive"] for one in server["block"] for inner in one.get("block", ())}
    passes = "proxy_pass" in does
    found = [
        one for one in common if one["directive"] not in said and (passes or not one["directive"].startswith("proxy_"))
    ]
    types = block("types", of=[d(kind, *names) for kind, names in MEDIA_TYPES.items()])
    return [*found, *([types] if "root" in does else [])]


def renamed(tree: list[Directive], place: Place) -> list[Directive]:
    """Return the tree with the stack's names."""
    found = []
    for one in tree:
        args = [_renamed_word(one["directive"], word, place) for word in one["args"]]
        if one["directive"] == "listen":
            # Whose a port is for names that nobody has is not ours to say, but where the stack says so: `_`.
            args = [word for word in args if word != "default_server" or _takes_all(tree)]
        inner = {"block": renamed(one["block"], place)} if "block" in one else {}
        # Of an entry of a map the word that nginx looks up stands in the directive's place.
        called = _VARIABLE.sub(lambda seen: f"{seen[1]}{place.variables}", one["directive"])
        found.append({**one, "directive": called, "args": args, **inner})
    return found


def _takes_all(server: list[Directive]) -> bool:
    return any(one["directive"] == "server_name" and "_" in one["args"] for one in server)


def _renamed_word(directive: str, word: str, place: Place) -> str:
    if directive == "include" and not word.startswith("/"):
        return f"{place.directory}/{word}"
    if word == _BESIDE.get(directive):
        return f"{place.directory}/{word}"
    found = _VARIABLE.sub(lambda seen: f"{seen[1]}{place.variables}", word)
    return _NAMED[directive].sub(place.name, found) if directive in _NAMED else found
