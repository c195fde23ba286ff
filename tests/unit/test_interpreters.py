"""Which Python a project runs on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from cluster import interpreters
from cluster.config import parse_config
from cluster.interpreters import ASK, find_interpreter, needs_of, python_too_old, request
from cluster.requirements import read_requirements
from cluster.source import ReleaseError

if TYPE_CHECKING:
    from pathlib import Path


def made(directory: Path, name: str, version: str) -> str:
    """Make a program that says it is a Python."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\necho cpython {version}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory in which this machine's only interpreters are 3.11.2, 3.12.4 and 3.13.1."""
    for version in ("3.11.2", "3.12.4", "3.13.1"):
        made(tmp_path / "usr", f"python{version.rpartition('.')[0]}", version)
    found = [str(path) for path in sorted((tmp_path / "usr").iterdir())]
    monkeypatch.setattr(interpreters, "candidates", lambda _pythons: iter(found))
    monkeypatch.setattr(interpreters, "_bring", lambda *_: None)
    return tmp_path


def chosen(root: Path, python: str | None = None, **files: str) -> str:
    for name, text in {"manage.py": "", "requirements.txt": "django\n", **files}.items():
        (root / name).write_text(text)
    values: dict[str, Any] = {
        "platform": "local",
        "app": {"project": ".", "settings": "s", "python": python},
        "upstream": {"servers": 1},
        "site": {"server_names": ["localhost"]},
    }
    app = parse_config(values).app
    needs = needs_of(app, read_requirements(app, root), root)
    return find_interpreter(needs, root / "pythons", {}, "somebody").version


@pytest.mark.parametrize(
    ("python", "files", "version"),
    [
        (None, {}, "3.11.2"),
        ("3.13", {}, "3.13.1"),
        ("3.12.4", {}, "3.12.4"),
        (None, {".python-version": "3.12.1\n"}, "3.12.4"),
        (None, {".python-version": "a-virtual-environment\n"}, "3.11.2"),
        ("3.13", {".python-version": "3.12\n"}, "3.13.1"),
        (None, {"pyproject.toml": '[project]\nname = "x"\nrequires-python = ">=3.12"\n'}, "3.12.4"),
        (None, {"pyproject.toml": '[tool.poetry.dependencies]\npython = "^3.13"\n'}, "3.13.1"),
        (None, {"pyproject.toml": '[tool.poetry.dependencies]\npython = "~3.12"\n'}, "3.12.4"),
        (None, {"pyproject.toml": '[tool.poetry.dependencies]\npython = ">=3.8,<4.0"\n'}, "3.11.2"),
    ],
)
def test_the_first_interpreter_that_the_project_can_run_on_is_taken(
    python: str | None, files: dict[str, str], version: str, machine: Path
) -> None:
    root = machine / "repository"
    root.mkdir()
    assert chosen(root, python, **files) == version


def test_one_that_is_not_there_is_one_line_with_the_key_and_those_that_are(machine: Path) -> None:
    root = machine / "repository"
    root.mkdir()
    with pytest.raises(ReleaseError) as told:
        chosen(root, "3.14")
    words = str(told.value)
    assert words.startswith("app.python: Python ==3.14.* (app.python) is needed; here are 3.11.2 (")
    assert all(version in words for version in ("3.12.4", "3.13.1"))
    assert "\n" not in words


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs programs as others")
def test_an_interpreter_that_the_instances_user_can_t_run_is_passed_over_and_named(
    machine: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hidden = tmp_path_factory.mktemp("hidden")
    hidden.chmod(0o700)
    only = made(hidden, "python3.13", "3.13.1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreters, "candidates", lambda _pythons: iter([only]))
        options = {"user": 65534, "group": 65534, "extra_groups": []}
        with pytest.raises(ReleaseError, match=r"here are none \(nobody can't run \S+python3\.13\)"):
            find_interpreter([], machine / "pythons", options, "nobody")
        assert find_interpreter([], machine / "pythons", {}, "root").version == "3.13.1"


def test_what_is_asked_of_an_image_is_what_uv_takes() -> None:
    assert request([]) == ">=3.11"
    needs = [interpreters._need("^3.12", "python"), interpreters._need("==3.13.*", "app.python")]
    assert request(needs) == ">=3.11,<4,>=3.12,==3.13.*"


def test_a_resolver_s_words_about_an_old_python_are_one_line() -> None:
    words = (
        "error: No solution found\n  cause: Because the current Python version (3.11.2) does not satisfy\n"
        "   Python>=3.12 and django==6.1 depends on Python>=3.12, we can conclude that django==6.1 cannot be used."
    )
    assert python_too_old(words) == (
        "app.python: django==6.1 needs Python >=3.12, and the environment has 3.11.2: set app.python to a version that "
        "fits, or ask for another version of the package"
    )
    of_a_package = (
        "cause: Because lib==1 requires Python >=3.99 and only lib==1 is available, we can conclude that all versions\n"
        "of lib cannot be used."
    )
    assert (python_too_old(of_a_package) or "").startswith(
        "app.python: lib==1 needs Python >=3.99, and the environment"
    )
    assert python_too_old("error: no such index") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_interpreters_of_another_user_are_passed_over(tmp_path: Path) -> None:
    """Another user's home may be named by PYENV_ROOT and PATH (sudo -u keeps both)."""
    tmp_path.chmod(0o755)
    home = tmp_path / "home"
    (home / "versions" / "3.12.1" / "bin").mkdir(parents=True)
    home.chmod(0o700)
    code = (
        "import os, pathlib; from cluster.interpreters import candidates; os.setuid(65534); "
        f"print(*candidates(pathlib.Path({str(home)!r})))"
    )
    path = f"{home / 'versions' / '3.12.1' / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PYENV_ROOT": str(home), "HOME": str(home), "PATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "/usr/bin/python3" in done.stdout


def test_an_interpreter_says_the_version_that_platform_has() -> None:
    done = subprocess.run([sys.executable, "-I", "-c", ASK], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cpython", platform.python_version()]
