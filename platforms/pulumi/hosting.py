"""A language host for one run of a stack's program: runs it for the engine as Pulumi's own does."""

from __future__ import annotations

import asyncio
import contextvars
import importlib.metadata
import json
import logging
import os
import runpy
import signal
import sys
import threading
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pulumi
import pulumi.runtime
from pulumi.runtime.proto import LanguageRuntimeServicer, language_pb2, plugin_pb2
from pulumi.runtime.settings import SETTINGS, get_root_resource

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from queue import SimpleQueue
    from types import TracebackType

#: What a package has that needs a plugin of the engine's, and what it may say there that is understood here.
PLUGIN, SAID = "pulumi-plugin.json", {"resource", "name", "version", "server"}

#: Packages that are no plugin's.
NO_PLUGINS = {"pulumi", "pulumi-policy"}

#: Seconds that a program has to end by itself once nobody waits for it any more.
INTERRUPTED_WITHIN = 5.0

#: Seconds in which what the program printed last is told.
TOLD_WITHIN = 5.0

#: What the engine asks to be run; None: nothing more is to come.
Job = tuple[Any, "Future[Any]"]


class Host(LanguageRuntimeServicer):
    """A language host: passes on what the engine wants to be run. plugins: those that the program needs."""

    def __init__(self, jobs: SimpleQueue[Job | None], plugins: Iterable[Mapping[str, Any]]) -> None:
        self.jobs = jobs
        self.plugins = list(plugins)

    def Run(self, request: Any, context: Any) -> Any:  # noqa: N802 - as the service has it
        """Let the main thread run the program, since code of it may expect that; return how it ended.

        Where the engine does not wait for it any more it is interrupted, and killed where it does not end by that.
        """
        ended: Future[Any] = Future()

        def forsaken() -> None:
            if not ended.done():
                os.kill(os.getpid(), signal.SIGINT)
                killing = threading.Timer(INTERRUPTED_WITHIN, kill)
                killing.daemon = True
                killing.start()

        def kill() -> None:
            if not ended.done():
                os.killpg(0, signal.SIGKILL)

        context.add_callback(forsaken)
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


def plugins() -> list[dict[str, Any]] | None:
    """Return the plugins that installed packages need: names, versions, and where they are, if not at Pulumi's.

    None where one says of itself what Pulumi's own language host alone understands.
    """
    found = []
    for package in importlib.metadata.distributions():
        name = package.name.lower().replace("_", "-")
        of_pulumi = name.startswith("pulumi-") and name not in NO_PLUGINS
        if not of_pulumi and not any(need.startswith("pulumi") for need in package.requires or ()):
            continue
        files = [file for file in package.files or () if file.name == PLUGIN]
        if of_pulumi and not files:
            return None
        for file in files:
            said = json.loads(file.read_text())
            if said.get("resource"):
                if not said.keys() <= SAID or not {"name", "version"} <= said.keys():
                    return None
                if said.get("server", "").startswith("git:"):
                    return None  # it may be Python's itself
                server = {"server": said["server"]} if said.get("server") else {}
                found.append({"name": said["name"], "version": f"v{said['version'].removeprefix('v')}", **server})
    return found


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
    pulumi.log.debug = _untold
    executor = ThreadPoolExecutor(max_workers=max(request.parallel, 1) * 4)
    loop.set_default_executor(executor)
    printed = _Printed()
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
        printed.close()
    return language_pb2.RunResponse()


def _untold(
    msg: str, resource: pulumi.Resource | None = None, stream_id: int | None = None, ephemeral: bool | None = None
) -> None:
    """Say nothing, where the SDK waits for the engine to take it: 200 times a run, 0.2 s; no command shows it."""


class _Printed:
    """Tells the engine each line that is printed from now on: it keeps secrets out of what it says."""

    def __init__(self) -> None:
        reading, writing = os.pipe()
        for there in (1, 2):
            os.dup2(writing, there)
        os.close(writing)
        telling = contextvars.copy_context()  # which has the engine's address
        self.thread = threading.Thread(target=telling.run, args=(self._tell, reading), daemon=True)
        self.thread.start()

    @staticmethod
    def _tell(reading: int) -> None:
        with os.fdopen(reading, errors="replace") as lines:
            for line in lines:
                pulumi.log.info(line.rstrip("\n"))

    def close(self) -> None:
        """Tell what is left."""
        sys.stdout.flush()
        sys.stderr.flush()
        nothing = os.open(os.devnull, os.O_WRONLY)
        for there in (1, 2):
            os.dup2(nothing, there)
        os.close(nothing)
        self.thread.join(TOLD_WITHIN)  # what the program has started, and left, may still have it


async def _run(program: str) -> None:
    runpy.run_path(program, run_name="__main__")
    if getattr(get_root_resource(), "_async_program", None) is None:  # of `pulumi.run`: outputs may wait for it
        await _settled()


async def _settled() -> None:
    """Wait for all outputs at once, until one fails.

    What runs programs in the SDK waits for each of some hundred, and looks through all of them each time.
    """
    while True:
        with SETTINGS.lock:
            outputs = list(SETTINGS.outputs)
        if any(map(_failed, outputs)):
            return  # it stays among them, and is raised by the SDK
        waiting = [one for one in outputs if not one.done()]
        if not waiting:
            return
        await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)


def _failed(output: asyncio.Future[Any]) -> bool:
    return output.done() and (output.cancelled() or output.exception() is not None)


def _told(error: Exception, program: str) -> str:
    """Return what Python says of an error, from where the program's own file is."""
    own = {os.path.abspath(program), os.path.abspath(os.path.join(program, "__main__.py"))}  # noqa: PTH100, PTH118
    at: TracebackType | None = error.__traceback__
    while at is not None and os.path.abspath(at.tb_frame.f_code.co_filename) not in own:  # noqa: PTH100
        at = at.tb_next
    return "".join(traceback.format_exception(type(error), error, at or error.__traceback__))
