"""What all tests share: the counts that tests print stand together at the end of the run."""

from __future__ import annotations

import compileall
import gc
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

#: Lines of a test's output that are results: counted requests, checked stacks, measured times.
RESULT = re.compile(r"\d of [\d,]+ |\d stacks|\d s$|in [\d.]+ s\b")

#: The files whose tests take the most time; first those that keep one worker longest, as they share a stand. Begun
#: last, they would run alone at the end.
SLOWEST = (
    *("test_conformance", "test_workers_celery", "test_killed_up", "test_workers", "test_sessions", "test_acme"),
    *("test_bad_input", "test_commands", "test_plan", "test_maintenance", "test_hurt_state", "test_variants"),
    *("test_written", "test_choices", "test_packages", "test_gate", "test_tls", "test_set_back"),
    *("test_auth_basic", "test_recorded_plans", "test_foreign", "test_workers_tasks", "test_browser"),
)

RUNTIME = Path(__file__).resolve().parents[1] / "runtime"

#: Names the directory of a test run in which its processes leave for each other what takes long to make.
SHARED = "CLUSTER_TESTS_SHARED"

#: What is imported and collected stays: to look through it again and again takes a fifth of the unit tests' time.
RARELY = (20_000, 20, 50)

_results: list[tuple[str, str]] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew-plans", action="store_true", help="record what `cluster plan` says now (tests/plans)")


def pytest_configure(config: pytest.Config) -> None:
    """Make the directory in which the processes of a run leave for each other what takes long to make."""
    gc.set_threshold(*RARELY)
    # What pytest makes of each test's file is half of what it takes to collect them, and each worker collects all.
    sys.dont_write_bytecode = False
    if not hasattr(config, "workerinput"):
        directory = tempfile.TemporaryDirectory(prefix="ct")
        os.environ[SHARED] = directory.name
        config.add_cleanup(directory.cleanup)
        # Instances that tests start here write none of it down, and would each compile all of it.
        compileall.compile_dir(RUNTIME, quiet=2)


def pytest_xdist_auto_num_workers() -> int:
    """Return how many workers `-n auto` is: three for a processor, since most tests wait for something to settle.

    Three workers left almost half of two processors unused, and five a seventh, while the tests took more of them.
    """
    return 3 * (os.cpu_count() or 1)


@pytest.hookimpl(tryfirst=True)  # xdist reads the marks by the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests that share a fixture on one worker (--dist loadgroup); any other test runs wherever there is room.

    The slowest are begun first, by --no-loadscope-reorder.
    """
    rank = {f"tests/local/{name}.py": number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(rank)))
    for item in items:
        shared = sorted(_shared_fixtures(item))
        if shared:
            item.add_marker(pytest.mark.xdist_group(" ".join((item.nodeid.partition("::")[0], *shared))))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse to run where the groups are not heeded: each worker would make stands of its own, and tests would fail."""
    if getattr(session.config.option, "loadgroup", False):
        for item in session.items:
            if item.get_closest_marker("xdist_group") and "@" not in item.nodeid.rpartition("]")[2]:
                raise pytest.UsageError(f"xdist does not group by xdist_group: {item.nodeid}")


def _shared_fixtures(item: pytest.Item) -> set[str]:
    """Return the fixtures that a test shares with others, with their parameters: each is a stand."""
    definitions: dict[str, Any] = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009 - pytest has no public way
    callspec = getattr(item, "callspec", None)
    ids = dict(zip(getattr(callspec, "_arg2scope", {}), getattr(callspec, "_idlist", ()), strict=False))
    return {
        f"{name}={ids.get(name, '')}"
        for name, found in definitions.items()
        if found[-1].scope in {"module", "session"} and found[-1].baseid.startswith("tests")
    }


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        lines = report.capstdout.splitlines()
        _results.extend((report.nodeid.rpartition("::")[2], line) for line in lines if RESULT.search(line))


def pytest_unconfigure() -> None:
    gc.freeze()  # nor at the end


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _results:
        terminalreporter.section("counted and measured")
        for test, line in _results:
            terminalreporter.write_line(f"{test}: {line}")
