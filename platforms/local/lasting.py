"""What of a stack on this machine outlasts its processes, and what is told where it was moved away or removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.stack.history import History
from cluster.stack.secrets import lost_secrets
from platforms.local.orphans import Kind, stack_processes
from platforms.local.release import Release

if TYPE_CHECKING:
    from platforms.local.paths import LocalPaths


def former_secrets(paths: LocalPaths) -> dict[str, str]:
    """Return the secrets of the release that serves or served last."""
    current = History.load(paths).current
    return {} if current is None else Release(digest=current, directory=paths.releases / current).secrets()


def secrets_of(paths: LocalPaths) -> frozenset[str]:
    """Return the names of the secrets that there are, or that `up` puts back."""
    there = paths.secrets
    kept = {path.name for path in there.iterdir()} if there.is_dir() else set()
    return frozenset({*kept, *lost_secrets(there, former_secrets(paths))})


def gone_of(paths: LocalPaths) -> str:
    """Return what to say where a stack's files were removed or moved away while it runs; empty where they are."""
    if paths.secrets.exists() or paths.data.exists():
        return ""
    pids = ", ".join(str(process.pid) for process in stack_processes(paths) if process.kind is not Kind.WORKER)
    if not pids:
        return ""
    return (
        f"stack {paths.stack} runs (processes {pids}), but {paths.state} was removed or moved away: "
        "nothing serves without it, and its database, uploads, sessions and secret_key are where that is. Put it "
        f"back, or end what runs with `cluster down {paths.stack}`; `cluster up` begins anew then"
    )
