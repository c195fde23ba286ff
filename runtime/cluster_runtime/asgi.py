"""The ASGI application that gunicorn's uvicorn workers run: the project's own, behind the runtime's health."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from cluster_runtime import health
from cluster_runtime.activity import BEAT_VARIABLE, Activity
from cluster_runtime.attempts import BEGUN_VARIABLE, HEADER, Attempts, refusal
from cluster_runtime.config import RuntimeConfig
from cluster_runtime.django_setup import load_application
from cluster_runtime.trial import KEY, Trial

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Receive = Callable[[], Awaitable[dict[str, Any]]]
    Send = Callable[[dict[str, Any]], Awaitable[None]]


logger = logging.getLogger("cluster.asgi")

#: ASGI's first message to an application that has a lifespan.
STARTUP = "lifespan.startup"


class Application:
    """Answers what is the runtime's, and passes everything else on to the project."""

    def __init__(self, project: Callable[..., Awaitable[None]], config: RuntimeConfig, activity: Activity) -> None:
        self.project = project
        self.config = config
        self.activity = activity
        self.attempts = Attempts(os.environ.get(BEGUN_VARIABLE), os.environ.get(BEAT_VARIABLE))

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "lifespan":
            await _lifespan(self.project, scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["type"] == "http" and health.is_internal(scope["path"], headers.get):
            await self._answer(scope, send)
            return
        if not self.attempts.begin(headers.get(HEADER)):
            await _refuse(scope, send)
            return
        address = headers.get("x-real-ip")
        if address:
            scope["client"] = (address, 0)
        if headers.get("x-forwarded-proto") == "https":
            scope["scheme"] = {"http": "https", "ws": "wss"}.get(scope["scheme"], scope["scheme"])

        async def counted_send(message: dict[str, Any]) -> None:
            self.activity.move()
            await send(message)

        self.activity.begin()
        try:
            await self.project(scope, receive, counted_send)
        finally:
            self.activity.end()

    async def _answer(self, scope: dict[str, Any], send: Send) -> None:
        loop = asyncio.get_running_loop()

        def through_project(trial: Trial) -> int:
            return asyncio.run_coroutine_threadsafe(self._through_project(trial), loop).result()

        asked = (scope["path"], scope["query_string"].decode("latin-1"), self.config, through_project)
        if asked[:2] == ("/-/health", ""):
            answer = health.answer(*asked)
        else:
            from asgiref.sync import sync_to_async  # noqa: PLC0415 - Django's own dependency, after its set-up

            answer = await sync_to_async(health.answer, thread_sensitive=False)(*asked)
        body = json.dumps(answer.body).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _through_project(self, trial: Trial) -> int:
        parts = urlsplit(trial.site)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": parts.scheme,
            "path": unquote(trial.path),
            "raw_path": trial.path.encode(),
            "query_string": trial.query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in trial.headers.items()],
            "client": ("127.0.0.1", 0),
            "server": (parts.hostname or "", 443 if parts.scheme == "https" else 80),
            KEY: trial,
        }
        statuses: list[int] = []
        requests = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> dict[str, Any]:
            if requests:
                return requests.pop()
            await asyncio.Event().wait()  # the client stays
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        await self.project(scope, receive, send)
        return statuses[-1]


async def _refuse(scope: dict[str, Any], send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1011})
        return
    body = refusal(scope["method"], scope["path"])
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 502, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(
    project: Callable[..., Awaitable[None]], scope: dict[str, Any], receive: Receive, send: Send
) -> None:
    """Let the project's application start and stop by itself, where it knows how.

    One that does not (Django's own handler) raises or returns before it has read a word: the server is told then that
    start and stop went well. One that fails afterwards has failed to start, and so has its worker.
    """
    said: set[str] = set()

    async def heard() -> dict[str, Any]:
        message = await receive()
        said.add(message["type"])
        return message

    async def answered(message: dict[str, Any]) -> None:
        said.add(message["type"])
        await send(message)

    try:
        await project(scope, heard, answered)
    except Exception as error:
        if STARTUP not in said:
            logger.debug("the project's application knows no lifespan: %s", error)
        elif said.isdisjoint((f"{STARTUP}.complete", f"{STARTUP}.failed")):
            logger.exception("the lifespan of the project's application failed to start")
            await send({"type": f"{STARTUP}.failed", "message": f"{type(error).__name__}: {error}"})
            return
        else:
            raise
    if STARTUP in said:
        return
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _load() -> Application:
    config = RuntimeConfig.from_environment()
    activity = Activity(threads=0)
    return Application(load_application(config), config, activity)


application = _load()
