"""`cluster init STACK… --ci FORGE`: writes the files that plan pull requests and deploy what is merged."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from cluster.console import tell
from cluster.errors import CommandError
from cluster.initial.pipelines import Pipelines
from cluster.stack.opened import find_root
from cluster.stack.paths import STACKS, stack_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: What is deployed from where the clone does not know its origin's own branch.
BRANCH = "main"


def run_init_ci(stacks: Sequence[str], forge: str, *, force: bool) -> None:
    """Write them, all or none; CommandError where one is there already and nobody said force."""
    root = find_root()
    missing = [stack for stack in stacks if not stack_path(root, stack).is_file()]
    if missing:
        raise CommandError(f"{STACKS}/{stack_path(root, missing[0]).name} is not there: make the stack first")
    pipelines = Pipelines(forge=forge, stacks=list(dict.fromkeys(stacks)), branch=_branch(root))
    texts = pipelines.texts()
    there = [path for path in texts if (root / path).exists() or (root / path).is_symlink()]
    if there and not force:
        verb = "is" if len(there) == 1 else "are"
        raise CommandError(
            f"{', '.join(there)} {verb} there already; --force overwrites {'it' if verb == 'is' else 'them'}"
        )
    for path, text in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    for one in pipelines.files:
        tell(f"wrote {one.path}: {one.what}")
    tell(f"deployed from branch {pipelines.branch}; to set, as docs/pull-requests.md says:")
    for line in pipelines.to_set():
        tell(f"  {line}")


def _branch(root: Path) -> str:
    """Return the branch that the origin has as its own."""
    try:
        done = subprocess.run(
            ["git", "symbolic-ref", "--quiet", "--short", "refs/remotes/origin/HEAD"],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return BRANCH  # no git here
    return done.stdout.strip().removeprefix("origin/") or BRANCH


__all__ = ["run_init_ci"]
