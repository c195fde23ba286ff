"""The rule of volumes: what holds data is protected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policy.resources import VOLUME, Breach

if TYPE_CHECKING:
    from policy.resources import Breaches, Resource, Site


def unprotected_data(resource: Resource, _site: Site) -> Breaches:
    """Look for volumes that a `destroy`, or another name, would delete; which may be lost, policy/exceptions.py says.

    Pulumi does not tell a policy of `retain_on_delete`.
    """
    if resource.type == VOLUME and not resource.protect:
        yield Breach("is not protected", "unprotected")
