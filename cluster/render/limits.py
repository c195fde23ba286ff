"""How much one address may ask of the site: requests at a time, and in a time. Of the site alone, not of probes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.config.site import allowed_burst
from cluster.render.directives import Directive, d

if TYPE_CHECKING:
    from cluster.config.site import Location, Site

#: Where requests are counted by their client's address: room for 160,000 addresses at a time.
ADDRESSES = "cluster_addresses"

#: Where those of a time are; of a location with its number.
RATES = "cluster_rate"

TOO_MANY = 429


def limit_zones(site: Site) -> list[Directive]:
    """Return where requests are counted, and what is said to those that are too many."""
    limited = [(RATES, site.limit), *((_zone(number), one.limit) for number, one in enumerate(site.locations))]
    zones = [
        d("limit_req_zone", "$binary_remote_addr", f"zone={zone}:10m", f"rate={rate}") for zone, rate in limited if rate
    ]
    connections = [d("limit_conn_zone", "$binary_remote_addr", f"zone={ADDRESSES}:10m")]
    return [
        *(_said("limit_conn", connections) if site.connections_per_address else []),
        *(_said("limit_req", zones) if zones else []),
    ]


def _said(kind: str, zones: list[Directive]) -> list[Directive]:
    return [*zones, d(f"{kind}_status", TOO_MANY), d(f"{kind}_log_level", "warn")]


def address_limit(site: Site) -> list[Directive]:
    """Limit how many requests one address has at a time."""
    limit = site.connections_per_address
    return [d("limit_conn", ADDRESSES, limit)] if limit else []


def rate_limit(site: Site, location: Location | None = None) -> list[Directive]:
    """Limit how many requests one address sends to a location in a time: by its own limit, or else by the site's."""
    if location is not None and location.limit is not None:
        return _rate(_zone(site.locations.index(location)), allowed_burst(location))
    return _rate(RATES, allowed_burst(site)) if site.limit is not None else []


def _rate(zone: str, burst: int) -> list[Directive]:
    return [d("limit_req", f"zone={zone}", *([f"burst={burst}"] if burst else []), "nodelay")]


def _zone(number: int) -> str:
    return f"{RATES}{number}"
