"""How long `up` takes on this machine: `python -m bench.up` writes docs/benchmarks/up.md and up.json."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import platform
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.machine.nginx import find_nginx
from tests.local.stand import Stand

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "benchmarks"

RUNS = 5

#: What the project promises, seconds.
TARGETS = {"first up, packages cached": 60.0, "up without changes": 2.0}


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


def report(taken: dict[str, list[float]]) -> str:
    version = ".".join(map(str, find_nginx()[1]))
    setup = (
        f"Four instances of the example project, nginx {version}, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores, {dt.datetime.now(tz=dt.UTC).date()}."
    )
    closing = (
        "A release waits three seconds while nginx's connections to the old processes wear out. A reload of an nginx "
        "before 1.27.4 takes three seconds longer than one of a newer: busy clients end their connections first."
    )
    lines = [
        "# How long `up` takes",
        "",
        setup,
        "",
        "Command: `.venv/bin/python -m bench.up`. Seconds of the whole command, verification included.",
        "",
        "| what | median | least | most | runs | target |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, seconds in taken.items():
        target = TARGETS.get(name)
        figures = (statistics.median(seconds), min(seconds), max(seconds))
        shown = " | ".join(f"{figure:.2f}" for figure in figures)
        goal = "" if target is None else f"{target:g}, {'reached' if figures[0] <= target else 'missed'}"
        lines.append(f"| {name} | {shown} | {len(seconds)} | {goal} |")
    return "\n".join([*lines, "", closing, ""])


def main() -> int:
    taken = measure()
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "up.json").write_text(json.dumps(taken, indent=1) + "\n", encoding="utf-8")
    text = report(taken)
    (RESULTS / "up.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
