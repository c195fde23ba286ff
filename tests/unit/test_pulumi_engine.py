"""What Pulumi's own short commands are asked, and when: by a program in its place."""

from __future__ import annotations

import errno
import json
import signal
from typing import TYPE_CHECKING

import pytest

from platforms.pulumi.engine import Pulumi
from tests.jobs import until

if TYPE_CHECKING:
    from pathlib import Path

#: Seconds that a short command may take.
PATIENCE = 30.0

#: In Pulumi's place: keeps what it is told, and prints the file that is called after its first word and its options.
PRINTING = """#!/bin/sh
shift
echo "$*" >>"$0.told"
for last in "$@"; do [ "$last" != --show-secrets ] || shown=.shown; done
cat "$0.$1$shown"
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program in Pulumi's place, which prints what is in files beside it."""
    program = tmp_path / "pulumi"
    program.write_text(PRINTING)
    program.chmod(0o755)
    config = {
        "cluster:secret_key": {"value": "the key", "secret": True},
        "cluster:secret_environment": {"value": "", "secret": True},
        "cluster:hosts_key": {"value": "hosts' key", "secret": True},
        "cluster:platform": {"value": "docker", "secret": False},
        "aws:secret_key": {"value": "another program's", "secret": True},
    }
    program.with_name("pulumi.config.shown").write_text(json.dumps(config))
    for name in ("", ".shown"):
        resources = [{"urn": f"urn{name}"}]
        program.with_name(f"pulumi.stack{name}").write_text(json.dumps({"deployment": {"resources": resources}}))
    monkeypatch.setattr("platforms.pulumi.engine.find_pulumi", lambda _say: str(program))
    return program


@pytest.fixture
def printing(program: Path) -> tuple[Pulumi, Path]:
    """Pulumi for a stack, and where it keeps what it is told."""
    return Pulumi(program.parent, "dev", lambda _: None), program.with_name("pulumi.told")


CONFIG, STATE = "config --show-secrets --json --stack dev", "stack export --stack dev --show-secrets"


def both_began(told: Path) -> None:
    """Return once the secrets of the stack file and of the state are being read."""
    until(lambda: told.exists() and len(told.read_text().splitlines()) == 2, PATIENCE)


def test_the_secrets_of_the_stack_file_are_those_that_it_has_and_no_other(printing: tuple[Pulumi, Path]) -> None:
    found, told = printing
    assert found.secrets() == {"secret_key": "the key"}
    assert found.secrets("hosts_key", "another") == {"secret_key": "the key", "hosts_key": "hosts' key"}
    assert told.read_text().splitlines() == [CONFIG, CONFIG]


def test_secrets_that_began_to_be_read_are_read_once_and_anew_the_next_time(printing: tuple[Pulumi, Path]) -> None:
    found, told = printing
    found.begin_secrets(former=True)
    found.begin_secrets(former=True)
    both_began(told)
    assert (found.secrets(), found.export(plain=True)) == ({"secret_key": "the key"}, [{"urn": "urn.shown"}])
    assert sorted(told.read_text().splitlines()) == [CONFIG, STATE]
    assert found.export(plain=True) == [{"urn": "urn.shown"}]
    assert sorted(told.read_text().splitlines()) == [CONFIG, STATE, STATE]


def test_what_began_to_be_read_in_plain_is_never_taken_for_the_state_without_secrets(
    printing: tuple[Pulumi, Path],
) -> None:
    found, _told = printing
    found.begin_secrets(former=True)
    assert found.export() == [{"urn": "urn"}]


def test_what_began_and_nobody_asks_for_ends(program: Path) -> None:
    for name in ("config", "stack"):  # more than a pipe holds: it waits for who reads it
        program.with_name(f"pulumi.{name}.shown").write_text("x" * 1_000_000)
    found = Pulumi(program.parent, "dev", lambda _: None)
    found.begin_secrets(former=True)
    begun, told = list(found._begun.values()), program.with_name("pulumi.told")
    assert len(begun) == 2
    both_began(told)
    assert [one.poll() for one in begun] == [None, None]
    del found
    assert [one.poll() for one in begun] == [-signal.SIGKILL] * 2


def test_of_the_first_release_there_is_no_former_one_to_read(printing: tuple[Pulumi, Path]) -> None:
    found, told = printing
    found.begin_secrets(former=False)
    assert found.secrets() == {"secret_key": "the key"}
    assert told.read_text().splitlines() == [CONFIG]


def test_secrets_that_were_read_before_are_not_taken_later(printing: tuple[Pulumi, Path], program: Path) -> None:
    found, told = printing
    found.begin_secrets(former=True)
    both_began(told)
    begun = list(found._begun.values())
    found.end_secrets()
    assert all(one.poll() is not None for one in begun)
    program.with_name("pulumi.config.shown").write_text(json.dumps({"cluster:secret_key": {"value": "another"}}))
    assert found.secrets() == {"secret_key": "another"}


def test_what_can_t_begin_is_done_when_it_is_asked_for(
    printing: tuple[Pulumi, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, told = printing

    def full(*_: object) -> None:
        raise OSError(errno.EAGAIN, "no more processes")

    with monkeypatch.context() as short:
        short.setattr(found, "_started", full)
        found.begin_secrets(former=True)
    assert found.secrets() == {"secret_key": "the key"}
    assert told.read_text().splitlines() == [CONFIG]
