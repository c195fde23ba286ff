"""What a package without a wheel is built of: what uv says of it, what the project pins, where its source is from."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cluster.requirements import Kind, Requirements
from cluster.sdists import (
    LEGACY,
    Unbuilt,
    build_requirements,
    fetch,
    is_pinned,
    packed,
    pinned_hashes,
    unbuilt,
)
from cluster.source import ReleaseError

if TYPE_CHECKING:
    from pathlib import Path

TARGET = ("3.13", "x86_64-manylinux_2_40")

NOT_FOR_IT = "The built wheel `fast_add-1.2-cp311-cp311-linux_x86_64.whl` is not compatible with the target Python 3.13"

PYPROJECT = """[build-system]
requires = ["hatchling>=1.2"]
build-backend = "own"
backend-path = ["."]
"""


def requirements(directory: Path, kind: Kind = Kind.REQUIREMENTS, text: str = "") -> Requirements:
    main = directory / {Kind.UV: "pyproject.toml"}.get(kind, str(kind))
    texts = {main: text} if kind is Kind.REQUIREMENTS else {}
    return Requirements(kind=kind, main=main, directory=directory, texts=texts, top=directory)


def sdist(path: Path, text: str = PYPROJECT, inner: str = "pyproject.toml") -> str:
    """Write an archive of a package's source; return its hash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as made:
            made.writestr(f"fast_add-1.2/{inner}", text)
    else:
        with tarfile.open(path, "w:gz") as archive:
            member = tarfile.TarInfo(f"fast_add-1.2/{inner}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (
            f"error: Failed to download and build `psycopg2==2.9.9`\n  cause: {NOT_FOR_IT}",
            Unbuilt(name="psycopg2", version="2.9.9"),
        ),
        (
            "Failed to build `Fast_Add @ file:///srv/a%20b/fast.tar.gz`",
            Unbuilt(name="fast-add", url="file:///srv/a%20b/fast.tar.gz"),
        ),
        (
            f"Failed to build `fast-add @ git+https://host/x.git@1a2b`\n{NOT_FOR_IT}",
            Unbuilt(name="fast-add", version="1.2", url="git+https://host/x.git@1a2b"),
        ),
        (
            "Failed to build `file:///srv/libs/fast`\n no setup.py can run",
            Unbuilt(name="fast", url="file:///srv/libs/fast"),
        ),
        (NOT_FOR_IT, Unbuilt(name="fast-add", version="1.2")),
        ("No solution found when resolving dependencies", None),
    ],
)
def test_what_uv_could_not_build_is_known_by_its_words(words: str, found: Unbuilt | None) -> None:
    assert unbuilt(words) == found


def test_a_path_in_a_url_is_read_as_such() -> None:
    assert str(Unbuilt(name="x", url="file:///srv/a%20b").directory) == "/srv/a b"
    assert Unbuilt(name="x", url="https://host/x.tar.gz").directory is None


# --- what is pinned


def test_hashes_of_a_requirements_file_are_those_of_the_package_in_whatever_form_they_stand(tmp_path: Path) -> None:
    text = "six==1 --hash=sha256:aa\nFast.Add==1.2 \\\n    --hash=sha256:bb \\\n    --hash=sha256:cc\n"
    found = requirements(tmp_path, text=text)
    assert pinned_hashes(found, [text], Unbuilt(name="fast-add", version="1.2")) == {"sha256:bb", "sha256:cc"}
    assert pinned_hashes(found, [text], Unbuilt(name="fast")) == frozenset()


def test_a_lock_of_uv_s_says_the_hash_and_the_place_beside_its_index(tmp_path: Path) -> None:
    found_hash = sdist(tmp_path / "wheelhouse" / "fast_add-1.2.tar.gz")
    (tmp_path / "uv.lock").write_text(
        'version = 1\n[[package]]\nname = "fast-add"\nversion = "1.2"\nsource = {registry = "wheelhouse"}\n'
        f'sdist = {{path = "fast_add-1.2.tar.gz", hash = "sha256:{found_hash}"}}\n'
    )
    found = replace(requirements(tmp_path, Kind.UV), files=(tmp_path / "uv.lock",))
    package = Unbuilt(name="fast-add", version="1.2")
    assert pinned_hashes(found, [], package) == {f"sha256:{found_hash}"}
    (tmp_path / "there").mkdir()
    made = fetch(found, [], package, TARGET, tmp_path / "there")
    assert made.path.parent == tmp_path / "there"
    assert made.digest == found_hash
    assert (list(made.requires), made.backend, list(made.backend_path)) == (["hatchling>=1.2"], "own", ["."])


@pytest.mark.parametrize("kind", [Kind.UV, Kind.PYLOCK])
def test_source_that_is_not_what_a_lock_has_is_refused(kind: Kind, tmp_path: Path) -> None:
    """Whoever changes what an index gives must not get to a host by that."""
    sdist(tmp_path / "fast_add-1.2.tar.gz")
    hashes = 'hash = "sha256:00"' if kind is Kind.UV else 'hashes = {sha256 = "00"}'
    table = "package" if kind is Kind.UV else "packages"
    text = f'[[{table}]]\nname = "fast-add"\nversion = "1.2"\nsdist = {{path = "fast_add-1.2.tar.gz", {hashes}}}\n'
    (tmp_path / str(kind)).write_text(text)
    found = replace(requirements(tmp_path, kind), files=(tmp_path / str(kind),))
    (tmp_path / "there").mkdir()
    with pytest.raises(ReleaseError, match=r"fast-add 1\.2: .* is not what was pinned: .*sha256:00 is asked for"):
        fetch(found, [], Unbuilt(name="fast-add", version="1.2"), TARGET, tmp_path / "there")


def test_another_version_of_the_same_lock_is_not_it(tmp_path: Path) -> None:
    lock = 'packages = [{name = "a", version = "1", sdist = {url = "https://h/a.tar.gz", hashes = {sha256 = "00"}}}]\n'
    (tmp_path / "pylock.toml").write_text(lock)
    found = requirements(tmp_path, Kind.PYLOCK)
    assert pinned_hashes(found, [], Unbuilt(name="a", version="2")) == frozenset()
    assert pinned_hashes(found, [], Unbuilt(name="a", version="1")) == {"sha256:00"}


@pytest.mark.parametrize(
    ("kind", "text", "url", "pinned"),
    [
        (Kind.REQUIREMENTS, "fast-add>=1", "", False),
        (Kind.REQUIREMENTS, "fast-add==1.2 --hash=sha256:aa", "", True),
        (Kind.REQUIREMENTS, "", "git+https://host/x@1a", True),
        (Kind.POETRY, "", "", True),
    ],
)
def test_what_can_be_no_other_version_is_pinned(kind: Kind, text: str, url: str, pinned: bool, tmp_path: Path) -> None:
    found = requirements(tmp_path, kind, text)
    assert is_pinned(found, [text], Unbuilt(name="fast-add", version="1.2", url=url)) == pinned


# --- what it is built with


@pytest.mark.parametrize("name", ["fast_add-1.2.tar.gz", "fast_add-1.2.zip"])
def test_what_a_package_is_built_with_is_read_from_its_archive(name: str, tmp_path: Path) -> None:
    sdist(tmp_path / name)
    made = fetch(requirements(tmp_path), [], Unbuilt(name="x", url=(tmp_path / name).as_uri()), TARGET, tmp_path)
    assert (list(made.requires), made.backend) == (["hatchling>=1.2"], "own")


@pytest.mark.parametrize(
    ("text", "inner", "requires", "backend"),
    [
        ("", "setup.py", LEGACY[0], LEGACY[1]),
        ("[project]\nname = 'x'\n", "pyproject.toml", LEGACY[0], LEGACY[1]),
        ("[build-system]\nrequires = ['cython']\n", "pyproject.toml", ("cython",), LEGACY[1]),
        (PYPROJECT, "vendor/pyproject.toml", LEGACY[0], LEGACY[1]),
    ],
)
def test_a_package_that_does_not_say_it_is_built_as_in_former_times(
    text: str, inner: str, requires: tuple[str, ...], backend: str, tmp_path: Path
) -> None:
    sdist(tmp_path / "a.tar.gz", text, inner)
    made = fetch(requirements(tmp_path), [], Unbuilt(name="x", url=(tmp_path / "a.tar.gz").as_uri()), TARGET, tmp_path)
    assert (tuple(made.requires), made.backend) == (requires, backend)


def test_what_is_no_archive_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_text("no archive")
    with pytest.raises(ReleaseError, match=r"a\.tar\.gz is no archive of a package's source"):
        fetch(requirements(tmp_path), [], Unbuilt(name="x", url=(tmp_path / "a.tar.gz").as_uri()), TARGET, tmp_path)


def test_the_project_may_add_to_what_a_package_is_built_with(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[tool.uv]\nbuild-constraint-dependencies = ['setuptools<81']\n"
        "[tool.uv.extra-build-dependencies]\nFast_Add = ['cython', {requirement = 'six', match-runtime = false}]\n"
    )
    sdist(tmp_path / "a.tar.gz")
    found = requirements(tmp_path, Kind.PYPROJECT)
    made = fetch(found, [], Unbuilt(name="x", url=(tmp_path / "a.tar.gz").as_uri()), TARGET, tmp_path)
    assert build_requirements(found, made, "fast-add") == (["hatchling>=1.2", "cython", "six"], ["setuptools<81"])
    assert build_requirements(found, made, "other")[0] == ["hatchling>=1.2"]


def test_a_directory_s_archive_is_told_by_what_is_in_it_alone(tmp_path: Path) -> None:
    """A wheel is kept by its digest: a change is built anew, and another checkout of the same is not."""
    digests = []
    for number, text in enumerate(["1", "1", "2"]):
        there = tmp_path / str(number)
        there.mkdir()
        (there / "setup.py").write_text(text)
        (there / "pyproject.toml").write_text(PYPROJECT)
        made = packed(there, tmp_path / f"{number}.tar")
        assert made.backend == "own"
        digests.append(made.digest)
    assert digests[0] == digests[1] != digests[2]
