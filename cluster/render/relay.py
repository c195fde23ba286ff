"""The relay: what a host's nginx does for the nginx of other hosts, which have visitors (cluster.render.between).

It has a port for each instance of its host, and passes on what it is sent as it is. Where the instance is gone, it asks
the others of its host, and then another host's relay: by the time that the nginx before it knows, a POST has been sent,
and is nobody else's any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.render.between import CONNECT_TIMEOUT, asking, kept_between
from cluster.render.directives import Directive, block, build, d
from cluster.render.internal import DIGEST_PLACE
from cluster.render.locations import polite
from cluster.render.shared import renamed
from cluster.render.upstreams import instance_keepalive
from cluster.render.versions import KEEPALIVE_MIN_TIMEOUT_SINCE
from cluster.tls.certificates import RELAY

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from cluster.config.site import Site
    from cluster.config.units import Duration
    from cluster.endpoints import Endpoint
    from cluster.render.paths import Between, NginxPaths
    from cluster.render.shared import Place
    from cluster.render.versions import Version

#: Seconds that a relay waits at least: how long a visitor is kept waiting is for the nginx before it to say.
PATIENCE = 3600

#: The upstreams of all of a host's instances, and of other hosts'. That of one ends with its port.
_LOCAL, _PEERS = "cluster_relay-all-local", "cluster_relay-all-peers"

#: How much more often a host's own instances are asked than another host: which is not to be asked at all while one of
#: them is there. A backup that is tried only after all others is nothing that nginx has.
OWN_WEIGHT = 1_000_000

#: What nginx makes of a response itself, and a relay leaves to the nginx before it.
_FOR_NGINX = (
    *("X-Accel-Redirect", "X-Accel-Expires", "X-Accel-Limit-Rate", "X-Accel-Buffering", "X-Accel-Charset"),
    *("Expires", "Cache-Control", "Set-Cookie", "Vary"),
)

#: What nginx leaves out of a response, and a relay does not.
_HIDDEN = ("Date", "Server", "X-Pad", "X-Accel-Expires", "X-Accel-Redirect", "X-Accel-Limit-Rate")
_ALSO_HIDDEN = ("X-Accel-Buffering", "X-Accel-Charset")


@dataclass(frozen=True, kw_only=True)
class Relay:
    """The relay of a host.

    instances: its own, and where each is reached. ports: where other hosts ask for each; files and upstreams are called
        after them, so that a port stays while somebody may ask there, whosever it is next.
    drained: those of them that are asked only by their own ports.
    listens: nginx's words for where the relay has each of them, and under "" all of them alone, without another host.
    peers: where other hosts have all of theirs. peers_socket: where nginx asks those. internal: the socket on which it
    tells its digest. files: the directory of its files, one an instance, absolute.
    """

    instances: Mapping[str, Endpoint]
    ports: Mapping[str, int]
    drained: Collection[str]
    listens: Mapping[str, Sequence[str]]
    peers: Sequence[Endpoint]
    peers_socket: Endpoint
    internal: Endpoint
    files: str
    between: Between


def relay_site(name: str) -> str:
    """Return the name of the relay's own file, by that of the site's."""
    return f"{name}.relay"


def render_relay(site: Site, relay: Relay, paths: NginxPaths, version: Version, place: Place) -> dict[str, str]:
    """Return the relay's files for a distribution's nginx, by their paths as `render_shared` has them.

    The digest that it tells is put in where it is delivered: of an instance that has gone elsewhere the file stays
    there until nobody asks for it any more.
    """
    one = {
        f"{relay.files}/{relay.ports[name]}.conf": build(renamed(_instance(name, site, relay, paths, version), place))
        for name in relay.instances
    }
    tree = [
        block("map", "$http_upgrade", "$cluster_relay_connection", of=[d("default", "upgrade"), d("", "")]),
        *_all(site, relay, paths, version),
        block(
            "server",
            of=[
                d("listen", relay.internal.nginx),
                d("server_name", "relay_internal"),
                d("access_log", "off"),
                block(
                    "location", "=", "/-/config", of=[d("default_type", "text/plain"), d("return", 200, DIGEST_PLACE)]
                ),
                block("location", "/", of=[d("return", 404)]),
            ],
        ),
        d("include", f"{relay.files}/*.conf"),
    ]
    return {f"sites-available/{relay_site(place.site)}": build(renamed(tree, place)), **one}


def _all(site: Site, relay: Relay, paths: NginxPaths, version: Version) -> list[Directive]:
    """Return what asks for any of a host's instances, and what asks the other hosts for any of theirs."""
    own = [d("server", one.nginx, "max_fails=0") for name, one in relay.instances.items() if name not in relay.drained]
    found = [
        *([block("upstream", _LOCAL, of=[*own, *instance_keepalive(16)])] if own else []),
        _server(relay.listens[""], f"http://{_LOCAL}" if own else "", site, relay, paths, version),
    ]
    if relay.peers:
        peers = [d("server", endpoint.nginx, "max_fails=2", "fail_timeout=2s") for endpoint in relay.peers]
        of = [
            d("listen", relay.peers_socket.nginx),
            d("server_name", "relay_peers"),
            *_passing(site),
            d("proxy_connect_timeout", CONNECT_TIMEOUT),
            d("proxy_next_upstream", "error", "timeout"),
            d("proxy_next_upstream_timeout", "10s"),
            *asking(relay.between),
            block("location", "/", of=[d("proxy_pass", f"https://{_PEERS}")]),
        ]
        found += [block("upstream", _PEERS, of=[*peers, *kept_between(16)]), block("server", of=of)]
    return found


def _instance(name: str, site: Site, relay: Relay, paths: NginxPaths, version: Version) -> list[Directive]:
    """Return a port of an instance, and where what it is sent goes."""
    upstream = f"cluster_relay-{relay.ports[name]}"
    others = [
        d("server", endpoint.nginx, f"weight={OWN_WEIGHT}", "max_fails=0", "backup")
        for other, endpoint in relay.instances.items()
        if other != name and other not in relay.drained
    ]
    peers = [d("server", relay.peers_socket.nginx, "max_fails=0", "backup")] if relay.peers else []
    own = d("server", relay.instances[name].nginx, "max_fails=0")
    return [
        block("upstream", upstream, of=[own, *others, *peers, *instance_keepalive(64)]),
        _server(relay.listens[name], f"http://{upstream}", site, relay, paths, version),
    ]


def _server(  # noqa: PLR0913, PLR0917 - what a server is made of
    listens: Sequence[str], passed_to: str, site: Site, relay: Relay, paths: NginxPaths, version: Version
) -> Directive:
    """Return a server that another host's nginx asks. passed_to: empty where nothing is behind it."""
    closes = version < KEEPALIVE_MIN_TIMEOUT_SINCE
    passes = [
        d("error_page", 502, "@relay_failed"),
        *([d("proxy_pass", passed_to)] if passed_to else [d("return", 444)]),
    ]
    locations: list[Directive] = []
    for number, (match, timeout) in enumerate(_timeouts(site)):
        name, waits = f"@relay_closing{number}", d("proxy_read_timeout", str(timeout))
        locations.append(block("location", *match, of=[*polite(paths, name, closes=closes), waits, *passes]))
        if closes:
            locations.append(block("location", name, of=[d("keepalive_timeout", 0), waits, *passes]))
    return block(
        "server",
        of=[
            *(d("listen", address, "ssl") for address in listens),
            d("server_name", RELAY),
            d("ssl_certificate", relay.between.certificate),
            d("ssl_certificate_key", relay.between.key),
            d("ssl_client_certificate", relay.between.authority),
            d("ssl_verify_client", "on"),
            d("ssl_protocols", "TLSv1.3"),
            *([] if closes else [d("keepalive_min_timeout", "5s")]),
            *_passing(site),
            d("proxy_connect_timeout", "1s"),
            d("proxy_next_upstream", "error"),
            # For what fails where a connection is closed politely.
            d("recursive_error_pages", "on"),
            *locations,
            # A worker that has ended in the middle of a POST is the POST's end. Where nobody could even be connected,
            # the nginx before this one is to take it for the same, and not for an answer: nothing has been begun.
            block(
                "location",
                "@relay_failed",
                of=[block("if", "$upstream_connect_time", "~", "-$", of=[d("return", 444)]), d("return", 502)],
            ),
        ],
    )


def _timeouts(site: Site) -> Iterator[tuple[tuple[str, ...], Duration]]:
    """Yield how long an instance may take at a path: nginx's words for it, as the nginx before this one has them."""

    def of(path: str) -> Duration:
        around = [one for one in site.locations if one.path.endswith("/") and path.startswith(one.path)]
        found = max(around, key=lambda one: len(one.path), default=None)
        return (found and found.proxy_read_timeout) or site.proxy_read_timeout

    named = {location.path: location.proxy_read_timeout or site.proxy_read_timeout for location in site.locations}
    yield ("/",), site.proxy_read_timeout
    for path, timeout in named.items():
        if not path.endswith("/"):
            yield ("=", path), timeout
        elif path != "/":
            yield ("^~", path), timeout
            if path[:-1] not in named:  # else nginx would lead from it to the path with the slash
                yield ("=", path[:-1]), of(path[:-1])


def _passing(site: Site) -> list[Directive]:
    """Return what lets a request and its response pass as they are: what they may be, the nginx before it says."""
    told = [site.proxy_read_timeout, *(one.proxy_read_timeout for one in site.locations)]
    patience = f"{int(max(PATIENCE, *(one.seconds for one in told if one is not None)) + 60)}s"
    return [
        d("access_log", "off"),
        d("client_max_body_size", 0),
        d("client_header_timeout", patience),
        d("client_body_timeout", patience),
        d("send_timeout", patience),
        d("client_header_buffer_size", "4k"),
        d("large_client_header_buffers", 8, "64k"),
        d("ignore_invalid_headers", "off"),
        d("keepalive_timeout", "90s"),
        d("keepalive_requests", 100_000),
        d("gzip", "off"),
        d("server_tokens", "off"),
        d("proxy_http_version", "1.1"),
        d("proxy_redirect", "off"),
        d("proxy_set_header", "Host", "$http_host"),
        d("proxy_set_header", "Connection", "$cluster_relay_connection"),
        d("proxy_set_header", "Upgrade", "$http_upgrade"),
        d("proxy_send_timeout", patience),
        d("proxy_read_timeout", patience),
        d("proxy_request_buffering", "off"),
        d("proxy_buffering", "off"),
        d("proxy_buffer_size", "36k"),
        d("proxy_buffers", 8, "16k"),
        d("proxy_busy_buffers_size", "36k"),
        d("proxy_ignore_headers", *_FOR_NGINX),
        *(d("proxy_pass_header", name) for name in (*_HIDDEN, *_ALSO_HIDDEN)),
    ]
