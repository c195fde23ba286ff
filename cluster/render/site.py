"""The site's servers, and what they share: how requests are passed on, and what nginx looks up on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.render import acme, auth, between, maintenance, proxies, tls
from cluster.render.directives import Directive, block, d
from cluster.render.headers import header_maps, hidden_headers, secure_headers, server_headers
from cluster.render.internal import internal_server
from cluster.render.limits import address_limit, limit_zones, password_limit
from cluster.render.locations import locations, media_of, polite, untidy_map
from cluster.render.redirects import STATUS, by_name, redirect_map, redirect_paths
from cluster.render.snippets import server_snippet
from cluster.render.upstreams import instance_upstream, upstream
from cluster.render.versions import KEEPALIVE_MIN_TIMEOUT_SINCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.config.site import Site
    from cluster.render.paths import NginxPaths
    from cluster.render.versions import Version
    from cluster.tls.certificates import Certificate
    from cluster.topology import Instance, Topology

#: Endings of uploads that a browser must not show as a page of the site, but save.
_ATTACHED = r"~*\.(x?html?|shtml|mhtml?|xht|svgz?|xml|xslt?|swf|js|mjs|wasm)$"


def site(topology: Topology, paths: NginxPaths, version: Version, certificate: Certificate | None) -> list[Directive]:
    """Return the whole file of the site: what it shares, its upstreams, and its servers."""
    ports = [instance for instance in topology.instances if instance.port is not None]
    return [
        *proxies.asked_map(topology.config.site, version),
        *_maps(topology),
        *maintenance.maps(paths),
        *acme.maps(topology.config.site, paths),
        *limit_zones(topology.config.site),
        *_proxy_defaults(topology, paths),
        *tls.defaults(certificate, paths),
        upstream(topology, paths),
        *(instance_upstream(instance, paths) for instance in ports),
        *_servers(topology, paths, version),
        *(_instance_server(instance, topology, paths, version) for instance in ports),
        internal_server(paths, topology.config.site),
    ]


def _port_entries(topology: Topology) -> list[Directive]:
    """Return the entries of $cluster_port: the site's own names are looked up, only others matched by the pattern."""
    site = topology.config.site
    plain = proxies.looked_up(site)
    return [
        d("default", ""),
        *(d(name, "") for name in plain if name not in proxies.MAP_WORDS),
        *(d(f"{name}:{port}", f":{port}") for name in plain for port in site.listeners),
        d(r"~:(?<cluster_port_number>[0-9]+)$", ":$cluster_port_number"),
    ]


def _maps(topology: Topology) -> list[Directive]:
    return [
        # WebSocket: pass an upgrade on; without one keep the connection to the instance ("" removes the header).
        block("map", "$http_upgrade", "$cluster_connection", of=[d("default", "upgrade"), d("", "")]),
        # The port as the client wrote it. The host itself is nginx's $host, which the choice of the server checked:
        # a client that sends another Host header than the address in its request line can't pass it on.
        block("map", proxies.asked(topology.config.site), "$cluster_port", of=_port_entries(topology)),
        # What leads below /-/ as the client wrote it: nginx passes the path on unchanged, so its own reading of
        # /-/../probe (as /probe) is not enough.
        block("map", "$request_uri", "$cluster_internal", of=[d("default", ""), d("~*^(/|%2f)+(-|%2d)(/|%2f)", "1")]),
        *untidy_map(topology.config.site),
        # Names with a hash (ManifestStaticFilesStorage) never change their content.
        block(
            "map",
            "$uri",
            "$cluster_static_cache",
            of=[
                d("default", "public, max-age=60"),
                d(r"~\.[0-9a-f]{12}\.[^/]+$", "public, max-age=31536000, immutable"),
            ],
        ),
        *(_media_maps() if media_of(topology) else []),
        *proxies.maps(topology.config.site),
        *redirect_map(topology),
        *header_maps(topology.config.site),
    ]


def _media_maps() -> list[Directive]:
    """Let a browser save, and never run in the site's name, what it would take for a page: uploads are a visitor's."""
    return [
        block("map", "$uri", "$cluster_media_disposition", of=[d("default", ""), d(_ATTACHED, "attachment")]),
        block(
            "map",
            "$uri",
            "$cluster_media_policy",
            of=[d("default", ""), d(_ATTACHED, "default-src 'none'; style-src 'unsafe-inline'; sandbox")],
        ),
    ]


def _servers(topology: Topology, paths: NginxPaths, version: Version) -> list[Directive]:
    """Return the servers of the site: of its names, of those that lead to another, and of strangers' on each port."""
    site = topology.config.site
    options = proxies.listening(site)
    plain = [d("listen", address, *options) for address in _addresses(site, paths, site.listen)]
    if site.tls is None:
        scheme = proxies.scheme(site)
        leads = [
            _leads(site, plain, names, _answer(f"{scheme}://{target}$cluster_port$request_uri", paths, version))
            for target, names in by_name(site).items()
        ]
        return [*_strangers(site, plain), _main_server(topology, plain, paths, version), *leads]
    secure = tls.listening(site.tls, _addresses(site, paths, site.tls.listen), version, *options)
    of_all = tls.of_each_worker(secure)
    names, kept = d("server_name", *site.server_names), _kept_for_a_while(site)
    to_https = _answer(tls.https(site, "$host"), paths, version)
    return [
        *_strangers(site, plain),
        _leads(site, _first(site, plain), names, to_https, kept),
        *_strangers(site, of_all, tls.refusal(topology.config)),
        _main_server(topology, of_all if "_" in site.server_names else secure, paths, version),
        *(
            _leads(site, listening, names, _answer(tls.https(site, target), paths, version), headers)
            for target, names in by_name(site).items()
            for listening, headers in ((plain, kept), (secure, [*secure_headers(site), *kept]))
        ),
    ]


def _first(site: Site, listening: list[Directive]) -> list[Directive]:
    """Return the listener of the site's own names, which is that of all where any name is the site's."""
    return _of_all(listening) if "_" in site.server_names else listening


def _strangers(site: Site, listening: list[Directive], refusal: Sequence[Directive] = ()) -> list[Directive]:
    """Return the server for names that are not the site's: no answer at all."""
    if "_" in site.server_names:
        return []
    return [block("server", of=[*_of_all(listening), d("server_name", ""), *refusal, d("return", 444)])]


def _of_all(listening: list[Directive]) -> list[Directive]:
    """Return a listener as that of all names that no other has."""
    return [
        {**one, "args": [*one["args"], "default_server"]} if one["directive"] == "listen" else one for one in listening
    ]


def _main_server(topology: Topology, listening: list[Directive], paths: NginxPaths, version: Version) -> Directive:
    site = topology.config.site
    return block(
        "server",
        of=[
            *_first(site, listening),
            d("server_name", *site.server_names),
            *acme.answers(site),
            *proxies.client(site),
            proxies.refusal(),
            d("client_max_body_size", str(site.client_max_body_size)),
            *address_limit(site),
            *auth.asks(site, paths),
            *password_limit(site),
            *hidden_headers(site),
            *server_headers(site),
            *secure_headers(site),
            *locations(topology, paths, version, "cluster", limited=True),
            *maintenance.keeps_out(paths, version, [*server_headers(site), *secure_headers(site)]),
            *redirect_paths(topology),
            *server_snippet(site),
        ],
    )


def _leads(
    site: Site, listening: list[Directive], names: Directive, answer: list[Directive], headers: Sequence[Directive] = ()
) -> Directive:
    """Return a server that sends every visitor elsewhere; headers: those that it adds beside the site's."""
    # Whatever is sent with it is not stored, and not refused: it is led away.
    known = [
        names,
        *acme.answers(site),
        d("client_max_body_size", 0),
        *proxies.client(site),
        proxies.refusal(),
        *server_headers(site),
        *headers,
    ]
    return block("server", of=[*listening, *known, *answer])


def _kept_for_a_while(site: Site) -> list[Directive]:
    """Return how long a browser may keep the way to https: one day the site may have none any more."""
    caches = "cache-control" in {name.lower() for name in site.headers}
    return [] if caches else [d("add_header", "Cache-Control", "max-age=3600", "always")]


def _answer(there: str, paths: NginxPaths, version: Version) -> list[Directive]:
    """Return what sends a visitor elsewhere; by nginx before 1.27.4 politely, as a reload asks for."""
    answer = d("return", STATUS, there)
    if version >= KEEPALIVE_MIN_TIMEOUT_SINCE:
        return [answer]
    closing = "@closing"
    return [
        block("location", "/", of=[*polite(paths, closing, closes=True), answer]),
        block("location", closing, of=[d("keepalive_timeout", 0), answer]),
    ]


def _addresses(site: Site, paths: NginxPaths, port: int) -> list[str]:
    """Return where a port of the site is; by IPv6 a socket of its own, so that no client's address is a mapped one."""
    address = f"{paths.listen_address}:{port}" if paths.listen_address else str(port)
    return [address, *([f"{paths.listen_address_ipv6}:{port}"] if site.ipv6 else [])]


def _proxy_defaults(topology: Topology, paths: NginxPaths) -> list[Directive]:
    """How requests are passed on. The headers tell an instance of the client, over whatever the client sent."""
    timeout = topology.config.site.proxy_read_timeout
    return [
        d("proxy_http_version", "1.1"),
        d("proxy_connect_timeout", between.CONNECT_TIMEOUT if paths.between is not None else "1s"),
        d("proxy_send_timeout", "60s"),
        d("proxy_read_timeout", str(timeout if paths.between is None else between.waited(timeout))),
        # The headers of a response have to fit into the first, with room to spare: of one whose headers fill it to the
        # last byte nginx loses the body. So 32 KiB of policies and cookies pass.
        d("proxy_buffer_size", "36k"),
        d("proxy_buffers", "8", "16k"),
        d("proxy_busy_buffers_size", "36k"),
        *between.retried(topology.config.site, paths),
        # The same in each attempt: an instance does not begin what has ended two workers (cluster_runtime.attempts).
        d("proxy_set_header", "X-Cluster-Request", "$request_id"),
        d("proxy_set_header", "Host", "$host$cluster_port"),
        d("proxy_set_header", "X-Forwarded-Host", "$host$cluster_port"),
        d("proxy_set_header", "X-Forwarded-Proto", proxies.scheme(topology.config.site)),
        d("proxy_set_header", "X-Forwarded-Port", proxies.port(topology.config.site)),
        d("proxy_set_header", "X-Forwarded-For", "$remote_addr"),
        d("proxy_set_header", "X-Real-IP", "$remote_addr"),
        d("proxy_set_header", "Connection", "$cluster_connection"),
        d("proxy_set_header", "Upgrade", "$http_upgrade"),
        *(
            d("proxy_set_header", name, "")
            for name in (
                "Forwarded",
                "X-Forwarded-Server",
                "X-Forwarded-Protocol",
                "X-Forwarded-Ssl",
                "Proxy",
            )
        ),
        *auth.told(topology.config.site),
    ]


def _instance_server(instance: Instance, topology: Topology, paths: NginxPaths, version: Version) -> Directive:
    return block(
        "server",
        of=[
            d(
                "listen",
                f"{paths.instance_address}:{instance.port}" if paths.instance_address else str(instance.port),
            ),
            d("server_name", "127.0.0.1", "localhost"),
            *auth.passed_on(topology.config.site),
            d("client_max_body_size", str(topology.config.site.client_max_body_size)),
            *server_headers(topology.config.site),
            *locations(topology, paths, version, f"cluster_{instance.name}", limited=False),
        ],
    )
