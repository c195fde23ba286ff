"""What a pull request accepts of a plan's costs, by whose words, and the check that fails where it does not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from cli import planning
from cli.app import app
from cli.pulls import Wanted, is_accepted, post_plans
from cluster.errors import CommandError
from cluster.forge import forge
from cluster.plan import COSTS, Cost, Planned
from cluster.plan.acceptance import Accepted, Asked, By, answer, asked, of_description, of_labels, unknown
from tests.forges import GitHubServer, GitLabServer

if TYPE_CHECKING:
    from cluster.forge import Forge

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "pull-requests.md"

LOGGED_OUT = Planned(stack="prod", changes=True, costs=(Cost.LOGGED_OUT,))


def accepted(text: str) -> list[tuple[str, str | None]]:
    return [(one.cost, one.stack) for one in of_description(text)]


# --- which costs


def test_whatever_costs_something_has_to_be_accepted() -> None:
    assert {cost for cost, row in COSTS.items() if not row.asks} == {Cost.NONE, Cost.START}
    plans = [LOGGED_OUT, Planned(stack="dev", changes=True, costs=(Cost.NONE,)), Planned(stack="same", changes=False)]
    assert asked(plans) == [Asked(cost=Cost.LOGGED_OUT, stack="prod")]


def test_the_document_says_of_each_cost_whether_it_has_to_be_accepted() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (yes|no) \|", DOCUMENT.read_text(), re.MULTILINE)
    assert dict(rows) == {cost.value: "yes" if row.asks else "no" for cost, row in COSTS.items()}


# --- which words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("/accept logged-out", [("logged-out", None)]),
        ("Why.\r\n\r\n/accept logged-out prod  \r\nBecause.", [("logged-out", "prod")]),
        ("/accept logged-out\n/accept migration dev\n", [("logged-out", None), ("migration", "dev")]),
        ("please /accept logged-out", []),
        ("/accept logged-out because of it", []),
        ("/accept", []),
        ("/accepted logged-out", []),
        ("> /accept logged-out", []),
        ("    /accept logged-out", []),
        ("`/accept logged-out`", []),
        ("words\N{LINE SEPARATOR}/accept logged-out", []),
        ("```\n/accept logged-out\n```", []),
        ("```\n/accept logged-out\n```\n/accept migration", [("migration", None)]),
        ("~~~ text\n/accept logged-out\n```\n/accept migration\n~~~~\n/accept start", [("start", None)]),
        ("````\n```\n/accept logged-out\n````", []),
        ("```\n/accept logged-out", []),
        ("  ```diff\n/accept logged-out\n ``` not the end\n/accept migration\n  ```", []),
        ("``` a ` b\n/accept logged-out", [("logged-out", None)]),
        ("<!--\n/accept logged-out\n-->", []),
        ("<!-- /accept logged-out -->", []),
        ("text <!-- more\n/accept logged-out\nend -->\n/accept migration", [("migration", None)]),
        ("<!-- done -->\n/accept logged-out", [("logged-out", None)]),
        ("<PRE>\n/accept logged-out\n</PRE>\n/accept migration", [("migration", None)]),
    ],
)
def test_only_a_whole_line_counts_that_a_reader_sees_as_no_code(text: str, found: list[Any]) -> None:
    assert accepted(text) == found


def test_a_label_accepts_for_all_stacks_or_for_one() -> None:
    found = of_labels(["bug", "accept:logged-out", "accept:migration:dev", "accepted:start"])
    assert [(one.cost, one.stack) for one in found] == [("logged-out", None), ("migration", "dev")]


def test_what_is_accepted_of_one_stack_is_not_accepted_of_another() -> None:
    of_dev = [Accepted(cost="logged-out", stack="dev", where="")]
    assert answer(Asked(cost=Cost.LOGGED_OUT, stack="prod"), of_dev) is None
    assert answer(Asked(cost=Cost.LOGGED_OUT, stack="dev"), of_dev) == of_dev[0]
    assert answer(Asked(cost=Cost.DATA_LEFT, stack="dev"), of_dev) is None


def test_a_word_that_accepts_nothing_is_told() -> None:
    lines = unknown(of_description("/accept loged-out\n/accept migration prd\n/accept x"), ["prod"])
    assert lines == [
        "the description's line /accept loged-out: there is no such cost; is it logged-out?",
        "the description's line /accept migration prd: stack prd is not among those that were planned",
        "the description's line /accept x: there is no such cost",
    ]


# --- whose words


def on(server: GitHubServer | GitLabServer, directory: Path) -> Forge:
    name = "github" if isinstance(server, GitHubServer) else "gitlab"
    return forge(name, server.environment(directory / "event.json"), transport=server.transport)


#: The author, the description's lines, the labels and who put them on (of GitLab: its events), and by whom what counts.
WRITER, STRANGER = 1, 2
LINE, LABEL = "/accept logged-out", "accept:logged-out"


@pytest.mark.parametrize("kind", [GitHubServer, GitLabServer])
@pytest.mark.parametrize(
    ("author", "description", "labels", "counts"),
    [
        (WRITER, "", [], {}),
        (WRITER, LINE, [], {By.WRITERS, By.ANYONE}),
        (STRANGER, LINE, [], {By.ANYONE}),
        (STRANGER, "", [LABEL], {By.LABELS, By.WRITERS, By.ANYONE}),
        (STRANGER, "", ["accept:migration"], {}),
        (STRANGER, "", [f"{LABEL}:prod"], {By.LABELS, By.WRITERS, By.ANYONE}),
        (STRANGER, "", [f"{LABEL}:dev"], {}),
    ],
)
def test_labels_count_and_lines_of_an_author_who_may_push(  # noqa: PLR0917
    kind: type[GitHubServer | GitLabServer],
    author: int,
    description: str,
    labels: list[str],
    counts: set[By],
    tmp_path: Path,
) -> None:
    server = kind(author=author, description=description, labels=labels)
    if isinstance(server, GitLabServer):
        server.put_on = [(label, WRITER) for label in labels]
    assert {by for by in By if is_accepted(on(server, tmp_path), [LOGGED_OUT], by)} == set(counts)


def test_a_label_that_a_stranger_gave_his_own_merge_request_counts_for_nothing(tmp_path: Path) -> None:
    """GitLab lets whoever opens one give it labels."""
    server = GitLabServer(author=STRANGER, labels=[LABEL])
    assert not is_accepted(on(server, tmp_path), [LOGGED_OUT], By.WRITERS)
    server.put_on = [(LABEL, STRANGER)]
    assert not is_accepted(on(server, tmp_path), [LOGGED_OUT], By.WRITERS)
    server.put_on = [(LABEL, STRANGER), (LABEL, WRITER)]
    assert is_accepted(on(server, tmp_path), [LOGGED_OUT], By.WRITERS)


def test_what_costs_nothing_asks_nobody(tmp_path: Path) -> None:
    server = GitHubServer()
    assert is_accepted(on(server, tmp_path), [Planned(stack="prod", changes=True, costs=(Cost.NONE,))], By.LABELS)
    assert server.asked == []


# --- what is told


def test_each_cost_is_told_with_who_accepts_it_or_how(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = GitHubServer(author=STRANGER, description="/accept migration", labels=[LABEL])
    both = Planned(stack="prod", changes=True, costs=(Cost.LOGGED_OUT, Cost.MIGRATION))
    assert not is_accepted(on(server, tmp_path), [both], By.WRITERS)
    not_counting = "does not count: its author may not push, or nobody says so: a label counts"
    how = "put the label accept:migration on it, or the line /accept migration into its description"
    assert capsys.readouterr().err.splitlines() == [
        f"the description's line /accept migration {not_counting}",
        "accepted: logged-out of stack prod (everybody is logged out): by label accept:logged-out",
        f"not accepted: migration of stack prod ({COSTS[Cost.MIGRATION].words}): {how}",
    ]


def test_the_comment_says_what_has_to_be_accepted_and_how(tmp_path: Path) -> None:
    server = GitHubServer()
    post_plans(on(server, tmp_path), [LOGGED_OUT], gated=True)
    (body,) = server.mine()
    assert body.endswith(
        "**Has to be accepted** in this description: `/accept logged-out` (or the label `accept:logged-out`)."
    )
    assert of_description(body) == [], "the comment's own words accept nothing, wherever they are copied to"


def test_the_exit_status_is_3_where_it_is_not_accepted_and_1_where_up_refuses() -> None:
    refused = Planned(stack="prod", changes=True, refused=("no",))
    assert planning.status([LOGGED_OUT], exit_code=False, accepted=False) == 3
    assert planning.status([LOGGED_OUT], exit_code=True, accepted=False) == 3
    assert planning.status([LOGGED_OUT], exit_code=True) == 2
    assert planning.status([LOGGED_OUT, refused], exit_code=True, accepted=False) == 1


def test_who_may_accept_and_where_is_checked_before_anything_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandError, match="--accepted-by: must be one of labels, writers, anyone, got me"):
        Wanted(post=None, gate=None, accepted_by="me")
    monkeypatch.setattr("os.environ", {})
    found = CliRunner().invoke(app, ["plan", "--gate", "gitlab"])
    assert "GITLAB_TOKEN is not set" in str(found.exception)


def test_a_plan_is_posted_and_asked_for_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = GitHubServer(labels=[LABEL])
    monkeypatch.setattr("cli.pulls.forge", lambda _name, _environment: on(server, tmp_path))
    wanted = Wanted(post="github", gate="github", accepted_by="labels")
    assert wanted.carry_out([LOGGED_OUT])
    assert len(server.mine()) == 1
    server.labels.clear()
    assert not wanted.carry_out([LOGGED_OUT])
    assert Wanted(post="github", gate=None, accepted_by="labels").carry_out([LOGGED_OUT])
