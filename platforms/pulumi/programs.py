"""Keeps a process that runs a stack's program for the engine, without starting Python anew for each run."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import cluster
from cluster.errors import CommandError
from platforms.pulumi import interpreters
from platforms.pulumi.installing import installed_pulumi

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: The project's file.
PROJECT = "Pulumi.yaml"

#: What the policy pack is made of, beside Python's own.
SDK = "pulumi_policy"

#: The longest path of a socket, in bytes.
SOCKET_LENGTH = 100

#: Nothing is imported from where the command was said: that may be anybody's directory. What a caller says of bytecode
#: holds for the program too.
ISOLATED = ("-I", *(["-B"] if sys.flags.dont_write_bytecode or os.environ.get("PYTHONDONTWRITEBYTECODE") else []))

#: Starts the process with what this one finds modules by. What it imports stays: to look through all that for garbage
#: takes a tenth of its time.
START = (
    "import gc, sys, json; gc.disable(); sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from platforms.pulumi.serving import main; main()"
)


class Programs:
    """The process, for the program of the project at `root`. modules: those that the program will import.

    ahead: the socket of a run that starts before the process can be asked: who comes too early waits there.
    """

    def __init__(self, root: Path, modules: tuple[str, ...]) -> None:
        self.root = root
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self.directory = tempfile.TemporaryDirectory(dir="/tmp")  # a socket's path has to be short
        self.interpreters, self.ahead = (Path(self.directory.name) / name for name in ("python", "ahead"))
        with contextlib.ExitStack() as closing:
            numbers = []
            for path in (self.interpreters, self.ahead):
                listener = closing.enter_context(socket.socket(socket.AF_UNIX))
                listener.bind(str(path))
                listener.listen()  # who asks too early waits
                numbers.append(listener.fileno())
            self.process = subprocess.Popen(
                [sys.executable, *ISOLATED, "-c", START, json.dumps(sys.path), *map(str, numbers), *modules],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.said,
                pass_fds=numbers,
                text=True,
                start_new_session=True,  # an interrupt is for the engine alone, which lets the program end
            )
        weakref.finalize(self, _let_go, self.process)

    def interpreter(self, directory: Path) -> Path:
        """Write a virtual environment below `directory` whose Python is a fork of the process; return it."""
        return interpreters.write(directory, self.interpreters)

    @contextlib.contextmanager
    def serving(self, environment: Mapping[str, str], directory: Path, *, ahead: bool = False) -> Iterator[str | None]:
        """Yield the address of a language host, for one run of Pulumi's; CommandError where there is none.

        None where the engine is to run the program itself. directory: where a socket may be. ahead: the run has been
        given the address of `ahead`, one time.
        """
        with contextlib.ExitStack() as stack:
            path = directory / "program"
            if len(str(path).encode()) > SOCKET_LENGTH or "%" in str(path):
                path = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp"))) / "program"
            order = {"socket": str(path), "directory": str(self.root), "output": str(directory / "host")}
            answer = self._ask({**order, "ahead": ahead, "environment": _activated(environment)})
            if "unfit" in answer:
                yield None
                return
            try:
                yield f"unix:{path}"
            finally:
                # Where the process is gone its forks leave by themselves; what became of the run is known by now.
                with contextlib.suppress(CommandError):
                    self._ask({"end": answer["pid"]})

    def _ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None  # noqa: S101 - for mypy
        assert self.process.stdout is not None  # noqa: S101
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            self.said.seek(0)
            answer = json.dumps({"failed": self.said.read().decode(errors="replace")})
        found: dict[str, Any] = json.loads(answer)
        if "failed" in found:
            raise CommandError(
                f"the stack's program can't be run: {found['failed'].strip() or 'what runs it was killed'}"
            )
        return found


def _activated(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment as Pulumi's own language host gives it to a program of a virtual environment."""
    path = f"{Path(sys.prefix) / 'bin'}:{environment.get('PATH', '')}"
    kept = {name: value for name, value in environment.items() if name != "PYTHONHOME"}
    return {**kept, "PATH": path, "VIRTUAL_ENV": sys.prefix}


def _let_go(process: subprocess.Popen[str]) -> None:
    """End the process; a run of it that is under way goes on, and ends by itself."""
    process.terminate()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # what it was killed before it read
                pipe.close()
    process.wait()


#: Those that have begun before anybody has asked for them, by what they are asked for with.
_begun: dict[tuple[Path, tuple[str, ...]], Programs] = {}


def begin(root: Path, module: str) -> None:
    """Let what the program imports, `module` among it, be imported while the stack file is read, where Pulumi is.

    Nothing of the stack file is read here: nobody has judged yet whether it can be.
    """
    with contextlib.suppress(OSError):  # what can't begin now begins when it is asked for
        if (root, (module, SDK)) not in _begun and installed_pulumi() is not None and _is_ours(root):
            _begun[root, (module, SDK)] = Programs(root, (module, SDK))


def programs(root: Path, file: Path, *modules: str) -> Programs | None:
    """Return what runs the program of the project at `root` for a stack of this file; modules: that it will import.

    None where that is another Python's than this one's, or has what the engine alone knows.
    """
    begun = _begun.pop((root, modules), None)
    # What `environment` names Pulumi puts into its own environment, once it runs.
    if (begun is None and not _is_ours(root)) or "environment" in _read(file):
        return None  # one that has begun ends as it is forgotten
    return begun or Programs(root, modules)


def _is_ours(root: Path) -> bool:
    """Tell whether the project at `root` is run by the Python that runs this, and by nothing that the engine knows."""
    project = _read(root / PROJECT)
    runtime = project.get("runtime")
    options = runtime.get("options") if isinstance(runtime, dict) and runtime.get("name") == "python" else None
    if not isinstance(options, dict) or set(options) != {"virtualenv"} or "main" in project:
        return False
    interpreter = (root / str(options["virtualenv"])).resolve()
    own = root / "cluster" / "__init__.py"
    theirs = own.exists() and not own.samefile(cluster.__file__)
    return interpreter == Path(sys.prefix).resolve() and sys.prefix != sys.base_prefix and not theirs


def _read(file: Path) -> dict[str, Any]:
    """Return what a file says; nothing where it can't be read: Pulumi says what is wrong with it."""
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return document if isinstance(document, dict) else {}
