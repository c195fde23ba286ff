"""What begins before a stack file is read: what runs the stack's program takes its time to import all that it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.stack.paths import stack_path
from platforms.pulumi import programs

if TYPE_CHECKING:
    from pathlib import Path


def begin(root: Path, stack: str) -> None:
    """Let it begin."""
    programs.begin(root, stack_path(root, stack), f"{__package__}.program")
