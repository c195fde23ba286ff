"""What tells a stack's processes where the kernel does not say in which directory they stand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from cluster.config import parse_config
from cluster.services import PACKAGED, memcached_node
from cluster.services import Kind as ServiceKind
from platforms.local.orphans import Kind, daemon_of, stack_processes
from platforms.local.paths import LocalPaths
from tests.unit.pulumi_mocks import stack_values


def refused(_path: Path) -> NoReturn:
    raise PermissionError


@pytest.mark.parametrize(("stack", "found"), [("t", ["memcached1"]), ("other", [])])
def test_another_users_memcached_is_known_by_where_it_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stack: str, found: list[str]
) -> None:
    """Without CAP_SYS_PTRACE, as in a container, even root is not told of other users' processes."""
    listens = LocalPaths(tmp_path, "t").listens(memcached_node(parse_config(stack_values()), 1))
    listens.parent.mkdir(parents=True)
    listens.write_text("import time; print(flush=True); time.sleep(60)")
    command = ["memcached", "-s", str(listens)]
    process = subprocess.Popen(command, executable=sys.executable, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n", "until it runs, it has no command line"
        monkeypatch.setattr(Path, "readlink", refused)
        there = [one for one in stack_processes(LocalPaths(tmp_path, stack)) if one.pid == process.pid]
        assert [one.daemon_name for one in there] == found
        assert all(one.daemon is ServiceKind.MEMCACHED for one in there)
    finally:
        process.kill()
        process.wait()


def test_two_kinds_that_are_one_program_are_told_by_their_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    same = dict.fromkeys((ServiceKind.MEMCACHED, ServiceKind.BROKER), PACKAGED[ServiceKind.MEMCACHED])
    monkeypatch.setattr("platforms.local.orphans.PACKAGED", same)
    for socket, kind in (("memcached2", ServiceKind.MEMCACHED), ("broker", ServiceKind.BROKER)):
        assert daemon_of(("/usr/bin/memcached", "-s", f"/run/.{kind}/{socket}.sock")) is kind


def test_what_was_forked_and_has_not_begun_its_program_is_no_second_one(tmp_path: Path) -> None:
    """Supervisor forks for each program that it starts: for a moment there are two of its command line."""
    listens = LocalPaths(tmp_path, "t").listens(memcached_node(parse_config(stack_values()), 1))
    listens.parent.mkdir(parents=True)
    listens.write_text("import os, time; os.fork(); print(flush=True); time.sleep(60)")
    command = ["memcached", "-s", str(listens)]
    process = subprocess.Popen(command, executable=sys.executable, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None
        assert process.stdout.read(2) == b"\n\n", "both run"
        assert [one.pid for one in stack_processes(LocalPaths(tmp_path, "t"))] == [process.pid]
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize(
    ("said", "found"),
    [
        pytest.param("{group}", [Kind.WORKER], id="the master was killed, and the pid file still names it"),
        pytest.param("{other}", [], id="another nginx is the stack's"),
        pytest.param("", [], id="nothing says which is"),
    ],
)
def test_another_users_nginx_workers_are_known_by_the_group_of_their_killed_master(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, found: list[Kind]
) -> None:
    """Without CAP_SYS_PTRACE a worker's title and group are all that is told of it."""
    worker = f"exec -a 'nginx: worker process' {sys.executable} -c 'import time; print(flush=True); time.sleep(60)'"
    master = subprocess.Popen(["bash", "-c", f"({worker}) & sleep 60"], stdout=subprocess.PIPE, start_new_session=True)
    paths = LocalPaths(tmp_path, "t")
    paths.nginx_pid.parent.mkdir(parents=True)
    paths.nginx_pid.write_text(said.format(group=master.pid, other=2**22 + 1))
    try:
        assert master.stdout is not None
        assert master.stdout.readline() == b"\n"
        master.kill()
        master.wait()
        monkeypatch.setattr(Path, "readlink", refused)
        assert [one.kind for one in stack_processes(paths) if one.group == master.pid] == found
    finally:
        os.killpg(master.pid, signal.SIGKILL)
