"""What a signal has stopped goes on by itself, and nobody else's processes are touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from platforms.local import watch
from tests.processes import lives, stat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: A stand-in for Supervisor: starts the watch and a child, and says their ids.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen(["sleep", "300"])
watch = subprocess.Popen([sys.executable, "-I", sys.argv[1]]) if sys.argv[2] == "on" else None
print(child.pid, watch.pid if watch else 0, flush=True)
time.sleep(300)
"""


def state_of(pid: int) -> str:
    return stat(pid)[0]


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Kept:
    def __init__(self, directory: Path, switch: str) -> None:
        self.parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, watch.__file__, switch, "supervisor.supervisord"],
            cwd=directory,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.parent.stdout is not None
        self.child, self.watch = map(int, self.parent.stdout.readline().split())

    def close(self) -> None:
        self.parent.kill()
        self.parent.wait()
        os.kill(self.child, signal.SIGKILL)


@pytest.fixture
def kept(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Kept]:
    found = Kept(tmp_path, getattr(request, "param", "on"))
    yield found
    found.close()


def test_what_supervisor_has_started_and_supervisor_itself_go_on(kept: Kept) -> None:
    for pid in (kept.child, kept.parent.pid):
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda pid=pid: state_of(pid) == "T", 10)  # type: ignore[misc]
        wait_until(lambda pid=pid: state_of(pid) != "T")  # type: ignore[misc]


@pytest.mark.parametrize("kept", ["off"], indirect=True)
def test_without_the_watch_they_do_not(kept: Kept) -> None:
    """The saboteur."""
    os.kill(kept.child, signal.SIGSTOP)
    time.sleep(5 * watch.LOOK)
    assert state_of(kept.child) == "T"


def test_a_process_of_somebody_else_stays_stopped(kept: Kept, tmp_path: Path) -> None:
    other = subprocess.Popen(["sleep", "300"], cwd=tmp_path)
    try:
        other.send_signal(signal.SIGSTOP)
        os.kill(kept.child, signal.SIGSTOP)
        wait_until(lambda: state_of(kept.child) == "T", 10)
        wait_until(lambda: state_of(kept.child) != "T")
        assert state_of(other.pid) == "T"
    finally:
        other.kill()
        other.wait()


def test_the_watch_ends_with_supervisor(kept: Kept) -> None:
    kept.parent.kill()
    kept.parent.wait()
    wait_until(lambda: not lives(kept.watch))


def test_the_watch_of_another_parent_ends_at_once(tmp_path: Path) -> None:
    """Supervisor had ended before it began."""
    done = subprocess.run([sys.executable, watch.__file__], cwd=tmp_path, capture_output=True, timeout=60, check=False)
    assert (done.returncode, b"outlived" in done.stderr) == (1, True)


def test_workers_of_nginx_are_known_by_their_master(tmp_path: Path) -> None:
    there = {
        10: watch.Seen(1, 10, "S", b"python\0-m\0supervisor.supervisord"),
        11: watch.Seen(10, 11, "S", b"nginx: master process /usr/sbin/nginx"),
        12: watch.Seen(11, 11, "T", b"nginx: worker process"),
        13: watch.Seen(10, 13, "S", b"python\0-m\0cluster_runtime.instance"),
        14: watch.Seen(13, 14, "T", b"python\0-m\0gunicorn"),
        20: watch.Seen(1, 19, "T", b"nginx: worker process"),
    }
    assert watch.kept(there, 10) == {10, 11, 12, 13}, "an instance looks after its own workers"
    assert watch.left_workers(there, tmp_path, {19}) == set(), "20 stands somewhere else"


def test_workers_of_another_user_whose_master_was_killed_are_known_by_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without CAP_SYS_PTRACE nothing tells where they stand."""

    def refused(_path: Path) -> NoReturn:
        raise PermissionError

    monkeypatch.setattr(Path, "readlink", refused)
    there = {
        12: watch.Seen(1, 11, "S", b"nginx: worker process"),
        22: watch.Seen(1, 21, "S", b"nginx: worker process"),
        31: watch.Seen(1, 31, "S", b"nginx: master process /usr/sbin/nginx"),
        32: watch.Seen(31, 11, "S", b"nginx: worker process"),
    }
    assert watch.left_workers(there, tmp_path, {11}) == {12}


def test_of_all_processes_the_command_line_of_those_is_read_that_run_nginx(tmp_path: Path) -> None:
    (tmp_path / "nginx").symlink_to("/bin/sleep")
    worker = subprocess.Popen(["nginx: worker process", "300"], executable=tmp_path / "nginx")
    try:
        wait_until(lambda: watch.command_of(worker.pid).startswith(b"nginx: worker"))
        found = watch.processes()
        seen = found[worker.pid]
        assert (seen.parent, seen.group) == (os.getpid(), os.getpgid(0))
        assert seen.command == b"nginx: worker process\0" + b"300\0"
        assert found[os.getpid()].command == b""
    finally:
        worker.kill()
        worker.wait()
