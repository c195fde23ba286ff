"""The repository, and a stack of it that is opened.

Each function imports what it needs: a command line that is only explained (--help) reads no stack file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import CommandError
from cluster.stack.paths import STACKS, STATE, stack_path

if TYPE_CHECKING:
    from collections.abc import Collection

    from cluster.config import ClusterConfig

DEFAULT_STACK = "local"

#: Quoting, variables, patterns and separators of whatever reads a path here.
UNSAFE = frozenset("\"'`\\$%*?[]{};#:|<>&!\N{REPLACEMENT CHARACTER}")


def find_root() -> Path:
    """Return the repository: the nearest directory upwards that holds `stacks`."""
    try:
        here = Path.cwd()
    except FileNotFoundError as error:
        raise CommandError("the current directory was removed; go to the repository, and run it there") from error
    for directory in (here, *here.parents):
        if (directory / STACKS).is_dir():
            check_root(directory)
            return directory
    raise CommandError(f"no directory {STACKS} here or above: run this in the repository")


def check_root(root: Path) -> None:
    """Refuse a path that nginx, Supervisor, shells and PYTHONPATH would not all read alike.

    Spaces and letters of any language are fine.
    """
    text = str(root)
    wrong = [char for char in text if char in UNSAFE or (char != " " and not char.isprintable())]
    if wrong:
        listed = ", ".join(dict.fromkeys(map(repr, wrong)))
        raise CommandError(
            f"the repository's path, {text!r}, holds {listed}, which nginx, Supervisor or shells read as something "
            "else: move it to a path without"
        )


@dataclass(frozen=True)
class Stack:
    """A stack, and its file read."""

    root: Path
    name: str
    config: ClusterConfig

    @property
    def state(self) -> Path:
        """Where what is kept of it lies on this machine."""
        return self.root / STATE / self.name


def stack_or_word(name: str, words: Collection[str] | None = None) -> tuple[str, list[str]]:
    """Return the stack that a command line's first word names; one that names none is a word for the default stack.

    words: those that it may be; any for None. Another one is a stack that is not there.
    """
    if stack_path(find_root(), name).exists() or (words is not None and name not in words):
        return name, []
    return DEFAULT_STACK, [name]


def open_stack(name: str) -> Stack:
    """Read the stack file of `name`."""
    from cluster.config import load_stack  # noqa: PLC0415

    root = find_root()
    return Stack(root, name, load_stack(root, name))
