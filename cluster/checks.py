"""What was checked, and what came out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the result. `ok` None: could not be checked, and `found` says why."""

    name: str
    ok: bool | None
    expected: str
    found: str


def fail_unverified(checks: Iterable[Check]) -> None:
    """Raise CommandError where a check failed."""
    failed = [f"{check.name}: expected {check.expected}, found {check.found}" for check in checks if check.ok is False]
    if failed:
        raise CommandError("the cluster is up, but did not pass verification:\n" + "\n".join(failed))
