"""Lints of an address that one of several hosts holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.config.hosts import Role
from cluster.lint.rule import ERROR, WARNING, Remark, Rule
from cluster.tls.certificates import address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.config.hosts import Host
    from cluster.config.models import ClusterConfig
    from cluster.lint.finding import Facts
    from cluster.lint.rule import Remarks

KEY = "site.address"


def _platform(config: ClusterConfig, _facts: Facts) -> Remarks:
    if config.site.address is not None and not config.platform.traits.hosts:
        why = f"Platform {config.platform} runs on no hosts of its own, which could hold an address in turn."
        yield Remark(KEY, why, "Take it out.")


def _holders(config: ClusterConfig) -> Iterator[tuple[str, Host]]:
    """Yield the hosts that are to hold the address in turn, each with its path in the stack file."""
    if config.site.address is not None and config.platform.traits.hosts:
        yield from ((f"hosts[{n}]", host) for n, host in enumerate(config.hosts) if Role.NGINX in host.roles)


def _alone(config: ClusterConfig, _facts: Facts) -> Remarks:
    if len(list(_holders(config))) == 1:
        why = "One host has the role nginx: where it dies, no other one takes the address."
        yield Remark(KEY, why, "Give the role to another host, or let the site's names lead to the host itself.")


def _taken(config: ClusterConfig, _facts: Facts) -> Remarks:
    shared = {address(one) for one in config.site.address or ()}
    for number, host in enumerate(config.hosts):
        for key in ("address", "internal"):
            found = address(getattr(host, key) or "")
            if found is not None and found in shared:
                why = f"{found} is {host.name}'s own address, and goes to another host with none of it."
                yield Remark(KEY, why, f"Choose one that is no host's, or another one for hosts[{number}].{key}.")


def _between(config: ClusterConfig, _facts: Facts) -> Remarks:
    holders = list(_holders(config))
    known = [(path, host, address(host.between)) for path, host in holders]
    for path, host, found in known:
        if found is None:
            why = f"Hosts that hold an address in turn hear from each other by addresses, and {host.between} is a name."
            yield Remark(f"{path}.{'address' if host.internal is None else 'internal'}", why, "Say its address there.")
    families = {found.version for _path, _host, found in known if found is not None}
    if len(families) > 1:
        why = "Some hosts with the role nginx are reached by IPv4, and some by IPv6: they would not hear each other."
        yield Remark("hosts", why, "Say `internal` addresses of one kind.")
    elif families and families.isdisjoint(
        {one.version for text in config.site.address or () if (one := address(text))}
    ):
        kind = f"IPv{families.pop()}"
        why = f"The hosts hear each other by {kind}, and keepalived holds no address of the other kind alone."
        yield Remark(KEY, why, f"Name one of {kind}, too, or say internal addresses of the other kind.")


def _not_listened(config: ClusterConfig, _facts: Facts) -> Remarks:
    found = next((one for one in config.site.address or () if ":" in one), None)
    if found is not None and not config.site.ipv6:
        yield Remark("site.ipv6", f"The site does not listen by IPv6, and {found} leads to it.", "Set it to true.")


ADDRESS_RULES = (
    Rule("address-platform", ERROR, "An address that hosts share, on a platform without hosts.", _platform),
    Rule("address-alone", WARNING, "An address that hosts share, and one host alone.", _alone),
    Rule("address-taken", ERROR, "An address that hosts share is a host's own.", _taken),
    Rule("address-between", ERROR, "Hosts that share an address do not hear each other.", _between),
    Rule("address-ipv6", ERROR, "An address that hosts share, at which the site does not listen.", _not_listened),
)
