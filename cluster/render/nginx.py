"""nginx's configuration, from a topology. Directives: https://nginx.org/en/docs/dirindex.html .

The text comes from a tree (crossplane builds it, with the quoting in one place). The same topology gives the same tree
on every platform but for the paths in `NginxPaths`.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import crossplane

from cluster.config.models import Method, Server
from cluster.render.mime import COMPRESSED, MEDIA_TYPES
from cluster.services import UPSTREAM_CONNECTION_AGE
from cluster.source import location_of
from cluster.topology import served_static_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster.config.models import Media
    from cluster.endpoints import Endpoint
    from cluster.topology import Instance, Topology

Version = tuple[int, int, int]
Directive = dict[str, Any]

#: From here on nginx leaves a client's idle connection a moment after a reload, so that no request meets a reset.
KEEPALIVE_MIN_TIMEOUT_SINCE: Version = (1, 27, 4)

OLDEST: Version = (1, 22, 0)

#: nginx of distributions, by the word in an image's name that says which release it is.
DISTRIBUTIONS: dict[str, Version] = {
    "bookworm": (1, 22, 1),
    "trixie": (1, 26, 3),
    "forky": (1, 30, 0),
    "jammy": (1, 18, 0),
    "noble": (1, 24, 0),
}

#: What is rendered for where the nginx that will run it is not known.
NEW_NGINX: Version = (1, 30, 0)

#: Shared memory of the upstream, in kilobytes: what nginx needs for itself, and for each server.
ZONE_BASE, ZONE_PER_SERVER = 128, 2

#: Of each nginx worker: files, and connections with some room for files beside them. One address can open 28,000 (the
#: ports that Linux gives out), and whoever comes after the last free connection is lost.
OPEN_FILES, WORKER_CONNECTIONS = 16384, 15360

#: Where requests are counted by their client's address: room for 160,000 addresses at a time.
ADDRESSES = "cluster_addresses"

SITE = "sites-available/cluster"
ENABLED_SITE = "sites-enabled/cluster"

#: Endings of uploads that a browser must not show as a page of the site, but save.
_ATTACHED = r"~*\.(x?html?|shtml|mhtml?|xht|svgz?|xml|xslt?|swf|js|mjs|wasm)$"

#: Stands in the text for the digest while it is being computed.
_DIGEST_PLACE = "0" * 64


@dataclass(frozen=True, kw_only=True)
class NginxPaths:
    """Where things are on a platform; absolute paths.

    user: nginx's `user` (and its group, after a space), or None where nginx is not started by root and can't change it.
    instances: where nginx reaches each of them, by name.
    shared: the directory of what the project writes, its uploads among it.
    static: a directory in which `current` and `previous` lead to the files of the two last releases.
    closing: while this file exists, an nginx before 1.27.4 closes clients' connections after each response.
    internal: the socket on which nginx tells its config's digest and passes probes to the instances.
    instance_address: where instances' own ports listen; in a container everywhere, since the engine publishes them to
        the loopback address alone.
    """

    user: str | None
    instances: Mapping[str, Endpoint]
    static: str
    shared: str
    logs: str
    temp: str
    pid: str
    internal: str
    closing: str
    listen_address: str = ""
    instance_address: str = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class NginxConfig:
    """A rendered configuration: the text of each file by its path, links by theirs, and the digest nginx tells."""

    files: dict[str, str]
    links: dict[str, str]
    digest: str


def render_nginx(topology: Topology, paths: NginxPaths, version: Version) -> NginxConfig:
    """Render the configuration for an nginx of `version`."""
    files = {
        "nginx.conf": _build(_main(topology, paths, version)),
        SITE: _build(_site(topology, paths, version)),
    }
    digest = hashlib.sha256("\0".join(f"{path}\0{text}" for path, text in sorted(files.items())).encode()).hexdigest()
    files = {path: text.replace(_DIGEST_PLACE, digest) for path, text in files.items()}
    return NginxConfig(files=files, links={ENABLED_SITE: f"../{SITE}"}, digest=digest)


def _d(directive: str, *args: str | int) -> Directive:
    return {"directive": directive, "args": [str(arg) for arg in args]}


def _block(directive: str, *args: str | int, of: list[Directive]) -> Directive:
    return {**_d(directive, *args), "block": of}


def _build(tree: list[Directive]) -> str:
    text: str = crossplane.build(tree, indent=4)
    return text + "\n"


def _main(topology: Topology, paths: NginxPaths, version: Version) -> list[Directive]:
    http = [
        _block("types", of=[_d(media_type, *names) for media_type, names in MEDIA_TYPES.items()]),
        _d("default_type", "application/octet-stream"),
        _d("charset", "utf-8"),
        _d("server_tokens", "off"),
        _d("sendfile", "on"),
        _d("tcp_nopush", "on"),
        *(
            _d(f"{name}_temp_path", f"{paths.temp}/{name}")
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        ),
        *_access_log(topology, paths),
        # What half-sent headers cost is a connection each, until here: nothing can count them by address before.
        _d("client_header_timeout", "10s"),
        _d("client_body_timeout", "60s"),
        _d("send_timeout", "60s"),
        _d("keepalive_timeout", "75s"),
        _d("reset_timedout_connection", "on"),
        _d("server_names_hash_bucket_size", 512),
        _d("map_hash_bucket_size", 512),
        _d("map_hash_max_size", 8192),
        _d("gzip", "on"),
        _d("gzip_vary", "on"),
        _d("gzip_proxied", "any"),
        _d("gzip_min_length", 1024),
        _d("gzip_types", *COMPRESSED),
    ]
    if version >= KEEPALIVE_MIN_TIMEOUT_SINCE:
        http.append(_d("keepalive_min_timeout", "5s"))
    http.append(_d("include", "sites-enabled/*"))
    return [
        *([_d("user", *paths.user.split())] if paths.user else []),
        _d("worker_processes", "auto"),
        _d("worker_rlimit_nofile", OPEN_FILES),
        _d("pid", paths.pid),
        _d("error_log", f"{paths.logs}/error.log", "warn"),
        _block("events", of=[_d("worker_connections", WORKER_CONNECTIONS)]),
        _block("http", of=http),
    ]


def _access_log(topology: Topology, paths: NginxPaths) -> list[Directive]:
    if not topology.config.site.access_log:
        return [_d("access_log", "off")]
    log_format = (
        '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" '
        '"$http_user_agent" $request_time "$upstream_addr" "$upstream_status" "$upstream_response_time"'
    )
    return [
        _d("log_format", "cluster", log_format),
        _d("access_log", f"{paths.logs}/access.log", "cluster", "buffer=32k", "flush=1s"),
    ]


def _site(topology: Topology, paths: NginxPaths, version: Version) -> list[Directive]:
    ports = [instance for instance in topology.instances if instance.port is not None]
    return [
        *_maps(topology),
        *_address_zone(topology),
        *_proxy_defaults(topology),
        _upstream(topology, paths),
        *(_instance_upstream(instance, paths) for instance in ports),
        *_servers(topology, paths, version),
        *(_instance_server(instance, topology, paths, version) for instance in ports),
        _internal_server(paths),
    ]


def _port_entries(topology: Topology) -> list[Directive]:
    """Return the entries of $cluster_port: the site's own names are looked up, only others matched by the pattern."""
    site = topology.config.site
    plain = dict.fromkeys(name.lower() for name in site.server_names if name[0] not in "_.*")
    return [
        _d("default", ""),
        *(_d(name, "") for name in plain),
        *(_d(f"{name}:{site.listen}", f":{site.listen}") for name in plain),
        _d(r"~:(?<cluster_port_number>[0-9]+)$", ":$cluster_port_number"),
    ]


def _maps(topology: Topology) -> list[Directive]:
    return [
        # WebSocket: pass an upgrade on; without one keep the connection to the instance ("" removes the header).
        _block("map", "$http_upgrade", "$cluster_connection", of=[_d("default", "upgrade"), _d("", "")]),
        # The port as the client wrote it. The host itself is nginx's $host, which the choice of the server checked:
        # a client that sends another Host header than the address in its request line can't pass it on.
        _block("map", "$http_host", "$cluster_port", of=_port_entries(topology)),
        # What leads below /-/ as the client wrote it: nginx passes the path on unchanged, so its own reading of
        # /-/../probe (as /probe) is not enough.
        _block(
            "map", "$request_uri", "$cluster_internal", of=[_d("default", ""), _d("~*^(/|%2f)+(-|%2d)(/|%2f)", "1")]
        ),
        # Names with a hash (ManifestStaticFilesStorage) never change their content.
        _block(
            "map",
            "$uri",
            "$cluster_static_cache",
            of=[
                _d("default", "public, max-age=60"),
                _d(r"~\.[0-9a-f]{12}\.[^/]+$", "public, max-age=31536000, immutable"),
            ],
        ),
        *(_media_maps() if _media_of(topology) else []),
    ]


def _media_maps() -> list[Directive]:
    """Let a browser save, and never run in the site's name, what it would take for a page: uploads are a visitor's."""
    return [
        _block("map", "$uri", "$cluster_media_disposition", of=[_d("default", ""), _d(_ATTACHED, "attachment")]),
        _block(
            "map",
            "$uri",
            "$cluster_media_policy",
            of=[_d("default", ""), _d(_ATTACHED, "default-src 'none'; style-src 'unsafe-inline'; sandbox")],
        ),
    ]


def _media_of(topology: Topology) -> list[tuple[Media, bool]]:
    """Return the directories of uploads that nginx serves, each with whether only the project may say so."""
    app = topology.config.app
    found = [(app.media, False), (app.protected_media, True)]
    return [(media, internal) for media, internal in found if media is not None and media.root and media.url]


def _address_zone(topology: Topology) -> list[Directive]:
    if not topology.config.site.connections_per_address:
        return []
    return [
        _d("limit_conn_zone", "$binary_remote_addr", f"zone={ADDRESSES}:10m"),
        _d("limit_conn_status", 429),
        _d("limit_conn_log_level", "warn"),
    ]


def _address_limit(topology: Topology) -> list[Directive]:
    """Limit how many requests one address has at a time; of the site alone, not of instances' ports and probes."""
    limit = topology.config.site.connections_per_address
    return [_d("limit_conn", ADDRESSES, limit)] if limit else []


def _socket(paths: NginxPaths, instance: str) -> str:
    return paths.instances[instance].nginx


def server_parameters(server: Server) -> list[str]:
    """Return nginx's parameters of a server; what is nginx's default is left out."""
    parameters = []
    if server.weight != 1:
        parameters.append(f"weight={server.weight}")
    if server.max_conns:
        parameters.append(f"max_conns={server.max_conns}")
    if server.max_fails != 1:
        parameters.append(f"max_fails={server.max_fails}")
    if server.fail_timeout.seconds != 10:  # noqa: PLR2004 - nginx's default
        parameters.append(f"fail_timeout={server.fail_timeout}")
    if server.backup:
        parameters.append("backup")
    if server.down:
        parameters.append("down")
    return parameters


def _method(topology: Topology) -> list[Directive]:
    upstream = topology.config.upstream
    match upstream.method:
        case Method.ROUND_ROBIN:
            return []
        case Method.HASH:
            return [_d("hash", upstream.hash.key, *(["consistent"] if upstream.hash.consistent else []))]
        case Method.RANDOM:
            return [_d("random", "two", "least_conn")]
        case _:
            return [_d(upstream.method.value)]


def _keepalive(connections: int) -> list[Directive]:
    age = f"{UPSTREAM_CONNECTION_AGE * 1000:g}ms"
    return [
        _d("keepalive", connections),
        _d("keepalive_time", age),
        _d("keepalive_timeout", age),
        _d("keepalive_requests", 100_000),
    ]


def _upstream(topology: Topology, paths: NginxPaths) -> Directive:
    zone = ZONE_BASE + ZONE_PER_SERVER * len(topology.instances)
    return _block(
        "upstream",
        "cluster",
        of=[
            _d("zone", "cluster", f"{zone}k"),
            *_method(topology),
            *(
                _d("server", _socket(paths, instance.name), *server_parameters(instance.server))
                for instance in topology.instances
            ),
            *_keepalive(topology.config.upstream.keepalive),
        ],
    )


def _instance_upstream(instance: Instance, paths: NginxPaths) -> Directive:
    return _block(
        "upstream",
        f"cluster_{instance.name}",
        of=[_d("server", _socket(paths, instance.name)), *_keepalive(4)],
    )


def _servers(topology: Topology, paths: NginxPaths, version: Version) -> list[Directive]:
    site = topology.config.site
    address = f"{paths.listen_address}:{site.listen}" if paths.listen_address else str(site.listen)
    anybody = "_" in site.server_names
    servers = []
    if not anybody:
        # A name that is not the site's: no answer at all.
        servers.append(
            _block(
                "server",
                of=[_d("listen", address, "default_server"), _d("server_name", ""), _d("return", 444)],
            )
        )
    servers.append(
        _block(
            "server",
            of=[
                _d("listen", address, *(["default_server"] if anybody else [])),
                _d("server_name", *site.server_names),
                _d("client_max_body_size", str(site.client_max_body_size)),
                *_address_limit(topology),
                *_locations(topology, paths, version, "cluster"),
            ],
        )
    )
    return servers


def _proxy_defaults(topology: Topology) -> list[Directive]:
    """How requests are passed on. The headers tell an instance of the client, over whatever the client sent."""
    return [
        _d("proxy_http_version", "1.1"),
        _d("proxy_connect_timeout", "1s"),
        _d("proxy_send_timeout", "60s"),
        _d("proxy_read_timeout", str(topology.config.site.proxy_read_timeout)),
        # The headers of a response have to fit into the first: a session in a cookie takes up to 4 KiB of them.
        _d("proxy_buffer_size", "16k"),
        _d("proxy_buffers", "8", "16k"),
        _d("proxy_busy_buffers_size", "32k"),
        # Another instance is tried where this one could not be reached, or ended before it answered; nginx never sends
        # a POST twice by this. One that is slow is waited for, and not begun again elsewhere: no `timeout` here. Over a
        # unix socket a connection is made or refused at once, a full queue included.
        _d("proxy_next_upstream", "error"),
        # The same in each attempt: an instance does not begin what has ended two workers (cluster_runtime.attempts).
        _d("proxy_set_header", "X-Cluster-Request", "$request_id"),
        _d("proxy_set_header", "Host", "$host$cluster_port"),
        _d("proxy_set_header", "X-Forwarded-Host", "$host$cluster_port"),
        _d("proxy_set_header", "X-Forwarded-Proto", "$scheme"),
        _d("proxy_set_header", "X-Forwarded-Port", "$server_port"),
        _d("proxy_set_header", "X-Forwarded-For", "$remote_addr"),
        _d("proxy_set_header", "X-Real-IP", "$remote_addr"),
        _d("proxy_set_header", "Connection", "$cluster_connection"),
        _d("proxy_set_header", "Upgrade", "$http_upgrade"),
        *(
            _d("proxy_set_header", name, "")
            for name in (
                "Forwarded",
                "X-Forwarded-Server",
                "X-Forwarded-Protocol",
                "X-Forwarded-Ssl",
                "Proxy",
            )
        ),
    ]


def _locations(topology: Topology, paths: NginxPaths, version: Version, upstream: str) -> list[Directive]:
    proxy = [_d("proxy_pass", f"http://{upstream}")]
    closes = version < KEEPALIVE_MIN_TIMEOUT_SINCE
    locations = [
        # What the runtime answers is not the public's, by nginx's reading of the path and by the client's.
        _block("if", "$cluster_internal", of=[_d("return", 404)]),
        _block("location", "^~", "/-/", of=[_d("return", 404)]),
        _block("location", "/", of=[*_closing(paths, "@closing", closes=closes), *proxy]),
    ]
    if closes:
        locations.append(_block("location", "@closing", of=[_d("keepalive_timeout", 0), *proxy]))
    static_url = served_static_url(topology.config)
    if static_url is not None:
        locations += _static_locations(static_url, paths, closes=closes)
    for number, (media, internal) in enumerate(_media_of(topology)):
        closing = f"@closing_media{number}"
        files = _media(topology, paths, media, internal=internal)
        locations.append(
            _block(
                "location",
                "^~",
                str(media.url),
                of=[*_closing(paths, closing, closes=closes and not internal), *files],
            )
        )
        if closes and not internal:
            locations.append(_block("location", closing, of=[_d("keepalive_timeout", 0), *files]))
    return locations


def _media(topology: Topology, paths: NginxPaths, media: Media, *, internal: bool) -> list[Directive]:
    """Serve uploads as files and nothing else; what only the project may let out keeps the headers that it gave."""
    where = f"{paths.shared}/{location_of(topology.config, str(media.root))}"
    headers = (
        []
        if internal
        else [
            _d("add_header", "Content-Disposition", "$cluster_media_disposition"),
        ]
    )
    return [
        *([_d("internal")] if internal else []),
        _d("root", where),
        # Not `alias`: it can't stand where old nginx closes connections, in a named location.
        _d("rewrite", f"^{re.escape(str(media.url))}(.*)$", "/$1", "break"),
        # A link that an instance made leads no further than its own files do.
        _d("disable_symlinks", "if_not_owner", f"from={where}"),
        *headers,
        _d("add_header", "Content-Security-Policy", "$cluster_media_policy"),
        _d("add_header", "X-Content-Type-Options", "nosniff"),
        _d("open_file_cache", "max=1000", "inactive=30s"),
        _d("open_file_cache_valid", "2s"),
    ]


def _closing(paths: NginxPaths, location: str, *, closes: bool) -> list[Directive]:
    """Before 1.27.4 a reload closes idle client connections at once, and a request that is on its way is lost.

    So before a reload `closing` is made: every response then ends its connection, and when the reload comes there are
    no busy clients left with an idle connection.
    """
    if not closes:
        return []
    return [_d("error_page", 418, "=", location), _block("if", "-f", paths.closing, of=[_d("return", 418)])]


def _static_locations(url: str, paths: NginxPaths, *, closes: bool) -> list[Directive]:
    """Return where static files are; a page of the former release may still ask for that one's."""
    closing = _closing(paths, "@closing_static", closes=closes)
    found = [
        _block("location", "^~", url, of=[*closing, *_static(paths, "current", "@previous_static")]),
        _block("location", "@previous_static", of=_static(paths, "previous", "=404")),
    ]
    if closes:
        last = _d("keepalive_timeout", 0)
        found += [
            _block("location", "@closing_static", of=[last, *_static(paths, "current", "@closing_previous_static")]),
            _block("location", "@closing_previous_static", of=[last, *_static(paths, "previous", "=404")]),
        ]
    return found


def _static(paths: NginxPaths, which: str, otherwise: str) -> list[Directive]:
    where = f"{paths.static}/{which}"
    return [
        _d("root", where),
        _d("try_files", "$uri", otherwise),
        # A link that the project made among them leads no further than its own files do.
        _d("disable_symlinks", "if_not_owner", f"from={where}"),
        _d("add_header", "Cache-Control", "$cluster_static_cache"),
        _d("add_header", "X-Content-Type-Options", "nosniff"),
        _d("gzip_static", "on"),
        _d("open_file_cache", "max=1000", "inactive=30s"),
        _d("open_file_cache_valid", "2s"),
    ]


def _instance_server(instance: Instance, topology: Topology, paths: NginxPaths, version: Version) -> Directive:
    return _block(
        "server",
        of=[
            _d(
                "listen",
                f"{paths.instance_address}:{instance.port}" if paths.instance_address else str(instance.port),
            ),
            _d("server_name", "127.0.0.1", "localhost"),
            _d("client_max_body_size", str(topology.config.site.client_max_body_size)),
            *_locations(topology, paths, version, f"cluster_{instance.name}"),
        ],
    )


def _internal_server(paths: NginxPaths) -> Directive:
    """Return the server for whoever runs the cluster: the digest of this config, and probes to the instances."""
    return _block(
        "server",
        of=[
            _d("listen", f"unix:{paths.internal}"),
            _d("server_name", "internal"),
            _d("access_log", "off"),
            # A probe says which client it stands for, so that ip_hash has something to hash.
            _d("set_real_ip_from", "unix:"),
            _d("real_ip_header", "X-Probe-Address"),
            _block(
                "location",
                "=",
                "/-/config",
                of=[_d("default_type", "text/plain"), _d("return", 200, _DIGEST_PLACE)],
            ),
            _block("location", "=", "/-/connections", of=[_d("stub_status")]),
            _block(
                "location",
                "/-/probe",
                of=[
                    _d("proxy_pass", "http://cluster"),
                    _d("proxy_set_header", "Connection", ""),
                    _d("proxy_set_header", "Host", "$host"),
                    _d("proxy_set_header", "X-Forwarded-Proto", "https"),
                ],
            ),
            _block("location", "/", of=[_d("return", 404)]),
        ],
    )


def version_in_image(image: str) -> Version:
    """Return the version of nginx in an image of that name, or the oldest that it could be.

    Known before anything is built, so that a preview shows the configuration that will run. nginx's own images say it
    in their tag; Debian's and Ubuntu's releases have one each (https://packages.debian.org/nginx).
    """
    name, _, tag = image.rpartition("/")[2].partition(":")
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", tag)
    if name == "nginx" and found:
        return (int(found[1]), int(found[2]), int(found[3] or 0))
    for release, version in DISTRIBUTIONS.items():
        if release in re.split(r"[^a-z0-9.]", f"{name}-{tag}"):
            return version
    return OLDEST
