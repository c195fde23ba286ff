"""What a stack that has no file yet gets on platform local."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.initial.offer import Offer
from cluster.stack.secrets import read_secrets
from platforms.local.paths import LocalPaths

if TYPE_CHECKING:
    from pathlib import Path

    from platforms.base import Voice


def offer(stack: str) -> Offer:
    """Return what its file says of this platform."""
    place = f".cluster/{stack}/secrets/secret_environment"
    return Offer(
        platform="local",
        database="sqlite",
        secret_environment=place,
        how=f"into {place} (a JSON object, mode 0600)",
    )


def secret_environment(root: Path, stack: str, voice: Voice) -> str | None:  # noqa: ARG001 - as the others have it
    """Return the secret variables that the stack has already, in its file of that name; None where it has none."""
    return read_secrets(LocalPaths(root, stack).secrets).get("secret_environment")
