"""What one checkout has released and begun, gone on with in another that has the repository and the backend alone."""

from __future__ import annotations

import contextlib
import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.conformance import AROUND, assert_nothing_lost, assert_up, servers
from tests.e2e.stand import docker_stack
from tests.e2e.test_team import Checkout
from tests.e2e.tools import docker
from tests.load import Load
from tests.local.stand import kill_at_line
from tests.local.test_commands import assert_done

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: What Ann's second release has more than her first.
SECOND = "# the second release\n"


@pytest.fixture(scope="module")
def ann(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    stack = docker_stack()
    stack["upstream"]["servers"] = [{"name": "app1", "weight": 3}, {"name": "app2"}]
    with contextlib.closing(Checkout(stack, name="teamed")) as found:
        (found.root / "state").rmdir()
        assert_done(found.run("init", found.name, "--backend", f"file://{tmp_path_factory.mktemp('state')}"))
        assert_done(found.up())
        found.edit_code("visits/apps.py", SECOND)
        assert_done(found.up())
        yield found


@pytest.fixture(scope="module")
def ben(ann: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    found = ann.of(tmp_path_factory.mktemp("ben") / "checkout")
    assert not (found.root / ".cluster").exists()
    return found


@pytest.fixture(scope="module")
def released(ann: Checkout) -> list[str]:
    """Return Ann's two releases."""
    found: list[str] = ann.status()["releases"]
    assert len(found) == 2
    return found


def pull(into: Checkout, of: Checkout) -> None:
    """Let a checkout have the stack file of the other one, as by git."""
    shutil.copy2(of.file, into.file)


def test_releases_of_another_checkout_are_found(ben: Checkout, released: list[str]) -> None:
    status = ben.status()
    assert (status["releases"], status["release"]) == (released, released[1])


def test_a_plan_tells_what_changes_of_the_release_of_another_checkout(ben: Checkout, released: list[str]) -> None:
    former = (ben.project / "visits" / "apps.py").read_text()
    ben.edit_code("visits/apps.py", "# of Ben's\n")
    try:
        said = assert_done(ben.run("plan", ben.name))
    finally:
        (ben.project / "visits" / "apps.py").write_text(former)
    assert f"release {released[1]} -> " in said
    assert "(code); migrations run first" in said
    assert "~ visits/apps.py +1 -" in said
    assert "not known before" not in said
    assert not (ben.root / ".cluster").exists(), "a plan leaves nothing"


def test_another_checkout_rolls_back_and_forth_and_loses_nothing(
    ann: Checkout, ben: Checkout, released: list[str]
) -> None:
    with Load(ann.address, clients=6, slow=1) as load:
        load.wait_for(AROUND)
        said = assert_done(ben.run("rollback", ben.name, timeout=900))
        load.wait_for(AROUND)
        assert ann.status()["release"] == released[0]
        assert (f"release {released[1]} -> {released[0]} (code)" in said, "~ visits/apps.py" in said) == (True, True)
        assert ben.status()["releases"] == ann.status()["releases"] == released
        assert_up(ben)
        load.wait_for(AROUND)
        assert ann.status()["release"] == released[1]
    print(f"back and forth from another checkout: {load.counts}")
    assert_nothing_lost(load.counts)
    assert {release for _name, release in load.counts.by} == set(released)
    assert assert_done(ann.run("plan", ann.name)) == f"stack {ann.name}: no changes\n"


def test_who_has_made_a_release_keeps_it_when_others_release(ann: Checkout, ben: Checkout, released: list[str]) -> None:
    ben.edit_code("visits/apps.py", SECOND + "# the third\n")
    assert_done(ben.up())
    third = ben.status()["release"]
    for checkout in (ann, ben):
        assert checkout.status()["releases"] == [*released, third]
    assert_done(ann.run("rollback", ann.name, timeout=900))
    assert ben.status()["release"] == released[1], "the one before is another one"
    assert_done(ann.run("rollback", ann.name, "--to", third, timeout=900))
    assert ben.status()["release"] == third
    shutil.copy2(ben.project / "visits" / "apps.py", ann.project / "visits" / "apps.py")
    assert_done(ann.up())


def test_a_release_whose_image_is_gone_is_not_here_for_another_checkout(
    ben: Checkout, released: list[str], tmp_path: Path
) -> None:
    cara = ben.of(tmp_path / "checkout")
    images = f"django-cluster/django-cluster-{ben.name}"
    tags = docker("images", "--format", "{{.Repository}}:{{.Tag}}", f"{images}/*").split()
    docker("rmi", *(tag for tag in tags if tag.endswith((f":{released[0]}", f"-{released[0]}"))))
    refused = cara.run("rollback", cara.name, "--to", released[0])
    assert refused.status == 1
    assert f"release {released[0]} is not here; known: {released[1]}" in refused.output


def test_a_key_whose_change_one_has_begun_is_changed_by_another_and_nobody_is_logged_out(
    ann: Checkout, ben: Checkout
) -> None:
    pull(ben, ann)
    before, stale = ann.kept_secret("secret_key"), ben.file.read_text()
    with Load(ann.address, clients=6) as load:
        load.wait_for(AROUND)
        kill_at_line(ann.start("rotate-key", ann.name), "step 2 of 3")
        assert not list((ann.root / ".cluster" / ann.name).glob("rotation*"))
        load.wait_for(AROUND)
        pull(ben, ann)
        assert ben.kept_secret("secret_key") == before
        said = assert_done(ben.run("rotate-key", ben.name, timeout=900))
        assert ("step 1 of 3" in said, "step 2 of 3" in said) == (False, True)
        after = ben.kept_secret("secret_key")
        assert (after != before, json.loads(ben.kept_secret("secret_key_fallbacks"))) == (True, [before])
        load.wait_for(AROUND)

        # Who has not pulled would log everybody out, and is kept from it.
        mine = ben.file.read_text()
        ben.file.write_text(stale)
        refused = ben.run("rotate-key", ben.name, timeout=900)
        assert refused.status == 1, refused.output
        assert "pull the stack file, where somebody else has changed it" in " ".join(refused.output.split())
        ben.file.write_text(mine)

        ben.end_waiting_of_rotation()
        said = assert_done(ben.run("rotate-key", ben.name, timeout=900))
        assert "step 3 of 3" in said
        load.wait_for(AROUND)
    print(f"a key changed by two: {load.counts}")
    assert_nothing_lost(load.counts)
    assert json.loads(ben.kept_secret("secret_key_fallbacks")) == []
    assert "secret_key_rotation" not in ben.file.read_text()
    pull(ann, ben)
    assert assert_done(ann.run("plan", ann.name)) == f"stack {ann.name}: no changes\n"


def test_a_key_that_one_just_replaces_logs_everybody_out(ann: Checkout) -> None:
    """The saboteur: the same count, where the former key is no fallback."""
    ann.edit_stack(lambda stack: stack["sessions"].update(discard=True))
    with Load(ann.address, clients=6) as load:
        load.wait_for(AROUND)
        ann.keep_secret("secret_key", "b" * 50)
        assert_done(ann.up())
        load.wait_for(AROUND)
    print(f"a key replaced: {load.counts}")
    assert load.counts.lost
    assert servers(ann.stack)
