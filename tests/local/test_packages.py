"""What runs is what was released: local packages, locks and interpreters, on this machine."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.local.stand import Stand

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VIEW = "src/core/views.py"


def page(stand: Stand, path: str = "/") -> str:
    with httpx.Client(trust_env=False, headers={"Host": "localhost"}) as client:
        response = client.get(f"http://127.0.0.1:{stand.port}{path}")
    assert response.status_code == 200, response.text
    return response.text


def pages(stand: Stand, number: int = 20) -> set[str]:
    return {page(stand) for _ in range(number)}


def listing(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


@pytest.fixture
def editable() -> Iterator[Stand]:
    with contextlib.closing(Stand(case="editable-install")) as stand:
        yield stand


def release_with(stand: Stand, file: str, old: str, new: str) -> str:
    path = stand.project / file
    text = path.read_text()
    assert old in text, text
    path.write_text(text.replace(old, new))
    result = stand.up()
    print(result.output)
    assert result.status == 0, result.output
    return result.output


def wait_for(instances: int, stand: Stand) -> None:
    deadline = time.monotonic() + 120
    while sum(len(row["processes"]) == 1 and row["ok"] for row in stand.status()["instances"]) < instances:
        assert time.monotonic() < deadline, stand.status()
        time.sleep(0.2)


def test_an_editable_package_runs_from_the_release_s_copy_also_after_a_rollback_and_a_kill(editable: Stand) -> None:
    """The case's README, step by step: v1, v2, rollback, and a v3 that is never released."""
    stand = editable
    before = listing(stand.project)
    release_with(stand, VIEW, "code v1", "code v1")
    (first,) = pages(stand)
    assert re.search(
        rf"code v1, package 1.4.0, from {stand.places.releases}/\w+/tree/above/project/src/core/views.py", first
    )
    release_with(stand, VIEW, "code v1", "code v2")
    assert {text.partition(",")[0] for text in pages(stand)} == {"code v2"}
    result = stand.rollback()
    assert result.status == 0, result.output
    assert pages(stand) == {first}
    view = stand.project / VIEW
    view.write_text(view.read_text().replace("code v2", "code v3"))
    for name in ("app1", "app2"):
        stand.kill(name, signal.SIGKILL)
    wait_for(2, stand)
    served = pages(stand, 40)
    assert served == {first}, "code that was never released runs"
    assert listing(stand.project) == before, "something was written into the working tree"


def test_init_imports_a_src_layout_and_writes_nothing_into_it() -> None:
    with contextlib.closing(Stand(case="editable-install")) as stand:
        before = {path: path.read_bytes() for path in sorted(stand.project.rglob("*")) if path.is_file()}
        result = stand.run("init", "looked", "--project", "project")
        assert result.status == 0, result.output
        assert "static files: /static/" in result.output, "it was not imported"
        assert "settings: mysite.settings" in (stand.root / "stacks" / "Pulumi.looked.yaml").read_text()
        after = {path: path.read_bytes() for path in sorted(stand.project.rglob("*")) if path.is_file()}
        assert after == before
