"""A preview that a command has begun takes what that one has found on the hosts; an `up`, what is seen as it begins."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pulumi
import pytest

from platforms.pulumi.looking import LOOKING_VARIABLE, looking, seen_by_another
from platforms.remote import program as remote_program
from platforms.remote.looked import LOOKED_VARIABLE, handed
from platforms.remote.ssh import HostError
from tests.unit import test_remote_hosts as hosts
from tests.unit.pulumi_mocks import SECRETS, program, record, write_stack
from tests.unit.test_remote import HOSTS_KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.pulumi_mocks import Record


def run(root: Path, found: str, monkeypatch: pytest.MonkeyPatch, *, preview: bool) -> tuple[Record, int]:
    """Run the program, to which a command has handed what it found; return what it made and how often it looked."""
    looks: list[Any] = []

    def look(*_arguments: Any) -> Any:
        looks.append(None)
        return hosts.seen()

    write_stack(root, hosts.SEVERAL)
    (root / "looked").write_text(found)
    monkeypatch.setenv(LOOKED_VARIABLE, str(root / "looked"))
    with contextlib.ExitStack() as patched, contextlib.chdir(root):
        patched.enter_context(patch.object(remote_program, "look", look))
        for name in ("make_environment", "make_release"):
            patched.enter_context(patch(f"platforms.remote.release_steps.{name}"))
        made = record(program, preview=preview, secrets={**SECRETS, "hosts_key": HOSTS_KEY})
    return made, len(looks)


@pytest.mark.parametrize("preview", [True, False], ids=["preview", "up"])
def test_what_changes_hosts_looks_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preview: bool) -> None:
    """Between a preview and an `up` somebody thinks it over, and hosts change."""
    made, looks = run(tmp_path, handed(hosts.seen()), monkeypatch, preview=preview)
    assert looks == (0 if preview else 1)
    alone = tmp_path / "alone"
    alone.mkdir()
    monkeypatch.delenv(LOOKED_VARIABLE)
    looked = hosts.run(alone, preview=preview)
    assert {one.name for one in made.registrations} == {one.name for one in looked.registrations}


def test_what_was_found_on_other_hosts_is_nobody_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = hosts.seen({**hosts.SEVERAL, "hosts": [*hosts.HOSTS[1:], hosts.a_host(41, "web4", "app", "nginx")]})
    _made, looks = run(tmp_path, handed(other), monkeypatch, preview=True)
    assert looks == 1


def test_what_was_found_of_a_program_s_own_stack_is_not_its_other_site_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both may be on the same hosts, and call their instances the same."""
    seen = hosts.seen()
    (tmp_path / "looked").write_text(handed(seen))
    monkeypatch.setenv(LOOKED_VARIABLE, str(tmp_path / "looked"))
    ssh = SimpleNamespace(hosts=seen.topology.config.hosts, stack="t")
    with patch.object(pulumi.runtime, "is_dry_run", lambda: True):
        for site, is_taken in ((None, True), ("docs", False)):
            ground = SimpleNamespace(site=site, ssh=ssh)
            found = remote_program.RemoteGround._handed(ground, seen.topology)  # type: ignore[arg-type]
            assert (found is not None) == is_taken


@pytest.mark.parametrize("preview", [True, False], ids=["preview", "up"])
def test_an_up_takes_what_is_seen_while_the_engine_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preview: bool
) -> None:
    """A preview takes what the command has found, though what another `up` sees is in the environment."""
    other = hosts.seen({**hosts.SEVERAL, "hosts": [*hosts.HOSTS[1:], hosts.a_host(41, "web4", "app", "nginx")]})
    with looking(lambda: slowly(handed(hosts.seen()))) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        # What is taken from the wrong one is of other hosts, so that they are looked at.
        _made, looks = run(tmp_path, handed(hosts.seen() if preview else other), monkeypatch, preview=preview)
    assert looks == 0
    with looking(lambda: handed(other)) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        _made, looks = run(tmp_path, handed(hosts.seen() if preview else other), monkeypatch, preview=preview)
    assert looks == (0 if preview else 1)


def slowly(seen: str) -> str:
    time.sleep(1.0)
    return seen


def away() -> str:
    raise HostError("hosts: web1: it does not answer")


def killed() -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def half() -> str:
    """Be killed as it is being written down."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    return handed(hosts.seen())


@pytest.mark.parametrize("look", [away, killed, half])
def test_an_up_looks_itself_where_nobody_could_see_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: Callable[[], str]
) -> None:
    with looking(look) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        _made, looks = run(tmp_path, handed(hosts.seen()), monkeypatch, preview=False)
    assert looks == 1


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


KILLED = """
import os, sys, time
from pathlib import Path
from platforms.pulumi.looking import looking
def look():
    Path(sys.argv[1]).with_suffix(".new").write_text(str(os.getpid()))
    Path(sys.argv[1]).with_suffix(".new").rename(sys.argv[1])
    time.sleep(600)
with looking(look) as variables:
    print(*variables.values(), flush=True)
    time.sleep(600)
"""


def test_what_looks_ends_where_the_command_is_killed_and_whoever_waits_looks_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(pid)], stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        monkeypatch.setenv(LOOKING_VARIABLE, command.stdout.readline().strip())
        wait_for(pid)
        command.kill()
    assert seen_by_another() is None  # which waits for the end of the process that looks


def test_where_no_process_may_be_had_the_program_looks_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", refused)
    with looking(lambda: handed(hosts.seen())) as variables:
        assert variables == {}


def test_what_looks_may_be_taken_away_by_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where whoever began the command is not told of children that have ended, nobody else is."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with looking(lambda: handed(hosts.seen())) as variables:
            monkeypatch.setenv(LOOKING_VARIABLE, variables[LOOKING_VARIABLE])
            assert seen_by_another()
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_what_looks_ends_with_who_asked_for_it(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    def look() -> str:
        pid.with_suffix(".new").write_text(str(os.getpid()))
        pid.with_suffix(".new").rename(pid)
        time.sleep(600)
        raise AssertionError

    with looking(look) as variables:
        wait_for(pid)
        assert Path(variables[LOOKING_VARIABLE]).exists()
    assert not Path(variables[LOOKING_VARIABLE]).exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
