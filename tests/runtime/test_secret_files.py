"""A release's secrets as files: who writes them is an ordinary user, as in a container."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster_runtime.instance_link import NAME
from cluster_runtime.secret_files import KEPT

RUNTIME = Path(__file__).resolve().parents[2] / "runtime"
NOBODY = 65534

WRITE = """
import json, sys
from pathlib import Path
from cluster_runtime.secret_files import forget_old, write_all
directory, sockets = Path(sys.argv[1]), Path(sys.argv[2])
write_all(directory, json.load(sys.stdin), {"database_url": "/srv/database/url"})
forget_old(directory.parent, sockets)
"""


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """Return the directories of the secrets and of the sockets, of a user without rights."""
    secrets, sockets = tmp_path / "secrets", tmp_path / "sockets"
    for path in (secrets, sockets):
        path.mkdir()
        if os.geteuid() == 0:
            os.chown(path, NOBODY, NOBODY)
    if os.geteuid() == 0:
        for path in (tmp_path, *list(tmp_path.parents)[:3]):
            path.chmod(path.stat().st_mode | 0o011)
    return secrets, sockets


def write(places: tuple[Path, Path], release: str, **values: str) -> None:
    secrets, sockets = places
    subprocess.run(
        [sys.executable, "-P", "-c", WRITE, str(secrets / release), str(sockets)],
        input=json.dumps(values),
        text=True,
        env={**os.environ, "PYTHONPATH": str(RUNTIME)},
        user=NOBODY if os.geteuid() == 0 else None,
        check=True,
    )


def test_they_are_readable_by_their_user_alone_and_can_be_written_again(places: tuple[Path, Path]) -> None:
    for value in ("first", "second"):
        write(places, "aaa", secret_key=value)
    directory = places[0] / "aaa"
    assert sorted(path.name for path in places[0].iterdir()) == ["aaa"]
    assert sorted(path.name for path in directory.iterdir()) == ["database_url", "secret_key"]
    assert directory.stat().st_mode & 0o777 == 0o500
    assert (directory / "secret_key").stat().st_mode & 0o777 == 0o400
    assert (directory / "secret_key").read_text() == "second"
    assert str((directory / "database_url").readlink()) == "/srv/database/url"


def test_those_of_old_releases_go_but_for_one_that_still_serves(places: tuple[Path, Path]) -> None:
    (places[1] / "app1").mkdir()
    (places[1] / "app1" / NAME).symlink_to("r0.0123456789ab.sock")
    releases = [f"r{number}" for number in range(KEPT + 3)]
    for number, release in enumerate(releases):
        write(places, release, secret_key="x")
        os.utime(places[0] / release, (number, number))
    write(places, releases[-1], secret_key="x")
    assert sorted(path.name for path in places[0].iterdir()) == ["r0", *releases[-KEPT:]]


def identity(places: tuple[Path, Path], release: str) -> dict[str, int]:
    directory = places[0] / release
    return {path.name: path.lstat().st_ino for path in (directory, *directory.iterdir())}


def test_secrets_that_are_there_already_are_left_alone_since_a_release_that_serves_reads_them(
    places: tuple[Path, Path],
) -> None:
    write(places, "aaa", secret_key="first", secret_environment="{}")
    before = identity(places, "aaa")
    assert len(before) == 4
    write(places, "aaa", secret_key="first", secret_environment="{}")
    assert identity(places, "aaa") == before, "for a moment there would have been none"


@pytest.mark.parametrize(
    "other",
    [{"secret_key": "second"}, {"secret_key": "first", "secret_environment": "{}"}, {}],
    ids=["another value", "one more", "one less"],
)
def test_secrets_that_differ_are_written_anew_all_together(places: tuple[Path, Path], other: dict[str, str]) -> None:
    write(places, "aaa", secret_key="first")
    before = identity(places, "aaa")
    write(places, "aaa", **other)
    directory = places[0] / "aaa"
    assert identity(places, "aaa")["aaa"] != before["aaa"]
    written = {path.name: path.read_text() for path in directory.iterdir() if not path.is_symlink()}
    assert written == other
    assert [path.name for path in places[0].iterdir()] == ["aaa"]


def test_a_link_that_leads_elsewhere_is_made_anew(places: tuple[Path, Path]) -> None:
    write(places, "aaa", secret_key="first")
    link = places[0] / "aaa" / "database_url"
    mode = link.parent.stat().st_mode
    link.parent.chmod(0o700)
    link.unlink()
    link.symlink_to("/srv/elsewhere/url")
    link.parent.chmod(mode)
    write(places, "aaa", secret_key="first")
    assert str(link.readlink()) == "/srv/database/url"


def test_those_that_are_left_alone_count_among_the_latest_again(places: tuple[Path, Path]) -> None:
    releases = [f"r{number}" for number in range(KEPT + 1)]
    for number, release in enumerate(releases[:-1]):
        write(places, release, secret_key="x")
        os.utime(places[0] / release, (number, number))
    write(places, "r0", secret_key="x")  # a rollback
    write(places, releases[-1], secret_key="x")
    assert sorted(path.name for path in places[0].iterdir()) == ["r0", *releases[2:]]
