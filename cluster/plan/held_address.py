"""What becomes of the address that hosts hold in turn, by two states of a stack file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.config.hosts import Role

if TYPE_CHECKING:
    from cluster.config.models import ClusterConfig


def named(config: ClusterConfig) -> str:
    """Return the address in words."""
    return " and ".join(config.site.address or ())


def steps_of_address(old: ClusterConfig, new: ClusterConfig) -> list[str]:
    """Return what is done, in words; nothing where all stays."""
    if (_kept(old), _holders(old)) == (_kept(new), _holders(new)):
        return []
    if not new.site.address:
        return [f"- address: {named(old)} is given up"]
    if not old.site.address:
        return [f"+ address: {named(new)}, held by one of {', '.join(_holders(new).values())}"]
    changed = f"{named(old)} -> {named(new)}" if _kept(old) != _kept(new) else named(new)
    return [f"~ address: {changed}, held by one of {', '.join(_holders(new).values())}"]


def may_move(old: ClusterConfig, new: ClusterConfig) -> bool:
    """Tell whether a host that may hold the address gives it up."""
    return bool(_kept(old) - _kept(new)) or bool(_kept(old) and not _holders(old).keys() <= _holders(new).keys())


def _kept(config: ClusterConfig) -> set[str]:
    return {*(config.site.address or ())}


def _holders(config: ClusterConfig) -> dict[str, str]:
    """Return the names of the hosts that hold it in turn, by their keys; nothing where there is none."""
    there = config.hosts if config.site.address else ()
    return {host.host_key: host.name for host in there if Role.NGINX in host.roles}


__all__ = ["may_move", "named", "steps_of_address"]
