"""Files that this tool keeps: hurt ones are told from missing ones, and none makes a command fail with a traceback."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import PurePath
from typing import TYPE_CHECKING

import pytest

from cli.failures import explain
from cluster.kept import HurtFile, hurt, make_way, point_at, remove_tree, vouch, write_durably
from cluster.machine.owner import Owner
from cluster.source import Entry, write_tree
from cluster.stack.history import History, locked
from cluster.stack.rotation import LostKey, ProgressFile, Rotation
from cluster.stack.secrets import read_secrets, restore_secrets
from cluster_runtime.instance_link import InstanceLink
from platforms.local.builder import Builder, copy_file
from platforms.local.mending import put_back
from platforms.local.migrations import applied_in, holds_tables, were_lost
from platforms.local.orphans import Kind, end_processes, stack_processes
from platforms.local.paths import LocalPaths
from platforms.local.release import Release
from platforms.local.state import mark_served

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def nothing(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def directory(path: Path) -> None:
    nothing(path)
    path.mkdir()


def link(path: Path, target: str) -> None:
    nothing(path)
    path.symlink_to(target)


#: What may have become of a file, with what stands there instead.
HURTS: dict[str, Callable[[Path], object]] = {
    "emptied": lambda path: path.write_bytes(b""),
    "blank": lambda path: path.write_text("\n"),
    "garbage": lambda path: path.write_bytes(b"\x00\xff\xfe{{{"),
    "half": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "a number": lambda path: path.write_text("5"),
    "a list": lambda path: path.write_text("[5]"),
    "null": lambda path: path.write_text("null"),
    "another object": lambda path: path.write_text('{"pid": "x", "releases": 7, "step": 1, "current": "../../etc"}'),
    "deep": lambda path: path.write_text("[" * 100_000),
    "a directory": directory,
    "a link to nowhere": lambda path: link(path, "/nonexistent/x/y"),
    "a link to itself": lambda path: link(path, path.name),
}

A, B, C = "a" * 12, "b" * 12, "c" * 12


@pytest.fixture
def paths(tmp_path: Path) -> LocalPaths:
    (tmp_path / "stacks").mkdir()
    found = LocalPaths(tmp_path, "t")
    for release in (A, B):
        (found.releases / release).mkdir(parents=True)
        mark_served(found, release)
        os.utime(found.releases / release / "served", (1, 1 if release == A else 2))
    (found.releases / C).mkdir()  # never served
    found.run.mkdir(parents=True)
    return found


def test_what_was_saved_is_loaded(paths: LocalPaths) -> None:
    History(releases=[A, B], current=A).save(paths)
    assert History.load(paths) == History(releases=[A, B], current=A)


@pytest.mark.parametrize("how", [*HURTS, "removed"])
def test_a_hurt_history_is_made_again_from_the_releases_and_the_names(paths: LocalPaths, how: str) -> None:
    History(releases=[A, B], current=A).save(paths)
    name = InstanceLink(paths.run, "app1")
    name.directory.mkdir()
    name.take(A)
    HURTS.get(how, nothing)(paths.history)
    found = History.load(paths)
    assert (found.releases, found.current, bool(found.found)) == ([A, B], A, True)
    found.save(paths)
    assert History.load(paths) == History(releases=[A, B], current=A)


def test_without_names_the_release_that_served_last_is_the_current_one(paths: LocalPaths) -> None:
    assert History.load(paths).current == B


def test_a_stack_that_never_served_has_an_empty_history_and_nothing_to_say(tmp_path: Path) -> None:
    assert History.load(LocalPaths(tmp_path, "t")) == History()


@pytest.mark.parametrize("how", HURTS)
def test_a_hurt_rotation_is_named(tmp_path: Path, how: str) -> None:
    path = tmp_path / "rotation.json"
    path.write_text('{"step": "sign", "new": "x", "since": null}')
    assert ProgressFile(path).load() == Rotation(step="sign", new="x")
    HURTS[how](path)
    with pytest.raises(LostKey, match="rotation"):
        ProgressFile(path).load()


@pytest.mark.parametrize("how", HURTS)
def test_a_hurt_word_of_a_process_is_none_and_is_written_again(tmp_path: Path, how: str) -> None:
    name = InstanceLink(tmp_path, "app1")
    name.directory.mkdir()
    name.write_status(A, {"pid": 7, "state": "serving"})
    HURTS[how](name.status_file(A))
    assert name.status(A) is None
    name.write_status(A, {"pid": 7, "state": "serving"})
    assert name.status(A) == {"pid": 7, "state": "serving"}


@pytest.mark.parametrize("what", ["http.sock", "given", "name.lock", f"{A}.lock", "http.sock.new", "given.new"])
@pytest.mark.parametrize("how", ["emptied", "garbage", "a directory"])
def test_a_name_is_taken_whatever_became_of_its_files(tmp_path: Path, what: str, how: str) -> None:
    name = InstanceLink(tmp_path, "app1")
    name.directory.mkdir()
    name.take(B)
    (name.directory / what).touch()
    if (name.directory / what).is_symlink():
        (name.directory / what).unlink()
        (name.directory / what).touch()
    HURTS[how](name.directory / what)
    name.holder()
    lock = name.open_lock(A)
    assert lock is not None
    os.close(lock)
    name.take(A)
    assert (name.holder(), name.given()) == (A, A)


@pytest.mark.parametrize("how", ["emptied", "garbage", "a directory"])
def test_a_hurt_lock_locks_again(paths: LocalPaths, how: str) -> None:
    with locked(paths, "up"):
        pass
    HURTS[how](paths.lock)
    with locked(paths, "up"):
        assert paths.lock.is_file()


# --- what a mark vouches for


def release_of(tmp_path: Path) -> Release:
    found = tmp_path / "release"
    for name, text in {
        "project/a.py": "x = 1\n",
        "project/data.txt": "1",
        "public/a.css": "b{}",
        "config.json": "{}",
    }.items():
        (found / name).parent.mkdir(parents=True, exist_ok=True)
        (found / name).write_text(text)
    vouch(found, "complete", "project", "public", "config.json")
    return Release(digest=A, directory=found)


@pytest.mark.parametrize("name", ["project/a.py", "project/data.txt", "public/a.css", "config.json"])
@pytest.mark.parametrize("how", ["emptied", "a directory", "a link to nowhere", "removed"])
def test_a_mark_tells_what_is_hurt(tmp_path: Path, name: str, how: str) -> None:
    release = release_of(tmp_path)
    assert hurt(release.directory, "complete") == []
    HURTS.get(how, nothing)(release.directory / name)
    assert hurt(release.directory, "complete") == [name]


def test_what_a_project_writes_where_it_is_is_not_hurt(tmp_path: Path) -> None:
    release = release_of(tmp_path)
    (release.directory / "project" / "data.txt").write_text("12345")
    (release.directory / "project" / "new.txt").write_text("12345")
    assert hurt(release.directory, "complete") == []
    (release.directory / "project" / "a.py").write_text("x = 11111\n")
    assert hurt(release.directory, "complete") == ["project/a.py"]


@pytest.mark.parametrize("how", [name for name in HURTS if name != "another object"])
def test_a_hurt_mark_vouches_for_nothing(tmp_path: Path, how: str) -> None:
    release = release_of(tmp_path)
    HURTS[how](release.directory / "complete")
    assert hurt(release.directory, "complete") in (["complete"], None)


@pytest.mark.parametrize("how", HURTS)
@pytest.mark.parametrize("name", ["config.json", "parts.json", "project.json", "complete"])
def test_a_hurt_release_is_not_found_and_no_traceback(paths: LocalPaths, name: str, how: str) -> None:
    release = paths.releases / A
    for file in ("config.json", "parts.json", "project.json"):
        (release / file).write_text("{}")
    vouch(release, "complete", "config.json", "parts.json", "project.json")
    HURTS[how](release / name)
    builder = Builder(paths, owner(), print)
    assert builder.find(A) is None
    assert builder.hurt(A)


def test_mending_puts_back_what_is_hurt_and_leaves_alone_what_was_written_since(tmp_path: Path) -> None:
    source, target, outside = tmp_path / "source", tmp_path / "target", tmp_path / "outside"
    names = ("a.py", "notes.txt", "deep/b.txt", "gone.txt", "linked/c.txt")
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(f"the text of {name}")
    entries = [Entry(name, source / name) for name in names]
    entries += [Entry("link", None, link="a.py"), Entry("empty", None)]
    write_tree(entries, target, copy_file)
    (target / "a.py").write_text("")
    (target / "notes.txt").write_text("written since")
    (target / "deep" / "b.txt").unlink()
    (target / "deep").rmdir()
    (target / "deep").write_text("a file")
    (target / "gone.txt").unlink()
    (target / "link").unlink()
    (target / "uploaded.jpg").write_text("of a user")
    shutil.rmtree(target / "linked")
    outside.mkdir()
    (target / "linked").symlink_to(outside)
    (target / "empty").rmdir()
    for entry in entries:
        put_back(entry, PurePath(entry.target), target, owner())
    assert (target / "empty").is_dir()
    assert (target / "a.py").read_text() == "the text of a.py"
    assert (target / "notes.txt").read_text() == "written since"
    assert (target / "deep" / "b.txt").read_text() == "the text of deep/b.txt"
    assert (target / "gone.txt").read_text() == "the text of gone.txt"
    assert str((target / "link").readlink()) == "a.py"
    assert (target / "uploaded.jpg").read_text() == "of a user"
    assert list(outside.iterdir()) == [], "a link led out of the release"
    assert (target / "linked" / "c.txt").read_text() == "the text of linked/c.txt"


def owner() -> Owner:
    return Owner(uid=os.geteuid(), gid=os.getegid(), name="x")


def test_what_stands_in_the_way_is_moved_aside_and_never_deleted(tmp_path: Path) -> None:
    path = tmp_path / "history.json"
    path.mkdir()
    (path / "inside").write_text("x")
    write_durably(path, "{}")
    assert path.read_text() == "{}"
    (aside,) = tmp_path.glob(".history.json.hurt-*")
    assert (aside / "inside").read_text() == "x"
    assert make_way(tmp_path / "none", 0) is None


def test_a_link_is_pointed_whatever_stands_there(tmp_path: Path) -> None:
    current = tmp_path / "current"
    for before in ("none", "a directory", "a file", "another"):
        if before == "a directory":
            current.unlink()
            current.mkdir()
        elif before == "a file":
            current.unlink()
            current.write_text("x")
        point_at(current, "there")
        assert str(current.readlink()) == "there"


def test_failures_of_files_are_a_line(tmp_path: Path) -> None:
    words = explain(HurtFile(tmp_path / "x", "is empty"))
    assert words == f"{tmp_path / 'x'}: is empty"
    error = NotADirectoryError(20, "Not a directory", f"{tmp_path}/.cluster/t/run")
    assert "move it away" in str(explain(error))


# --- processes


def test_processes_are_found_by_where_they_stand_though_the_checkout_was_moved(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    (before / "stacks").mkdir(parents=True)
    state = LocalPaths(before, "t").state
    state.mkdir(parents=True)
    argv = [sys.executable, "-c", "import time; time.sleep(60)", "-m", "supervisor.supervisord", "-c", f"{state}/x"]
    process = subprocess.Popen(argv, cwd=state)
    shell = subprocess.Popen(["sleep", "60"], cwd=state)
    try:
        wait_for(lambda: [one.pid for one in stack_processes(LocalPaths(before, "t"))] == [process.pid])
        before.rename(after)
        (found,) = stack_processes(LocalPaths(after, "t"))
        assert (found.pid, found.kind, found.stopped) == (process.pid, Kind.SUPERVISOR, False)
        # A new checkout at the old path is not the one that runs.
        (before / "stacks").mkdir(parents=True)
        assert stack_processes(LocalPaths(before, "t")) == []
        shutil.rmtree(after / ".cluster")
        (found,) = stack_processes(LocalPaths(after, "t"))
        assert found.pid == process.pid
        process.send_signal(19)
        wait_for(lambda: stack_processes(LocalPaths(after, "t"))[0].stopped)
        end_processes([process.pid])
        assert process.wait(10) != 0
        assert shell.poll() is None, "a shell that stands there is nobody's"
    finally:
        for one in (process, shell):
            one.kill()
            one.wait()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# --- secrets


def test_secrets_that_are_gone_with_the_key_are_put_back_and_nothing_else_is(tmp_path: Path) -> None:
    former = {"secret_key": "k" * 50, "database_url": "postgres://x", "secret_environment": "{}"}
    directory = tmp_path / "secrets"
    assert restore_secrets(directory, {}) == []
    assert not directory.exists(), "a stack that never served makes its own key"
    assert restore_secrets(directory, former) == ["secret_key", "database_url", "secret_environment"]
    assert read_secrets(directory) == former
    (directory / "database_url").unlink()
    assert restore_secrets(directory, former) == [], "whoever removes one alone wants it removed"
    (directory / "secret_key").write_text("")
    (directory / "secret_environment").write_text('{"A": "1"}')
    assert restore_secrets(directory, former) == ["secret_key", "database_url"]
    assert read_secrets(directory)["secret_environment"] == '{"A": "1"}'
    shutil.rmtree(directory)
    directory.write_text("a file")
    assert restore_secrets(directory, former) == list(former)


def test_what_a_killed_up_left_among_the_secrets_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / ".secret_key.new").write_text("half")
    assert read_secrets(tmp_path) == {}


# --- databases


def database(path: Path, *migrations: str) -> Path:
    path.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE django_migrations (id INTEGER PRIMARY KEY, app TEXT, name TEXT)")
        rows = [tuple(migration.split(".")) for migration in migrations]
        connection.executemany("INSERT INTO django_migrations (app, name) VALUES (?, ?)", rows)
        connection.commit()
    return path


def test_a_database_that_was_put_back_older_is_migrated_again(tmp_path: Path) -> None:
    mark = tmp_path / "migrated"
    path = database(tmp_path / "db.sqlite3", "a.0001", "a.0002")
    write_durably(mark, json.dumps(applied_in(path, owner())))
    assert not were_lost(mark, path, owner())
    database(path, "a.0001", "a.0002", "b.0001")
    assert not were_lost(mark, path, owner()), "a newer one lacks nothing"
    database(path, "a.0001")
    assert were_lost(mark, path, owner())
    path.unlink()
    sqlite3.connect(path).close()
    path.touch()
    assert were_lost(mark, path, owner()), "an empty one has none"


def test_a_database_that_somebody_made_anew_by_connecting_holds_nothing(tmp_path: Path) -> None:
    path = database(tmp_path / "db.sqlite3", "a.0001")
    assert holds_tables(path, owner())
    path.unlink()
    assert not holds_tables(path, owner())
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        assert path.stat().st_size, "it is a file of some kilobytes"
        assert not holds_tables(path, owner())
    path.write_bytes(b"garbage")
    assert holds_tables(path, owner()), "what can't be read is another matter"


@pytest.mark.parametrize("how", ["emptied", "garbage", "a list", "a directory"])
def test_a_hurt_mark_of_migrations_or_a_hurt_database_is_no_traceback(tmp_path: Path, how: str) -> None:
    mark = tmp_path / "migrated"
    path = database(tmp_path / "db.sqlite3", "a.0001")
    write_durably(mark, json.dumps(["a.0001"]))
    HURTS[how](mark)
    assert not were_lost(mark, path, owner())
    nothing(mark)
    write_durably(mark, json.dumps(["a.0001"]))
    HURTS[how](path)
    were_lost(mark, path, owner())


WRITE = """
import os, sys, time
end = time.monotonic() + 1
print("writes", flush=True)
while time.monotonic() < end:
    try:
        os.makedirs(sys.argv[1], exist_ok=True)
        open(os.path.join(sys.argv[1], str(time.monotonic_ns())), "w").close()
    except OSError:
        pass
"""


def test_a_directory_that_somebody_still_writes_into_for_a_moment_is_removed(tmp_path: Path) -> None:
    """As what installs packages does, when `up` was killed with it."""
    tree = tmp_path / "tree"
    words = [sys.executable, "-c", WRITE, str(tree / "a" / "b")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        for _turn in range(20):
            remove_tree(tree)
        writer.wait()
    remove_tree(tree)
    assert not tree.exists()
