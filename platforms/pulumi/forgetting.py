"""A state of Pulumi's without some of its resources, as `pulumi stack export` prints it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def forget(document: dict[str, Any], gone: Callable[[dict[str, Any]], bool]) -> int:
    """Take resources out of a state, which is changed; return how many. gone: tells which."""
    deployment = document.get("deployment") or {}
    resources = list(deployment.get("resources") or [])
    urns = {one["urn"] for one in resources if gone(one)}
    if urns:
        deployment["resources"] = [_without(one, urns) for one in resources if one["urn"] not in urns]
        deployment["pending_operations"] = [
            one for one in deployment.get("pending_operations") or [] if one["resource"]["urn"] not in urns
        ]
    return len(urns)


def _without(resource: dict[str, Any], urns: set[str]) -> dict[str, Any]:
    """Return a resource of a state that waits for none of others."""
    found = dict(resource)
    if "dependencies" in found:
        found["dependencies"] = [urn for urn in found["dependencies"] if urn not in urns]
    if "propertyDependencies" in found:
        told = found["propertyDependencies"]
        found["propertyDependencies"] = {key: [urn for urn in of or [] if urn not in urns] for key, of in told.items()}
    return found
