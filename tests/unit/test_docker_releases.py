"""Releases as an engine keeps them: which have served, what is taken out of an image, and what of it is compared."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster.config.models import App
from cluster.stack.history import History
from platforms.docker.contexts import changed_parts, side_of
from platforms.docker.engine import Engine, EngineError
from platforms.docker.family import Target
from platforms.docker.releases import FETCHED, PARTS_FILE, fetch, note_served, parts_of, served, usable

if TYPE_CHECKING:
    from collections.abc import Callable

STACK = "django-cluster/dev"
A, B, C, D = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc", "dddddddddddd"

#: What a release's image has below /srv, and what is compiled beside it when it is built.
IMAGE = {
    "tree/project/app.py": "1\n",
    "tree/project/__pycache__/app.pyc": "compiled",
    "runtime/cluster_runtime/x.py": "2\n",
    "sources/.keep": "",
    "config.json": json.dumps({"place": "tree/project", "release": A}),
    "left-out.json": "{}",
    PARTS_FILE: json.dumps({"requirements": "r", "python": "p", "platform": "o"}),
}


@dataclass(frozen=True)
class Images(Engine):
    """An engine that has images by their names, each with files.

    made: containers that were not removed again. used: images that a container still has.
    """

    images: dict[str, dict[str, str]] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    away: bool = False

    def _run(self, arguments: tuple[str, ...], timeout: float) -> subprocess.CompletedProcess[str]:
        if self.away:
            return subprocess.CompletedProcess(arguments, 1, "", "no")
        verb, *rest = arguments
        does: dict[str, Callable[..., str | None]] = {
            "images": self._listed,
            "tag": self._tag,
            "rmi": self._untag,
            "create": self._create,
            "cp": self._copy,
            "rm": self._remove,
        }
        said = does[verb](*rest)
        return subprocess.CompletedProcess(arguments, int(said is None), said or "", "" if said is not None else "no")

    def _listed(self, *rest: str) -> str:
        *options, name = rest
        found = [one for one in self.images if name in (one, one.rpartition(":")[0])]
        return "\n".join(found if "--quiet" in options else [one.rpartition(":")[2] for one in found])

    def _tag(self, image: str, name: str) -> str | None:
        if image not in self.images:
            return None
        self.images[name] = self.images[image]
        return ""

    def _untag(self, name: str) -> str | None:
        return None if name in self.used or self.images.pop(name, None) is None else ""

    def _create(self, image: str) -> str:
        self.made.append(image)
        return image

    def _copy(self, source: str, target: str) -> str | None:
        image, _, path = source.rpartition(":/srv/")
        found = {name: text for name, text in self.images[image].items() if name.split("/")[0] == path}
        for name, text in found.items():
            there = Path(target) / name
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_text(text)
        return "" if found else None

    def _remove(self, _force: str, container: str) -> str:
        self.made.remove(container)
        return ""


def image(release: str) -> str:
    return f"django-cluster/django-cluster-dev/app:{release}"


def having(*releases: str) -> Images:
    return Images(images={image(release): dict(IMAGE) for release in releases})


def tags(engine: Images) -> list[str]:
    return sorted(one.rpartition(":")[2] for one in engine.images if "/served:" in one)


# --- which have served


def test_an_engine_knows_in_which_turn_releases_have_served() -> None:
    engine = having(A, B, C)
    note_served(engine, STACK, [A, B])
    assert tags(engine) == [f"000001-{A}", f"000002-{B}"]
    before = tags(engine)
    note_served(engine, STACK, [A, B])
    assert tags(engine) == before, "nothing is new"
    note_served(engine, STACK, [B, A, C])
    assert list(served(engine, STACK)) == [B, A, C]
    note_served(engine, STACK, [A, C])
    assert list(served(engine, STACK)) == [A, C]
    assert len(tags(engine)) == 2, "what is forgotten has no tag"


@pytest.mark.parametrize(
    ("wanted", "later"),
    [
        ([B, C], []),
        ([C], []),
        ([A, C], []),
        ([B, C, A], [A]),
        ([A, C, B], [B]),
        ([C, A, B], [A, B]),
        ([A, B, C, D], [D]),
        ([B, D], [D]),
        ([D, A], [D, A]),
    ],
)
def test_releases_that_are_in_turn_keep_their_tags(wanted: list[str], later: list[str]) -> None:
    """A run that is killed between two tags leaves another turn; where there is one, it can't be."""
    engine = having(A, B, C, D)
    note_served(engine, STACK, [A, B, C])
    note_served(engine, STACK, wanted)
    assert list(served(engine, STACK)) == wanted
    assert [one.partition("-")[2] for one in tags(engine) if one[:6] > "000003"] == later


def test_a_tag_whose_image_a_container_still_has_goes_the_next_time() -> None:
    engine = having(A, B)
    note_served(engine, STACK, [A, B])
    engine.used.append(f"django-cluster/django-cluster-dev/served:000001-{A}")
    note_served(engine, STACK, [B])
    engine.used.clear()
    note_served(engine, STACK, [B])
    assert list(served(engine, STACK)) == [B]


def test_a_release_without_an_image_and_a_tag_of_somebody_else_s_are_passed_over() -> None:
    engine = having(A)
    engine.images["django-cluster/django-cluster-dev/served:latest"] = {}
    assert served(engine, STACK) == {}
    note_served(engine, STACK, [B, A])
    assert list(served(engine, STACK)) == [A]


@pytest.mark.parametrize(
    ("here", "there", "joined"),
    [
        ([], [A, B], [A, B]),
        ([A, B], [], [A, B]),
        ([A, B], [A, B, C], [A, B, C]),
        ([C], [A, B, C], [A, B, C]),
        ([A, B], [B, A], [B, A]),
        ([D, A, B], [A, B, C], [D, A, B, C]),
        ([A, D], [A, C], [A, D, C]),
    ],
)
def test_a_history_takes_over_what_others_have_released(here: list[str], there: list[str], joined: list[str]) -> None:
    history = History(releases=[*here], current=here[-1] if here else None)
    history.join(there)
    assert history.releases == joined
    assert len(set(joined)) == len(joined)


# --- out of an image


def test_a_release_is_taken_out_of_its_image_as_it_was_built_but_for_what_was_compiled(tmp_path: Path) -> None:
    engine, context = having(A), tmp_path / "images" / A
    assert not usable(engine, STACK, context)
    assert fetch(engine, STACK, context)
    found = {str(path.relative_to(context)): path.read_text() for path in context.rglob("*") if path.is_file()}
    dockerfile = found.pop("Dockerfile")
    assert dockerfile == f"FROM {image(A)}\n"
    assert found.pop(FETCHED) == ""
    assert found == {path: text for path, text in IMAGE.items() if "__pycache__" not in path}
    assert engine.made == [], "a container is left"
    assert [path.name for path in context.parent.iterdir()] == [A]
    assert usable(engine, STACK, context)
    del engine.images[image(A)]
    assert not usable(engine, STACK, context), "it says to build on an image that is gone"


def test_what_was_built_here_needs_no_image(tmp_path: Path) -> None:
    (tmp_path / A).mkdir()
    assert usable(having(), STACK, tmp_path / A)


def test_a_program_builds_of_what_was_taken_out_of_an_image_while_that_is_there(tmp_path: Path) -> None:
    engine, work = having(A), tmp_path / ".cluster" / "dev" / "images"
    here = Target(stack=STACK, work=work, engine=engine)
    planned = Target(stack=STACK, work=work, engine=engine, aside=tmp_path / "aside")
    assert fetch(engine, STACK, work / A)
    assert here.release_context(A) == planned.release_context(A) == work / A
    del engine.images[image(A)]
    assert planned.release_context(A) == tmp_path / "aside" / "dev" / "images" / A, "a plan leaves what is there"
    assert (work / A).is_dir()
    assert here.release_context(A) == work / A
    assert not (work / A).exists(), "it would be taken for one that can be built"


def test_a_release_that_the_engine_has_not_leaves_nothing(tmp_path: Path) -> None:
    assert not fetch(having(B), STACK, tmp_path / A)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("gone", ["tree", "config.json"])
def test_an_image_that_is_none_of_a_release_s_is_refused_and_leaves_no_container(gone: str, tmp_path: Path) -> None:
    engine = having(A)
    engine.images[image(A)] = {path: text for path, text in IMAGE.items() if not re.match(gone, path)}
    with pytest.raises(EngineError):
        fetch(engine, STACK, tmp_path / A)
    assert engine.made == []
    assert not (tmp_path / A).exists()


def test_a_release_of_before_tells_no_parts(tmp_path: Path) -> None:
    engine = having(A)
    del engine.images[image(A)][PARTS_FILE]
    assert fetch(engine, STACK, tmp_path / A)
    assert parts_of(tmp_path / A) == {}


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"tree/project/app.py": "3\n"}, ("code",)),
        ({"runtime/cluster_runtime/x.py": "3\n"}, ("runtime",)),
        ({PARTS_FILE: json.dumps({"requirements": "x", "python": "p", "platform": "o"})}, ("requirements",)),
        (
            {PARTS_FILE: json.dumps({"requirements": "r", "python": "p", "platform": "o", "packages": "n"})},
            ("packages",),
        ),
        ({PARTS_FILE: json.dumps({"requirements": "r", "python": "p", "platform": "x"})}, ("platform",)),
        ({PARTS_FILE: json.dumps({"requirements": "r", "python": "x", "platform": "o"})}, ("platform",)),
        ({}, ("platform",)),
    ],
    ids=["code", "runtime", "requirements", "local packages", "base", "Python", "what nothing tells"],
)
def test_what_changes_since_a_release_of_another_checkout_is_told(
    change: dict[str, str], parts: tuple[str, ...], tmp_path: Path
) -> None:
    engine = having(A, B)
    engine.images[image(B)] |= {"config.json": IMAGE["config.json"].replace(A, B), **change}
    assert fetch(engine, STACK, tmp_path / A)
    assert fetch(engine, STACK, tmp_path / B)
    (tmp_path / B / FETCHED).unlink()  # it was built here
    app = App(project="./example", settings="example.settings")
    old, new = (side_of(tmp_path / release, app, {}) for release in (A, B))
    assert changed_parts(tmp_path / A, tmp_path / B, old, new) == parts
