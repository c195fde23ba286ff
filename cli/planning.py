"""`cluster plan`: what `up` would do, in three forms, and nothing done."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING

from cluster.console import say, tell
from cluster.errors import CommandError
from cluster.plan.shown import document, markdown, text
from cluster.stack.opened import find_root
from platforms.base import Forward

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from cluster.plan import Planned
    from cluster.stack.opened import Stack
    from platforms.base import Platform

#: The exit status with --exit-code where something would change; 1 is for what can't be.
CHANGES = 2

#: The exit status where a pull request does not accept what it costs.
NOT_ACCEPTED = 3


class Form(StrEnum):
    """How plans are shown."""

    TEXT = "text"
    MARKDOWN = "markdown"
    JSON = "json"


def plan(opened: Iterable[tuple[Stack, Platform]]) -> list[Planned]:
    """Return what `up` would do to each stack."""
    return [on.plan(Forward()) for _stack, on in opened]


def against(revision: str, stacks: Sequence[str]) -> list[Planned]:
    """Return what the working tree would do to stacks that are as a revision has them; to all where none is named."""
    from cluster.plan.against import plan_against  # noqa: PLC0415 - only who asks for it looks into a repository

    return plan_against(find_root(), stacks, revision)


def show(plans: list[Planned], form: Form) -> None:
    """Print plans."""
    if form is Form.JSON:
        tell(json.dumps(document(plans), indent=2))
    elif form is Form.MARKDOWN:
        blocks = ["\n".join(markdown(one)) for one in plans]
        tell("\n\n".join(blocks))
    else:
        for one in plans:
            first, *rest = text(one)
            tell(f"stack {one.stack}: {first}")
            for line in rest:
                say(line)


def write_digest(planned: Planned, path: Path) -> None:
    """Append a plan's digest, and whether it changes anything, as pipelines pass variables on.

    CommandError where the file can't be written.
    """
    from cluster.plan.digest import digest  # noqa: PLC0415 - only who asks for it

    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"plan_digest={digest(planned)}\nplan_changes={str(planned.changes).lower()}\n")
    except OSError as error:
        raise CommandError(f"--digest-file: {path}: {error.strerror}") from error


def status(plans: Iterable[Planned], *, exit_code: bool, accepted: bool = True) -> int:
    """Return the exit status: 1 where `up` refuses a stack; 3 where a pull request does not accept what it costs.

    With `exit_code` 2 where one changes.
    """
    found = list(plans)
    if any(one.refused for one in found):
        return 1
    if not accepted:
        return NOT_ACCEPTED
    return CHANGES if exit_code and any(one.changes for one in found) else 0
