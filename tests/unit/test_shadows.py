"""Whatever the checkout is called, and whatever modules lie about: the tool runs, or its first line says why not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cluster.errors import CommandError
from cluster.stack.opened import check_root

ROOT = Path(__file__).resolve().parents[2]

#: Modules of ours and of our tools that a project, a checkout or PYTHONPATH may hold as well.
NAMES = ("cluster", "cluster_runtime", "supervisor", "gunicorn", "uv", "typer", "pydantic", "json", "yaml", "site")


@pytest.mark.parametrize(
    "name", ["plain", "with space", "Größe", "日本", "a+b", "a,b", "a@b", "a=b", "~x", "(copy)", "a.b-c_d"]
)
def test_an_ordinary_path_is_fine(name: str) -> None:
    check_root(Path("/srv") / name)


@pytest.mark.parametrize(
    "char", [*"\"'`\\$%*?[]{};#:|<>&!", "\n", "\t", "\r", "\x1b", "\x7f", "\u202e", "\udcff", "\u2028"]
)
def test_a_path_that_programs_read_differently_is_refused_in_one_line(char: str) -> None:
    with pytest.raises(CommandError, match="the repository's path") as raised:
        check_root(Path(f"/srv/a{char}b"))
    assert len(str(raised.value).splitlines()) == 1
    assert str(raised.value).isprintable(), "a terminal would obey it"


@pytest.fixture
def shadowed(tmp_path: Path) -> Path:
    (tmp_path / "stacks").mkdir()
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} of the checkout was imported')\n")
    return tmp_path


def script(tmp_path: Path) -> Path:
    """Return the command as scripts/make-venv writes it, beside an interpreter of this environment."""
    text = (ROOT / "scripts" / "make-venv").read_text()
    body = text.split("bin/cluster\" <<'END'\n")[1].split("END\n")[0]
    directory = tmp_path / "bin of it"
    directory.mkdir()
    (directory / "python").symlink_to(interpreter())
    (directory / "cluster").write_text(body)
    (directory / "cluster").chmod(0o755)
    link = tmp_path / "linked"
    link.symlink_to(directory / "cluster")
    return link


def interpreter() -> Path:
    import sys  # noqa: PLC0415 - only here

    return Path(sys.executable)


def test_modules_in_the_current_directory_and_in_pythonpath_shadow_nothing(shadowed: Path) -> None:
    command = script(shadowed)
    (command.resolve().parent / "python").unlink()
    # An interpreter of the environment, wherever the script is: a link of a link would lose pyvenv.cfg.
    (command.resolve().parent / "python").write_text(f'#!/bin/sh\nexec "{interpreter()}" "$@"\n')
    (command.resolve().parent / "python").chmod(0o755)
    done = subprocess.run(
        [str(command), "status", "nothing"],
        cwd=shadowed,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(shadowed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "stacks/Pulumi.nothing.yaml" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_isolation_they_would(shadowed: Path) -> None:
    """The saboteur."""
    done = subprocess.run(
        [str(interpreter()), "-m", "cluster", "status", "nothing"],
        cwd=shadowed,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(shadowed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "of the checkout was imported" in done.stderr
