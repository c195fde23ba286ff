"""`cluster plan` on Docker: it only looks, says what `up` then does, and what it says of the cost is measured."""

from __future__ import annotations

import contextlib
import json
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conformance import AROUND, assert_nothing_lost, servers
from tests.e2e.stand import DockerStand, docker_stack, made_image
from tests.e2e.tools import BASE, docker
from tests.load import Load
from tests.planned import (
    NOTHING,
    TOKEN,
    WEIGHTED,
    assert_changes_nothing,
    assert_nginx_is_asked,
    assert_release_is_told,
    change_the_release,
    plan,
    planned,
    repository_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.local.stand import Stand

DOCUMENTED = Path(__file__).resolve().parents[2] / "docs" / "plan.md"

POSTGRES = "cluster-test/postgres:another"
POSTGRES_DOCKERFILE = f"""
FROM {BASE}
RUN touch /another
"""


@pytest.fixture(scope="module")
def stand() -> Iterator[DockerStand]:
    stack = docker_stack()
    stack["upstream"]["servers"] = [{"name": "app1", "weight": 3}, {"name": "app2"}]
    with contextlib.closing(DockerStand(stack, name="plan")) as found:
        result = found.up()
        assert result.status == 0, result.output
        yield found


def state_of(stand: Stand) -> dict[str, object]:
    """Return what there is of a stack: its repository with Pulumi's state, and all that is on the engine."""
    assert isinstance(stand, DockerStand)
    found = repository_of(stand)
    found["containers"] = stand.containers(stopped=True)
    format_ = "{{.Repository}}:{{.Tag}} {{.ID}} {{.CreatedAt}}"
    ours = f"django-cluster/django-cluster-{stand.name}/*"
    found["images"] = sorted(docker("images", "--no-trunc", "--format", format_, ours).split("\n"))
    return found


assert_only_looks = partial(assert_changes_nothing, state_of)


def test_what_does_not_change_is_one_line(stand: DockerStand) -> None:
    result = assert_only_looks(stand, "--exit-code")
    assert (result.status, result.output) == (0, f"stack {stand.name}: no changes\n")
    assert plan(stand, "--markdown").output == f"`{stand.name}`: no changes\n"


def test_a_weight_is_told_in_nginx_s_words_and_up_says_the_same(stand: DockerStand) -> None:
    stand.edit_stack(lambda stack: servers(stack)["app1"].update(weight=5))
    result = assert_only_looks(stand)
    one = "  resources: 1 to update"
    assert result.output.splitlines() == [f"stack {stand.name}: {NOTHING}", *WEIGHTED, one]
    assert plan(stand, "--exit-code", "--markdown").status == 2
    applied = stand.up()
    assert applied.status == 0, applied.output
    assert applied.output.startswith(result.output), "`up` shows something else before it acts"
    assert applied.output.count("weight=5") == 1, "what the plan has said is said again"
    assert plan(stand).output == f"stack {stand.name}: no changes\n"


def test_a_release_is_told_by_what_changes_and_is_the_one_that_up_makes(stand: DockerStand) -> None:
    former = stand.release()
    change_the_release(stand)
    value = json.dumps({"API_TOKEN": TOKEN})
    assert stand.pulumi("config", "set", "--secret", "cluster:secret_environment", value).returncode == 0
    shown = [assert_only_looks(stand, f"--{form}").output for form in ("text", "markdown", "json")]
    (found,) = json.loads(shown[2])["plans"]
    assert_release_is_told(found, former)
    assert {reason for one in found["resources"] for reason in one["reasons"]} <= {"release", "stdin"}, "noise"
    with Load(stand.address) as load:
        load.wait_for(AROUND)
        result = stand.up()
        load.wait_for(AROUND)
    assert result.status == 0, result.output
    assert_nothing_lost(load.counts)
    assert result.output.startswith(shown[0])
    assert stand.release() == found["release"]["after"], "the planned release is another one than that which came"
    state = next((stand.root / "state").rglob(f"{stand.name}.json")).read_text()
    key = stand.pulumi("config", "get", "cluster:secret_key").stdout.strip()
    said = "".join([*shown, result.output])
    assert [secret for secret in (TOKEN, key) if secret in said] == []
    assert re.search(r"secret_environment\.API_TOKEN", said)
    assert TOKEN not in state
    print(f"a release that was planned: {load.counts}")


def test_the_document_has_the_keys_that_are_written_down_and_no_other(stand: DockerStand) -> None:
    stand.edit_code("visits/views.py", "\n# and another\n")
    stand.edit_stack(lambda stack: servers(stack)["app1"].update(weight=2))
    document = json.loads(plan(stand, "--json").output)
    _, _, written = DOCUMENTED.read_text().partition("## `--json`")
    rows = set(re.findall(r"^\| `(?:plans\[\]\.)?([a-z_.\[\]]+)` \|", written, re.MULTILINE))

    def keys(value: Any, path: str = "") -> Iterator[str]:
        for key, one in value.items():
            yield f"{path}{key}"
            inner = one[0] if isinstance(one, list) and one else one
            if isinstance(inner, dict):
                yield from keys(inner, f"{path}{key}{'[]' if isinstance(one, list) else ''}.")

    (found,) = document["plans"]
    assert set(document) == {"version", "plans"}
    assert document["version"] == 1
    assert set(keys(found)) - rows == set()
    assert set(found) == {row for row in rows - {"version", "plans"} if "." not in row}
    stand.edit_stack(lambda stack: servers(stack)["app1"].update(weight=5))
    assert stand.up().status == 0


def test_what_the_stack_s_nginx_refuses_is_told_by_its_key_and_nothing_is_touched(stand: DockerStand) -> None:
    assert_nginx_is_asked(stand, assert_only_looks)


def test_a_preview_of_pulumi_s_own_leaves_a_build_context(stand: DockerStand) -> None:
    """The saboteur: what a plan would leave is seen."""
    stand.edit_code("visits/views.py", "\n# never released\n")
    assert_only_looks(stand)
    before = state_of(stand)
    assert stand.pulumi("preview").returncode == 0
    assert state_of(stand) != before
    assert stand.up().status == 0


def test_what_was_done_by_hand_is_told_by_name_and_up_mends_it(stand: DockerStand) -> None:
    docker("rm", "--force", stand.container("app2"))
    shown = stand.run("status", stand.name, "--drift")
    assert "changed by hand, or broken:\n  container app-app2 is stopped or removed\n" in shown.output
    assert shown.status == 1
    found = planned(stand)
    assert found["changes"]
    assert "container app-app2 is stopped or removed" in found["drift"], found
    result = stand.up()
    assert result.status == 0, result.output
    assert "changed by hand, or broken: container app-app2 is stopped or removed" in result.output
    assert plan(stand).output == f"stack {stand.name}: no changes\n"


def test_data_that_the_stack_file_no_longer_asks_for_are_refused_by_name(stand: DockerStand) -> None:
    stand.edit_stack(lambda stack: stack.update(database={"engine": "sqlite", "discard": True}))
    result = assert_only_looks(stand, "--exit-code")
    stand.edit_stack(lambda stack: stack.update(database={"engine": "postgres"}))
    lines = result.output.splitlines()
    assert (result.status, lines[:2]) == (
        1,
        [f"stack {stand.name}: `up` refuses it", "  - database-database is protected"],
    )
    assert plan(stand).output == f"stack {stand.name}: no changes\n"


def test_another_database_costs_the_requests_that_need_it_and_no_session(stand: DockerStand) -> None:
    with made_image(POSTGRES, POSTGRES_DOCKERFILE):
        stand.edit_stack(lambda stack: stack.update(images={"postgres": POSTGRES}))
        found = planned(stand)
        assert (found["costs"], found["steps"]) == (["service-replaced"], ["~ postgres: another container"])
        instances, former = stand.containers("instance"), stand.containers("postgres")
        with Load(stand.address) as load:
            load.wait_for(AROUND)
            result = stand.up()
            load.wait_for(AROUND)
        stand.edit_stack(lambda stack: stack.pop("images"))
    # Its checks may still meet a connection that the former one has ended: that is one of the requests that fail.
    assert "done in" in result.output, result.output
    assert stand.containers("instance") == instances
    assert stand.containers("postgres") != former
    print(f"PostgreSQL replaced: {load.counts}")
    assert load.counts.failed, "nothing failed: the plan says too much"
    assert load.counts.lost == []
