"""Where a stack file is, and what is kept of the stack on this machine on every platform: below `.cluster/<stack>/`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - a field's type

#: In the repository: the stack files.
STACKS = "stacks"

#: In the repository: all that is kept of its stacks.
STATE = ".cluster"

#: Interpreters that uv brought, for all of them.
PYTHONS = f"{STATE}/pythons"


def stack_path(root: Path, stack: str) -> Path:
    """Return where the stack file of `stack` is, whether it exists or not."""
    return root / STACKS / f"Pulumi.{stack}.yaml"


@dataclass(frozen=True)
class StackPaths(ABC):
    """The directories and files of one stack."""

    root: Path
    stack: str

    @property
    def state(self) -> Path:
        """All that a stack keeps."""
        return self.root / STATE / self.stack

    @property
    def lock(self) -> Path:
        """Held by the one `up` that runs."""
        return self.state / "lock"

    @property
    def history(self) -> Path:
        """Which releases have served."""
        return self.state / "history.json"

    @property
    def made(self) -> Path:
        """The stack that the last `up` of a Pulumi program has made, without its secrets."""
        return self.state / "made.json"

    @property
    def authority(self) -> Path:
        """The certificate of the stack's own authority, for browsers to trust."""
        return self.state / "authority.pem"

    def shown_authority(self) -> str:
        """Return it; empty where there is none, or it can't be read."""
        try:
            text = self.authority.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            return ""
        return text if "BEGIN CERTIFICATE" in text else ""

    @abstractmethod
    def served(self) -> tuple[list[str], str | None]:
        """Return the releases that have served, the latest last, and the one that serves: by other marks than that."""
