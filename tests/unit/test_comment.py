"""The comment of a pull request: what is in it, what is left out where it would be too long, and how it is found."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import CommandError
from cluster.plan import Cost, Planned, comment, shown
from cluster.plan.comment import (
    LEAST_IMPORTANT_FIRST,
    LEFT_OUT,
    Posted,
    Run,
    Step,
    compose,
    failure,
    mark,
    next_step,
    written_by,
)
from cluster.plan.planned import FileChange, Kind, Migration, Release, Resource, Share

RUN = Run(number=12, attempt=1)
GITHUB = 65_536


def plan(stack: str = "prod", *, files: int = 3, resources: int = 3, lines: int = 4, name: str = "app/x.py") -> Planned:
    return Planned(
        stack=stack,
        changes=True,
        costs=(Cost.LOGGED_OUT,),
        steps=("release aaa -> bbb (code)",),
        traffic=(Share(instance="app1", before=0.5, after=1.0),),
        nginx=tuple(f"+ server unix:…/{name}/{at}.sock;" for at in range(lines)),
        release=Release(
            code=tuple(FileChange(path=f"{name}{at}", kind=Kind.CHANGED, added=1, removed=1) for at in range(files)),
            migrations=(Migration(name="shop.0001_a", unsafe=("removes Item.old",)),),
        ),
        deleted=("app5 drains and is stopped",),
        resources=tuple(
            # Those that have the same reasons are one row.
            Resource(operation="update", kind="Container", name=f"{name}{at}", reasons=(f"{name}{at}",))
            for at in range(resources)
        ),
    )


def made(plans: list[Planned], limit: int = GITHUB, end: tuple[str, ...] = ()) -> str:
    found = compose(plans, RUN, limit=limit, end=end)
    assert found is not None
    return found


def flaws(text: str, plans: list[Planned], limit: int) -> list[str]:
    """Return what a comment must not be: too long, cut in a line, a fence or a fold left open, a cost missing."""
    whole = {line for one in plans for line in "\n".join(shown.markdown(one)).split("\n")}
    found = ["too long"] if len(text.encode("utf-16-le")) // 2 > limit else []
    fence, folds, missing = "", 0, {one.stack for one in plans}
    for at, line in enumerate(text.split("\n")):
        known = (
            line in whole or not line or at == 0 or line.startswith(("### ", shown.NOTHING, LEFT_OUT, "- `the job's"))
        )
        found += [] if known else [f"cut in mid-line: {line}"]
        if ticks := re.match("`{3,}", line):
            fence = "" if fence else ticks[0]
        elif not fence:
            folds += line.startswith("<details>") - (line == "</details>")
            heads = [one.stack for one in plans if f"`{one.stack}`" in line and shown.headline(one) in line]
            missing -= set(heads)
    return found + (["an open fence"] if fence else []) + (["an open fold"] if folds else []) + sorted(missing)


# --- what is in it


def test_a_comment_has_all_stacks_and_those_that_do_not_change_in_one_line() -> None:
    same = [Planned(stack=name, changes=False) for name in ("dev", "staging")]
    text = made([same[0], plan(), same[1]], end=("the end",))
    assert text.split("\n")[:2] == [mark(RUN), "### `prod`: everybody is logged out"]
    assert text.endswith("\n\nno changes: `dev`, `staging`\n\nthe end")
    assert LEFT_OUT not in text
    assert "\n".join(shown.markdown(plan())) in text


def test_where_nothing_changes_there_is_none() -> None:
    assert compose([Planned(stack="dev", changes=False)], RUN, limit=GITHUB) is None
    assert compose([Planned(stack="dev", changes=True, refused=("no",))], RUN, limit=GITHUB) is not None


def test_what_up_refuses_is_in_it() -> None:
    assert "- `a port is in use`" in made([Planned(stack="dev", changes=True, refused=("a port is in use",))])


# --- what is left out


def test_the_least_important_is_left_out_first_and_as_little_as_can_be() -> None:
    one = plan(resources=2000, name="a" * 60)
    text = made([one])
    assert f"{LEFT_OUT}resources of `prod`. The job's log has it." in text
    assert "shop.0001_a" in text
    assert "**Code" in text
    assert flaws(text, [one], GITHUB) == []


def test_only_the_largest_of_several_stacks_loses_it() -> None:
    both = [plan("dev"), plan("prod", resources=2000, name="a" * 60)]
    text = made(both)
    assert "resources of `prod`." in text
    assert "3 resources of the engine" in text


@pytest.mark.parametrize("at", range(len(LEAST_IMPORTANT_FIRST)))
def test_the_order_is_that_of_the_table_and_the_cost_stays_to_the_last(at: int) -> None:
    full = replace(plan(), sessions="12", drift=("x",), unknown=("y",))
    left: list[str] = []
    reduced = full
    for part in LEAST_IMPORTANT_FIRST[: at + 1]:
        if part.there(reduced):
            reduced, left = part.without(reduced), [*left, part.words]
    limit = len(made([full])) - 1
    while LEAST_IMPORTANT_FIRST[at].there(full):
        text = made([full], limit)
        told = text.partition(LEFT_OUT)[2]
        gone = [part.words for part in LEAST_IMPORTANT_FIRST if f"{part.words} of `prod`" in told]
        assert gone == [part.words for part in LEAST_IMPORTANT_FIRST if part.there(full)][: len(gone)]
        assert "everybody is logged out" in text
        if len(gone) >= len(left):
            return
        limit = len(text) - 1


SIZES = st.integers(min_value=0, max_value=400)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(SIZES, SIZES, SIZES), min_size=1, max_size=4),
    st.sampled_from(["x.py", "``` a", "</details>", "ä" * 80, "\N{OLD ITALIC LETTER A}" * 50, "~~~"]),
    st.integers(min_value=1200, max_value=70_000),
)
def test_whatever_a_plan_is_its_comment_fits_and_nothing_in_it_is_cut(
    sizes: list[tuple[int, int, int]], name: str, limit: int
) -> None:
    plans = [
        plan(f"s{at}", files=files, resources=resources, lines=lines, name=name)
        for at, (files, resources, lines) in enumerate(sizes)
    ]
    assert flaws(made(plans, limit), plans, limit) == []


def test_a_text_that_is_just_cut_is_found() -> None:
    """The saboteur of the test before."""
    one = plan(resources=2000, name="a" * 60)
    whole = made([one], 10**7)
    found = flaws(whole[:GITHUB], [one], GITHUB)
    assert any(flaw.startswith("cut in mid-line") for flaw in found)
    assert {"an open fence", "an open fold"} <= set(found)


def test_two_hundred_stacks_still_say_what_they_cost() -> None:
    plans = [replace(plan(f"stack{at}"), costs=(Cost.NONE,) if at % 2 else (Cost.LOGGED_OUT,)) for at in range(200)]
    text = made([*plans, *(Planned(stack=f"same{at}", changes=False) for at in range(200))], 6_000)
    assert len(text) <= 6_000
    for stacks, words in (("`stack0, stack2,", "everybody is logged out"), ("`stack1, stack3,", "no request")):
        assert re.search(rf"^### {stacks}.*: {words}", text, re.MULTILINE)
    short = made(plans, 1500)
    assert "### `stack0, stack2, stack4 … stack198 (100)`: everybody is logged out" in short


def test_where_not_even_the_costs_have_room_nothing_is_posted() -> None:
    with pytest.raises(CommandError, match="a comment of 60 characters has no room"):
        compose([plan()], RUN, limit=60)


def test_that_no_plan_can_be_made_is_said_with_the_reasons_that_have_room() -> None:
    words = "\n".join(f"upstream.servers[{at}].weight: must be at least 1" for at in range(9))
    text = failure(words, RUN, limit=GITHUB)
    assert text.startswith(
        f"{mark(RUN)}\n### No plan can be made of this commit\n\n- `upstream.servers[0].weight: must"
    )
    assert len(text.splitlines()) == 12
    short = failure(words, RUN, limit=300)
    assert len(short) <= 300
    assert short.splitlines()[-1] == "- `the job's log says why`"
    assert set(short.splitlines()[:-1]) < set(text.splitlines())


def test_what_is_beyond_sixteen_bits_counts_twice() -> None:
    assert comment.characters("aä€\N{OLD ITALIC LETTER A}") == 5


# --- how it is found


def test_a_mark_is_a_comments_first_line_and_nothing_else() -> None:
    assert written_by(f"{mark(RUN)}\r\nwhatever") == RUN
    assert written_by(f"see:\n{mark(RUN)}") is None
    assert written_by(f"{mark(RUN)} and more") is None
    assert written_by("<!-- cluster plan: run x.y -->") is None
    assert written_by("") is None


def body(number: int, attempt: int = 1, words: str = "text") -> str:
    return f"{mark(Run(number=number, attempt=attempt))}\n{words}"


@pytest.mark.parametrize(
    ("found", "wanted", "step"),
    [
        ([], body(12), Step(write=body(12))),
        ([], None, Step()),
        ([(1, "thanks")], body(12), Step(write=body(12))),
        ([(1, "thanks"), (2, body(11))], body(12), Step(write=body(12), edit=2)),
        ([(2, body(12))], body(12), Step()),
        ([(2, body(12).replace("\n", "\r\n") + "\n")], body(12), Step()),
        ([(2, body(11))], None, Step(delete=(2,))),
        ([(2, body(13))], body(12), Step(newer=True)),
        ([(2, body(13))], None, Step(newer=True)),
        ([(2, body(11, 9))], body(12), Step(write=body(12), edit=2)),
        ([(2, body(10)), (3, body(11))], body(12), Step(write=body(12), edit=3, delete=(2,))),
        ([(2, body(12)), (3, body(12))], body(12), Step(delete=(3,))),
        ([(2, body(12)), (3, body(13))], body(12), Step(delete=(2,), newer=True)),
        ([(2, body(13)), (3, body(12))], body(12), Step(delete=(3,), newer=True)),
    ],
)
def test_one_comment_is_left_that_of_the_latest_run(
    found: list[tuple[int, str]], wanted: str | None, step: Step
) -> None:
    assert next_step([Posted(id=at, body=text) for at, text in found], wanted, RUN) == step


def test_whoever_wrote_and_looks_again_does_not_mind_what_the_forge_made_of_it() -> None:
    there = [Posted(id=2, body=body(12, words="as the forge has it"))]
    assert next_step(there, body(12), RUN, wrote=True) == Step()
    assert next_step(there, body(12), RUN) == Step(write=body(12), edit=2)
