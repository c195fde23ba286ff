"""The Python environment of releases on this machine, and what a release installs from its own copy of local packages.

An environment is shared by the releases that need the same packages and the same interpreter: it holds nothing that
comes from a directory. All that it was made from stays in it, so that it can be made anew when its Python is gone.
"""

from __future__ import annotations

import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uv

from cluster.interpreters import ASK, Interpreter, find_interpreter, python_too_old, requested
from cluster.kept import COMPLETE, hurt, make_way, remove_tree, vouch
from cluster.packages import INSTALL_LOCAL, INSTALL_PACKAGES, last_lines, run_program, uv_config, write_installation
from cluster.release import ReleaseError, local_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cluster.machine.owner import Owner
    from cluster.release import ReleaseSpec

#: What an environment was made from, in it; only its maker reads it, since it may name private indexes.
MADE_FROM = "cluster-requirements"

#: In a release's directory: its local packages, and the source of those that are not in the project.
PACKAGES, SOURCES = "packages", "sources"


@dataclass(frozen=True, kw_only=True)
class Environments:
    """The environments of a stack, or of projects that are looked at.

    `say` is told what is done; `pythons` is where uv puts interpreters.
    """

    directory: Path
    pythons: Path
    owner: Owner
    say: Callable[[str], None]

    def make(self, spec: ReleaseSpec, interpreter: Interpreter, runtime: Sequence[str]) -> Path:
        """Return the environment of a release, made where it is not there or its Python does not start any more."""
        directory = self.directory / spec.environment_digest
        if self.works(directory):
            return directory
        with tempfile.TemporaryDirectory() as temporary:
            made_from = Path(temporary) / MADE_FROM
            write_installation(
                *(made_from, spec.requirements), runtime=runtime, python=spec.python_request, place=str(made_from)
            )
            self._install(directory, made_from, interpreter)
        return directory

    def mend(self, directory: Path) -> None:
        """Make an environment anew where its Python does not start any more, from what it was made from."""
        if self.works(directory):
            return
        if not (directory / MADE_FROM).is_dir():
            raise ReleaseError(
                f"{directory} is hurt, and nothing tells what it was made from: say `cluster up` instead"
            )
        with tempfile.TemporaryDirectory() as temporary:
            made_from = Path(temporary) / MADE_FROM
            shutil.copytree(directory / MADE_FROM, made_from, symlinks=True)
            text = (made_from / "python").read_text(encoding="utf-8").strip()
            options = self.owner.subprocess_options()
            interpreter = find_interpreter(requested(text), self.pythons, options, self.owner.name)
            self._install(directory, made_from, interpreter)

    def works(self, directory: Path) -> bool:
        """Tell whether an environment is whole, and the instances' user can start its Python."""
        return hurt(directory, COMPLETE) == [] and self.starts(directory)

    def starts(self, directory: Path) -> bool:
        """Tell whether the instances' user can start the Python of an environment that was found whole."""
        command = [str(directory / "bin" / "python"), "-I", "-c", f"{ASK}; import gunicorn"]
        try:
            options = self.owner.subprocess_options()
            done = subprocess.run(command, cwd="/", capture_output=True, check=False, timeout=60, **options)
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0

    def _install(self, directory: Path, made_from: Path, interpreter: Interpreter) -> None:
        self.say(f"making the environment of Python packages, with Python {interpreter.version}")
        remove_tree(directory)
        make_way(directory.parent, stat.S_IFDIR)
        directory.parent.mkdir(parents=True, exist_ok=True)
        command = [str(INSTALL_PACKAGES), str(made_from), str(directory), interpreter.path]
        done = run_program(command, environment={"UV": uv.find_uv_bin()})
        if done.returncode != 0:
            raise ReleaseError(not_installed(done.stderr))
        kept = directory / MADE_FROM
        shutil.copytree(made_from, kept, symlinks=True)
        kept.chmod(0o700)
        vouch(directory, COMPLETE, ".")

    def install_local(self, spec: ReleaseSpec, directory: Path, project: Path, environment: Path) -> None:
        """Install a release's local packages from its own copy of their source, as the instances' user.

        directory: the release's. project: where the project is in it.
        """
        sources = str(directory / SOURCES)
        lines = local_lines(spec, str(project), sources)
        if not lines:
            return
        self.say("installing the project's local packages")
        with tempfile.TemporaryDirectory() as temporary:
            work = Path(temporary)
            (work / "list").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            (work / "uv.toml").write_text(uv_config(spec.requirements, absolute=True), encoding="utf-8")
            self.owner.own(work)
            # Build backends are the project's own code. What they download is kept apart from the caller's.
            private = {"UV_CACHE_DIR": str(work / "cache"), "HOME": str(work)} if self.owner.changed else {}
            python = str(environment / "bin" / "python")
            words = (str(work / "list"), str(directory / PACKAGES), python, str(work / "uv.toml"))
            done = run_program(
                [str(INSTALL_LOCAL), *words, sources],
                cwd=directory,
                environment={"UV": uv.find_uv_bin(), **private},
                start_new_session=self.owner.changed,  # and no terminal of the caller's
                **self.owner.subprocess_options(),
            )
        if done.returncode != 0:
            raise ReleaseError(f"app.requirements: a local package can't be installed\n{last_lines(done.stderr)}")
        for line in done.stdout.splitlines():
            self.say(line)


def not_installed(words: str) -> str:
    """Return why packages could not be installed: in a line of our own where that is what one needs to know."""
    too_old = python_too_old(words)
    if too_old:
        return too_old
    if "lockfile" in words and "--locked" in words:
        return "app.requirements: uv.lock is not what pyproject.toml asks for: run `uv lock`"
    return f"app.requirements: the packages can't be installed\n{last_lines(words)}"
