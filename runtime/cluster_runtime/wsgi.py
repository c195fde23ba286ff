"""The WSGI application that gunicorn runs: the project's own, behind the runtime's health and bookkeeping."""

from __future__ import annotations

import http
import json
import os
from typing import TYPE_CHECKING, Any

from cluster_runtime import health
from cluster_runtime.activity import BEAT_VARIABLE, Activity
from cluster_runtime.attempts import BEGUN_VARIABLE, HEADER, Attempts, refusal
from cluster_runtime.config import RuntimeConfig
from cluster_runtime.django_setup import load_application

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ATTEMPT = "HTTP_" + HEADER.upper().replace("-", "_")


class Application:
    """Answers what is the runtime's, and passes everything else on to the project."""

    def __init__(self, project: Callable[..., Iterable[bytes]], config: RuntimeConfig, activity: Activity) -> None:
        self.project = project
        self.config = config
        self.activity = activity
        self.attempts = Attempts(os.environ.get(BEGUN_VARIABLE), os.environ.get(BEAT_VARIABLE))

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve one request."""
        path = environ.get("PATH_INFO", "")
        if health.is_internal(path, lambda name: environ.get("HTTP_" + name.upper().replace("-", "_"))):
            return self._answer(path, environ.get("QUERY_STRING", ""), start_response)
        # Over a unix socket there is no peer address; nginx alone reaches it, and sets this header on every request.
        environ["REMOTE_ADDR"] = environ.get("HTTP_X_REAL_IP", environ.get("REMOTE_ADDR", ""))
        if not self.attempts.begin(environ.pop(ATTEMPT, None)):
            return _refuse(environ["REQUEST_METHOD"], path, start_response)
        self.activity.begin()
        try:
            response = self.project(environ, start_response)
        except BaseException:
            self.activity.end()
            raise
        file_wrapper = environ.get("wsgi.file_wrapper")
        if file_wrapper is not None and isinstance(response, file_wrapper):
            # The server sends files by sendfile(2) if it gets its own wrapper back.
            return _counted_file(response, self.activity)
        return _Counted(response, self.activity)

    def _answer(self, path: str, query: str, start_response: Callable[..., Any]) -> Iterable[bytes]:
        answer = health.answer(
            path, query, self.config, lambda trial: health.run_wsgi(self.project, health.wsgi_request(trial))
        )
        body = json.dumps(answer.body).encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
        ]
        start_response(f"{answer.status} {http.HTTPStatus(answer.status).phrase}", headers)
        return [body]


def _refuse(method: str, path: str, start_response: Callable[..., Any]) -> Iterable[bytes]:
    body = refusal(method, path)
    start_response("502 Bad Gateway", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


class _Counted:
    """A response whose end is counted, and each part of it as progress."""

    def __init__(self, response: Iterable[bytes], activity: Activity) -> None:
        self._response = response
        self._activity = activity

    def __iter__(self) -> Iterator[bytes]:
        for part in self._response:
            self._activity.move()
            yield part

    def close(self) -> None:
        try:
            close = getattr(self._response, "close", None)
            if close is not None:
                close()
        finally:
            self._activity.end()


def _counted_file(response: Any, activity: Activity) -> Iterable[bytes]:
    """Return the server's own file wrapper, with its end counted."""
    close = getattr(response, "close", None)

    def close_and_count() -> None:
        try:
            if close is not None:
                close()
        finally:
            activity.end_file()
            activity.end()

    activity.begin_file()
    response.close = close_and_count
    whole: Iterable[bytes] = response
    return whole


def _load() -> Application:
    config = RuntimeConfig.from_environment()
    activity = Activity(config.threads)
    return Application(load_application(config), config, activity)


application = _load()
