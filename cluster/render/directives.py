"""What nginx's configuration is made of: directives and blocks, which crossplane writes with its quoting."""

from __future__ import annotations

from typing import Any

Directive = dict[str, Any]


def d(directive: str, *args: str | int) -> Directive:
    """Return a directive with its arguments, unquoted."""
    return {"directive": directive, "args": [str(arg) for arg in args]}


def block(directive: str, *args: str | int, of: list[Directive]) -> Directive:
    """Return a directive whose block is `of`."""
    return {**d(directive, *args), "block": of}


def build(tree: list[Directive]) -> str:
    """Return the text of a configuration."""
    import crossplane  # noqa: PLC0415 - what renders nothing need not wait for it

    text: str = crossplane.build(tree, indent=4)
    return text + "\n"
