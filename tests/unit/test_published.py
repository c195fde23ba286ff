"""Which packages have no wheel for another machine, as locks say it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cluster import published
from cluster.published import Lacking, lacking
from cluster.requirements import Kind, Requirements
from cluster.source import ReleaseError

if TYPE_CHECKING:
    from pathlib import Path

TARGET = ("3.13", "x86_64-manylinux_2_40")

WHEELS = {
    "pure-1-py3-none-any.whl": True,
    "old-1-py2.py3-none-any.whl": True,
    "abi-1-cp39-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl": True,
    "own-1-cp313-cp313-manylinux_2_28_x86_64.whl": True,
    "first-1-cp313-cp313-manylinux1_x86_64.whl": True,
    "just-1-cp313-cp313-linux_x86_64.whl": True,
    "newer-1-cp313-cp313-manylinux_2_41_x86_64.whl": False,
    "threads-1-cp313-cp313t-manylinux_2_28_x86_64.whl": False,
    "other-1-cp312-cp312-manylinux_2_28_x86_64.whl": False,
    "arm-1-cp313-cp313-manylinux_2_28_aarch64.whl": False,
    "musl-1-cp313-cp313-musllinux_1_2_x86_64.whl": False,
    "two-1-py2-none-any.whl": False,
    "no wheel.whl": False,
}


def requirements(directory: Path, kind: Kind, text: str) -> Requirements:
    main = directory / ("pyproject.toml" if kind in (Kind.POETRY, Kind.PDM) else str(kind))
    (directory / str(kind)).write_text(text)
    return Requirements(kind=kind, main=main, directory=directory, top=directory)


@pytest.mark.parametrize(("name", "fits"), WHEELS.items())
def test_a_wheel_fits_a_machine_by_its_tags(name: str, fits: bool, tmp_path: Path) -> None:
    text = f'[[packages]]\nname = "x"\nversion = "1"\nwheels = [{{url = "https://h/a/{name}", hashes = {{}}}}]\n'
    assert (not lacking(requirements(tmp_path, Kind.PYLOCK, text), TARGET)) == fits


def test_an_older_library_takes_fewer_wheels(tmp_path: Path) -> None:
    text = '[[packages]]\nname = "x"\nwheels = [{name = "x-1-cp311-cp311-manylinux_2_39_x86_64.whl"}]\n'
    found = requirements(tmp_path, Kind.PYLOCK, text)
    assert lacking(found, ("3.11", "x86_64-manylinux_2_40")) == []
    assert lacking(found, ("3.11", "x86_64-manylinux_2_36"))


def test_a_pylock_tells_what_is_more_than_python_and_what_another_machine_alone_needs(tmp_path: Path) -> None:
    text = """
        packages = [
            {name = "compiled", version = "2", wheels = [{name = "compiled-2-cp311-cp311-win_amd64.whl"}]},
            {name = "source", version = "3", sdist = {url = "https://h/source-3.tar.gz"}},
            {name = "windows", version = "1", marker = "sys_platform == 'win32'"},
            {name = "young", version = "1", marker = "python_version >= '3.14'"},
            {name = "chosen", version = "1", marker = "'more' in extras"},
            {name = "local", directory = {path = "."}},
            {name = "git", vcs = {url = "https://h/x.git"}},
        ]
    """
    found = lacking(requirements(tmp_path, Kind.PYLOCK, text), TARGET)
    assert [one for one in found if one.name != "chosen"] == [
        Lacking(name="compiled", version="2", is_compiled=True),
        Lacking(name="source", version="3", is_compiled=False),
    ]


@pytest.mark.parametrize("kind", [Kind.POETRY, Kind.PDM])
def test_a_lock_of_poetry_s_or_pdm_s_tells_it_of_the_groups_that_are_installed(kind: Kind, tmp_path: Path) -> None:
    default = "main" if kind is Kind.POETRY else "default"
    package = '[[package]]\nname = "{0}"\nversion = "1"\ngroups = ["{1}"]\nfiles = [{{file = "{2}"}}]\n'
    texts = [
        package.format("needed", default, "needed-1.tar.gz"),
        package.format("tests", "dev", "tests-1.tar.gz"),
        package.format("ready", default, "ready-1-py3-none-any.whl"),
    ]
    found = requirements(tmp_path, kind, "".join(texts))
    assert [one.name for one in lacking(found, TARGET)] == ["needed"]
    assert [one.name for one in lacking(replace(found, groups=("dev",)), TARGET)] == ["needed", "tests"]


def test_a_pipfile_lock_does_not_say_it(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"Pipfile\.lock does not say which wheels there are"):
        lacking(requirements(tmp_path, Kind.PIPENV, "{}"), TARGET)


def test_a_package_whose_own_code_fails_here_is_asked_for_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def uv(_found: Any, _directory: Path, *_words: str, more: Any) -> str:
        asked.append(more)
        if not more:
            raise ReleaseError("error: Failed to download and build `psycopg2==2.9.9`\n pg_config is missing")
        return 'packages = [{name = "psycopg2", version = "2.9.9", sdist = {url = "https://h/p.tar.gz"}}]'

    monkeypatch.setattr(published, "_uv", uv)
    found = requirements(tmp_path, Kind.REQUIREMENTS, "psycopg2==2.9.9\n")
    found = replace(found, texts={found.main: "psycopg2==2.9.9\n"})
    assert [str(one) for one in lacking(found, TARGET)] == ["psycopg2 2.9.9"]
    said = {"name": "psycopg2", "version": "2.9.9", "requires-dist": []}
    assert asked == [{}, {"dependency-metadata": [said]}]


def test_an_index_that_is_away_is_said_in_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def uv(*_words: Any, **_more: Any) -> str:
        raise ReleaseError("error: https://me:secret@host/simple is away")

    monkeypatch.setattr(published, "_uv", uv)
    found = requirements(tmp_path, Kind.REQUIREMENTS, "six\n")
    with pytest.raises(ReleaseError, match=r"error: https://\*\*\*\*@host/simple is away"):
        lacking(replace(found, texts={found.main: "six\n"}), TARGET)
