"""nginx's configuration, from a topology. Directives: https://nginx.org/en/docs/dirindex.html .

The text comes from a tree (crossplane builds it, with the quoting in one place). The same topology gives the same tree
on every platform but for the paths in `NginxPaths`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cluster.render.directives import Directive, block, build, d
from cluster.render.internal import DIGEST_PLACE
from cluster.render.mime import COMPRESSED, MEDIA_TYPES
from cluster.render.site import site
from cluster.render.snippets import http_snippet, snippet_files
from cluster.render.tls import private_files
from cluster.render.versions import KEEPALIVE_MIN_TIMEOUT_SINCE, Version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster.render.paths import NginxPaths
    from cluster.tls.certificates import Certificate
    from cluster.topology import Topology

#: Of each nginx worker: files, and connections with some room for files beside them. One address can open 28,000 (the
#: ports that Linux gives out), and whoever comes after the last free connection is lost.
OPEN_FILES, WORKER_CONNECTIONS = 16384, 15360

#: Maps of a site up to which nginx has room for the names of all variables, its own hundreds among them.
FEW_VARIABLES = 20

SITE = "sites-available/cluster"

ENABLED_SITE = "sites-enabled/cluster"


@dataclass(frozen=True, kw_only=True)
class NginxConfig:
    """A rendered configuration: the text of each file by its path, links by theirs, and the digest nginx tells.

    private: the certificate and its key, for nginx alone. The digest is not of them, but of what tells them apart: who
    asks what nginx should run need not hold a secret. users: the file of the users for whom nginx asks, hashes among
    them, which its workers read; empty where it asks for none, or where more than that is not known. No digest is of it
    either: whoever reads that could try passwords by it.
    """

    files: dict[str, str]
    links: dict[str, str]
    digest: str
    private: dict[str, str] = field(default_factory=dict, repr=False)
    users: str = field(default="", repr=False)


def digest_of_files(files: Mapping[str, str]) -> str:
    """Return the digest of a configuration, by the texts of its files."""
    told = "\0".join(f"{path}\0{text}" for path, text in sorted(files.items()))
    return hashlib.sha256(told.encode()).hexdigest()


def render_nginx(
    topology: Topology, paths: NginxPaths, version: Version, certificate: Certificate | None = None, users: str = ""
) -> NginxConfig:
    """Render the configuration for an nginx of `version`.

    certificate: the site's, where it has TLS. users: what nginx reads of the site's users, where that is known.
    """
    if (certificate is None) != (topology.config.site.tls is None):
        raise ValueError("a site with TLS has a certificate, and no other site has")
    of_site = site(topology, paths, version, certificate)
    files = {
        "nginx.conf": build(_main(topology, paths, version, _variables(of_site))),
        SITE: build(of_site),
        **snippet_files(topology.config.site),
    }
    digest = digest_of_files(files)
    files = {path: text.replace(DIGEST_PLACE, digest) for path, text in files.items()}
    return NginxConfig(
        files=files,
        links={ENABLED_SITE: f"../{SITE}"},
        digest=digest,
        private=private_files(certificate),
        users=users,
    )


def for_every_server(topology: Topology, paths: NginxPaths, version: Version) -> list[Directive]:
    """Return what all servers do alike, whichever site they are of: it may stand in `http` or in each of them."""
    return [*_files(), *_connections(topology, paths), *_compression(version)]


def _files() -> list[Directive]:
    return [
        d("default_type", "application/octet-stream"),
        d("charset", "utf-8"),
        d("server_tokens", "off"),
        d("sendfile", "on"),
        d("tcp_nopush", "on"),
    ]


def _connections(topology: Topology, paths: NginxPaths) -> list[Directive]:
    return [
        *_access_log(topology, paths),
        # What half-sent headers cost is a connection each, until here: nothing can count them by address before.
        d("client_header_timeout", "10s"),
        d("client_body_timeout", "60s"),
        d("send_timeout", "60s"),
        d("keepalive_timeout", "75s"),
        d("reset_timedout_connection", "on"),
    ]


def _compression(version: Version) -> list[Directive]:
    return [
        d("gzip", "on"),
        d("gzip_vary", "on"),
        d("gzip_proxied", "any"),
        d("gzip_min_length", 1024),
        d("gzip_types", *COMPRESSED),
        *([d("keepalive_min_timeout", "5s")] if version >= KEEPALIVE_MIN_TIMEOUT_SINCE else []),
    ]


def _variables(of_site: list[Directive]) -> list[Directive]:
    """Return room for the names of variables, where a site has many: nginx warns that it could order them no better."""
    if sum(one["directive"] == "map" for one in of_site) <= FEW_VARIABLES:
        return []
    return [d("variables_hash_max_size", 4096), d("variables_hash_bucket_size", 128)]


def _main(topology: Topology, paths: NginxPaths, version: Version, variables: list[Directive]) -> list[Directive]:
    http = [
        block("types", of=[d(media_type, *names) for media_type, names in MEDIA_TYPES.items()]),
        *_files(),
        *(
            d(f"{name}_temp_path", f"{paths.temp}/{name}")
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        ),
        *_connections(topology, paths),
        d("server_names_hash_bucket_size", 512),
        d("map_hash_bucket_size", 512),
        d("map_hash_max_size", 8192),
        *variables,
        *_compression(version),
        *http_snippet(topology.config.site),
        d("include", "sites-enabled/*"),
    ]
    return [
        *([d("user", *paths.user.split())] if paths.user else []),
        d("worker_processes", "auto"),
        d("worker_rlimit_nofile", OPEN_FILES),
        d("pid", paths.pid),
        d("error_log", f"{paths.logs}/error.log", "warn"),
        block("events", of=[d("worker_connections", WORKER_CONNECTIONS)]),
        block("http", of=http),
    ]


def _access_log(topology: Topology, paths: NginxPaths) -> list[Directive]:
    if not topology.config.site.access_log:
        return [d("access_log", "off")]
    log_format = (
        '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" '
        '"$http_user_agent" $request_time "$upstream_addr" "$upstream_status" "$upstream_response_time"'
    )
    return [
        d("log_format", "cluster", log_format),
        d("access_log", paths.access_log or f"{paths.logs}/access.log", "cluster", "buffer=32k", "flush=1s"),
    ]
