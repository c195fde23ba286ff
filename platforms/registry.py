"""The platforms that there are, each a package here that is called as a stack file calls it (cluster.platforms).

Its modules are imported where they are needed: who uses one platform reads nothing of another.
"""

from __future__ import annotations

import contextlib
import re
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from cluster.errors import CommandError
from cluster.platforms import Platform as Name
from cluster.stack.opened import DEFAULT_STACK, find_root
from cluster.stack.paths import stack_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cluster.stack.opened import Stack
    from platforms.base import Adopting, Early, Ground, Grounds, Initial, Platform, Platforms, Voice

#: A platform's modules: for the commands, for stacks that have no file yet, for programs, for taking over what a
#: project has in use, and for what begins before a stack file is read. Not each has the last three.
COMMANDS, INITIAL, PROGRAM, ADOPTING, EARLY = "platform", "initial", "program", "adopting", "early"

#: The commands that look at a stack's changes; the word that lets one only be explained.
CHANGING, HELP = ("up", "plan", "rollback"), "--help"

#: The line of a stack file that says which one it is for.
NAMED = re.compile(r"""^\s*cluster:platform:\s*["']?(\w+)""", re.MULTILINE)

#: Bytes of a stack file that are looked through for it.
LARGEST = 1_000_000

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


def begin(root: Path, stack: str) -> None:
    """Let what changes a stack be imported, in a process of its own, while its file is read and judged.

    What can't be told of the file at a glance begins later.
    """
    file = stack_path(root, stack)
    try:
        glanced = file.is_file() and file.stat().st_size <= LARGEST
        found = NAMED.search(file.read_text(encoding="utf-8")) if glanced else None
    except (OSError, ValueError):
        return  # who reads it says so
    if found and found[1] in names(EARLY):
        cast("Early", _module(found[1], EARLY)).begin(root)


def begin_early(words: Sequence[str]) -> None:
    """Let that begin before the command line is read, which takes a tenth of a second. words: that line.

    It is only glanced at: what is not begun by it, or for nothing, is begun or ended by who reads it.
    """
    command, *others = words or [""]
    if command not in CHANGING or HELP in others:
        return
    named = next((word for word in others if not word.startswith("-")), DEFAULT_STACK)
    with contextlib.suppress(CommandError, OSError):  # who reads it says so
        begin(find_root(), named)


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
