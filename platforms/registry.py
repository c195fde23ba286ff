"""The platforms that there are."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from cluster.errors import CommandError

if TYPE_CHECKING:
    from cluster.stack.opened import Stack
    from platforms.base import Commands

#: The module of each one's commands, by what a stack file calls it. Imported where it is needed: who uses one platform
#: reads nothing of another.
COMMANDS = {
    "local": "platforms.local.commands",
    "docker": "platforms.docker.commands",
}


def commands(stack: Stack) -> Commands:
    """Return the commands of the stack's platform; CommandError where there are none yet."""
    module = COMMANDS.get(stack.config.platform)
    if module is None:
        there = " and ".join(COMMANDS)
        raise CommandError(f"platform: {stack.config.platform} is not there yet; {there} are")
    return cast("Commands", import_module(module))
