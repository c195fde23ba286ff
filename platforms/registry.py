"""The platforms that there are, each a package here that is called as a stack file calls it (cluster.platforms).

Its modules are imported where they are needed: who uses one platform reads nothing of another.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from cluster.errors import CommandError
from cluster.platforms import Platform as Name

if TYPE_CHECKING:
    from cluster.stack.opened import Stack
    from platforms.base import Adopting, Ground, Grounds, Initial, Platform, Platforms, Voice

#: A platform's modules: for the commands, for stacks that have no file yet, for programs, and for taking over what a
#: project has in use. Not each has the last two.
COMMANDS, INITIAL, PROGRAM, ADOPTING = "platform", "initial", "program", "adopting"

#: What a stack file is written for where nobody names another one.
DEFAULT = Name.LOCAL


def module_of(platform: str, module: str) -> str | None:
    """Return the name of a module of a platform; None where it has none of that kind."""
    name = f"{__package__}.{platform}.{module}"
    return name if find_spec(name) is not None else None


def names(module: str = COMMANDS) -> list[str]:
    """Return what the platforms are called that have a module of a kind."""
    return [name.value for name in Name if module_of(name, module) is not None]


def _module(platform: str, module: str) -> Any:
    return import_module(f"{__package__}.{platform}.{module}")


def platform(stack: Stack, voice: Voice) -> Platform:
    """Return the stack on its platform, which tells `voice` what it does."""
    return cast("Platforms", _module(stack.config.platform, COMMANDS)).platform(stack, voice)


def initial(platform: str) -> Initial:
    """Return what a stack that has no file yet gets on a platform, by its name."""
    return cast("Initial", _module(platform, INITIAL))


def adopting(platform: str) -> Adopting:
    """Return what takes over, on one of names(ADOPTING), what a project has in use."""
    return cast("Adopting", _module(platform, ADOPTING))


def ground(stack: Stack, site: str | None) -> Ground:
    """Return where a site of a stack file stands as a Pulumi program finds it.

    site: its name among those of a program; None for the one that the commands know. CommandError where Pulumi has
    nothing to make.
    """
    if module_of(stack.config.platform, PROGRAM) is None:
        raise CommandError(f"stack {stack.name} is for this machine alone: say `cluster up {stack.name}`")
    return cast("Grounds", _module(stack.config.platform, PROGRAM)).ground(stack.root, stack.name, site)
