"""Runs a stack's program for Pulumi's engine, as a language host that the engine is given the address of (`--client`).

A process of it has imported what the program needs before it is asked; each run of the program is a fork of it. The
engine's own language host starts Python and imports all anew for each run, after it has let pip list what is installed:
about two seconds each time, of which none changes anything (docs/benchmarks/docker.md).

It is asked on standard input, and answers on standard output, a line of JSON each:

    {"socket": PATH, "directory": PATH, "output": PATH, "ahead": BOOLEAN, "environment": {…}}
        ->  {"pid": NUMBER} or {"failed": WORDS} or {"unfit": true}
    {"end": NUMBER}  ->  {"ended": NUMBER}

The host of a run that started ahead (ahead.py) answers at the socket where that waits, too. At another
one the process lends forks to what stands for Python (interpreters.py). Why a host can't begin is in the file `output`.
It is unfit where packages need what Pulumi's own language host alone knows. At the end of standard input it lets runs
that are under way end: the engine may still ask them something (resource hooks), whatever became of the command.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TextIO

import grpc
from pulumi.runtime.proto import language_pb2_grpc

from cluster.config import ClusterConfig
from cluster_runtime.supervision import die_with_parent
from platforms.pulumi.hosting import INTERRUPTED_WITHIN, Host, Job, plugins, run
from platforms.pulumi.interpreters import lend
from platforms.pulumi.relay import CHUNK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import FrameType

#: A message of the engine's may be as long as a stack's state.
OPTIONS = [("grpc.max_receive_message_length", 1024 * 1024 * 400), ("grpc.max_send_message_length", 1024 * 1024 * 400)]

#: What a fork says once it can be asked.
READY = "ready"

#: Seconds that a host may take to end: those of a program that is interrupted, and some more.
ENDED_WITHIN = INTERRUPTED_WITHIN + 2.0


def serve(order: Mapping[str, Any], found: Iterable[Mapping[str, Any]], ready: Callable[[], object]) -> None:
    """Be the language host of one run, until told to leave: then once no program is under way."""
    jobs: SimpleQueue[Job | None] = SimpleQueue()

    def leave(_signal: int, _frame: FrameType | None) -> None:
        jobs.put(None)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
    signal.signal(signal.SIGTERM, leave)
    die_with_parent(signal.SIGTERM)
    if os.getppid() != order["parent"]:
        return  # it has ended before it could be told
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["directory"])
    server = grpc.server(ThreadPoolExecutor(max_workers=4), options=OPTIONS)
    language_pb2_grpc.add_LanguageRuntimeServicer_to_server(Host(jobs, found), server)
    server.add_insecure_port(f"unix:{order['socket']}")
    server.start()
    ready()
    with contextlib.suppress(KeyboardInterrupt):  # for a program that has just ended
        while (job := jobs.get()) is not None:
            request, ended = job
            try:
                ended.set_result(run(request))
            except BaseException as error:  # noqa: BLE001 - the engine is told by the call that fails
                ended.set_exception(error)
    server.stop(1).wait()
    atexit._run_exitfuncs()  # noqa: SLF001 - the program's own: what it has put into temporary directories goes


def _let_in(waiting: socket.socket, path: str) -> None:
    """Lead each connection to the socket at `path`: gRPC can't be given one that is there."""
    while True:
        connection, _address = waiting.accept()
        there = socket.socket(socket.AF_UNIX)
        there.connect(path)
        for pair in ((connection, there), (there, connection)):
            threading.Thread(target=_pump, args=pair, daemon=True).start()


def _pump(reading: socket.socket, writing: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := reading.recv(CHUNK):
            writing.sendall(data)
    with contextlib.suppress(OSError):
        writing.shutdown(socket.SHUT_WR)


class Forking:
    """The process that forks what each run needs.

    answers, listener: where it answers, which no fork holds open. ahead: where one run waits.
    """

    def __init__(self, answers: TextIO, listener: socket.socket, ahead: socket.socket) -> None:
        self.answers = answers
        self.listener = listener
        self.ahead = ahead
        self.plugins = plugins()
        self.running: set[int] = set()
        self.lent: set[int] = set()

    def _begin(self, *, ahead: bool = False) -> None:
        """Let go, in a fork, of what is not its own. ahead: it is the host of the run that waits."""
        os.setsid()  # what it starts ends with it
        self.answers.close()
        self.listener.close()
        if not ahead:
            self.ahead.close()

    def answer(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Do what is asked; return the answer."""
        if "end" in order:
            self._end(order["end"])
            return {"ended": order["end"]}
        if self.plugins is None:
            return {"unfit": True}
        try:
            pid = self._fork({**order, "parent": os.getpid()}, self.plugins)
        except RuntimeError as error:
            return {"failed": str(error)}
        self.running.add(pid)
        return {"pid": pid}

    def lend(self) -> None:
        """Fork for one that stands for Python."""
        pid = lend(self.listener, self._begin)
        if pid is not None:
            self.lent.add(pid)

    def leave(self) -> None:
        """Let what is under way end, and wait for it."""
        for pid in self.running:
            os.kill(pid, signal.SIGTERM)
        for pid in self.running | self.lent:
            os.waitpid(pid, 0)

    def _end(self, pid: int) -> None:
        """End a host, and what its program has started; one whose program is interrupted has a while."""
        self.running.remove(pid)
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + ENDED_WITHIN
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def _fork(self, order: Mapping[str, Any], found: list[dict[str, Any]]) -> int:
        """Fork a language host; return its process once it can be asked. RuntimeError where it has ended before."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid:
            os.close(writing)
            with os.fdopen(reading) as told:
                if told.read() == READY:
                    return pid
            _pid, status = os.waitpid(pid, 0)
            said = Path(order["output"])
            words = said.read_text(errors="replace") if said.exists() else ""
            raise RuntimeError(words or f"its host ended with {os.waitstatus_to_exitcode(status)}")
        status = 1
        try:
            self._begin(ahead=order["ahead"])
            os.close(reading)
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, 0)
            sys.stdin = open(0, closefd=False)  # noqa: SIM115 - without what is left of the other's
            sink = os.open(order["output"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            for there in (1, 2):
                os.dup2(sink, there)

            def ready() -> None:
                if order["ahead"]:
                    threading.Thread(target=_let_in, args=(self.ahead, order["socket"]), daemon=True).start()
                os.write(writing, READY.encode())
                os.close(writing)

            serve(order, found, ready)
            status = 0
        except BaseException:  # noqa: BLE001 - a fork never goes back into what it was forked from
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)


def _forget(*listeners: socket.socket) -> None:
    """Remove the sockets and their directory, which whoever was killed leaves."""
    paths = [Path(listener.getsockname()) for listener in listeners]
    with contextlib.suppress(OSError):  # they were removed by who made them
        for path in paths:
            path.unlink()
        paths[0].parent.rmdir()
    for listener in listeners:
        listener.close()


def main() -> None:
    """Answer what is asked on standard input, and at sockets; the arguments: their numbers, and modules to be needed.

    The first socket is for those that stand for Python, at the second one waits a run that started ahead.
    """
    first, second, *modules = sys.argv[1:]
    listener, ahead = (socket.socket(fileno=int(number)) for number in (first, second))
    for module in modules:
        with contextlib.suppress(Exception):  # who needs it imports it too, and says what is wrong
            import_module(module)
    ClusterConfig.model_rebuild()  # else each run builds by itself what reads a stack file
    forking = Forking(os.fdopen(os.dup(1), "w", buffering=1), listener, ahead)
    gc.freeze()  # so that forks keep what is imported in common
    gc.enable()  # which what starts this (programs.START) disables for the imports
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        selector.register(listener, selectors.EVENT_READ)
        while True:
            found = [key.fileobj for key, _events in selector.select()]
            if listener in found:
                forking.lend()
            if sys.stdin in found:
                line = sys.stdin.readline()  # the next one is written once this is answered
                if not line:
                    break
                print(json.dumps(forking.answer(json.loads(line))), file=forking.answers)
    _forget(listener, ahead)
    forking.leave()


if __name__ == "__main__":
    main()
