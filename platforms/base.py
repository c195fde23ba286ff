"""What the commands ask of a platform."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from cluster.lint import Facts
    from cluster.stack.opened import Stack
    from cluster.stack.rotation import Keys


class Commands(Protocol):
    """What each platform's module of commands has."""

    def facts(self, stack: Stack) -> Facts:
        """Return what the lints may look at beside the stack file."""
        ...

    def run_up(self, stack: Stack, *, pull: bool = False) -> None:
        """Make the cluster what its stack file says; `pull`: on images that are pulled anew."""
        ...

    def run_rollback(self, stack: Stack, to: str | None) -> None:
        """Let a former release serve."""
        ...

    def keys(self, stack: Stack) -> Keys:
        """Return where the stack's keys are."""
        ...

    def sessions(self, stack: Stack) -> dict[str, Any] | None:
        """Return what an instance says of the session store; None where none says it."""
        ...

    def run_down(self, stack: Stack, *, delete_data: bool, yes: bool) -> None:
        """Stop everything."""
        ...

    def run_status(self, stack: Stack, *, as_json: bool) -> bool:
        """Print what runs; tell whether all is as it should be."""
        ...

    def run_verify(self, stack: Stack, *, as_json: bool) -> bool:
        """Check with real requests; tell whether all is well."""
        ...

    def run_logs(self, stack: Stack, names: list[str], *, lines: int, follow: bool) -> None:
        """Print logs."""
        ...

    def run_manage(self, stack: Stack, arguments: list[str]) -> int:
        """Run a management command; return its exit status."""
        ...
