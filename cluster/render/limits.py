"""How much one address may ask of the site: requests at a time, and in a time. Of the site alone, not of probes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.config.limits import allowed_burst, allowed_passwords
from cluster.render.auth import TOLD
from cluster.render.directives import Directive, block, d
from cluster.render.proxies import MAPPED

if TYPE_CHECKING:
    from cluster.config.site import Location, Site

#: Where requests are counted by their client's address: room for 160,000 addresses at a time.
ADDRESSES = "cluster_addresses"

#: Where those of networks are, for a site by IPv6.
NETWORKS = "cluster_networks"

#: Where those of a time are; of a location with its number.
RATES = "cluster_rate"

TOO_MANY = 429

#: Where requests with a password are, and by what they are counted: the client, where one is there and nginx asks.
PASSWORDS, _PASSWORD_OF = "cluster_passwords", "$cluster_password_of"


def limit_zones(site: Site) -> list[Directive]:
    """Return where requests are counted, and what is said to those that are too many."""
    limited = [
        (_counted(site), _rates(site), site.limit),
        *((_counted_at(site, one), _zone(site, one), one.limit) for one in site.locations),
        (_PASSWORD_OF, PASSWORDS, site.auth_basic_limit),
    ]
    zones = [d("limit_req_zone", key, f"zone={zone}:10m", f"rate={rate}") for key, zone, rate in limited if rate]
    connections = [d("limit_conn_zone", _counted(site), f"zone={_addresses(site)}:10m")]
    counted = site.connections_per_address or zones
    return [
        *(_networks() if site.ipv6 and counted else []),
        *(_methods(site, one) for one in site.locations if one.limit_methods),
        *(_passwords(site) if site.auth_basic_limit else []),
        *(_said("limit_conn", connections) if site.connections_per_address else []),
        *(_said("limit_req", zones) if zones else []),
    ]


def _counted(site: Site) -> str:
    """Return what is counted: an address, of IPv6 the network of 64 bits that a client has for itself."""
    return "$cluster_client_network" if site.ipv6 else "$binary_remote_addr"


def _counted_at(site: Site, location: Location) -> str:
    """Return what is counted at a location: of methods alone, where it names some."""
    return f"$cluster_counted{site.locations.index(location)}" if location.limit_methods else _counted(site)


def _methods(site: Site, location: Location) -> Directive:
    of = [d("default", ""), *(d(method, _counted(site)) for method in dict.fromkeys(location.limit_methods))]
    return block("map", "$request_method", _counted_at(site, location), of=of)


def _passwords(site: Site) -> list[Directive]:
    # Where nginx asks nobody the header is the project's, and passed on (cluster.render.auth).
    asked = [d("default", ""), d("", "$http_authorization")]
    return [
        block("map", TOLD, "$cluster_password", of=asked),
        block("map", "$cluster_password", _PASSWORD_OF, of=[d("default", _counted(site)), d("", "")]),
    ]


def password_limit(site: Site) -> list[Directive]:
    """Limit how often one address sends a password, for a server that asks for it and each location with a limit."""
    return _rate(PASSWORDS, allowed_passwords(site)) if site.auth_basic_limit else []


def _networks() -> list[Directive]:
    of = [
        d("default", "$binary_remote_addr"),
        # As a trusted proxy may write an address of IPv4.
        d(rf"~(?s)^{MAPPED}(?<cluster_ipv4>.{{4}})\z", "$cluster_ipv4"),
        d(r"~(?s)^(?<cluster_first_half>.{8}).{8}\z", "$cluster_first_half"),
    ]
    return [block("map", "$binary_remote_addr", "$cluster_client_network", of=of)]


def _said(kind: str, zones: list[Directive]) -> list[Directive]:
    return [*zones, d(f"{kind}_status", TOO_MANY), d(f"{kind}_log_level", "warn")]


def address_limit(site: Site) -> list[Directive]:
    """Limit how many requests one address has at a time."""
    limit = site.connections_per_address
    return [d("limit_conn", _addresses(site), limit)] if limit else []


def rate_limit(site: Site, location: Location | None = None) -> list[Directive]:
    """Limit how many requests one address sends to a location in a time: by its own limit, or else by the site's."""
    of_site = _rate(_rates(site), allowed_burst(site)) if site.limit is not None else []
    own: list[Directive] = []
    if location is not None and location.limit is not None:
        own = _rate(_zone(site, location), allowed_burst(location))
        of_site = of_site if location.limit_methods else []
    # Those of the server hold where a location has none.
    return [*own, *of_site, *password_limit(site)] if own or of_site else []


def _rate(zone: str, burst: int) -> list[Directive]:
    return [d("limit_req", f"zone={zone}", *([f"burst={burst}"] if burst else []), "nodelay")]


def _zone(site: Site, location: Location) -> str:
    methods = "_methods" if location.limit_methods else ""
    return f"{_rates(site)}{site.locations.index(location)}{methods}"


# nginx takes no reload in which a zone of the same name counts something else.


def _addresses(site: Site) -> str:
    return NETWORKS if site.ipv6 else ADDRESSES


def _rates(site: Site) -> str:
    return f"{NETWORKS}_rate" if site.ipv6 else RATES
