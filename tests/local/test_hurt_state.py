"""Files and directories below .cluster are hurt in every way: each is named, `up` mends it, and nothing runs twice."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

import pytest

from cluster.local.orphans import Kind, stack_processes
from tests.local.stand import Stand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def stand_in(path: Path, make: Callable[[Path], object]) -> None:
    remove(path)
    make(path)


HOW: dict[str, Callable[[Path], object]] = {
    "removed": remove,
    "emptied": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"\x00\xff\xfe{{{"),
    "wrong type": lambda path: path.write_text("[5]"),
    "a directory": lambda path: stand_in(path, lambda place: place.mkdir()),
    "a file": lambda path: stand_in(path, lambda place: place.write_text("x")),
}

#: Paths below the stack's directory that are hurt together; RELEASE stands for the serving one.
FILES = (
    *("history.json", "lock", "run/app1/RELEASE.json", "run/app1/given", "run/supervisord.pid", "run/nginx.pid"),
    *("releases/RELEASE/config.json", "releases/RELEASE/parts.json", "releases/RELEASE/project.json"),
    *("releases/RELEASE/complete", "releases/RELEASE/migrated", "releases/RELEASE/files.json"),
    *("supervisor/supervisord.conf", "supervisor/programs/app1-RELEASE.conf", "supervisor/programs/nginx.conf"),
    *("nginx/current/nginx.conf", "nginx/current/stack.json"),
)
LINKS = ("run/nginx.sock", "run/app1/http.sock", "nginx/current", "static/current", "releases/RELEASE/environment")
DIRECTORIES = ("static", "temp", "logs", "nginx", "supervisor", "releases/RELEASE/tree", "releases/RELEASE/runtime")

CASES = [
    *((FILES, how) for how in ("removed", "emptied", "garbage", "wrong type", "a directory")),
    *((LINKS, how) for how in ("removed", "a file", "a directory")),
    *((DIRECTORIES, how) for how in ("removed", "a file")),
    *((("run/supervisor.sock",), how) for how in ("removed", "a file", "a directory")),
    *(((name,), "removed") for name in ("run", "run/app1", "releases", "environments", "secrets")),
]


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with contextlib.closing(Stand()) as stand:
        stand.edit_stack(lambda stack: stack["upstream"].update(servers=stack["upstream"]["servers"][:2]))
        result = stand.up()
        assert result.status == 0, result.output
        yield stand


def hurt(stand: Stand, paths: tuple[str, ...], how: str) -> None:
    release = (stand.places.static / "current").readlink().parent.name
    for path in paths:
        HOW[how](stand.places.state / path.replace("RELEASE", release))


def no_traceback(stand: Stand, command: str) -> str:
    output = stand.run(command, stand.name).output
    assert "Traceback" not in output, output
    return output


def assert_one_of_each(stand: Stand) -> None:
    kinds = [process.kind for process in stack_processes(stand.places)]
    counts = {kind: kinds.count(kind) for kind in (Kind.SUPERVISOR, Kind.NGINX, Kind.WATCH, Kind.INSTANCE)}
    assert counts == {Kind.SUPERVISOR: 1, Kind.NGINX: 1, Kind.WATCH: 1, Kind.INSTANCE: 2}


@pytest.mark.parametrize(("paths", "how"), CASES, ids=lambda value: value if isinstance(value, str) else value[0])
def test_what_was_hurt_is_mended_while_the_stack_is_up(stand: Stand, paths: tuple[str, ...], how: str) -> None:
    hurt(stand, paths, how)
    no_traceback(stand, "status")
    result = stand.up()
    assert (result.status, "Traceback" in result.output) == (0, False), result.output
    stand.wait_healthy()
    assert_one_of_each(stand)


def test_what_was_hurt_while_the_stack_is_down_is_mended_by_up(stand: Stand) -> None:
    assert stand.down().status == 0
    hurt(stand, FILES[6:], "emptied")
    no_traceback(stand, "status")
    no_traceback(stand, "down")
    result = stand.up()
    assert result.status == 0, result.output
    stand.wait_healthy()
    assert_one_of_each(stand)


def test_a_removed_state_is_not_begun_anew_beside_what_runs(stand: Stand) -> None:
    aside = stand.places.state.with_name("aside")
    stand.places.state.rename(aside)
    try:
        result = stand.up()
        assert result.status == 1, result.output
        assert "was removed or moved away" in result.output
        assert "cluster down" in result.output
        assert len(result.output.splitlines()) == 1
        supervisors = [one for one in stack_processes(stand.places) if one.kind is Kind.SUPERVISOR]
        assert len(supervisors) == 1
    finally:
        if stand.places.state.exists():
            remove(stand.places.state)
        aside.rename(stand.places.state)
    stand.wait_healthy()


def test_another_key_is_refused_and_a_removed_one_is_put_back(stand: Stand) -> None:
    key = stand.places.secrets / "secret_key"
    before = key.read_text()
    key.write_text("z" * 50)
    result = stand.up()
    assert result.status == 1, result.output
    assert "everybody would be logged out" in result.output
    key.unlink()
    result = stand.up()
    assert (result.status, key.read_text()) == (0, before), result.output
