"""End-to-end tests run where their tools are found, and say in one line that they did not where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e import results
from tests.e2e.tools import missing

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).parent

_reports: dict[str, results.Row] = {}

#: Files of which some tests do not run.
_deselected: set[str] = set()


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    why = missing() if ours else ""
    if why:
        for item in ours:
            item.add_marker(pytest.mark.skip(reason=f"end-to-end tests did not run: {why}"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "e2e" not in report.nodeid or (report.when != "call" and report.outcome == "passed"):
        return
    _reports[report.nodeid] = results.row(report.nodeid, report.outcome, report.duration, report.capstdout)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not session.config.getoption("--write-results"):
        return
    ours = [item for item in session.items if item.path.is_relative_to(HERE)]
    halves = {item.path.name for item in ours if item.nodeid not in _reports} | _deselected
    halves |= {Path(word.partition("::")[0]).name for word in session.config.args if "::" in word}
    rows = [_reports[item.nodeid] for item in ours if item.path.name not in halves]
    if rows:
        results.write(rows)


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    _deselected.update(item.path.name for item in items)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--write-results", default=False) and config.getoption("capture") == "no":
        raise pytest.UsageError("--write-results keeps what the tests print: run it without -s")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-results", action="store_true", help="keep the results of whole files in docs/")
