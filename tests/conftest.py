"""What all tests share: the counts that tests print stand together at the end of the run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

#: Lines of a test's output that are results: counted requests, checked stacks, measured times.
RESULT = re.compile(r"\d of [\d,]+ |\d stacks|\d s$|in [\d.]+ s\b")

_results: list[tuple[str, str]] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        lines = report.capstdout.splitlines()
        _results.extend((report.nodeid.rpartition("::")[2], line) for line in lines if RESULT.search(line))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _results:
        terminalreporter.section("counted and measured")
        for test, line in _results:
            terminalreporter.write_line(f"{test}: {line}")
