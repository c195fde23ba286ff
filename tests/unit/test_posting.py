"""Runs that post at the same time, in whatever order their requests come: one comment is left, of no older commit."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.forge import forge
from cluster.forge.github import GitHub
from cluster.forge.posting import post
from cluster.plan.comment import Run, mark
from tests.forges import GitHubServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def said(run: int) -> str:
    return f"{mark(Run(number=run, attempt=1))}\ntext"


class Turns:
    """Lets several runs go on one after another, a request each, as the choices say."""

    def __init__(self, choices: list[int]) -> None:
        self.choices = choices
        self.state = threading.Condition()
        self.waiting: set[int] = set()
        self.turn: int | None = None

    def take(self, who: int) -> None:
        """Wait until it is one's turn."""
        with self.state:
            self.waiting.add(who)
            self.state.notify_all()
            self.state.wait_for(lambda: self.turn == who, timeout=60)
            self.waiting.discard(who)
            self.turn = None
            self.state.notify_all()

    def give(self, threads: dict[int, threading.Thread]) -> None:
        """Give turns until all threads have ended."""
        given = 0
        while any(thread.is_alive() for thread in threads.values()):
            with self.state:
                alive = {who for who, thread in threads.items() if thread.is_alive()}
                if self.turn is not None or not alive <= self.waiting:
                    self.state.wait(0.01)
                    continue
                order = sorted(alive)
                choice = self.choices[given] if given < len(self.choices) else given
                self.turn = order[choice % len(order)]
                given += 1
                self.state.notify_all()


def run_beside(
    server: GitHubServer, made: list[GitHub], choices: list[int], begins: Callable[[int], None] = lambda _who: None
) -> None:
    """Let runs post at the same time, as the choices say; `begins` is told whose turn it is."""
    turns, local = Turns(choices), threading.local()
    assert [one.login for one in made], "who they are is asked before: Python 3.11 lets one at a time ask"

    def between(_method: str, _path: str) -> None:
        turns.take(local.who)
        begins(local.who)

    def one(who: int) -> None:
        local.who = who
        post(made[who], said(made[who].run.number))

    server.between = between
    threads = {who: threading.Thread(target=one, args=(who,), daemon=True) for who in range(len(made))}
    for thread in threads.values():
        thread.start()
    turns.give(threads)


def github(server: GitHubServer, directory: Path, **run: Any) -> GitHub:
    found = forge("github", server.environment(directory / "event.json", **run), transport=server.transport)
    assert isinstance(found, GitHub)
    return found


CHOICES = st.lists(st.integers(min_value=0, max_value=2), max_size=40)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(choices=CHOICES, there=st.booleans())
def test_of_runs_of_one_commit_at_the_same_time_one_comment_is_left(
    tmp_path: Path, choices: list[int], there: bool
) -> None:
    server = GitHubServer()
    if there:
        server.add(said(9))
    run_beside(server, [github(server, tmp_path, run=run) for run in (10, 11, 12)], choices)
    assert len(server.mine()) == 1
    assert server.mine()[0] in {said(10), said(11), said(12)}


def pushed_over(asked: int, directory: Path, *, there: bool) -> list[str]:
    """Return what is left where a later commit is pushed, and its run begins and ends, after so many requests."""
    server = GitHubServer(head="older")
    if there:
        server.add(said(9))

    def begins(who: int) -> None:
        if who == 1:
            server.head = "later"

    made = [github(server, directory, run=10), github(server, directory, run=11, head="later")]
    run_beside(server, made, [*([0] * asked), *([1] * 50)], begins)
    return server.mine()


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("asked", range(9))
def test_what_is_said_of_a_commit_that_was_pushed_over_meanwhile_is_never_left(
    asked: int, there: bool, tmp_path: Path
) -> None:
    left = pushed_over(asked, tmp_path, there=there)
    assert said(10) not in left
    assert len(left) <= 1


def test_without_a_look_at_the_commit_an_older_one_would_have_the_last_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The saboteur of the test before."""
    monkeypatch.setattr("cluster.forge.posting._passed", lambda _forge: None)
    assert any(said(10) in pushed_over(asked, tmp_path, there=True) for asked in range(9))
