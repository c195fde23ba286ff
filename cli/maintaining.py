"""`cluster maintenance`: the same on every platform."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from cluster.console import tell
from cluster.errors import CommandError
from cluster.maintenance import DEFAULT_MESSAGE, DEFAULT_RETRY_AFTER, asked_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.maintenance import Maintenance
    from cluster.stack.opened import Stack
    from platforms.base import Platform

ON, OFF = "on", "off"


def run_maintenance(  # noqa: PLR0913 - a command's options
    stack: Stack,
    platform: Platform,
    words: Sequence[str],
    *,
    message: str | None,
    retry_after: str | None,
    allow: Sequence[str],
    as_json: bool,
) -> None:
    """Turn maintenance on or off; without either word say how it is."""
    word = " ".join(words)
    if word not in ("", ON, OFF):
        raise CommandError(f"say `{ON}` or `{OFF}`, or neither to see how it is; got {word}")
    for name, value in (("message", message), ("retry-after", retry_after), ("allow", allow or None)):
        if value is not None and word != ON:
            raise CommandError(f"--{name} is for `cluster maintenance {stack.name} {ON}`")
    if not word:
        _show(stack, platform.maintained(), as_json=as_json)
        return
    if as_json:
        raise CommandError(f"--json says how it is: leave {word} out")
    wanted = None
    if word == ON:
        wanted = asked_for(
            DEFAULT_MESSAGE if message is None else message,
            DEFAULT_RETRY_AFTER if retry_after is None else retry_after,
            allow,
        )
    done = platform.maintenance(wanted)
    who = "visitors get the site" if wanted is None else str(wanted)
    tell(f"stack {stack.name}: maintenance is {word}{'' if done.changed else ' already'}; {who}")
    if not done.in_force:
        tell(f"nginx does not run: it takes effect when the stack is up (`cluster up {stack.name}`)")
    elif wanted is not None:
        tell(f"`cluster maintenance {stack.name} {OFF}` lets visitors in again")


def _show(stack: Stack, maintenance: Maintenance | None, *, as_json: bool) -> None:
    if as_json:
        tell(json.dumps({"maintenance": None if maintenance is None else asdict(maintenance)}, indent=2))
    elif maintenance is None:
        tell(f"stack {stack.name}: maintenance is {OFF}")
    else:
        tell(f"stack {stack.name}: maintenance is {ON}; {maintenance}")
