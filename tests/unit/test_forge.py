"""Posting on a forge: one comment of ours whatever else is there and whoever comes between, and no token told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from typer.testing import CliRunner

from cli.app import app
from cli.pulls import post_plans
from cluster.errors import ClusterError, CommandError
from cluster.forge import forge
from cluster.forge.api import PATIENCE, Api, ForgeError
from cluster.forge.github import GitHub
from cluster.forge.gitlab import GitLab
from cluster.forge.posting import post
from cluster.plan import Cost, Planned
from cluster.plan.comment import Run, mark
from tests.forges import TOKEN, Fault, GitHubServer, GitLabServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.forges import Server

SERVERS: dict[str, type[GitHubServer | GitLabServer]] = {"github": GitHubServer, "gitlab": GitLabServer}


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> GitHubServer | GitLabServer:
    return SERVERS[request.param]()


@pytest.fixture
def run_of(server: GitHubServer | GitLabServer, tmp_path: Path) -> Callable[..., Any]:
    """Return what makes a run of a job: its forge, with the naps that it took."""

    def made(**run: Any) -> Any:
        name = next(name for name, kind in SERVERS.items() if isinstance(server, kind))
        naps: list[float] = []
        found = forge(
            name,
            server.environment(tmp_path / "event.json", **run),
            transport=server.transport,
            sleep=naps.append,
            clock=lambda: 1_000_000.0,
        )
        found.naps = naps  # type: ignore[attr-defined]
        return found

    return made


def said(run: int, words: str = "text", attempt: int = 1) -> str:
    return f"{mark(Run(number=run, attempt=attempt))}\n{words}"


# --- one comment


def test_a_comment_is_written_then_edited_in_place_then_deleted(server: Server, run_of: Callable[..., Any]) -> None:
    assert post(run_of(run=10), said(10)) == "a comment is written"
    (first,) = server.comments
    assert post(run_of(run=11), said(11, "more")) == "the comment is edited in place"
    assert [(one.id, one.body) for one in server.comments] == [(first.id, said(11, "more"))]
    assert post(run_of(run=11), said(11, "more")) == "the comment says it already"
    assert post(run_of(run=12), None) == "a comment that is no more true is deleted"
    assert server.comments == []
    assert post(run_of(run=13), None) == "nothing changes, and there is no comment"


def crowd(server: Server) -> None:
    """Write so many comments that ours is on the third page, and one more after it."""
    for at in range(250):
        server.add(f"comment {at}", user=2)
    server.add(said(9))
    server.add("the last", user=2)


def test_the_comment_is_found_on_whichever_page_it_is(server: Server, run_of: Callable[..., Any]) -> None:
    crowd(server)
    assert post(run_of(run=10), said(10)) == "the comment is edited in place"
    assert server.mine() == [said(10)]
    assert len(server.comments) == 252


def test_a_look_at_the_first_page_only_would_write_a_second_comment(
    server: Server, run_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The saboteur of the test before."""
    monkeypatch.setattr(httpx.Response, "links", {})
    crowd(server)
    with pytest.raises(CommandError, match="given up after 6 looks"):
        post(run_of(run=10), said(10))
    assert len(server.mine()) > 1


def test_a_mark_in_somebody_elses_comment_makes_it_nobodys_but_his(server: Server, run_of: Callable[..., Any]) -> None:
    for run in (9, 99):
        server.add(said(run, "a stranger's"), user=2)
    post(run_of(run=10), said(10))
    assert [one.body for one in server.comments if one.user == 2] == [said(9, "a stranger's"), said(99, "a stranger's")]
    assert server.mine() == [said(10)]
    post(run_of(run=11), None)
    assert server.mine() == []
    assert len(server.comments) == 2
    assert not any(entry.startswith(("PATCH", "PUT")) for entry in server.asked)


def test_without_a_look_at_the_author_a_stranger_would_have_the_last_word(
    server: Server, run_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The saboteur of the test before."""
    monkeypatch.setattr("cluster.forge.github._same", lambda _user, _login: True)
    monkeypatch.setattr(
        GitLabServer, "shown", lambda self, one: {"id": one.id, "body": one.body, "author": {"id": self.me}}
    )
    server.add(said(99, "a stranger's"), user=2)
    assert post(run_of(run=10), said(10)) == "the comment is of a later run, and stays"
    assert server.mine() == []


def test_who_a_token_of_a_person_is_of_is_asked_once(tmp_path: Path) -> None:
    server = GitHubServer(of_job=False)
    server.add(said(9))
    found = forge("github", server.environment(tmp_path / "e.json"), transport=server.transport)
    post(found, said(10))
    assert server.mine() == [said(10)]
    assert [entry for entry in server.asked if "user" in entry or "graphql" in entry] == ["GET /user"]


def test_where_nobody_says_who_the_token_is_of_no_comment_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = GitHubServer()
    server.add(said(9))
    monkeypatch.setattr(server, "head", "c0ffee")
    found = forge("github", server.environment(tmp_path / "e.json"), transport=server.transport)
    assert isinstance(found, GitHub)
    found.graphql = "https://forge.example/api/repos/octo/site/pulls/5"
    with pytest.raises(CommandError, match="nobody says who the token is of"):
        post(found, said(10))
    assert server.mine() == [said(9)]


# --- two runs at once


def test_an_older_run_leaves_what_a_newer_one_has_said(server: Server, run_of: Callable[..., Any]) -> None:
    server.add(said(12))
    for body in (said(10), None):
        assert post(run_of(run=10, attempt=7), body) == "the comment is of a later run, and stays"
    assert server.mine() == [said(12)]


def test_of_a_commit_that_was_pushed_over_nothing_is_said(server: Server, run_of: Callable[..., Any]) -> None:
    run = run_of(run=10, head="c0ffee")
    server.head = "deadbeefdeadbeef"
    assert post(run, said(10)) == "nothing is said of commit c0ffee: the pull request is at deadbeefdead by now"
    assert server.comments == []


def test_a_second_comment_of_a_run_at_the_same_time_is_deleted(server: Server, run_of: Callable[..., Any]) -> None:
    """The newer run writes its own between the look and the writing of the older one."""
    newer = run_of(run=11)
    wrote: list[str] = []

    def between(method: str, path: str) -> None:
        if method == "POST" and "graphql" not in path and not wrote:
            wrote.append(path)
            newer.create(said(11))

    run = run_of(run=10)
    server.between = between
    post(run, said(10))
    assert wrote
    assert server.mine() == [said(11)]


def test_what_an_older_run_writes_over_a_newer_ones_is_written_again(
    server: Server, run_of: Callable[..., Any]
) -> None:
    """Right after the newer run has written, and before it looks again."""
    (comment,) = [server.add(said(9))]
    over: list[bool] = []

    def between(method: str, path: str) -> None:
        if method == "GET" and comment.body == said(11) and not over:
            over.append(True)
            comment.body = said(10)

    server.between = between
    post(run_of(run=11), said(11))
    assert over
    assert server.mine() == [said(11)]


def test_comments_that_are_twice_are_one_again(server: Server, run_of: Callable[..., Any]) -> None:
    for run in (7, 9, 8):
        server.add(said(run))
    post(run_of(run=10), said(10))
    assert server.mine() == [said(10)]


def test_a_comment_that_somebody_deletes_meanwhile_is_written_anew(server: Server, run_of: Callable[..., Any]) -> None:
    server.add(said(9))

    def between(method: str, _path: str) -> None:
        if method in ("PATCH", "PUT"):
            server.comments.clear()

    server.between = between
    assert post(run_of(run=10), said(10)) == "a comment is written"


# --- what forges do


@pytest.mark.parametrize(
    ("fault", "naps"),
    [
        (Fault(502), [1]),
        (Fault(503, {"Retry-After": "7"}), [7]),
        (Fault(429, {"Retry-After": "9"}), [9]),
        (Fault(403, {"Retry-After": "30"}, {"message": "You have exceeded a secondary rate limit"}), [30]),
        (Fault(403, {}, {"message": "You have exceeded a secondary rate limit."}), [60]),
        (Fault(403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1000020"}), [20]),
    ],
)
def test_what_goes_by_itself_is_tried_again(
    fault: Fault, naps: list[float], server: Server, run_of: Callable[..., Any]
) -> None:
    run = run_of()
    server.faults.append(fault)
    assert post(run, said(10)) == "a comment is written"
    assert run.naps == naps


def test_a_comment_that_was_written_though_the_answer_was_an_error_is_there_once(
    server: Server, run_of: Callable[..., Any]
) -> None:
    def between(method: str, path: str) -> None:
        if method == "POST" and "graphql" not in path and not server.comments:
            server.faults.append(Fault(502, carried_out=True))

    run = run_of(run=10)
    server.between = between
    post(run, said(10))
    assert server.mine() == [said(10)]
    assert run.naps == [1]


def test_tries_and_waiting_have_an_end(server: Server, run_of: Callable[..., Any]) -> None:
    run = run_of()
    server.faults += [Fault(502, content={"message": "Server Error"}) for _ in range(20)]
    with pytest.raises(ForgeError, match="502 Server Error"):
        post(run, said(10))
    assert run.naps == [1, 2, 4, 8, 16]
    late = run_of()
    server.faults = [Fault(429, {"Retry-After": "3600"})]
    with pytest.raises(ForgeError, match="it asks to wait 3600 s more, which is too long"):
        post(late, said(10))
    assert late.naps == []
    assert PATIENCE < 3600


def test_a_fork_s_token_that_may_only_read_is_told_so_in_one_line(tmp_path: Path) -> None:
    server = GitHubServer(writes=False)
    with pytest.raises(ForgeError) as raised:
        post(forge("github", server.environment(tmp_path / "e.json"), transport=server.transport), said(10))
    assert str(raised.value) == (
        "GitHub: POST /repos/octo/site/issues/5/comments: 403 Resource not accessible by integration; the job needs "
        "`permissions: {pull-requests: write}`; the token of a pull request from a fork may only read"
    )


def test_what_is_not_there_is_no_comment(server: Server, run_of: Callable[..., Any]) -> None:
    run = run_of()
    server.faults.append(Fault(404, content={"message": "Not Found"}))
    server.faults.append(Fault(404, content={"message": "Not Found"}))
    with pytest.raises(ForgeError, match="404 Not Found; it is not there, or the token may not see it"):
        post(run, said(10))


def test_a_comment_that_is_too_long_for_a_forge_is_told_in_its_words(
    server: Server, run_of: Callable[..., Any]
) -> None:
    with pytest.raises(ForgeError, match="too long") as raised:
        post(run_of(), said(10, "x" * 1_100_000))
    assert len(str(raised.value)) < 300
    assert run_of().limit == server.limit


def test_the_next_page_is_never_looked_for_on_another_server() -> None:
    def elsewhere(request: httpx.Request) -> httpx.Response:
        assert request.url.host == "forge.example", "the token was sent to another server"
        return httpx.Response(200, json=[], headers={"Link": '<https://evil.example/next>; rel="next"'})

    api = Api(name="X", url="https://forge.example", headers={}, token=TOKEN, transport=httpx.MockTransport(elsewhere))
    with pytest.raises(ForgeError, match="the next page is said to be on another server"):
        list(api.pages("comments"))


def test_a_list_that_goes_round_in_a_circle_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.forge.api.PAGES", 5)
    link = {"Link": '<https://forge.example/comments>; rel="next"'}
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, json=[1], headers=link))
    api = Api(name="X", url="https://forge.example", headers={}, token=TOKEN, transport=transport)
    with pytest.raises(ForgeError, match="more than 5 pages"):
        list(api.pages("comments"))


# --- the token


def failures(server: Server) -> list[Callable[[httpx.Request], httpx.Response]]:
    def echoing(request: httpx.Request) -> httpx.Response:
        return httpx.Response(400, json={"message": f"bad request: {dict(request.headers)}"})

    def plain(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text=f"<html>{TOKEN}")

    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(f"no way to {request.headers}")

    def moved(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(302, headers={"Location": f"https://evil.example/{TOKEN}"})

    return [echoing, plain, away, moved]


@pytest.mark.parametrize("which", range(4))
def test_a_token_is_in_no_failure(which: int, server: Server, tmp_path: Path) -> None:
    transport = httpx.MockTransport(failures(server)[which])
    name = next(name for name, kind in SERVERS.items() if isinstance(server, kind))
    environment = server.environment(tmp_path / "event.json")  # type: ignore[attr-defined]
    found = forge(name, environment, transport=transport, sleep=lambda _seconds: None)
    with pytest.raises(ForgeError) as raised:
        post(found, said(10))
    assert TOKEN not in f"{raised.value} {raised.value.__cause__} {raised.value.__context__!r}".replace("Headers", "")
    assert "\n" not in str(raised.value)


def test_a_token_with_a_line_s_end_is_refused_without_being_told() -> None:
    with pytest.raises(CommandError) as raised:
        Api(name="X", url="https://forge.example", headers={}, token="abc\ndef")
    assert "abc" not in str(raised.value)


# --- where we are


@pytest.mark.parametrize("name", SERVERS)
def test_each_variable_that_is_missing_is_a_line_of_its_own(name: str, tmp_path: Path) -> None:
    with pytest.raises(CommandError) as raised:
        forge(name, {})
    lines = str(raised.value).splitlines()
    assert len(lines) == 4
    assert all(" is not set: " in line for line in lines)
    full = SERVERS[name]().environment(tmp_path / "e.json")
    for line in lines:
        variable = line.partition(" ")[0]
        with pytest.raises(CommandError, match=rf"^{variable} is not set: ") as raised:
            forge(name, {**full, variable: " "})
        assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"GITHUB_REPOSITORY": "octo/site/../../user"}, "GITHUB_REPOSITORY: must be OWNER/NAME"),
        ({"GITHUB_RUN_ID": "x"}, "GITHUB_RUN_ID: must be a number, got x"),
        ({"GITHUB_EVENT_PATH": "/nowhere/event.json"}, "GITHUB_EVENT_PATH: /nowhere/event.json: can't be read"),
    ],
)
def test_a_variable_that_makes_no_sense_is_told(variables: dict[str, str], words: str, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=words):
        forge("github", {**GitHubServer().environment(tmp_path / "e.json"), **variables})


def test_a_job_of_a_push_has_no_pull_request(tmp_path: Path) -> None:
    environment = GitHubServer().environment(tmp_path / "e.json")
    (tmp_path / "e.json").write_text('{"ref": "refs/heads/main"}')
    with pytest.raises(CommandError, match="is no event of a pull request: run it `on: pull_request`"):
        forge("github", environment)


def queued(path: Path, ref: str) -> dict[str, str]:
    """Return what a job of a merge queue is given, as GitHub's schema of the event has it."""
    environment = GitHubServer().environment(path)
    group = {"head_sha": "f" * 40, "head_ref": ref, "base_sha": "b" * 40, "base_ref": "refs/heads/main"}
    path.write_text(json.dumps({"action": "checks_requested", "merge_group": group}))
    return environment


def test_a_merge_group_asks_the_pull_request_that_it_merges_last(tmp_path: Path) -> None:
    ref = f"refs/heads/gh-readonly-queue/releases/pr-9/pr-5-{'b' * 40}"
    found = forge("github", queued(tmp_path / "e.json", ref))
    assert isinstance(found, GitHub)
    assert (found.number, found.head) == (5, "f" * 40)


@pytest.mark.parametrize("ref", ["refs/heads/main", f"refs/heads/gh-readonly-queue/main/pr-x-{'b' * 40}", "null"])
def test_another_branch_names_no_pull_request(ref: str, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"is no event of a pull request: .* or `on: merge_group`"):
        forge("github", queued(tmp_path / "e.json", ref))


def test_of_merged_results_the_commit_is_that_of_the_branch(tmp_path: Path) -> None:
    environment = GitLabServer().environment(tmp_path / "e.json")
    assert GitLab({**environment, "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA": "b"}).head == "b"
    assert GitLab(environment).head == "c0ffee"


def test_a_forge_that_nobody_knows_is_told_before_anything_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, words in ((["--post", "bitbucket"], "--post: must be one of github, gitlab, got bitbucket"),):
        found = CliRunner().invoke(app, ["plan", *arguments])
        assert str(found.exception) == words
    monkeypatch.setattr("os.environ", {})
    found = CliRunner().invoke(app, ["plan", "--post", "github"])
    assert "GITHUB_TOKEN is not set" in str(found.exception)


def test_a_plan_is_posted_by_the_command_and_the_result_stays_alone_on_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = GitHubServer()
    to = forge("github", server.environment(tmp_path / "e.json", run=10), transport=server.transport)
    post_plans(to, [Planned(stack="prod", changes=True, costs=(Cost.LOGGED_OUT,))], gated=False)
    assert server.mine() == [said(10, "### `prod`: everybody is logged out")]
    found = capsys.readouterr()
    assert (found.out, found.err) == ("", "GitHub: a comment is written\n")
    post_plans(to, [Planned(stack="prod", changes=False)], gated=False)
    assert server.mine() == []


def test_a_commit_of_which_no_plan_can_be_made_does_not_leave_the_comment_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = GitHubServer()
    server.add(said(9, "no request and no session is lost"))
    (tmp_path / "stacks").mkdir()
    (tmp_path / "stacks" / "Pulumi.prod.yaml").write_text("config: {}\n")
    environment = server.environment(tmp_path / "e.json", run=10)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "cli.pulls.forge", lambda _name, _environment: forge("github", environment, transport=server.transport)
    )
    found = CliRunner().invoke(app, ["plan", "prod", "--post", "github"])
    assert isinstance(found.exception, ClusterError)
    (body,) = server.mine()
    assert body.startswith(f"{mark(Run(number=10, attempt=1))}\n### No plan can be made of this commit")
    assert str(found.exception).splitlines()[0] in body
    server.faults.append(Fault(404))
    found = CliRunner().invoke(app, ["plan", "prod", "--post", "github"])
    assert "404" not in str(found.exception), "what went wrong first is what is told"
