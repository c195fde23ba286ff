"""The rules of which room imports which (pyproject.toml, kept by `lint-imports`) speak of every room."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import cluster

ROOT = Path(__file__).resolve().parents[2]

#: Of `cluster`, what knows a platform, or a command.
NOT_PURE = {"__main__", "adopting", "asking", "cli", "looking"}


def test_whatever_is_not_a_platforms_or_a_commands_is_kept_pure() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (pure,) = [contract for contract in contracts if contract["name"].startswith("What is pure")]
    rooms = {module.name for module in pkgutil.iter_modules(cluster.__path__)}
    assert set(pure["source_modules"]) == {f"cluster.{room}" for room in rooms - NOT_PURE}


def test_an_import_across_a_wall_is_found(tmp_path: Path) -> None:
    """The saboteur: a lint that looks at a platform."""
    for package in ("cluster", "platforms", "components"):
        subprocess.run(["cp", "-r", str(ROOT / package), str(tmp_path)], check=True)
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    lints = Path(sys.executable).with_name("lint-imports")
    command = [str(lints), "--no-cache", "--no-logo"]
    for line, status in (("", 0), ("import platforms.docker.engine\n", 1)):
        with (tmp_path / "cluster" / "lint" / "site.py").open("a") as file:
            file.write(line)
        environment = {"PYTHONPATH": f"{tmp_path}:{ROOT / 'runtime'}"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout + done.stderr


def test_a_command_line_that_is_only_explained_reads_no_models() -> None:
    """They are most of what the command imports."""
    code = "import sys, cluster.cli; print(*sys.modules)"
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'runtime'}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert not {"cluster.config.models", "cluster.lint", "httpx", "pulumi"} & set(done.stdout.split())
