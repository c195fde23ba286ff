"""A release's secrets as files: who writes them is an ordinary user, as in a container."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster_runtime.names import NAME
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
