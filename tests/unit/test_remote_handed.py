"""A preview that a command has begun takes what that one has found on the hosts; an `up`, what is seen as it begins."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pulumi
import pytest

from platforms.remote import program as remote_program
from platforms.remote.looked import LOOKED_VARIABLE, handed
from platforms.remote.looking import LOOKING_VARIABLE, looking
from platforms.remote.ssh import HostError
from tests.unit import test_remote_hosts as hosts
from tests.unit.pulumi_mocks import SECRETS, program, record, write_stack
from tests.unit.test_remote import HOSTS_KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from platforms.remote.looked import Seen
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
    with looking(lambda: slowly(hosts.seen())) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        _made, looks = run(tmp_path, handed(hosts.seen()), monkeypatch, preview=preview)
    assert looks == 0


def slowly(seen: Seen) -> Seen:
    time.sleep(1.0)
    return seen


def away() -> Seen:
    raise HostError("hosts: web1: it does not answer")


def killed() -> Seen:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.mark.parametrize("look", [away, killed])
def test_an_up_looks_itself_where_nobody_could_see_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: Callable[[], Seen]
) -> None:
    with looking(look) as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        _made, looks = run(tmp_path, handed(hosts.seen()), monkeypatch, preview=False)
    assert looks == 1


def test_what_looks_ends_with_who_asked_for_it(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    def look() -> Seen:
        pid.with_suffix(".new").write_text(str(os.getpid()))
        pid.with_suffix(".new").rename(pid)
        time.sleep(600)
        raise AssertionError

    with looking(look) as variables:
        while not pid.exists():
            time.sleep(0.01)
        assert Path(variables[LOOKING_VARIABLE]).exists()
    assert not Path(variables[LOOKING_VARIABLE]).exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
