"""Runs the `cluster` command without importing it each time, which is most of what a short one costs.

`python -m tests.local.forked DESCRIPTOR` imports it once, and forks for each command that it is sent: the fork goes on
as `python -m cluster` does once it has imported the same, but that the first environment of packages of a stand is one
that another stand of the run has made of the same, where there is one (`share_environments`).
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import json
import os
import pkgutil
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer.main

import cli
import cluster
import platforms
from cli import main
from cli.app import app
from cluster.config.kinds import Model
from cluster.kept import COMPLETE, hurt
from cluster.machine.environments import Environments
from tests.conftest import SHARED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cluster.interpreters import Interpreter

ROOT = Path(__file__).resolve().parents[2]

#: What the command imports only while it runs, beside its own modules.
LATE = (
    *("rich.console", "rich._emoji_codes", "typer._adapters", "typer._click.decorators", "httpcore"),
    *("encodings.ascii", "encodings.utf_8_sig"),
)

#: Bytes of a request: a command line and an environment.
MOST = 128 * 1024

#: How names in the shared directory end: of the mark that an environment was wanted again, of one that was left, and of
#: the lock of whoever makes one.
AGAIN, LEFT, LOCK = ".again", ".left-", ".lock"


@dataclass(frozen=True)
class Request:
    """One command: its arguments, where it runs, and its environment."""

    arguments: list[str]
    directory: str
    environment: dict[str, str]


class Commands:
    """Runs commands, each from whichever thread."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            program = [sys.executable, "-m", "tests.local.forked", str(other.fileno())]
            self._process = subprocess.Popen(
                program,
                cwd=ROOT,
                env=environment,
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,  # Python looks once what kind of output it has: a fork's is a pipe
            )
        atexit.register(self.close)

    def run(self, request: Request, timeout: float) -> tuple[int, str]:
        """Return a command's exit status (subprocess's) and all that it printed; TimeoutExpired after so many seconds.

        As with a pipe of subprocess's, that ends when all have closed it that the command has started.
        """
        mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        output, written = os.pipe()
        try:
            with other:
                message = json.dumps(asdict(request)).encode()
                assert len(message) < MOST
                socket.send_fds(self._control, [message], [written, other.fileno()])
                os.close(written)
            pid = int(mine.recv(64))
            printed = _read(output, timeout)
            if printed is None:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(request.arguments, timeout)
            return int(mine.recv(64)), printed.decode(errors="replace")
        finally:
            mine.close()
            os.close(output)

    def close(self) -> None:
        """End the process that forks."""
        self._control.close()
        self._process.wait()


def _read(descriptor: int, timeout: float) -> bytes | None:
    """Return what is written until all have closed it; None where that is not so after `timeout` seconds."""
    deadline, kept = time.monotonic() + timeout, bytearray()
    while select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
        chunk = os.read(descriptor, 65536)
        if not chunk:
            return bytes(kept)
        kept += chunk
    return None


def serve(control: socket.socket) -> None:
    """Fork for each request, and tell its process id and then its exit status; return in the fork alone."""
    waiting = selectors.DefaultSelector()
    waiting.register(control, selectors.EVENT_READ)
    while True:
        for key, _events in waiting.select():
            if isinstance(key.data, tuple):
                pid, reply = key.data
                waiting.unregister(key.fd)
                os.close(key.fd)
                with reply:
                    _tell(reply, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                continue
            message, descriptors, _flags, _address = socket.recv_fds(control, MOST, 2)
            if not message:
                sys.exit()
            output, reply = descriptors[0], socket.socket(fileno=descriptors[1])
            pid = os.fork()
            if pid == 0:
                # Inherited by what the command starts, the others' ends would be open for ever.
                for other in [*waiting.get_map().values()]:
                    os.close(other.fd)
                    if other.data:
                        other.data[1].close()
                reply.close()
                waiting.close()
                _become(Request(**json.loads(message)), output)
                return
            os.close(output)
            _tell(reply, pid)
            waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, reply))


def _tell(reply: socket.socket, number: int) -> None:
    try:
        reply.send(str(number).encode())
    except BrokenPipeError:
        return  # nobody waits any more


def _become(request: Request, output: int) -> None:
    """Take a request's place: its directory, environment and output."""
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    os.chdir(request.directory)
    os.environ.clear()
    os.environ.update(request.environment)
    # By these the command's usage says how it was called.
    sys.argv[:] = [str(Path(cluster.__file__).with_name("__main__.py")), *request.arguments]
    sys.modules["__main__"].__package__ = "cluster"
    sys.path[0] = request.directory
    signal.signal(signal.SIGINT, signal.default_int_handler)


def leave() -> NoReturn:
    """Run `cluster`, and end as the interpreter does, but without taking apart what it has imported.

    That would write to each page which the fork has in common with all others: a tenth of a second of processor time.
    """
    try:
        main()
    except SystemExit as ended:
        status = 0 if ended.code is None else ended.code
        if not isinstance(status, int):
            raise  # the interpreter prints it
    else:
        status = 0
    getattr(threading, "_shutdown")()  # noqa: B009 - as the interpreter waits for threads: there is no public way
    getattr(atexit, "_run_exitfuncs")()  # noqa: B009
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def share_environments() -> None:
    """Let the first environment of a stand be one that another has made, if that has the same digest.

    Made anew each takes a second or two of processor time. One that is made beside or after another is what a test may
    be about, and is really made. As with those that uv makes, the files are links to what all others have: nobody
    writes into them. One that a stand has left (`leave_environments`) is taken before another is made of links.
    """
    install = Environments._install

    def share(self: Environments, directory: Path, made_from: Path, interpreter: Interpreter) -> None:
        shared, parent = os.environ.get(SHARED), self.directory.parent
        if not shared or any(
            there.is_dir() and any(there.iterdir()) for there in (self.directory, parent / "releases")
        ):
            install(self, directory, made_from, interpreter)
            return
        made = Path(shared) / directory.name
        with _alone(made):
            if made.exists():
                self.say(f"making the environment of Python packages, with Python {interpreter.version}")
                self.directory.mkdir(parents=True, exist_ok=True)
                made.with_suffix(AGAIN).touch()
                if not _take_left(made, directory):
                    link_tree(made, directory)
                return
            install(self, directory, made_from, interpreter)
            if not _on_one_disk(shared, directory):
                return
            with tempfile.TemporaryDirectory(dir=shared) as own:
                link_tree(directory, Path(own) / "copy")
                (Path(own) / "copy").rename(made)

    Environments._install = share  # type: ignore[method-assign]


@contextmanager
def _alone(made: Path) -> Iterator[None]:
    """Let nobody else make the same meanwhile: all workers begin with what most stands have."""
    with made.with_suffix(LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _take_left(made: Path, directory: Path) -> bool:
    """Move one to `directory` that a stand has left of what is in `made`; tell whether there was one."""
    for left in made.parent.glob(f"{made.name}{LEFT}*"):
        with suppress(OSError):  # another was first, or it is on another disk
            left.rename(directory)
            return True
    return False


def leave_environments(environments: Path) -> None:
    """Leave those of a stand that ends, if more than one stand has wanted the same, and nothing of it is hurt.

    Links to its eight thousand files would be made and removed again for each.
    """
    shared = os.environ.get(SHARED)
    if not shared or environments.is_symlink() or not environments.is_dir():
        return
    for directory in environments.iterdir():
        made = Path(shared) / directory.name
        is_own = not directory.is_symlink() and directory.stat().st_uid == os.geteuid()
        if is_own and made.with_suffix(AGAIN).exists() and hurt(directory, COMPLETE) == []:
            with suppress(OSError):  # it is on another disk
                directory.rename(made.with_suffix(f"{LEFT}{time.time_ns():x}"))


def link_tree(source: Path, target: Path) -> None:
    """Make a directory of links to all files of another, or of copies where that is on another disk."""
    how = "-al" if _on_one_disk(source, target.parent) else "-a"
    subprocess.run(["cp", how, str(source), str(target)], check=True)


def _on_one_disk(one: str | Path, other: str | Path) -> bool:
    return Path(one).stat().st_dev == Path(other).stat().st_dev


def build() -> None:
    """Make once what each command would make for itself: the models of a stack file, and the command line."""
    waiting = Model.__subclasses__()
    for model in waiting:
        model.model_rebuild()
        waiting += model.__subclasses__()
    made = typer.main.get_command(app)
    typer.main.get_command = lambda typer_instance: made


if __name__ == "__main__":
    for package in (cli, cluster, platforms):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    for name in LATE:
        importlib.import_module(name)
    share_environments()
    build()
    gc.set_threshold(100_000)  # as cluster/__main__.py
    gc.collect()
    gc.freeze()  # no fork searches for garbage what all have in common
    serve(socket.socket(fileno=int(sys.argv[1])))
    leave()
