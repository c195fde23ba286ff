"""Runs a program of the release under the overlay: `python -m cluster_runtime.program manage.py NAME …`.

What is Python runs in this process: the secret variables of the release are set in it, and never stand in the
environment that a program is started with, which others can read from /proc. A program that is not Python is given the
plain ones alone.
"""

from __future__ import annotations

import os
import runpy
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cluster_runtime.config import CONFIG_VARIABLE, RuntimeConfig
from cluster_runtime.django_setup import prepare
from cluster_runtime.loading import loading
from cluster_runtime.secret_files import hold_release

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.core.management.base import BaseCommand

#: As a shell says it: there is no such program.
NOT_FOUND = 127

#: They put their own into the standard library's place, which must happen before it is used.
PATCHING = ("gevent", "eventlet")


class NotFoundError(Exception):
    """The release has no such program."""


def run(words: Sequence[str]) -> None:
    """Run a program of the release that CLUSTER_CONFIG names; NotFoundError where there is none of that name."""
    config = RuntimeConfig.from_environment()
    hold_release(config.secrets, Path(os.environ[CONFIG_VARIABLE]))
    prepare(config)
    program, *arguments = words
    if program.removeprefix("./") == "manage.py":
        _manage(arguments)
    elif program in ("python", "python3"):
        _run_python(arguments)
    else:
        _run_script(_found(program), arguments, config)


def _manage(arguments: Sequence[str]) -> None:
    """Run a management command, as manage.py does."""
    with ExitStack() as until_loaded:
        until_loaded.enter_context(loading())
        from django.core.management import ManagementUtility  # noqa: PLC0415 - after the environment

        class Utility(ManagementUtility):
            """Django's own, which knows when the project is loaded: it asks for a command then."""

            def fetch_command(self, subcommand: str) -> BaseCommand:
                until_loaded.close()
                return super().fetch_command(subcommand)

        Utility(["manage.py", *arguments]).execute()


def _run_python(arguments: Sequence[str]) -> None:
    """Run a module (`-m NAME`) or a file, as `python` does."""
    _settle(arguments)
    match arguments:
        case ["-m", module, *rest]:
            sys.argv = [module, *rest]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case [file, *rest] if not file.startswith("-"):
            sys.argv = [file, *rest]
            sys.path.insert(0, str(Path(file).resolve().parent))
            runpy.run_path(file, run_name="__main__")
        case _:
            raise NotFoundError("python: name a module (python -m NAME) or a file")


def _found(program: str) -> Path:
    """Return where a program is: among those of the release's packages, or on PATH."""
    beside = Path(sys.executable).parent / program
    if "/" not in program and os.access(beside, os.X_OK):
        return beside
    found = shutil.which(program)
    if found is None:
        raise NotFoundError(f"{program}: no such program among the project's packages, nor on PATH")
    return Path(found)


def _run_script(path: Path, arguments: Sequence[str], config: RuntimeConfig) -> None:
    with path.open("rb") as file:
        first = file.readline(200)
    # pip writes `#!/bin/sh` and `exec python` where the interpreter's path is too long for the kernel.
    if first.startswith(b"#!") and (b"python" in first or path.parent == Path(sys.executable).parent):
        _settle(arguments)
        sys.argv = [str(path), *arguments]
        runpy.run_path(str(path), run_name="__main__")
        return
    secret = config.secret_environment()
    plain = {name: value for name, value in os.environ.items() if name not in secret}
    os.execve(path, [str(path), *arguments], {**plain, **config.environment})  # noqa: S606 - by argument vector


def _settle(arguments: Sequence[str]) -> None:
    """Read the settings now: a program that sets DJANGO_SETTINGS_MODULE itself can't undo the overlay any more."""
    if any(word.removeprefix("--pool=") in PATCHING for word in arguments):
        return
    from django.conf import settings  # noqa: PLC0415 - after the environment

    _ = settings.DEBUG


def main() -> NoReturn:
    """Run the program that the command line names."""
    try:
        run(sys.argv[1:])
    except NotFoundError as error:
        sys.exit(_say(str(error)))
    sys.exit(0)


def _say(message: str) -> int:
    sys.stderr.write(f"{message}\n")
    return NOT_FOUND


if __name__ == "__main__":
    main()
