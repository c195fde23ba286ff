"""`cluster plan` beside `pulumi preview`: `python -m bench.plan` writes docs/benchmarks/plan.md and .json.

Both of the same stack on Docker, in turn: one of four instances that is up and stays as it is, and one of a hundred
that is to be made, since so many are too much for one machine. `cluster plan` asks the policy too, and looks at what
runs.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.results import keep
from tests.e2e.results import versions
from tests.e2e.stand import DockerStand, docker_stack
from tests.e2e.tools import missing

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]

#: The stacks: how many instances, and how many rounds.
UP, MADE, ROUNDS, ROUNDS_MADE = 4, 100, 7, 3

#: At most so many times as long as the plain preview.
TIMES = 1.3

PREVIEW, POLICED, PLAN = "pulumi preview", "pulumi preview --policy-pack", "cluster plan"


def stand_of(count: int) -> DockerStand:
    stack = docker_stack()
    stack["upstream"]["servers"] = [{"name": f"app{number}"} for number in range(1, count + 1)]
    return DockerStand(stack, name=f"plan{count}-")


def preview(stand: DockerStand, *more: str) -> None:
    done = stand.pulumi("preview", *more)
    if done.returncode != 0:
        raise SystemExit(done.stdout)


def plan(stand: DockerStand) -> None:
    result = stand.run("plan", stand.name)
    if result.status != 0:
        raise SystemExit(result.output)


def measured(stand: DockerStand, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each, in turn."""
    sides: dict[str, Callable[[], None]] = {
        PREVIEW: lambda: preview(stand),
        POLICED: lambda: preview(stand, "--policy-pack", str(ROOT / "policy")),
        PLAN: lambda: plan(stand),
    }
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _round in range(rounds):
        for name, action in sides.items():
            began = time.monotonic()
            action()
            taken[name].append(round(time.monotonic() - began, 2))
            print(f"{name}: {taken[name][-1]} s", flush=True)
    return taken


def measure() -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    with contextlib.closing(stand_of(UP)) as stand:
        result = stand.up()
        if result.status != 0:
            raise SystemExit(result.output)
        found[f"{UP}, up, nothing changes"] = measured(stand, ROUNDS)
    with contextlib.closing(stand_of(MADE)) as stand:
        for words in (("stack", "init", "--no-select"), ("config", "set", "--secret", "cluster:secret_key", "k" * 60)):
            done = stand.pulumi(*words)
            if done.returncode != 0:
                raise SystemExit(done.stdout)
        found[f"{MADE}, to be made"] = measured(stand, ROUNDS_MADE)
    return found


def report(found: dict[str, dict[str, list[float]]]) -> str:
    told = "; ".join(f"{name} {version}" for name, version in versions().items())
    lines = [
        "# `cluster plan` beside `pulumi preview`",
        "",
        "Of the same stack on Docker, in turn; the one of a hundred instances is to be made, since so many are too",
        "much for one machine. `cluster plan` asks the policy and looks at what runs; the plain preview does neither.",
        "",
        f"{dt.datetime.now(tz=dt.UTC).date()}, {os.cpu_count()} cores; {told}.",
        "",
        "Command: `.venv/bin/python -m bench.plan`. Median seconds (least to most).",
        "",
        "| instances | " + " | ".join(f"`{name}`" for name in (PREVIEW, POLICED, PLAN)) + " | times the plain one |",
        "|---|---:|---:|---:|---:|",
    ]
    all_met = True
    for what, taken in found.items():
        medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
        times = medians[PLAN] / medians[PREVIEW]
        all_met = all_met and times <= TIMES
        cells = [
            f"{medians[name]:.2f} ({min(taken[name]):.2f} to {max(taken[name]):.2f})"
            for name in (PREVIEW, POLICED, PLAN)
        ]
        lines.append(f"| {what} | " + " | ".join(cells) + f" | {times:.2f} |")
    lines += ["", f"Target: at most {TIMES} times as long: {'met' if all_met else 'not met'}.", ""]
    return "\n".join(lines)


def main() -> int:
    why = missing()
    if why:
        print(f"not measured: {why}")
        return 1
    found = measure()
    keep("plan", found, report(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
