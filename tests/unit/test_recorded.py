"""The recorded plans: docs/plan.md shows them as they are, and each cost is counted by a test that is there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.recorded import BEGIN, CERTIFICATE, CHANGES, DOCUMENT, END, FORMER, FORMS, PLANS, WANTED, written
from tests.unit.test_plan import is_there

if TYPE_CHECKING:
    from pathlib import Path

RECORDS = sorted(path for path in PLANS.rglob("*") if path.is_file())


def test_the_document_shows_what_is_recorded() -> None:
    _, _, rest = DOCUMENT.read_text().partition(BEGIN)
    shown, _, _ = rest.partition(END)
    assert shown.strip("\n") == written(), "`pytest --renew-plans` writes it"


def test_each_change_is_recorded_in_both_forms_and_nothing_else_is() -> None:
    found = {(path.parent.name, path.stem) for path in RECORDS}
    assert {(path.parent.name, path.name) for path in RECORDS} == {
        (platform, f"{name}.{form}") for platform, name in found for form in FORMS
    }
    assert {name for _platform, name in found} == set(CHANGES)
    assert {name for platform, name in found if platform == "docker"} == set(CHANGES), "the engine has them all"


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_change_costs_is_counted(change: str) -> None:
    there = {path.parent.name for path in RECORDS if path.stem == change}
    proofs = [proof for platform in there for proof in CHANGES[change].counted[platform]]
    assert proofs
    assert [proof for proof in proofs if not is_there(proof)] == []


@pytest.mark.parametrize("path", RECORDS, ids=["/".join(path.parts[-2:]) for path in RECORDS])
def test_a_record_has_nothing_of_a_machine_or_of_a_run(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"/tmp/|/root/|/home/|/srv/", text), "a directory of somebody's"
    assert set(re.findall(r"\b[0-9a-f]{7,}\b", text)) <= {FORMER, WANTED, CERTIFICATE}, "what is another in each run"
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
