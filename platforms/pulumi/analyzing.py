"""Runs the policy pack for Pulumi's engine, in a process that has imported it before it is asked.

The engine has a language host run a pack. It asks the one that listens where PULUMI_DEBUG_LANGUAGES says, and starts
one itself, and Python twice, where that is not so. This one runs one pack, once, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import socket
import sys
import threading
import traceback
from selectors import EVENT_READ, DefaultSelector
from typing import TYPE_CHECKING, Any

import grpc
from pulumi.runtime.proto import LanguageRuntimeServicer, language_pb2, plugin_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What is run with the engine's address and the pack, and what the pack is made with.
MODULE, SDK = "pulumi.policy", "pulumi_policy"


class Pack:
    """A process for a pack, which waits to be told that it is wanted; it ends with the one that tells it."""

    def __init__(self) -> None:
        self.control, self._told = socket.socketpair()
        self.printed, self._printing = os.pipe()
        self.failed, self._failing = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            self._run()
        self._told.close()
        os.close(self._printing)
        os.close(self._failing)

    def close(self) -> None:
        """Let go of it, in a process that does not ask it."""
        self.control.close()
        os.close(self.printed)
        os.close(self.failed)

    def begin(self, request: Any) -> None:
        """Let it run with what the engine asks for."""
        pack = request.info.program_directory
        told = {"pack": pack, "arguments": [*request.args, pack], "environment": list(request.env)}
        self.control.sendall(json.dumps(told).encode() + b"\n")

    def _run(self) -> None:
        status = 1
        try:
            os.setsid()
            self.close()
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
    sys.argv = [MODULE, *told["arguments"]]
    try:
        runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 0


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
        if request.info.program_directory != self.directory or not self._asked.acquire(blocking=False):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, f"what is run here is {self.directory}, once")
        self.pack.begin(request)
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
