"""The results of end-to-end tests are kept by file, and what is older than the components is told."""

from __future__ import annotations

from typing import Any

from tests.e2e.results import Row, components_digest, counted, merged, page, said_of

TOLD = {"date": "2026-11-27", "pulumi": "v3"}
LINE = "weight: 0 of 1,200 requests failed (600 GET, 600 POST), 0 sessions lost"


def row(test: str, *lines: str) -> Row:
    return Row(test=test, outcome="passed", seconds=1.0, lines=list(lines))


def kept(*rows: Row) -> dict[str, Any]:
    return merged({}, list(rows), TOLD, lambda _name: "old")


def new(_name: str) -> str:
    return "new"


def test_a_files_rows_replace_its_former_ones_and_no_others() -> None:
    before = kept(row("test_acme.py::test_one"), row("test_acme.py::test_gone"), row("test_tls.py::test_two"))
    after = merged(before, [row("test_acme.py::test_one", LINE)], TOLD, new)
    assert [one["test"] for one in after["test_acme.py"]["tests"]] == ["test_acme.py::test_one"]
    assert after["test_acme.py"]["of"] == "new"
    assert after["test_tls.py"] == before["test_tls.py"]


def test_a_file_that_is_gone_is_not_kept() -> None:
    assert set(merged(kept(row("test_no_such.py::test_one")), [row("test_tls.py::test_two")], TOLD, new)) == {
        "test_tls.py"
    }


def test_a_line_that_sums_up_others_is_not_counted_twice() -> None:
    assert counted([row("test_acme.py::test_one", LINE, f"all changes: {LINE}")]) == 1200


def test_the_page_says_of_each_file_when_and_of_what() -> None:
    said = page(merged(kept(row("test_acme.py::test_one")), [row("test_tls.py::test_two", LINE)], TOLD, new))
    assert "2 passed, 0 failed, 0 skipped; 1,200 requests counted." in said
    assert "## test_acme.py\n\n2026-11-27, components old; pulumi v3." in said
    assert f"**test_two**: passed in 1 s\n\n```\n{LINE}\n```" in said


def test_what_hosts_are_made_of_is_none_of_what_containers_are() -> None:
    assert components_digest("test_hosts.py") == components_digest("test_remote_plan.py")
    assert components_digest("test_hosts.py") != components_digest("test_conformance.py")


def test_what_is_older_or_missing_is_named() -> None:
    both = merged(kept(row("test_acme.py::test_one")), [row("test_tls.py::test_two")], TOLD, new)
    assert said_of(both, ["test_acme.py", "test_tls.py"], lambda _name: "old") != ""
    assert said_of(both, ["test_tls.py"], new) == ""
    assert said_of(both, ["test_acme.py", "test_sites.py", "test_tls.py"], new) == (
        "of test_sites.py there are no results in docs/e2e.md; those in docs/e2e.md of test_acme.py (2026-11-27) are "
        "older than the components: run make e2e where Pulumi and Docker are"
    )
