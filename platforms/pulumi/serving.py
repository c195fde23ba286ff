"""Runs a stack's program for Pulumi's engine, as a language host that the engine is given the address of (`--client`).

A process of it has imported what the program needs before it is asked; each run of the program is a fork of it. The
engine's own language host starts Python and imports all anew for each run, after it has let pip list what is installed:
about two seconds each time, of which none changes anything (docs/benchmarks/docker.md).

It is asked on standard input, and answers on standard output, a line of JSON each:

    {"socket": PATH, "directory": PATH, "output": PATH, "environment": {…}, "pack": PATH}
        ->  {"pid": NUMBER, "port": NUMBER} or {"failed": WORDS}
    {"end": NUMBER}  ->  {"ended": NUMBER}

What the program prints is in the file `output`. Where a `pack` is named, the port is that of a language host for it. At
the end of standard input it lets runs that are under way end: the engine may still ask them something (resource hooks),
whatever became of the command.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import importlib.metadata
import json
import logging
import os
import runpy
import signal
import sys
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import grpc
import pulumi
import pulumi.runtime
from pulumi.runtime.proto import LanguageRuntimeServicer, language_pb2, language_pb2_grpc, plugin_pb2

from platforms.pulumi.analyzing import SDK, Pack, PackHost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import FrameType, TracebackType

#: A message of the engine's may be as long as a stack's state.
OPTIONS = [("grpc.max_receive_message_length", 1024 * 1024 * 400), ("grpc.max_send_message_length", 1024 * 1024 * 400)]

#: What a package has that needs a plugin of the engine's.
PLUGIN = "pulumi-plugin.json"

PR_SET_PDEATHSIG = 1

#: What the engine asks to be run; None: nothing more is to come.
Job = tuple[Any, "Future[Any]"]


class Host(LanguageRuntimeServicer):
    """A language host: passes on what the engine wants to be run. plugins: those that the program needs."""

    def __init__(self, jobs: SimpleQueue[Job | None], plugins: Iterable[Mapping[str, Any]]) -> None:
        self.jobs = jobs
        self.plugins = list(plugins)

    def Run(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802 - as the service has it
        """Let the main thread run the program, since code of it may expect that; return how it ended."""
        ended: Future[Any] = Future()
        self.jobs.put((request, ended))
        return ended.result()

    def GetRequiredPackages(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        """Return the plugins that the engine is to have, or to install first."""
        wanted = [plugin_pb2.PackageDependency(kind="resource", **plugin) for plugin in self.plugins]
        return language_pb2.GetRequiredPackagesResponse(packages=wanted)

    def GetRequiredPlugins(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        """Return the same to an engine of before packages."""
        wanted = [plugin_pb2.PluginDependency(kind="resource", **plugin) for plugin in self.plugins]
        return language_pb2.GetRequiredPluginsResponse(plugins=wanted)

    def GetPluginInfo(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        """Return no version: it is the command's."""
        return plugin_pb2.PluginInfo()

    def About(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        """Return which Python it is."""
        version = ".".join(map(str, sys.version_info[:3]))
        return language_pb2.AboutResponse(executable=sys.executable, version=version)


def plugins() -> list[dict[str, Any]]:
    """Return the plugins that installed packages need: names, versions, and where they are, if not at Pulumi's."""
    found = []
    for package in importlib.metadata.distributions():
        if not any(need.startswith("pulumi") for need in package.requires or ()):
            continue
        for file in package.files or ():
            if file.name != PLUGIN:
                continue
            said = json.loads(file.read_text())
            if said.get("resource"):
                server = {"server": said["server"]} if said.get("server") else {}
                found.append({"name": said["name"], "version": f"v{said['version'].removeprefix('v')}", **server})
    return found


# --- a run of the program


def run(request: Any) -> Any:
    """Run the program that the engine names; return how it ended. What went wrong is told to the engine."""
    pulumi.runtime.set_all_config(dict(request.config), list(request.configSecretKeys))
    pulumi.runtime.configure(
        pulumi.runtime.Settings(
            monitor=request.monitor_address,
            engine=request.args[0] if request.args else "",
            project=request.project,
            stack=request.stack,
            parallel=request.parallel,
            dry_run=request.dryRun,
            organization=request.organization or "organization",
            root_directory=request.info.root_directory or None,
        )
    )
    os.chdir(request.pwd or ".")
    program = request.info.entry_point or request.program
    sys.argv = [program]
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # as Pulumi's own: a program that fails leaves much behind
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    executor = ThreadPoolExecutor(max_workers=max(request.parallel, 1) * 4)
    loop.set_default_executor(executor)
    try:
        loop.run_until_complete(pulumi.runtime.run_in_stack(lambda: _run(program)))
    except pulumi.RunError as error:
        pulumi.log.error(str(error))
        return language_pb2.RunResponse(bail=True)
    except SystemExit as error:
        if error.code in (None, 0):
            return language_pb2.RunResponse()
        return language_pb2.RunResponse(error=f"program exited with {error.code}")
    except Exception as error:  # noqa: BLE001 - whatever it is, the engine is told
        pulumi.log.error(f"Program failed with an unhandled exception:\n{_told(error, program)}")
        return language_pb2.RunResponse(bail=True)
    finally:
        executor.shutdown(wait=True)
        loop.close()
        sys.stdout.flush()
        sys.stderr.flush()
    return language_pb2.RunResponse()


def _run(program: str) -> None:
    runpy.run_path(program, run_name="__main__")


def _told(error: Exception, program: str) -> str:
    """Return what Python says of an error, from where the program's own file is."""
    own = {os.path.abspath(program), os.path.abspath(os.path.join(program, "__main__.py"))}  # noqa: PTH100, PTH118
    at: TracebackType | None = error.__traceback__
    while at is not None and os.path.abspath(at.tb_frame.f_code.co_filename) not in own:  # noqa: PTH100
        at = at.tb_next
    return "".join(traceback.format_exception(type(error), error, at or error.__traceback__))


def serve(
    order: Mapping[str, Any], found: Iterable[Mapping[str, Any]], pack: Pack | None, ready: Callable[[int], object]
) -> None:
    """Be the language host of one run, until told to leave: then once no program is under way.

    ready: told the port where another one listens, which runs the pack; 0 where there is none.
    """
    jobs: SimpleQueue[Job | None] = SimpleQueue()

    def leave(_signal: int, _frame: FrameType | None) -> None:
        jobs.put(None)

    signal.signal(signal.SIGTERM, leave)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["directory"])
    servers = [_server(Host(jobs, found))]
    servers[0].add_insecure_port(f"unix:{order['socket']}")
    port = 0
    if pack is not None:
        servers.append(_server(PackHost(pack, order["pack"])))
        port = servers[1].add_insecure_port("127.0.0.1:0")
    for server in servers:
        server.start()
    ready(port)
    while (job := jobs.get()) is not None:
        request, ended = job
        try:
            ended.set_result(run(request))
        except BaseException as error:  # noqa: BLE001 - the engine is told by the call that fails
            ended.set_exception(error)
    for server in servers:
        server.stop(1).wait()


def _server(host: LanguageRuntimeServicer) -> grpc.Server:
    server = grpc.server(ThreadPoolExecutor(max_workers=4), options=OPTIONS)
    language_pb2_grpc.add_LanguageRuntimeServicer_to_server(host, server)
    return server


# --- the process that forks them


def main() -> None:
    """Answer what is asked on standard input; the arguments are modules that the program will need."""
    for module in (*sys.argv[1:], SDK):
        with contextlib.suppress(Exception):  # who needs it imports it too, and says what is wrong
            import_module(module)
    found = plugins()
    gc.collect()
    gc.freeze()  # so that forks keep what is imported in common
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    running: dict[int, list[int]] = {}
    for line in sys.stdin:
        order = json.loads(line)
        if "end" in order:
            for pid in running.pop(order["end"]):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            print(json.dumps({"ended": order["end"]}), file=answers)
        else:
            print(json.dumps(_begin(order, found, running)), file=answers)
    for host, *_pack in running.values():
        os.kill(host, signal.SIGTERM)
    for pids in running.values():
        for pid in pids:
            os.waitpid(pid, 0)


def _begin(
    order: Mapping[str, Any], found: list[dict[str, Any]], running: dict[int, list[int]]
) -> dict[str, int] | dict[str, str]:
    """Fork what a run needs, and keep its processes in `running` by the first; return the answer."""
    pack = Pack() if order["pack"] else None
    try:
        pid, port = _fork(order, found, pack)
    except RuntimeError as error:
        return {"failed": str(error)}
    finally:
        if pack is not None:
            pack.close()
    running[pid] = [pid] if pack is None else [pid, pack.pid]
    return {"pid": pid, "port": port}


def _fork(order: Mapping[str, Any], found: list[dict[str, Any]], pack: Pack | None) -> tuple[int, int]:
    """Fork a language host; return its process and the pack's port once it can be asked.

    RuntimeError where it has ended before.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        with os.fdopen(reading) as told:
            port = told.read()
        if port:
            return pid, int(port)
        os.waitpid(pid, 0)
        raise RuntimeError(Path(order["output"]).read_text(errors="replace"))
    status = 1
    try:
        os.setsid()  # what the program starts ends with it
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        sink = os.open(order["output"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(sink, 1)
        os.dup2(sink, 2)

        def ready(port: int) -> None:
            os.write(writing, str(port).encode())
            os.close(writing)

        serve(order, found, pack, ready)
        status = 0
    except BaseException:  # noqa: BLE001 - a fork never goes back into what it was forked from
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
