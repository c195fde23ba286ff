"""A plan's digest: the same as long as `up` would do the same, and `up` refuses any other."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from typer.testing import CliRunner

from cli import commands, planning
from cli.app import app
from cluster.config import parse_config
from cluster.errors import CommandError
from cluster.plan import Cost, Planned
from cluster.plan.digest import PARTS, differences, digest, misfit
from cluster.plan.planned import Lint, Release, Resource, SettingChange, Share
from cluster.stack.opened import Stack
from platforms.base import Applied, Change
from tests.unit.pulumi_mocks import stack_values

if TYPE_CHECKING:
    from collections.abc import Iterator

    from platforms.base import Platform

STACK = Stack(Path(), "prod", parse_config(stack_values()))

PLANNED = Planned(
    stack="prod",
    changes=True,
    costs=(Cost.NONE,),
    steps=("release aaa -> bbb (code)",),
    release=Release(before="aaa", after="bbb"),
)

#: A change of each key, and the part of the digest that it is in; none for what passes by itself.
CHANGED: dict[str, tuple[object, str | None]] = {
    "changes": (False, "what it costs"),
    "costs": ((Cost.LOGGED_OUT,), "what it costs"),
    "refused": (("no",), "what it costs"),
    "release": (Release(before="aaa", after="ccc"), "the release"),
    "settings": ((SettingChange(key="app.threads", before="4", after="8"),), "the release"),
    "nginx": (("+ a;",), "nginx's lines and the traffic"),
    "traffic": ((Share(instance="app1", before=0.5, after=1.0),), "nginx's lines and the traffic"),
    "steps": (("another",), "the steps"),
    "deleted": (("app5",), "the steps"),
    "resources": ((Resource(operation="update", kind="Container", name="app1"),), "the engine's resources"),
    "sessions": ("12", None),
    "lints": ((Lint(id="x", severity="warning", path="p", text="in 20 days"),), None),
    "drift": (("x",), None),
    "unknown": (("x",), None),
    "disabled": (("debug: a leak",), None),
}


def test_every_key_of_a_plan_is_in_its_digest_or_is_known_to_pass_by_itself() -> None:
    assert {one.name for one in fields(Planned)} == {"stack", *CHANGED}
    assert {key for keys in PARTS.values() for key in keys} == {key for key, (_value, part) in CHANGED.items() if part}


@pytest.mark.parametrize("key", CHANGED)
def test_what_differs_is_named_by_its_part(key: str) -> None:
    value, part = CHANGED[key]
    other = replace(PLANNED, **{key: value})  # type: ignore[arg-type]
    assert differences(other, digest(PLANNED)) == ([part] if part else [])


def test_a_plan_of_another_stack_is_another_one() -> None:
    assert len(differences(replace(PLANNED, stack="dev"), digest(PLANNED))) == len(PARTS)


def test_what_differs_is_one_line_with_what_it_is_now() -> None:
    other = replace(PLANNED, release=Release(before="aaa", after="ccc"), costs=(Cost.LOGGED_OUT,))
    assert misfit(PLANNED, digest(PLANNED)) is None
    assert misfit(other, digest(PLANNED)) == (
        "stack prod: the plan is another one than was asked for, and nothing is done. What differs: what it costs; the "
        "release. Now it is: everybody is logged out; release aaa -> ccc. `cluster plan prod` shows it."
    )


@pytest.mark.parametrize("text", ["", "abc", digest(PLANNED)[1:], digest(PLANNED) + "\n", digest(PLANNED).upper()])
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match=r"--plan-digest: .* is no digest of a plan"):
        differences(PLANNED, text)


class Site:
    """A platform whose plans are these, one after the other; the last one again and again."""

    def __init__(self, *plans: Planned) -> None:
        self.plans = list(plans)
        self.told: list[str] = []

    def plan(self, _wanted: object) -> Planned:
        self.told.append("plan")
        return self.plans.pop(0) if len(self.plans) > 1 else self.plans[0]

    @contextmanager
    def change(self, _wanted: object, _gate: object) -> Iterator[Change]:
        self.told.append("lock")
        yield Change(lines=[], apply=self.apply)

    def apply(self) -> Applied:
        self.told.append("apply")
        return Applied(release="bbb", changed=False, checks=list)


def up(site: Site, plan_digest: str | None) -> list[str]:
    commands.up(STACK, cast("Platform", site), plan_digest=plan_digest)
    return site.told


def test_up_does_what_was_planned_and_looks_again_when_nobody_else_can_change_it() -> None:
    assert up(Site(PLANNED), digest(PLANNED)) == ["plan", "lock", "plan", "apply"]
    assert up(Site(PLANNED), None) == ["lock", "apply"]


def test_up_does_nothing_where_the_plan_is_another_one() -> None:
    site = Site(replace(PLANNED, nginx=("+ a;",)))
    with pytest.raises(CommandError, match="What differs: nginx's lines and the traffic"):
        up(site, digest(PLANNED))
    assert site.told == ["plan"]


def test_up_does_nothing_where_somebody_was_faster() -> None:
    site = Site(PLANNED, Planned(stack="prod", changes=False))
    with pytest.raises(CommandError, match="nothing is done"):
        up(site, digest(PLANNED))
    assert site.told == ["plan", "lock", "plan"]


def test_a_first_release_whose_keys_are_made_meanwhile_is_looked_at_once() -> None:
    first = Planned(stack="prod", changes=True, costs=(Cost.START,))
    assert up(Site(first, PLANNED), digest(first)) == ["plan", "lock", "apply"]


def test_a_later_job_gets_the_digest_and_whether_anything_changes(tmp_path: Path) -> None:
    path = tmp_path / "output"
    path.write_text("there=before\n")
    planning.write_digest(PLANNED, path)
    assert path.read_text() == f"there=before\nplan_digest={digest(PLANNED)}\nplan_changes=true\n"


def test_a_file_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="nowhere/output: No such file or directory"):
        planning.write_digest(PLANNED, tmp_path / "nowhere" / "output")


def test_a_file_of_a_digest_is_of_one_stack() -> None:
    result: Any = CliRunner().invoke(app, ["plan", "a", "b", "--digest-file", "x"])
    assert str(result.exception) == "--digest-file: is for one stack at a time"
