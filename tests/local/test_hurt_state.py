"""Files and directories below .cluster are hurt in every way: status says so, one `up` mends it, nothing runs twice."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from cluster.stack.history import History
from cluster_runtime.instance_link import InstanceLink
from platforms.local.orphans import Kind, stack_processes
from tests.conformance import wait_until
from tests.jobs import LOOK
from tests.local.stand import Stand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        while path.exists():
            with contextlib.suppress(OSError):  # an instance has just written into it
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
CODE = ("releases/RELEASE/tree", "releases/RELEASE/runtime")

#: Looked at as well after each `up`: what lies in the directories that are hurt.
INSIDE = (
    *("temp", "logs/error.log", "secrets/secret_key", "releases/RELEASE/tree/above/example/manage.py"),
    *("releases/RELEASE/runtime/cluster_runtime/instance.py", "environments", "run/supervisor.sock"),
    *("run/app1/RELEASE.sock", "run/app2/http.sock", "supervisor/programs/app2-RELEASE.conf"),
)

#: What `up` writes anew by what it finds: only that each is what it should be is looked at, below.
ANEW = ("lock", "history.json", ".json", ".pid", "complete", "migrated", "error.log", "given")


@dataclass(frozen=True)
class Round:
    """What is hurt before one `up`, in this order, and words by which `status` names it."""

    hurt: tuple[tuple[tuple[str, ...], str], ...]
    named: tuple[str, ...]


SILENT = "nginx: runs, and does not answer"
LOST = "Supervisor could not start "
UNKEPT = "its socket is gone: nothing that ends is started again"
IN_PLACE = "would load something else another time"

#: nginx runs on throughout. Where Supervisor is reachable, `up` starts none anew but nginx and app1, if they need it.
ROUNDS = {
    "files and links removed": Round(
        ((FILES, "removed"), (LINKS, "removed"), (CODE, "removed")),
        ("history.json: is gone", "RELEASE was hurt: complete", SILENT, LOST, "app1 would not take its name again"),
    ),
    "files emptied, links files": Round(
        ((FILES, "emptied"), (LINKS, "a file"), (CODE, "a file")),
        ("history.json: is empty", "RELEASE was hurt: complete", SILENT, LOST),
    ),
    "garbage in files, directories removed": Round(
        ((FILES, "garbage"), (("static", "temp", "logs"), "removed")),
        ("history.json: is not text", "RELEASE was hurt: complete", LOST, IN_PLACE),
    ),
    "files of a wrong type, directories files": Round(
        ((FILES, "wrong type"), (("static", "temp", "logs"), "a file")),
        ("history.json: holds something else", "RELEASE was hurt: complete", LOST, IN_PLACE),
    ),
    "files and links directories": Round(
        ((FILES, "a directory"), (LINKS, "a directory")),
        ("history.json: can't be read", "RELEASE was hurt: complete", SILENT, LOST),
    ),
    "directories of an instance, Supervisor and releases removed": Round(
        ((("run/app1", "supervisor", "releases"), "removed"),), ("release RELEASE is not in ", LOST)
    ),
    "run, secrets and nginx removed": Round(((("run", "secrets", "nginx"), "removed"),), (UNKEPT, SILENT)),
    "Supervisor's socket and nginx files, environments removed": Round(
        ((("run/supervisor.sock", "nginx"), "a file"), (("environments",), "removed")),
        (UNKEPT, IN_PLACE, "RELEASE was hurt: environment"),
    ),
}


#: The others hurt the same paths; tests/unit/test_kept.py has each way for each kind of file.
ALIKE = ("files emptied, links files", "files of a wrong type, directories files", "files and links directories")


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with contextlib.closing(Stand()) as stand:
        result = stand.up()
        assert result.status == 0, result.output
        yield stand


def serving(stand: Stand) -> str:
    return (stand.paths.static / "current").readlink().parent.name


def path_of(stand: Stand, path: str, release: str) -> Path:
    return stand.paths.state / path.replace("RELEASE", release)


def hurt(stand: Stand, paths: tuple[str, ...], how: str, release: str) -> None:
    for path in paths:
        HOW[how](path_of(stand, path, release))


@dataclass(frozen=True)
class Looked:
    """What a path is, where a link leads, and what a file holds that is the same whenever it is written."""

    kind: int
    target: str = ""
    content: bytes = b""


def look(path: Path) -> Looked | None:
    try:
        kind = stat.S_IFMT(path.lstat().st_mode)
    except OSError:
        return None
    if kind == stat.S_IFLNK:
        return Looked(kind, target=str(path.readlink()))
    same = kind == stat.S_IFREG and not path.name.endswith(ANEW)
    return Looked(kind, content=path.read_bytes() if same or path.parent.name == "current" else b"")


def look_at_all(stand: Stand, release: str) -> dict[str, Looked | None]:
    return {path: look(path_of(stand, path, release)) for path in (*FILES, *LINKS, *CODE, *INSIDE)}


def assert_written_anew(stand: Stand, release: str) -> None:
    """What is not the same each time is what it should be."""
    paths, directory = stand.paths, stand.paths.releases / release
    history = History.load(paths)
    assert (history.found, history.releases, history.current) == ("", [release], release)
    assert paths.lock.read_text().startswith("`cluster up")
    name = InstanceLink(paths.run, "app1")
    assert (name.given(), name.holder()) == (release, release)
    # It sees a moment later that it was given the name.
    wait_until(lambda: (name.status(release) or {}).get("state") == "serving", "app1 says that it serves")
    for path, kind in ((paths.supervisor_pid, Kind.SUPERVISOR), (paths.nginx_pid, Kind.NGINX)):
        assert int(path.read_text()) == one_of(stand, kind)
    for file in ("config.json", "parts.json", "project.json", "complete"):
        assert json.loads((directory / file).read_text()), file
    migrated = json.loads((directory / "migrated").read_text())
    assert "sessions.0001_initial" in migrated
    # What a release was made of can't be told again: then it is empty, and all that the project may have is kept.
    assert isinstance(json.loads((directory / "files.json").read_text()), dict)


def no_traceback(stand: Stand, command: str) -> str:
    output = stand.run(command, stand.name).output
    assert "Traceback" not in output, output
    return output


def one_of(stand: Stand, kind: Kind) -> int:
    (process,) = (process for process in stack_processes(stand.paths) if process.kind is kind)
    return process.pid


def assert_one_of_each(stand: Stand) -> None:
    kinds = [process.kind for process in stack_processes(stand.paths)]
    counts = {kind: kinds.count(kind) for kind in (Kind.SUPERVISOR, Kind.NGINX, Kind.WATCH, Kind.INSTANCE)}
    assert counts == {Kind.SUPERVISOR: 1, Kind.NGINX: 1, Kind.WATCH: 1, Kind.INSTANCE: 2}


def never_hurt(stand: Stand) -> set[int]:
    """The processes of which nothing is hurt that they need."""
    there = stack_processes(stand.paths)
    kinds = (Kind.SUPERVISOR, Kind.WATCH, Kind.DAEMON)
    return {process.pid for process in there if process.kind in kinds or process.argument("--instance") == "app2"}


def told_of(stand: Stand, named: list[str]) -> str:
    """Return what `status` says as soon as it names all of it.

    Until an instance has taken its name again that was removed, nothing tells that it lacks more.
    """
    deadline = time.monotonic() + 30
    while True:
        told = stand.run("status", stand.name)
        assert (told.status, "Traceback" in told.output) == (1, False), told.output
        if all(words in told.output for words in named) or time.monotonic() > deadline:
            return told.output
        time.sleep(LOOK)


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=pytest.mark.wide if what in ALIKE else ()) for what in ROUNDS]
)
def test_what_was_hurt_is_mended_while_the_stack_is_up(stand: Stand, what: str) -> None:
    release = serving(stand)
    before = look_at_all(stand, release)
    unhurt = never_hurt(stand)
    for paths, how in ROUNDS[what].hurt:
        hurt(stand, paths, how, release)
    named = [words.replace("RELEASE", release) for words in ROUNDS[what].named]
    told = told_of(stand, named)
    assert "nginx: not running" not in told, told
    for words in named:
        assert words in told, told
    result = stand.up()
    assert (result.status, "Traceback" in result.output) == (0, False), result.output
    assert "no changes" not in result.output
    assert stand.status()["ok"], "what `up` has mended is not told as well"
    assert look_at_all(stand, release) == before
    assert_written_anew(stand, release)
    stand.wait_healthy()
    assert_one_of_each(stand)
    assert UNKEPT in ROUNDS[what].named or never_hurt(stand) == unhurt


def test_what_was_mended_needs_nothing_more(stand: Stand) -> None:
    result = stand.up()
    assert (result.status, len(result.output.splitlines())) == (0, 1), result.output
    assert "no changes" in result.output


def test_a_release_that_is_refused_leaves_what_serves_with_all_its_files(stand: Stand) -> None:
    release = serving(stand)
    before = look_at_all(stand, release)
    hurt(stand, ("supervisor",), "a file", release)
    stand.edit_code("example/wsgi.py", "\nraise ValueError\n")
    try:
        result = stand.up()
        assert (result.status, "Traceback" in result.output.partition("What the project raised")[0]) == (1, False)
        assert look_at_all(stand, release) == {
            **before,
            "supervisor/programs/app1-RELEASE.conf": look(
                path_of(stand, "supervisor/programs/app1-RELEASE.conf", release)
            ),
        }
    finally:
        stand.edit_code("example/wsgi.py", "")
    stand.wait_healthy()
    assert_one_of_each(stand)


def test_what_a_signal_has_stopped_goes_on_at_once(stand: Stand) -> None:
    stopped = [process for process in stack_processes(stand.paths) if process.kind is not Kind.WORKER]
    for process in sorted(stopped, key=lambda process: process.kind is not Kind.WATCH):  # it would let them go on
        os.kill(process.pid, signal.SIGSTOP)
    began = time.monotonic()
    told = stand.run("status", stand.name).output
    assert told.count("is stopped by a signal") == len(stopped), told
    result = stand.up()
    assert result.status == 0, result.output
    assert result.output.count("it goes on") == len(stopped), result.output
    assert time.monotonic() - began < 60
    there = [process for process in stack_processes(stand.paths) if process.kind is not Kind.WORKER]
    assert {process.pid for process in there} == {process.pid for process in stopped}
    stand.wait_healthy()


def test_what_was_hurt_while_the_stack_is_down_is_mended_by_up(stand: Stand) -> None:
    release = serving(stand)
    before = look_at_all(stand, release)
    hurt(stand, ("run/supervisor.sock",), "a directory", release)  # the two other ways are mended by `up`, above
    assert "ending Supervisor" in no_traceback(stand, "down")
    assert stack_processes(stand.paths) == []
    hurt(stand, FILES[6:], "emptied", release)
    no_traceback(stand, "status")
    no_traceback(stand, "down")
    result = stand.up()
    assert result.status == 0, result.output
    assert look_at_all(stand, release) == before
    assert_written_anew(stand, release)
    stand.wait_healthy()
    assert_one_of_each(stand)


def test_a_removed_state_is_not_begun_anew_beside_what_runs(stand: Stand) -> None:
    aside = stand.paths.state.with_name("aside")
    stand.paths.state.rename(aside)
    try:
        told = no_traceback(stand, "status")
        assert ("was removed or moved away" in told, "mends it" in told) == (True, False), told
        result = stand.up()
        assert result.status == 1, result.output
        assert "was removed or moved away" in result.output
        assert "cluster down" in result.output
        assert len(result.output.splitlines()) == 1
        one_of(stand, Kind.SUPERVISOR)
    finally:
        if stand.paths.state.exists():
            remove(stand.paths.state)
        aside.rename(stand.paths.state)
    stand.wait_healthy()


def test_another_key_is_refused_and_a_removed_one_is_put_back(stand: Stand) -> None:
    key = stand.paths.secrets / "secret_key"
    before = key.read_text()
    key.write_text("z" * 50)
    result = stand.up()
    assert result.status == 1, result.output
    assert "everybody would be logged out" in result.output
    key.unlink()
    result = stand.up()
    assert (result.status, key.read_text()) == (0, before), result.output
