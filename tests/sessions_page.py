"""Runs the sessions' tests on this machine and keeps their matrix: `python -m tests.sessions_page` writes docs/."""

from __future__ import annotations

import datetime as dt
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "sessions-matrix.md"
TESTS = "tests/local/test_sessions.py"

ROW = re.compile(
    r"^(?P<test>test_\w+): (?P<engine>\w+): (?P<event>.*): (?P<failed>[\d,]+) of (?P<requests>[\d,]+) requests failed, "
    r"(?P<lost>\d+) sessions lost$",
    re.MULTILINE,
)

#: Tests in whose last row the protection is switched off.
SABOTEURS = ("test_without_the_bridge", "test_without_filling", "test_a_key_that_is_just_replaced")


def page(output: str) -> str:
    """Return the matrix as Markdown, from what the tests printed."""
    rows = list(ROW.finditer(output))
    last = {row["test"]: row for row in rows if row["test"].startswith(SABOTEURS)}
    lines = [
        "# Sessions through changes and faults, on this machine",
        "",
        f"{dt.datetime.now(tz=dt.UTC).date()}, {os.cpu_count()} cores. Command: `python -m tests.sessions_page`.",
        "Under eight clients that use their sessions all the time; 20 more users come back once after each event.",
        "The same on Docker is in [e2e.md](e2e.md).",
        "",
        "| engine | event | requests | failed | sessions lost |",
        "|---|---|---:|---:|---:|",
    ]
    for row in rows:
        off = "**protection off:** " if row in last.values() else ""
        lines.append(f"| {row['engine']} | {off}{row['event']} | {row['requests']} | {row['failed']} | {row['lost']} |")
    kept = [row for row in rows if row not in last.values()]
    requests = sum(int(row["requests"].replace(",", "")) for row in kept)
    lost = sum(int(row["lost"]) for row in kept)
    failed = sum(int(row["failed"].replace(",", "")) for row in kept)
    return "\n".join([*lines, "", f"In all: {failed} of {requests:,} requests failed, {lost} sessions lost.", ""])


def main() -> int:
    command = [sys.executable, "-m", "pytest", TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout)
    if done.returncode != 0:
        return done.returncode
    PAGE.write_text(page(done.stdout), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
