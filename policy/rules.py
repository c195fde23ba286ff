"""All rules by their names, and what they find in a resource."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cluster.policies import TOLD, PolicyRule
from policy.containers import health_check, limits, privileged, published_ports, reachable_store
from policy.data import unprotected_data
from policy.exceptions import exempt
from policy.production import live_instances, tls
from policy.resources import Site, Unknown
from policy.texts import debug, plain_secret, values_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from policy.resources import Check, Resource

#: Rules of a resource's inputs, before it is made.
OF_INPUTS: dict[PolicyRule, Check] = {
    PolicyRule.PUBLISHED_PORTS: published_ports,
    PolicyRule.DEBUG: debug,
    PolicyRule.PLAIN_SECRET: plain_secret,
    PolicyRule.PRIVILEGED: privileged,
    PolicyRule.HEALTH_CHECK: health_check,
    PolicyRule.LIMITS: limits,
    PolicyRule.UNPROTECTED_DATA: unprotected_data,
    PolicyRule.REACHABLE_STORE: reachable_store,
    PolicyRule.TLS: tls,
}

#: Rules of what a component says of itself once all is planned.
OF_OUTPUTS: dict[PolicyRule, Check] = {PolicyRule.LIVE_INSTANCES: live_instances}

#: The keys of a program's configuration that are secrets, whatever site they are of.
SECRET_KEYS = frozenset(
    (
        *("secret_key", "secret_key_fallbacks", "database_url", "secret_environment"),
        *("dropped_secret_keys", "secret_key_rotation", "hosts_key_rotation"),
        *("tls_authority", "acme_account", "acme_eab_key", "auth_basic_users"),
        *("hosts_key", "hosts_key_fallbacks"),
    )
)


def violations(rule: PolicyRule, resource: Resource, site: Site) -> Iterator[str]:
    """Yield a line for each breach of a rule, with how to mend it; Unknown where that can't be told yet."""
    check = {**OF_INPUTS, **OF_OUTPUTS}[rule]
    seen: set[str] = set()
    for breach in check(resource, site):
        line = f"{resource.words} {breach.what}. {TOLD[rule].remedy}"
        if line not in seen and not exempt(rule, resource, breach):
            seen.add(line)
            yield line


def disabled(config: Mapping[str, str]) -> frozenset[str]:
    """Return the names of the rules that a program's configuration switches off; each has a reason there."""
    found = _key(config, "policy").get("disable")
    entries = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    return frozenset(str(one.get("rule")) for one in entries if str(one.get("reason") or "").strip())


def site_of(config: Mapping[str, str]) -> Site:
    """Return what a program's configuration says of its stack, secrets in plain."""
    secrets = {name: value for name, value in config.items() if name.rpartition(":")[2] in SECRET_KEYS}
    return Site(production=_is_production(config), secrets=values_of(secrets))


def _is_production(config: Mapping[str, str]) -> bool:
    said = _key(config, "policy").get("production")
    if said is not None:
        return said is True
    tls = _key(config, "site").get("tls")
    acme = tls.get("acme") if isinstance(tls, dict) else None
    return isinstance(acme, dict) and not acme.get("directory_ca")


def _key(config: Mapping[str, str], name: str) -> dict[str, Any]:
    """Return a key that holds a mapping; what is none is refused by the program, which says so."""
    try:
        found = json.loads(config.get(f"cluster:{name}", "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


__all__ = ["OF_INPUTS", "OF_OUTPUTS", "Unknown", "disabled", "site_of", "violations"]
