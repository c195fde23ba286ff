"""What begins before a stack file is read: what runs the stack's program takes its time to import all that it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from platforms.pulumi import programs

if TYPE_CHECKING:
    from pathlib import Path


def begin(root: Path) -> None:
    """Let it begin."""
    programs.begin(root, f"{__package__}.program")
