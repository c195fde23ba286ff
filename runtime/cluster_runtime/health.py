"""What an instance answers below `/-/`, to whoever reaches its socket directly: never to the public.

- `/-/health`: the process works. Answered before Django, so that a database that is away restarts nothing.
- `/-/health?deep`: a request through the project's whole middleware, and database and session store answer.
- `/-/health?project`: the first of these alone, with the status that the project answered.
- `/-/probe`: which instance and release this is.
- `/-/probe/site`: what whoever looks at the site as a visitor must know of the project.
- `/-/probe/migrations?databases=A,B`: which migrations of the release these databases lack; all, where none is named.
- `/-/probe/failure?path=PATH`: what the project raises when it is asked for that page, and the status of its answer.
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
from urllib.parse import parse_qs, unquote, urlsplit

from cluster_runtime.checks import PREFIX
from cluster_runtime.config import INSTANCE_VARIABLE, RELEASE_VARIABLE
from cluster_runtime.facts import site_facts
from cluster_runtime.trial import KEY, SERVER_ERROR, UNAVAILABLE, Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cluster_runtime.config import RuntimeConfig

#: The key under which the probe counts in the sessions that it makes.
COUNTER = "_cluster_probe"


@dataclass(frozen=True)
class Answer:
    """A response of the runtime's own: JSON, never cached."""

    status: int
    body: dict[str, Any]


def is_internal(path: str, headers: Callable[[str], str | None]) -> bool:
    """Tell whether a request is for the runtime; `headers` looks up a request header by its lower-case name."""
    return path.startswith(PREFIX) and headers("x-forwarded-for") is None


def answer(path: str, query: str, config: RuntimeConfig, through_project: Callable[[Trial], int]) -> Answer:
    """Answer a request for the runtime; `through_project` runs a trial through the project, for the status."""
    arguments = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
    answers: dict[str, Callable[[], Answer]] = {
        "/-/probe": lambda: Answer(200, identity()),
        "/-/probe/site": lambda: Answer(200, {**identity(), **site_facts(config)}),
        "/-/probe/failure": lambda: _failure(arguments, config, through_project),
        "/-/probe/migrations": lambda: _migrations(arguments),
        "/-/probe/session": lambda: _session(arguments),
        "/-/probe/sessions": _report,
        "/-/probe/restore": _restore,
        "/-/health": lambda: _health(arguments, config, through_project),
    }
    unknown = {"error": f"the runtime answers {', '.join(answers)}"}
    try:
        if path != "/-/health":
            _begin()
        return answers.get(path, lambda: Answer(404, unknown))()
    except Exception as error:  # noqa: BLE001 - a store that is away raises anything: to a server it looks like a client
        return Answer(503, {**identity(), "error": f"{type(error).__name__}: {error}"})


def _begin() -> None:
    """Do to this thread's connections what Django does as a request begins: one that has broken is made anew."""
    from django.db import close_old_connections  # noqa: PLC0415 - after the settings

    close_old_connections()


def identity() -> dict[str, Any]:
    """Return who answers."""
    return {
        "instance": os.environ.get(INSTANCE_VARIABLE, ""),
        "release": os.environ.get(RELEASE_VARIABLE, ""),
        "pid": os.getpid(),
    }


def _health(arguments: dict[str, str], config: RuntimeConfig, through_project: Callable[[Trial], int]) -> Answer:
    # Over TLS, so that a project that leads everybody there is looked into as well.
    trial = Trial(site=f"https://{config.hosts[0].lstrip('.')}")
    if "deep" in arguments:
        return _deep(trial, through_project)
    if "project" in arguments:
        return Answer(200, {**identity(), "project": _run(trial, through_project)})
    return Answer(200, identity())


def _failure(arguments: dict[str, str], config: RuntimeConfig, through_project: Callable[[Trial], int]) -> Answer:
    path, _, query = arguments.get("path", "/").partition("?")
    trial = Trial(site=config.site, path=path, query=query, arrives=False)
    status = _run(trial, through_project)
    return Answer(200, {**identity(), "status": status, "failure": trial.failure, "passing": trial.passing})


def _migrations(arguments: dict[str, str]) -> Answer:
    from cluster_runtime.migrations import lacking  # noqa: PLC0415 - used here alone

    return Answer(200, {**identity(), "lacking": lacking(filter(None, arguments.get("databases", "").split(",")))})


def _run(trial: Trial, through_project: Callable[[Trial], int]) -> int:
    """Run a trial through the project; what is raised out of it is what a server answers with 500."""
    try:
        return through_project(trial)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the trial is there to find
        trial.failed(error)
        return SERVER_ERROR


def _deep(trial: Trial, through_project: Callable[[Trial], int]) -> Answer:
    problems = []
    for what, check in (("database", _database_answers), ("sessions", _sessions_answer)):
        try:
            check()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the check is there to report
            problems.append(f"{what}: {type(error).__name__}: {error}")
    lasting = not problems
    status = _run(trial, through_project)
    if status >= SERVER_ERROR and status != UNAVAILABLE:
        problems.append(f"project: a request through Django was answered with {status}")
    else:
        lasting = False
    body = {"problems": problems, "failure": trial.failure, "lasting": lasting and not trial.passing}
    return Answer(503 if problems else 200, {**identity(), **body})


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


def wsgi_request(trial: Trial) -> dict[str, Any]:
    """Return the WSGI environ of a GET as nginx would pass it on."""
    parts = urlsplit(trial.site)
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote(trial.path, "latin-1"),
        "QUERY_STRING": trial.query,
        "SERVER_NAME": parts.hostname or "",
        "SERVER_PORT": "443" if parts.scheme == "https" else "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in trial.headers.items()},
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": parts.scheme,
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        KEY: trial,
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
