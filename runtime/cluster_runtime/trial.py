"""A request that the runtime sends through the project by itself, and what became of it.

It stands in the WSGI environ, or in the ASGI scope, under a key that no client can set: what a client sends gets there
as `HTTP_…`, or in a list of headers.
"""

from __future__ import annotations

import errno
import traceback
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest, HttpResponseBase

KEY = "cluster_runtime.trial"

#: What every browser says of itself; the language is the site's own choice. Projects read these without asking whether
#: they are there.
VISITOR = {
    "User-Agent": "Mozilla/5.0 (compatible; django-cluster)",
    "Accept": "text/html,*/*;q=0.8",
    "Accept-Language": "*",
}

#: Of a traceback are kept so many frames of each exception, the last ones, and so many lines in all.
FRAMES, LINES = 6, 24

#: Of one frame, or of what an exception says (a whole page, with some), so many lines, and characters of each.
LINES_OF_ONE, CHARACTERS = 6, 300

#: From here on a response is the server's failure.
SERVER_ERROR = 500

#: The project's own word for "not now". nginx passes it on, and it is no failure.
UNAVAILABLE = 503

#: What a socket says of a service that is not there yet.
_ABSENT = {
    *(errno.ENOENT, errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT, errno.EAGAIN),
    *(errno.EHOSTUNREACH, errno.ENETUNREACH),
}


@dataclass
class Trial:
    """One request of the runtime's own.

    site: the address that it asks for, as http://localhost:8080.
    arrives: the innermost middleware answers it, so that it goes through everything but a view.
    failure: the last frames of what the project raised; empty where it raised nothing.
    passing: what it raised may pass by itself: a database, or another service, that is not there yet.
    """

    site: str
    path: str = "/-/health"
    query: str = ""
    arrives: bool = True
    failure: str = ""
    passing: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """What it comes with: a visitor's headers, and nginx's."""
        return {"Host": urlsplit(self.site).netloc, **VISITOR, **passed_on(self.site)}

    def failed(self, error: BaseException) -> None:
        """Keep what the project raised."""
        words = traceback.TracebackException.from_exception(error, limit=-FRAMES)
        lines = [line for part in words.format() for line in _shortened(part)]
        self.failure = "\n".join(lines[-LINES:])
        self.passing = _may_pass(error)


def _shortened(text: str) -> list[str]:
    lines = [line for line in text.rstrip().splitlines() if line.strip(" ^~")]
    kept = [line if len(line) <= CHARACTERS else f"{line[:CHARACTERS]}…" for line in lines[:LINES_OF_ONE]]
    return kept if len(lines) <= LINES_OF_ONE else [*kept, "…"]


def passed_on(site: str) -> dict[str, str]:
    """Return what nginx adds to the headers of a request for a site's address."""
    parts = urlsplit(site)
    return {
        "X-Forwarded-Host": parts.netloc,
        "X-Forwarded-Proto": parts.scheme,
        "X-Forwarded-Port": str(parts.port or (443 if parts.scheme == "https" else 80)),
        "X-Forwarded-For": "127.0.0.1",
        "X-Real-IP": "127.0.0.1",
    }


def _may_pass(error: BaseException | None) -> bool:
    from django.db import Error  # noqa: PLC0415 - after the settings

    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        # A file that is missing is missing for good; a socket that is, may come: only the latter is a database's.
        if isinstance(error, (Error, ConnectionError, TimeoutError)):
            return True
        if isinstance(error, OSError) and error.errno in _ABSENT and error.filename is None:
            return True
        error = error.__cause__ or error.__context__
    return False


def of(request: Any) -> Trial | None:
    """Return the trial that a request of Django's is; None where a client sent it."""
    where = getattr(request, "environ", None) or getattr(request, "scope", None) or {}
    found: Trial | None = where.get(KEY)
    return found


def watch_failures() -> None:
    """Let trials know what the project raises, also where its own page for errors failed: Django then logs nothing."""
    from django.core.signals import got_request_exception  # noqa: PLC0415 - after the settings

    got_request_exception.connect(_note, dispatch_uid=KEY)


def _note(request: Any = None, **_named: object) -> None:
    import sys  # noqa: PLC0415 - used here alone

    trial, error = of(request), sys.exc_info()[1]
    if trial is not None and error is not None:
        trial.failed(error)


def answer_arrived(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Answer a trial that has come through the whole middleware: the project's views and pages don't decide health."""
    from django.http import HttpResponse  # noqa: PLC0415 - after the settings
    from django.urls import get_resolver  # noqa: PLC0415
    from django.utils.cache import add_never_cache_headers  # noqa: PLC0415

    def arrived(request: HttpRequest) -> HttpResponseBase | None:
        trial = of(request)
        if trial is None or not trial.arrives:
            return None
        get_resolver(getattr(request, "urlconf", None)).url_patterns  # noqa: B018 - URLs that don't import fail here
        response = HttpResponse("arrived", content_type="text/plain")
        add_never_cache_headers(response)  # else a middleware that caches would answer the next one
        return response

    if iscoroutinefunction(get_response):

        async def asynchronous(request: HttpRequest) -> HttpResponseBase:
            response: HttpResponseBase = arrived(request) or await get_response(request)
            return response

        return asynchronous

    def synchronous(request: HttpRequest) -> HttpResponseBase:
        response: HttpResponseBase = arrived(request) or get_response(request)
        return response

    return synchronous


# As django.utils.decorators.sync_and_async_middleware marks one; this module is imported before Django is set up.
answer_arrived.sync_capable = True  # type: ignore[attr-defined]
answer_arrived.async_capable = True  # type: ignore[attr-defined]
