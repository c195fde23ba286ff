"""Releases as the engine keeps them, whichever checkout has made them: by the images, and the tags that they have.

A release that has served has a tag that numbers it. What it was built of is in the image, but for what packages were
installed from: that may hold passwords of indexes.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from itertools import takewhile
from typing import TYPE_CHECKING

from cluster.source import TREE
from cluster.stack.history import History
from cluster_runtime.paths import LEFT_OUT
from platforms.docker.engine import EngineError, image_repository
from platforms.docker.stack import paths

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from platforms.docker.engine import Engine
    from platforms.docker.stack import DockerStack

#: The tag of a release that has served: which one it was in turn, and its digest.
SERVED = re.compile(r"(?P<turn>[0-9]{6,})-(?P<release>[0-9a-z]{1,64})")

#: In a build context: digests of those parts of the release that are not in its image as files.
PARTS_FILE = "parts.json"

#: In the place of a build context: what was taken from an image. It says to build on that, and nothing else.
FETCHED = "fetched"

#: Where an image has what it was built of.
IN_IMAGE = (TREE, "runtime", "sources", "config.json", PARTS_FILE, LEFT_OUT)

#: Seconds that copying a release out of its image may take.
COPY_SECONDS = 120.0


def image_name(stack: str, release: str) -> str:
    """Return what the image of a release is called. stack: the label of all its containers."""
    return f"{image_repository(stack, 'app')}:{release}"


def served(engine: Engine, stack: str) -> dict[str, str]:
    """Return the releases that have served and whose images the engine has, the latest last, with their tags."""
    return _in_turn(engine.tags(image_repository(stack, "served")))


def _in_turn(tags: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for tag in sorted(tags):
        told = SERVED.fullmatch(tag)
        if told is not None:
            found.pop(told["release"], None)
            found[told["release"]] = tag
    return found


def history_of(docker: DockerStack) -> History:
    """Return which releases have served, by what this checkout knows and what the engine has of others'.

    An engine that is away has nothing to add.
    """
    found = History.load(paths(docker.stack))
    with contextlib.suppress(EngineError):
        found.join(list(served(docker.engine, docker.label)))
    return found


def note_served(engine: Engine, stack: str, releases: Sequence[str]) -> None:
    """Let the engine know which releases have served, the latest last, and no others; it must have their images."""
    repository = image_repository(stack, "served")
    before = engine.tags(repository)
    known = _in_turn(before)
    there = engine.tags(image_repository(stack, "app"))
    wanted = [release for release in releases if release in there]
    if list(known) != wanted:
        turn = max((int(tag.partition("-")[0]) for tag in known.values()), default=0)
        for number, release in enumerate(_later(known, wanted), turn + 1):
            known[release] = f"{number:06}-{release}"
            engine.run("tag", image_name(stack, release), f"{repository}:{known[release]}")
    kept = {known[release] for release in wanted}
    for tag in before:
        if tag not in kept:
            with contextlib.suppress(EngineError):  # a container of it is still ending: the next one takes it away
                engine.run("rmi", f"{repository}:{tag}")


def _later(known: Iterable[str], wanted: Sequence[str]) -> Sequence[str]:
    """Return those of `wanted` that need a later tag: the ones before them are in turn, and keep theirs."""
    rest = iter(known)
    in_turn = [*takewhile(lambda release: release in rest, wanted)]  # each is looked for behind the one before it
    return wanted[len(in_turn) :]


def usable(engine: Engine, stack: str, context: Path) -> bool:
    """Tell whether a release can be built of a context: one that was fetched needs the image that it was taken from."""
    if not (context / FETCHED).exists():
        return context.is_dir()
    return engine.image(image_name(stack, context.name)) is not None


def fetch(engine: Engine, stack: str, context: Path) -> bool:
    """Take a release from its image to where its build context would be; tell whether the engine has it.

    EngineError where it is away, OSError where it can't be put there.
    """
    image = image_name(stack, context.name)
    if engine.image(image) is None:
        return False
    new = context.with_name(f".{context.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    container = engine.run("create", image).strip()
    try:
        for place in IN_IMAGE:
            try:
                engine.run("cp", f"{container}:/srv/{place}", str(new), timeout=COPY_SECONDS)
            except EngineError:
                if place != PARTS_FILE:  # releases of before have none
                    raise
    finally:
        engine.run("rm", "--force", container)
    for compiled in [path for path in new.rglob("__pycache__") if path.is_dir() and not path.is_symlink()]:
        shutil.rmtree(compiled)
    (new / "Dockerfile").write_text(f"FROM {image}\n", encoding="utf-8")
    (new / FETCHED).write_text("", encoding="utf-8")
    shutil.rmtree(context, ignore_errors=True)
    new.rename(context)
    return True


def parts_of(context: Path) -> dict[str, str]:
    """Return digests of parts of a release, by their names; none where they were not kept with it."""
    try:
        found: dict[str, str] = json.loads((context / PARTS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found


__all__ = [
    "FETCHED",
    "PARTS_FILE",
    "fetch",
    "history_of",
    "image_name",
    "note_served",
    "parts_of",
    "served",
    "usable",
]
