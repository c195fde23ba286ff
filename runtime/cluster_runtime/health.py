"""What an instance answers below `/-/`, to whoever reaches its socket directly: never to the public.

- `/-/health`: the process works. Answered before Django, so that a database that is away restarts nothing.
- `/-/health?deep`: a whole request through the project, and database and session store answer.
- `/-/probe`: which instance and release this is.
- `/-/probe/sessions`: how many there are, and what room they take.
- `/-/probe/restore`: "restored" tells whether each memcached node has what it should; where not, it begins to get it.
- `/-/probe/session?create`, `?read=KEY`, `?write=KEY`, `?delete=KEY`: a session in the project's own store.

nginx denies `/-/` to the public, and marks every request that it passes on with X-Forwarded-For; a request that has the
mark is not answered here whatever its path.
"""

from __future__ import annotations

import io
import os
import sys
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PREFIX = "/-/"

#: The key under which the probe counts in the sessions that it makes.
COUNTER = "_cluster_probe"

#: From here on a response is the server's failure.
SERVER_ERROR = 500


@dataclass(frozen=True)
class Answer:
    """A response of the runtime's own: JSON, never cached."""

    status: int
    body: dict[str, Any]


def is_internal(path: str, headers: Callable[[str], str | None]) -> bool:
    """Tell whether a request is for the runtime; `headers` looks up a request header by its lower-case name."""
    return path.startswith(PREFIX) and headers("x-forwarded-for") is None


def answer(path: str, query: str, through_project: Callable[[], int]) -> Answer:
    """Answer a request for the runtime; `through_project` runs a request through the project, for the status."""
    arguments = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
    answers: dict[str, Callable[[], Answer]] = {
        "/-/probe": lambda: Answer(200, identity()),
        "/-/probe/session": lambda: _session(arguments),
        "/-/probe/sessions": _report,
        "/-/probe/restore": _restore,
        "/-/health": lambda: _deep(through_project) if "deep" in arguments else Answer(200, identity()),
    }
    unknown = {"error": f"the runtime answers {', '.join(answers)}"}
    return answers.get(path, lambda: Answer(404, unknown))()


def identity() -> dict[str, Any]:
    """Return who answers."""
    return {
        "instance": os.environ.get("CLUSTER_INSTANCE", ""),
        "release": os.environ.get("CLUSTER_RELEASE", ""),
        "pid": os.getpid(),
    }


def _deep(through_project: Callable[[], int]) -> Answer:
    def project() -> None:
        status = through_project()
        if status >= SERVER_ERROR:
            raise RuntimeError(f"a request through Django was answered with {status}")

    problems = []
    for what, check in (("database", _database_answers), ("sessions", _sessions_answer), ("project", project)):
        try:
            check()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the check is there to report
            problems.append(f"{what}: {type(error).__name__}: {error}")
    return Answer(503 if problems else 200, {**identity(), "problems": problems})


def _database_answers() -> None:
    from django.db import connections  # noqa: PLC0415 - after the settings

    connection = connections["default"]
    if connection.settings_dict["ENGINE"] == "django.db.backends.dummy":
        return  # the project has no database
    connection.close_if_unusable_or_obsolete()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _store(key: str | None = None) -> Any:
    from django.conf import settings  # noqa: PLC0415 - after the settings

    return import_module(settings.SESSION_ENGINE).SessionStore(key)


def _uses_sessions() -> bool:
    from django.conf import settings  # noqa: PLC0415 - after the settings

    return any(name.endswith("SessionMiddleware") for name in settings.MIDDLEWARE)


def _sessions_answer() -> None:
    if not _uses_sessions():
        return
    session = _store()
    session[COUNTER] = 0
    session.set_expiry(60)
    session.save()
    try:
        if _store(session.session_key).get(COUNTER) != 0:
            raise LookupError("a session that was stored could not be read back")
    finally:
        session.delete()


def _session(arguments: dict[str, str]) -> Answer:
    if not _uses_sessions():
        return Answer(501, {**identity(), "error": "the project uses no sessions"})
    if "create" in arguments:
        session = _store()
        session[COUNTER] = 1
        session.set_expiry(300)
        session.save()
    else:
        key = arguments.get("read") or arguments.get("write") or arguments.get("delete")
        session = _store(key)
        if session.get(COUNTER) is None:
            return Answer(404, {**identity(), "error": "no such session"})
        if "write" in arguments:
            session[COUNTER] += 1
            session.save()
        if "delete" in arguments:
            counter = session[COUNTER]
            session.delete()
            return Answer(200, {**identity(), "session": key, "counter": counter})
    return Answer(200, {**identity(), "session": session.session_key, "counter": session[COUNTER]})


def _report() -> Answer:
    if not _uses_sessions():
        return Answer(501, {**identity(), "error": "the project uses no sessions"})
    from cluster_runtime.sessions.report import report  # noqa: PLC0415 - imports Django

    return Answer(200, report())


def _restore() -> Answer:
    from django.conf import settings  # noqa: PLC0415 - after the settings

    from cluster_runtime.sessions import ONLY_CACHE_ALIAS  # noqa: PLC0415

    if ONLY_CACHE_ALIAS not in settings.CACHES:
        return Answer(200, {"restored": True})
    from django.core.cache import caches  # noqa: PLC0415

    cache: Any = caches[ONLY_CACHE_ALIAS]
    return Answer(200, {"restored": cache.restore()})


def wsgi_request(host: str) -> dict[str, Any]:
    """Return the WSGI environ of a GET as nginx would pass it on over https, for a check through the project."""
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/-/health",
        "QUERY_STRING": "",
        "SERVER_NAME": host,
        "SERVER_PORT": "443",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": host,
        "HTTP_X_FORWARDED_HOST": host,
        "HTTP_X_FORWARDED_PROTO": "https",
        "HTTP_X_FORWARDED_FOR": "127.0.0.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }


def run_wsgi(application: Callable[..., Iterable[bytes]], environ: dict[str, Any]) -> int:
    """Run a whole request through a WSGI application; return its status."""
    statuses: list[str] = []

    def start_response(status: str, _headers: list[tuple[str, str]], _info: object = None) -> Callable[[bytes], None]:
        statuses.append(status)
        return lambda _data: None

    response = application(environ, start_response)
    try:
        for _part in response:
            pass
    finally:
        close = getattr(response, "close", None)
        if close is not None:
            close()
    return int(statuses[-1].split()[0])
