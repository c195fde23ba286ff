"""The platforms that there are."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from cluster.errors import CommandError

if TYPE_CHECKING:
    from cluster.stack.opened import Stack
    from platforms.base import Adopting, Ground, Grounds, Initial, Platform, Platforms, Voice

#: The module of each one, for the commands, by what a stack file calls it. Imported where it is needed: who uses one
#: platform reads nothing of another.
PLATFORMS = {
    "local": "platforms.local.platform",
    "docker": "platforms.docker.platform",
}

#: The module of each one that Pulumi makes the resources of, by the same names, for programs.
PROGRAMS = {
    "docker": "platforms.docker.program",
}

#: The module of each one for stacks that have no file yet, by the same names.
INITIAL = {
    "local": "platforms.local.initial",
    "docker": "platforms.docker.initial",
}

#: The module of each one that takes over what a project has in use, by the same names.
ADOPTING = {
    "local": "platforms.local.adopting",
}

#: What a stack file is written for where nobody names another one.
DEFAULT = "local"


def platform(stack: Stack, voice: Voice) -> Platform:
    """Return the stack on its platform, which tells `voice` what it does."""
    return cast("Platforms", import_module(PLATFORMS[stack.config.platform])).platform(stack, voice)


def initial(platform: str) -> Initial:
    """Return what a stack that has no file yet gets on a platform, by its name."""
    return cast("Initial", import_module(INITIAL[platform]))


def adopting(platform: str) -> Adopting:
    """Return what takes over, on a platform of ADOPTING, what a project has in use."""
    return cast("Adopting", import_module(ADOPTING[platform]))


def ground(stack: Stack, site: str | None) -> Ground:
    """Return where a site of a stack file stands as a Pulumi program finds it.

    site: its name among those of a program; None for the one that the commands know. CommandError where Pulumi has
    nothing to make.
    """
    module = PROGRAMS.get(stack.config.platform)
    if module is None:
        raise CommandError(f"stack {stack.name} is for this machine alone: say `cluster up {stack.name}`")
    return cast("Grounds", import_module(module)).ground(stack.root, stack.name, site)
