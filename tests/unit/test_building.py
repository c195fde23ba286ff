"""What a host does with a package that it is to build: foreign code, which is asked in a sandbox."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import sys
import tarfile
import tracemalloc
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from platforms.remote.host import __main__ as commands
from platforms.remote.host import backend, building
from platforms.remote.host.running import HostError
from tests.unit.remote_machine import Machine

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

HOW = {
    "backend": "own:hooks",
    "path": ["build"],
    "subdirectory": "",
    "settings": {},
    "variables": {"PBR_VERSION": "0"},
    "properties": ["DynamicUser=yes"],
    "sent": ["setuptools"],
}

HOOKS = """
class hooks:
    def get_requires_for_build_wheel(settings):
        print("noise")
        return ["setuptools"]
    def build_wheel(directory, settings):
        open(directory + "/a-1-py3-none-any.whl", "w").write("made of " + open("setup.cfg").read())
        return "a-1-py3-none-any.whl"
"""


def source(path: Path) -> Path:
    made = path.parent / "own"
    (made / "build").mkdir(parents=True)
    (made / "build" / "own.py").write_text(HOOKS)
    (made / "setup.cfg").write_text("it")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(made, arcname="own-1")
    return path


def test_a_backend_is_asked_in_the_directory_of_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    archive = str(source(tmp_path / "own-1.tar.gz"))
    for number, (what, found) in enumerate(
        {
            "requires": {"requires": ["setuptools"]},
            "wheel": {"wheel": "a-1-py3-none-any.whl", "content": base64.b64encode(b"made of it").decode()},
        }.items()
    ):
        work = tmp_path / str(number)
        work.mkdir()
        assert backend.answer(what, HOW, archive, work) == found


def a_build(directory: Path, *, machine: Machine, how: Mapping[str, Any] = HOW, large: bytes = b"") -> io.BytesIO:
    made = directory / "sent"
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    (made / "environment" / "lib" / f"python{version}" / "site-packages").mkdir(parents=True)
    (made / "source").mkdir()
    shutil.copy2(source(directory / "own-1.tar.gz"), made / "source")
    (made / "environment" / "large").write_bytes(large)
    (made / "how.json").write_text(json.dumps(how))
    machine.places.building.parent.mkdir(parents=True, exist_ok=True)
    told = io.BytesIO()
    with tarfile.open(fileobj=told, mode="w:gz") as archive:
        archive.add(made, arcname=".")
    told.seek(0)
    return told


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path / "machine", monkeypatch)


def systemd_run(machine: Machine, script: str) -> None:
    path = machine.places.root / "programs" / "systemd-run"
    path.write_text(f'#!/bin/sh\necho "$@" >>{machine.said}\n{script}\n')
    path.chmod(0o755)


ANSWERS = """
case "$*" in
*" requires "*) echo '{"requires": ["setuptools"]}';;
*) echo noise >&2; echo '{"wheel": "a-1-py3-none-any.whl", "content": "YQ=="}';;
esac
"""


def test_a_host_builds_in_a_sandbox_that_sees_what_was_sent_and_nothing_is_left(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemd_run(machine, ANSWERS)
    assert str(building.WORK) == "/var/tmp"
    work = tmp_path / "work"  # others build at the same time
    work.mkdir()
    monkeypatch.setattr(building, "WORK", type(building.WORK)(work))
    found = building.build(machine.places, a_build(tmp_path, machine=machine))
    assert found == {"wheel": "a-1-py3-none-any.whl", "content": "YQ=="}
    asked = [line for line in machine.asked() if "--wait" in line]
    assert len(asked) == 2
    for line in asked:
        assert "--unit=cluster-shop.build.service" in line
        assert "--property DynamicUser=yes --property TemporaryFileSystem=/run:ro" in line
        assert re.search(rf"BindReadOnlyPaths={work}/cluster-shop-build-\w+/source:/run/build/source ", line)
        assert "--setenv PBR_VERSION=0 " in line
        assert "/usr/bin/env /run/build/environment/bin/python -P /run/build/backend.py" in line
    assert not list(work.iterdir())


def test_what_is_to_be_sent_beside_is_asked_for_before_anything_is_built(machine: Machine, tmp_path: Path) -> None:
    systemd_run(machine, ANSWERS)
    found = building.build(machine.places, a_build(tmp_path, machine=machine, how={**HOW, "sent": []}))
    assert found == {"requires": ["setuptools"]}
    assert len([line for line in machine.asked() if "--wait" in line]) == 1


@pytest.mark.parametrize(
    "script",
    [
        "echo no compiler >&2; exit 1",
        'echo no compiler >&2; echo \'{"wheel": 1, "content": 2}\'',
        "echo no compiler >&2; echo '{\"requires\": [{}]}'",
        "echo no compiler >&2; echo '[]'",
        "echo no compiler >&2; echo anything",
    ],
)
def test_of_a_build_that_fails_or_lies_its_last_words_are_said(machine: Machine, tmp_path: Path, script: str) -> None:
    systemd_run(machine, script)
    assert building.build(machine.places, a_build(tmp_path, machine=machine)) == {"failed": "no compiler"}


def test_a_build_that_says_more_than_there_is_room_for_is_ended(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "LARGEST", 1000)
    systemd_run(machine, "exec yes")
    with pytest.raises(HostError, match="what is built is larger than"):
        building.build(machine.places, a_build(tmp_path, machine=machine))
    assert "systemctl stop cluster-shop.build.service" in machine.asked()[-1]


def test_of_the_last_words_there_is_an_end(machine: Machine, tmp_path: Path) -> None:
    systemd_run(machine, "yes | head -c 1000000 >&2; echo last >&2; exit 1")
    said = building.build(machine.places, a_build(tmp_path, machine=machine))["failed"]
    assert said.endswith("last")
    assert len(said) <= building.LAST_WORDS


#: Bytes of a package's source that nothing makes smaller, and those that may be held of it at a time.
LARGE, HELD = 32 * 1024**2, 4 * 1024**2


def test_a_large_package_is_never_held_as_a_whole(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    systemd_run(machine, ANSWERS)
    sent, large = tmp_path / "sent.tar.gz", os.urandom(LARGE)
    sent.write_bytes(a_build(tmp_path, machine=machine, large=large).getbuffer())
    del large
    monkeypatch.setattr(commands, "HostPaths", lambda _stack: machine.places)
    with sent.open("rb") as file:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=file))
        tracemalloc.start()
        try:
            assert commands.main(["build", "shop"]) == 0
            _now, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert json.loads(capsys.readouterr().out) == {"wheel": "a-1-py3-none-any.whl", "content": "YQ=="}
    assert sent.stat().st_size > LARGE
    assert most < HELD
