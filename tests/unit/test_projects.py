"""The table of public projects: nothing of it moves by itself, and it says what its results say."""

from __future__ import annotations

import json
import re

import pytest

from tests.projects import PROJECTS, RESULTS, TABLE, Archive, Repository, Template, render


@pytest.mark.parametrize("name", PROJECTS)
def test_a_project_is_fetched_at_a_version_that_cannot_change(name: str) -> None:
    source = PROJECTS[name].source
    if isinstance(source, Archive | Template):
        assert re.fullmatch(r"[\w.-]+==[\d.]+", source.requirement)
        assert re.fullmatch(r"[0-9a-f]{64}", source.sha256)
    repository = source.template if isinstance(source, Template) else source
    if isinstance(repository, Repository):
        assert re.fullmatch(r"[0-9a-f]{40}", repository.commit)


def test_the_table_is_that_of_the_results() -> None:
    found = json.loads(RESULTS.read_text())
    rows = [found["rows"][name] for name in PROJECTS if name in found["rows"]]
    assert rows
    assert TABLE.read_text() == render(rows, found["machine"]), "run `make projects`"
