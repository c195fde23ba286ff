"""The package of nginx is upgraded while it runs: what runs is as old as it was, and is asked and told accordingly."""

from __future__ import annotations

import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from cluster.machine import nginx as machine_nginx
from cluster.machine.nginx import find_nginx
from cluster.machine.owner import Owner
from platforms.local.nginx import Nginx
from platforms.local.paths import LocalPaths
from platforms.local.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OWNER = Owner(uid=0, gid=0, name="root")


@pytest.fixture
def paths(tmp_path: Path) -> LocalPaths:
    (tmp_path / "stacks").mkdir()
    found = LocalPaths(tmp_path, "t")
    found.state.mkdir(parents=True)
    return found


@pytest.fixture
def binary(paths: LocalPaths, tmp_path: Path) -> Iterator[Path]:
    """A nginx of the stack that runs, and whose file is gone: another, much newer one is installed."""
    copy = tmp_path / "bin" / "nginx"
    copy.parent.mkdir()
    shutil.copy2(find_nginx()[0], copy)
    conf = paths.state / "nginx.conf"
    conf.write_text("daemon off; master_process on; pid nginx.pid; error_log stderr; events {} \n")
    process = subprocess.Popen(
        [str(copy), "-p", str(paths.state), "-c", str(conf), "-e", "stderr"],
        cwd=paths.state,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    pid = paths.state / "nginx.pid"
    while not (pid.exists() and pid.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        assert process.poll() is None, "nginx did not start"
        time.sleep(0.05)
    yield copy
    process.terminate()
    process.wait(30)


def upgrade(binary: Path) -> None:
    binary.unlink()
    binary.write_text("#!/bin/sh\necho 'nginx version: nginx/1.99.0' >&2\n")
    binary.chmod(0o755)


def test_a_running_nginx_is_what_it_was_when_it_was_started(
    paths: LocalPaths, binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = find_nginx()[1]
    upgrade(binary)
    monkeypatch.setattr(machine_nginx, "search_path", lambda: str(binary.parent))
    nginx = Nginx(paths, Supervisor(paths), OWNER)
    assert (nginx.version, nginx.installed) == (version, (1, 99, 0))
    assert str(binary) in nginx.program().command, "the next start is of the installed one"
    assert nginx.running is not None
    assert "test is successful" in check(nginx.running, paths)


def test_where_none_runs_the_installed_one_counts(
    paths: LocalPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "nginx"
    installed.touch()
    upgrade(installed)
    monkeypatch.setattr(machine_nginx, "search_path", lambda: str(tmp_path))
    nginx = Nginx(paths, Supervisor(paths), OWNER)
    assert (nginx.version, nginx.running) == ((1, 99, 0), None)


def check(binary: str, paths: LocalPaths) -> str:
    command = [binary, "-t", "-p", str(paths.state), "-e", "stderr", "-c", str(paths.state / "nginx.conf")]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr
