"""What is before nginx: whose word on a client is taken, and which ports a client may name.

Source: https://nginx.org/en/docs/http/ngx_http_realip_module.html .
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.endpoints import HTTPS
from cluster.render.directives import Directive, block, d
from cluster.render.versions import REQUEST_PORT_SINCE

if TYPE_CHECKING:
    from cluster.config.site import Site
    from cluster.render.versions import Version


#: What an address of IPv4 begins with where it is written as one of IPv6 (::ffff:192.0.2.1), as a regular expression.
MAPPED = r"\x00{10}\xff{2}"

#: What a map reads as its own, and not as a value.
MAP_WORDS = ("default", "hostnames", "include", "volatile")


def looked_up(site: Site) -> list[str]:
    """Return the site's names that are no patterns."""
    return list(dict.fromkeys(name.lower() for name in site.server_names if name[0] not in "_.*"))


def scheme(site: Site) -> str:
    """Return the variable that holds a client's scheme."""
    return "$cluster_scheme" if site.scheme_is_told else "$scheme"


def port(site: Site) -> str:
    """Return the variable that holds the port that a client reached."""
    return "$cluster_public_port" if site.scheme_is_told else "$server_port"


def asked(site: Site) -> str:
    """Return the variable that holds the name and the port that a client asks for, as it wrote them."""
    return "$cluster_asked" if site.http3 else "$http_host"


def asked_map(site: Site, version: Version) -> list[Directive]:
    """Return where nginx has that of HTTP/3, whose requests have no Host header; empty without HTTP/3.

    An nginx before 1.29.3 tells no port of it: there it is that of https, whatever the client wrote.
    """
    if not site.http3:
        return []
    if version >= REQUEST_PORT_SINCE:
        told = [d("default", "$http_host"), d("", "$host$is_request_port$request_port")]
        return [block("map", "$http_host", asked(site), of=told)]
    port = "" if site.https_port == HTTPS else f":{site.https_port}"
    return [block("map", "$http3", asked(site), of=[d("default", "$http_host"), d("h3", f"$host{port}")])]


def maps(site: Site) -> list[Directive]:
    """Return what is looked up of a request's way."""
    trusted = "$cluster_trusted" if site.trusted_proxies else ""
    told = _told_maps(trusted) if site.scheme_is_told else []
    return [*_trusted_map(site), *told, _wrong_port_map(site, trusted)]


def _trusted_map(site: Site) -> list[Directive]:
    """Return where nginx has whether a request comes from a proxy that is trusted; empty where there is none."""
    if not site.trusted_proxies:
        return []
    networks = [d(network, 1) for network in site.trusted_proxies]
    # By the address of the connection: $remote_addr is the client's by then.
    return [block("geo", "$realip_remote_addr", "$cluster_trusted", of=[d("default", 0), *networks])]


def _told_maps(trusted: str) -> list[Directive]:
    """Return where nginx has the scheme and the port of a client that a proxy tells. trusted: as `maps` has it."""
    return [
        block(
            "map",
            f"{trusted}$http_x_forwarded_proto",
            "$cluster_scheme",
            of=[d("default", "$scheme"), d("1http", "http"), d("1https", "https")],
        ),
        block(
            "map",
            f"{trusted}$cluster_scheme",
            "$cluster_usual_port",
            of=[d("default", "$server_port"), d("1http", 80), d("1https", 443)],
        ),
        block(
            "map",
            f"{trusted}$http_x_forwarded_port",
            "$cluster_public_port",
            of=[
                d("default", "$cluster_usual_port"),
                d("~^1(?<cluster_told_port>[0-9]{1,5})$", "$cluster_told_port"),
            ],
        ),
    ]


def _wrong_port_map(site: Site, trusted: str) -> Directive:
    """Return where nginx has whether a client names a port that the site has not. trusted: as `maps` has it."""
    # Which port leads to a trusted proxy, that one has seen.
    believed = [d("~^1", "")] if trusted else []
    https = [site.https_port] if site.https_port else []
    ports = "|".join(map(str, dict.fromkeys((*site.listeners, *site.forwarded_ports, *https))))
    begin = "^0" if trusted else ""
    # The site's own names are looked up; only others are matched by the patterns.
    ends = ("", *(f":{port}" for port in site.listeners))
    known = [f"{'0' if trusted else ''}{name}{end}" for name in looked_up(site) for end in ends]
    return block(
        "map",
        f"{trusted}{asked(site)}",
        "$cluster_wrong_port",
        of=[
            d("default", ""),
            *(d(word, "") for word in known if word not in MAP_WORDS),
            *believed,
            d(f"~{begin}.*:({ports})$", ""),
            d("~:[0-9]+$", 1),
        ],
    )


def client(site: Site) -> list[Directive]:
    """Return what makes $remote_addr the client's; for a server of the site."""
    if not site.trusted_proxies:
        return []
    return [
        *(d("set_real_ip_from", network) for network in site.trusted_proxies),
        d("real_ip_header", "proxy_protocol" if site.proxy_protocol else "X-Forwarded-For"),
        # The last address that is no proxy's: what is left of it the client may have written itself.
        d("real_ip_recursive", "on"),
    ]


def refusal() -> Directive:
    """Return what refuses a port that the site has not: it would stand in links and mails."""
    return block("if", "$cluster_wrong_port", of=[d("return", 400)])


def listening(site: Site) -> list[str]:
    """Return the options of a listener of the site."""
    return ["proxy_protocol"] if site.proxy_protocol else []
