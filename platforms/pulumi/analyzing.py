"""Runs the policy pack for Pulumi's engine, in a process that has imported it before it is asked.

The engine has a language host run a pack. It asks the one that listens where PULUMI_DEBUG_LANGUAGES says, and starts
one itself, and Python twice, where that is not so. This one runs one pack, once, for a process of its own user's: it
listens on a port, which all users of a machine reach.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import runpy
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import TYPE_CHECKING, Any, TextIO

import grpc
from pulumi.runtime.proto import LanguageRuntimeServicer, language_pb2, plugin_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

#: A process of this machine's that is asked, as the engine and gRPC name it; and its connection in the kernel's table.
ADDRESS, PEER, ESTABLISHED = re.compile(r"127\.0\.0\.1:\d+"), re.compile(r"ipv4:127\.0\.0\.1:(\d+)"), "01"

#: What is run with the engine's address and the pack, and what the pack is made with.
MODULE, SDK = "pulumi.policy", "pulumi_policy"


class Pack:
    """A process for a pack, which waits to be told that it is wanted; it ends with the one that tells it.

    held: what the one that makes it has open, and is not to be held open by it.
    """

    def __init__(self, held: TextIO) -> None:
        self.control, self._told = socket.socketpair()
        self.printed, self._printing = os.pipe()
        self.failed, self._failing = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            self._run(held)
        self._told.close()
        os.close(self._printing)
        os.close(self._failing)

    def leave_to_another(self) -> None:
        """Leave it to another process to ask it."""
        self.control.close()
        os.close(self.printed)
        os.close(self.failed)

    def end(self) -> None:
        """End it, where the other process has not."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def begin(self, request: Any, pack: str) -> None:
        """Let it run with what the engine asks for."""
        told = {"pack": pack, "engine": request.args[0], "environment": list(request.env)}
        self.control.sendall(json.dumps(told).encode() + b"\n")

    def _run(self, held: TextIO) -> None:
        status = 1
        try:
            os.setsid()
            held.close()
            self.leave_to_another()
            nothing = os.open(os.devnull, os.O_RDONLY)
            for there, here in ((nothing, 0), (self._printing, 1), (self._failing, 2)):
                os.dup2(there, here)
                os.close(there)
            told = self._told.makefile("rb").readline()
            if told:
                threading.Thread(target=self._end_with_the_other, daemon=True).start()
                status = _run_pack(json.loads(told))
        except BaseException:  # noqa: BLE001 - a fork never goes back into what it was forked from
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def _end_with_the_other(self) -> None:
        self._told.recv(1)
        os._exit(0)


def _run_pack(told: Any) -> int:
    os.environ.clear()
    os.environ.update(dict(one.split("=", 1) for one in told["environment"]))
    os.chdir(told["pack"])
    sys.argv = [MODULE, told["engine"], told["pack"]]
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 0


def of_this_user(peer: str) -> bool:
    """Tell whether a connection within this machine is one of this user's; peer: as in `ipv4:127.0.0.1:1234`."""
    found = PEER.fullmatch(peer)
    if found is None:
        return False
    port = f"{int(found[1]):04X}"
    # gRPC's own clients have sockets of IPv6 for it.
    for table, address in (("tcp", "0100007F"), ("tcp6", "0000000000000000FFFF00000100007F")):
        for row in map(str.split, (Path("/proc/net") / table).read_text(encoding="ascii").splitlines()[1:]):
            if (row[1], row[3]) == (f"{address}:{port}", ESTABLISHED):
                return int(row[7]) == os.getuid()
    return False


class PackHost(LanguageRuntimeServicer):
    """A language host that runs the pack in one directory."""

    def __init__(self, pack: Pack, directory: str) -> None:
        self.pack = pack
        self.directory = directory
        self._asked = threading.Lock()

    def Handshake(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802 - as the service has it
        """Take notice of the engine."""
        return language_pb2.LanguageHandshakeResponse()

    def GetPluginInfo(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        """Return no version: it is the command's."""
        return plugin_pb2.PluginInfo()

    def RunPlugin(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        """Run the pack, and pass on what it says: first of all the port where it is asked."""
        if not of_this_user(context.peer()):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "this is another user's")
        addresses = len(request.args) == 1 and ADDRESS.fullmatch(request.args[0])
        if request.info.program_directory != self.directory or not addresses:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"what is run here is {self.directory}")
        if not self._asked.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{self.directory} is run already")
        self.pack.begin(request, self.directory)
        context.add_callback(lambda: self.pack.control.shutdown(socket.SHUT_RDWR))
        with DefaultSelector() as selector:
            selector.register(self.pack.printed, EVENT_READ)
            selector.register(self.pack.failed, EVENT_READ)
            while selector.get_map():
                for key, _events in selector.select():
                    data = os.read(key.fd, 65536)
                    if not data:
                        selector.unregister(key.fd)
                    elif key.fd == self.pack.printed:
                        yield language_pb2.RunPluginResponse(stdout=data)
                    else:
                        yield language_pb2.RunPluginResponse(stderr=data)
        yield language_pb2.RunPluginResponse(exitcode=1)  # one that is wanted does not end by itself
