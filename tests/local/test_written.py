"""What a project writes outlives its releases, on this machine: uploads, databases, files nobody spoke of, commands."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.clients import NO_TLS
from tests.local.stand import Stand
from tests.local.test_set_back import AGAIN, set_back, unapplied

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.local.stand import Result

HOST = {"Host": "localhost"}

#: Imports something of its environment only at its end.
LONG_COMMAND = """
import os, time
print("began", flush=True)
while not os.path.exists("{stop}"):
    time.sleep(0.1)
import django.contrib.sitemaps.views
print("the end", flush=True)
"""

#: More releases than are kept, so that the first one goes.
RELEASES = 4


@contextlib.contextmanager
def standing(case: str) -> Iterator[Stand]:
    with contextlib.closing(Stand(case=case, instances=1)) as stand:
        yield stand


@pytest.fixture(scope="module")
def shared() -> Iterator[Stand]:
    """A stand of a project whose uploads are kept in one place for all releases; each test brings it up."""
    with standing("media") as stand:
        yield stand


@pytest.fixture(scope="module")
def audited() -> Iterator[Stand]:
    """A stand of a project with a second database of its own; each test brings it up."""
    with standing("second-database") as stand:
        yield stand


def up(stand: Stand) -> Result:
    result = stand.up()
    assert result.status == 0, result.output
    return result


def get(stand: Stand, path: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{stand.port}{path}", headers=HOST, timeout=30, verify=NO_TLS)


def upload(stand: Stand, name: str, content: bytes) -> None:
    url = f"http://127.0.0.1:{stand.port}/"
    assert httpx.post(url, files={"f": (name, content)}, headers=HOST, timeout=30, verify=NO_TLS).status_code == 200


def test_uploads_unspoken_files_and_commands_outlive_the_releases(shared: Stand) -> None:
    stand = shared
    (stand.project / "media" / "docs").mkdir(parents=True)
    (stand.project / "media" / "docs" / "before.txt").write_text("from before the cluster")
    said = up(stand).output
    assert "copying media: from now on it is kept in .cluster/t/shared/media" in said
    upload(stand, "photo.txt", b"hello")
    upload(stand, "page.html", b"<script>alert(1)</script>")
    first = stand.paths.releases / stand.release()
    project = next(first.glob("tree/*/project"))
    (project / "core" / "unspoken.txt").write_text("written by the project")
    (project / "core" / "views.py").touch()
    command = stand.start("manage", "t", "--", "shell", "-c", LONG_COMMAND.format(stop=stand.root / "stop"))
    try:
        assert command.stdout is not None
        assert any("began" in line for line in command.stdout), "the command never began"
        for number in range(RELEASES - 1):
            stand.edit_code("core/views.py", f"\n# release {number}\n")
            output = up(stand).output
            assert first.is_dir(), "the release went from under a command that runs in it"
            assert get(stand, "/").text.split()[1:] == ["before.txt", "page.html", "photo.txt"]
        (stand.root / "stop").touch()
        assert command.wait(60) == 0, command.stdout.read()
        assert "the end" in command.stdout.read(), "what it imported later was gone"
    finally:
        command.kill()
    assert_served_as_files(stand)
    stand.edit_code("core/views.py", "\n# the last release\n")
    output = up(stand).output
    assert f"release {first.name} goes, and its project had written" in output
    assert "core/unspoken.txt" in output
    assert not first.exists()
    kept = stand.paths.kept / first.name
    assert [path.read_text() for path in kept.rglob("unspoken.txt")] == ["written by the project"]
    assert not list(kept.rglob("urls.py")), "what nobody has touched is only a copy"
    names = {path.name for path in (stand.paths.shared / "media" / "docs").iterdir()}
    assert names == {"before.txt", "page.html", "photo.txt"}


def assert_served_as_files(stand: Stand, plant: Callable[[tuple[str, str]], object] | None = None) -> None:
    """Check how uploads are served. plant: makes a link (where it leads, where it lies) as the instances' user."""
    photo = get(stand, "/media/docs/photo.txt")
    assert (photo.status_code, photo.text, photo.headers["X-Content-Type-Options"]) == (200, "hello", "nosniff")
    page = get(stand, "/media/docs/page.html")
    assert page.headers["Content-Disposition"] == "attachment", "a visitor's page would run as the site's own"
    assert "sandbox" in page.headers["Content-Security-Policy"]
    url, headers = f"http://127.0.0.1:{stand.port}/media/docs/photo.txt", {**HOST, "Range": "bytes=1-2"}
    part = httpx.get(url, headers=headers, timeout=30, verify=NO_TLS)
    assert (part.status_code, part.text) == (206, "el")
    assert get(stand, "/media/docs/").status_code in {403, 404}, "nobody lists what others have sent"
    assert get(stand, "/media/none.txt").status_code == 404
    if plant is not None:
        plant(("/etc/hostname", "/srv/shared/media/leak.txt"))
    else:
        leak, uploads = stand.paths.shared / "media" / "leak.txt", (stand.paths.shared / "media").stat()
        leak.symlink_to("/etc/hostname")
        os.chown(leak, uploads.st_uid, uploads.st_gid, follow_symlinks=False)
    assert get(stand, "/media/leak.txt").status_code in {403, 404}, "a link leads out of the uploads"


def test_every_database_is_migrated_and_keeps_its_rows(audited: Stand) -> None:
    stand = audited
    up(stand)
    for count in (1, 2, 3):
        assert get(stand, "/log").text.split()[0] == str(count)
    stand.edit_code("core/views.py", "\n# v2\n")
    up(stand)
    assert get(stand, "/log").text.split()[0] == "4", "the second database began anew with the release"
    assert (stand.paths.data / "databases" / "audit.sqlite3").is_file()
    stand.edit_stack(lambda stack: stack["app"].update(migrate=["default", "other"]))
    stand.edit_code("core/views.py", "\n# v3\n")
    result = stand.up()
    assert result.status == 1
    assert "app.migrate: no database other; those to migrate are: default, audit" in result.output
    stand.edit_stack(lambda stack: stack["app"].pop("migrate"))


def test_what_lies_above_the_project_is_taken_or_named_before_anything_is_changed() -> None:
    with standing("media") as stand:
        settings = (stand.source / "mysite" / "settings.py").read_text()
        settings += '\nSTATICFILES_DIRS = [os.path.join(*[str(BASE_DIR.parent), "frontend", "dist"])]\n'
        settings += 'GREETING = open(BASE_DIR.parent / "greeting.env").read()\n'
        (stand.project / "mysite" / "settings.py").write_text(settings)
        (stand.root / "frontend" / "dist").mkdir(parents=True)
        (stand.root / "frontend" / "dist" / "app.css").write_text("body {}")
        (stand.root / "greeting.env").write_text("hello")
        result = stand.up()
        assert result.status == 1
        assert "app.include: the project looks for ../greeting.env, which is not in the release" in result.output
        stand.edit_stack(lambda stack: stack["app"].update(include=["../greeting.env"]))
        result = stand.up()
        assert result.status == 1
        line = "app.include: STATICFILES_DIRS looks for ../frontend/dist, which is not in the release: "
        assert f"{line}add ../frontend/dist to app.include" in result.output
        assert not stand.supervisor().is_running(), "nothing was to be changed"
        stand.edit_stack(lambda stack: stack["app"]["include"].append("../frontend/dist"))
        up(stand)
        assert get(stand, "/static/app.css").text == "body {}"


def test_uploads_that_would_go_with_the_release_are_refused_with_the_line_to_add() -> None:
    with standing("media") as stand:
        settings = (stand.source / "mysite" / "settings.py").read_text()
        settings = settings.replace('BASE_DIR / "media"', 'os.path.join(*[str(BASE_DIR), "var", "uploads"])')
        (stand.project / "mysite" / "settings.py").write_text(settings)
        result = stand.up()
        assert result.status == 1
        assert "MEDIA_ROOT is var/uploads in the project, and each release replaces that" in result.output
        assert "Add var/uploads to app.shared." in result.output
        stand.edit_stack(lambda stack: stack["app"].update(media={"root": "var/uploads"}))
        up(stand)
        upload(stand, "photo.txt", b"hello")
        stand.edit_code("core/views.py", "\n# v2\n")
        up(stand)
        assert get(stand, "/media/docs/photo.txt").text == "hello"


def test_without_what_is_shared_an_upload_is_lost() -> None:
    """The saboteur: where the project writes into its release, the next one does not have it."""
    with standing("media") as stand:
        stand.edit_stack(lambda stack: stack["app"].update(media=False))
        up(stand)
        upload(stand, "photo.txt", b"hello")
        stand.edit_code("core/views.py", "\n# v2\n")
        up(stand)
        assert "photo.txt" not in get(stand, "/").text
        # Once it is said, what the serving release has of it is what it begins with.
        upload(stand, "late.txt", b"hello")
        stand.edit_stack(lambda stack: stack["app"].update(media={"root": "media"}))
        up(stand)
        assert get(stand, "/media/docs/late.txt").text == "hello"


def lost_while_shared(stand: Stand) -> tuple[int, int]:
    """Let the directory of uploads become a shared one while somebody uploads; return how many are lost, and sent."""
    sent: list[str] = []
    ended = threading.Event()

    def send() -> None:
        while not ended.wait(0.1):
            upload(stand, f"u{len(sent)}.txt", b"hello")
            sent.append(f"u{len(sent)}.txt")

    sender = threading.Thread(target=send)
    stand.edit_stack(lambda stack: stack["app"].update(media={"root": "media"}))
    sender.start()
    try:
        up(stand)
    finally:
        ended.set()
        sender.join()
    lost = sum(get(stand, f"/media/docs/{name}").status_code != 200 for name in ("before.txt", *sent))
    print(f"{lost} of {len(sent)} uploads lost while their directory became a shared one")
    assert len(sent) > 20, "nobody uploaded meanwhile"
    return lost, len(sent)


@contextlib.contextmanager
def with_uploads_of_its_own() -> Iterator[Stand]:
    with standing("media") as stand:
        stand.edit_stack(lambda stack: stack["app"].update(media=False))
        up(stand)
        upload(stand, "before.txt", b"hello")
        yield stand


def test_what_is_uploaded_while_its_directory_becomes_a_shared_one_is_not_lost() -> None:
    with with_uploads_of_its_own() as stand:
        assert lost_while_shared(stand)[0] == 0
        # Neither the stack file nor an older release hides them.
        former = stand.release()
        refused = f"app.shared: media is kept in {stand.paths.shared}/media, and release "
        assert stand.rollback().output.splitlines()[-1].startswith(refused)
        stand.edit_stack(lambda stack: stack["app"].update(media=False))
        assert stand.up().output.splitlines()[-1].startswith(refused)
        assert stand.release() == former
        (stand.paths.shared / "media").rename(stand.root / "left-behind")
        assert stand.up().status == 0


def test_without_a_second_copy_what_is_uploaded_meanwhile_is_lost() -> None:
    with with_uploads_of_its_own() as stand, stand.sabotaged("no_second_copy"):
        assert lost_while_shared(stand)[0] > 0


def test_what_is_kept_and_was_removed_is_told_and_made_again(shared: Stand) -> None:
    stand = shared
    up(stand)
    upload(stand, "photo.txt", b"hello")
    kept = stand.paths.shared / "media"
    kept.rename(stand.root / "aside")
    status = stand.status()
    assert not status["ok"]
    assert f"{kept}, which is media of the project, is gone; `cluster up t` mends it" in status["troubles"]
    kept.symlink_to(stand.root / "no-disk")
    result = stand.up()
    assert result.status == 1
    assert f"{kept}, which is media of the project, leads nowhere: is its disk mounted?" in result.output
    kept.unlink()
    assert f"{kept} was gone, which is media of the project: it is there again, and empty" in up(stand).output
    upload(stand, "photo.txt", b"hello again")
    assert stand.status()["ok"]


def test_a_database_of_the_projects_own_that_is_gone_is_refused_until_told(audited: Stand) -> None:
    stand = audited
    up(stand)
    audit = stand.paths.data / "databases" / "audit.sqlite3"
    aside = stand.root / "aside"
    aside.mkdir()
    for path in audit.parent.glob("audit*"):
        path.rename(aside / path.name)
    sqlite3.connect(audit).execute("PRAGMA journal_mode=WAL").close()  # as an instance that connects does
    result = stand.up()
    assert result.status == 1
    assert f"database: {audit} is gone or empty" in result.output
    assert "set `database.discard: true`" in result.output
    for path in aside.iterdir():
        path.rename(audit.parent / path.name)
    assert "no changes" in up(stand).output


def test_a_second_sqlite_that_was_set_back_is_migrated_again(audited: Stand) -> None:
    stand = audited
    assert stand.up().status == 0
    set_back(stand, "audit", "zero", "--database", "audit")
    assert unapplied(stand, "--database", "audit") > 0
    result = stand.up()
    assert (result.status, result.output.count(AGAIN)) == (0, 1), result.output
    listed = stand.run("manage", stand.name, "--", "showmigrations", "audit", "--database", "audit")
    assert "[ ]" not in listed.output
    assert "no changes" in stand.up().output
    # Whoever migrates by hand is not interfered with.
    stand.edit_stack(lambda stack: stack["app"].update(migrate=False))
    set_back(stand, "audit", "zero", "--database", "audit")
    assert AGAIN not in stand.up().output
