"""How long `up` takes on this machine: `python -m bench.up` writes docs/benchmarks/up.md and up.json.

`python -m bench.up REVISION` measures that revision of this repository too, in turns: what it took before.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.local.stand import Stand

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "benchmarks"

RUNS = 5

#: How often both are measured, where there are two.
TURNS = 2

#: The argument by which a revision is measured in its own tree, by this file.
MEASURE = "--measure"

#: What the project promises, seconds.
TARGETS = {
    "first up, packages cached": 60.0,
    "up without changes": 2.0,
    "cluster status": 0.3,
    "cluster --help": 0.3,
}


def timed(action: Callable[[], object]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


def up(stand: Stand) -> None:
    result = stand.up()
    if result.status != 0:
        raise SystemExit(result.output)


def weight(stand: Stand, value: int) -> None:
    stand.edit_stack(lambda stack: stack["upstream"]["servers"][0].update(weight=value))


def measure() -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {"first up, packages cached": [], "down": []}
    with contextlib.closing(Stand()) as stand:
        up(stand)  # fills the package cache
    for _ in range(2):
        with contextlib.closing(Stand()) as stand:
            taken["first up, packages cached"].append(timed(partial(up, stand)))
            taken["down"].append(timed(stand.down))
    with contextlib.closing(Stand()) as stand:
        up(stand)
        taken["cluster status"] = [timed(partial(stand.run, "status", stand.name)) for _ in range(RUNS)]
        taken["cluster --help"] = [timed(partial(stand.run, "--help")) for _ in range(RUNS)]
        taken["up without changes"] = [timed(partial(up, stand)) for _ in range(RUNS)]
        taken["weight change"] = []
        for value in range(10, 10 + RUNS):
            weight(stand, value)
            taken["weight change"].append(timed(partial(up, stand)))
        taken["release"] = []
        for number in range(RUNS):
            stand.edit_code("visits/apps.py", f"# {number}\n")
            taken["release"].append(timed(partial(up, stand)))
        taken["rollback"] = [timed(stand.rollback)]
    return taken


def measure_revision(revision: str) -> dict[str, list[float]]:
    """Measure a revision in a tree of its own, by the packages that are installed here."""
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree), revision], cwd=ROOT, check=True)
        try:
            shutil.copy(__file__, tree / "bench" / "up.py")
            environment = {**os.environ, "PYTHONPATH": f"{tree}:{tree / 'runtime'}"}
            command = [sys.executable, "-m", "bench.up", MEASURE]
            done = subprocess.run(command, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def together(runs: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """Return all that was taken in some runs."""
    return {name: [seconds for run in runs for seconds in run[name]] for name in runs[0]}


def report(taken: dict[str, list[float]], before: dict[str, list[float]], revision: str) -> str:
    from cluster.machine.nginx import find_nginx  # noqa: PLC0415 - former revisions have these elsewhere
    from cluster.services import DRAIN_SECONDS  # noqa: PLC0415

    version = ".".join(map(str, find_nginx()[1]))
    setup = (
        f"Four instances of the example project, nginx {version}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores, {dt.datetime.now(tz=dt.UTC).date()}."
    )
    closing = (
        f"In a release each old process serves for {DRAIN_SECONDS:g} s after it has given its name up, while nginx's "
        "connections to it wear out. A reload of an nginx "
        "before 1.27.4 takes three seconds longer than one of a newer: busy clients end their connections first."
    )
    words = f" {revision}" if before else ""
    lines = [
        "# How long `up` takes",
        "",
        setup,
        "",
        f"Command: `.venv/bin/python -m bench.up{words}`. Seconds of the whole command, verification included.",
        "",
        f"| what | median | least | most | runs | target |{f' median of {revision} |' if before else ''}",
        f"|---|---:|---:|---:|---:|---:|{'---:|' if before else ''}",
    ]
    for name, seconds in taken.items():
        target = TARGETS.get(name)
        figures = (statistics.median(seconds), min(seconds), max(seconds))
        shown = " | ".join(f"{figure:.2f}" for figure in figures)
        goal = "" if target is None else f"{target:g}, {'reached' if figures[0] <= target else 'missed'}"
        former = f" {statistics.median(before[name]):.2f} |" if before else ""
        lines.append(f"| {name} | {shown} | {len(seconds)} | {goal} |{former}")
    return "\n".join([*lines, "", closing, ""])


def main() -> int:
    if sys.argv[1:] == [MEASURE]:
        print(json.dumps(measure()))
        return 0
    revision = sys.argv[1] if len(sys.argv) > 1 else ""
    before, now = [], []
    for _ in range(TURNS if revision else 1):
        before += [measure_revision(revision)] if revision else []
        now.append(measure())
    taken, former = together(now), together(before) if before else {}
    RESULTS.mkdir(parents=True, exist_ok=True)
    kept = {"now": taken, revision: former} if revision else taken
    (RESULTS / "up.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    text = report(taken, former, revision)
    (RESULTS / "up.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
