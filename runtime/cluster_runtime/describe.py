"""Says what only a project's settings tell of it: `python -m cluster_runtime.describe FILE` writes it there, as JSON.

To a file, since a project may print whatever it likes while it is imported. With `--collect` it collects the project's
static files as well (with `--compress=.css,.js` it puts compressed copies beside those with such endings), and with
`--migrate` it then runs the migrations of every database (`--migrate=a,b`: of these), which spares other starts of
Django; where these fail the exit status is NOT_COLLECTED, NOT_COMPRESSED or NOT_MIGRATED. It is REFUSED, with a line
for each reason (in FILE: "refused"), where the stack file would replace what the project has chosen itself, or where
the project writes into the release, or misses something there; and NOT_IMPORTED, with FILE saying why ("failure"),
where it does not import.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster_runtime.choices import choices, refusals
from cluster_runtime.compress import compress
from cluster_runtime.config import RuntimeConfig
from cluster_runtime.databases import begin_with_the_projects, file_of, is_of_files, not_begun
from cluster_runtime.debug import Imports, sources_of, variables
from cluster_runtime.django_setup import OVERLAY, leave, prepare
from cluster_runtime.failure import explain, remedy
from cluster_runtime.loading import loading
from cluster_runtime.migrations import is_to_migrate
from cluster_runtime.paths import Opened, look, storages_of_project
from cluster_runtime.paths import refusals as refusals_of_paths
from cluster_runtime.sources import DATABASE_URL, assignments, reads, value_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster_runtime.sources import Source

COLLECT = "--collect"
NOT_COLLECTED = 3

MIGRATE = "--migrate"
NOT_MIGRATED = 4

REFUSED = 5
NOT_IMPORTED = 6

COMPRESS = "--compress"
NOT_COMPRESSED = 7


def describe(config: RuntimeConfig, opened: Opened) -> dict[str, Any]:
    """Return the facts; django.setup() has run, so a project that does not import fails here."""
    from django.apps import apps  # noqa: PLC0415 - after the settings
    from django.conf import settings  # noqa: PLC0415
    from django.urls import get_resolver  # noqa: PLC0415

    get_resolver().url_patterns  # noqa: B018 - imports the URLs, which Django does only at the first request
    database = settings.DATABASES.get("default", {})
    own = _own_databases(config)
    begun = begin_with_the_projects(config, own)
    waiting = {alias: path for alias, path, _where in not_begun(config, own)}
    return {
        "static_url": settings.STATIC_URL,
        "static_app": apps.is_installed("django.contrib.staticfiles"),
        "sessions_app": apps.is_installed("django.contrib.sessions"),
        "session_middleware": any(name.endswith("SessionMiddleware") for name in settings.MIDDLEWARE),
        "session_cookie_secure": settings.SESSION_COOKIE_SECURE,
        "session_cookie_httponly": settings.SESSION_COOKIE_HTTPONLY,
        "session_cookie_samesite": settings.SESSION_COOKIE_SAMESITE,
        "media_url": settings.MEDIA_URL,
        "databases": [alias for alias in settings.DATABASES if is_to_migrate(alias)],
        "begun": begun,
        "paths": look(config, opened, settings, storages_of_project(), waiting),
        "database_engine": database.get("ENGINE", ""),
        "database_name": _sqlite_file(database),
        "wsgi_application": getattr(settings, "WSGI_APPLICATION", None),
        "asgi_application": getattr(settings, "ASGI_APPLICATION", None),
        **_choices(),
    }


def _choices() -> dict[str, Any]:
    """Return what the project itself has chosen; nothing where its settings did not import."""
    overlay = sys.modules.get(OVERLAY)
    project = sys.modules.get(RuntimeConfig.from_environment().settings)
    return {} if overlay is None or project is None else choices(project)


def _own_databases(config: RuntimeConfig) -> dict[str, Any]:
    """Return the project's own DATABASES, under what the overlay makes of them."""
    own: dict[str, Any] = getattr(import_module(config.settings), "DATABASES", {})
    return own


def _set_late(config: RuntimeConfig, known: dict[str, str]) -> list[str]:
    """Return the variables that the settings read and the application's module has set: after they were read.

    Where wsgi.py loads an .env, a server imports it before the settings; the overlay is set up before either.
    """
    found = {name for name, value in os.environ.items() if known.get(name) != value}
    sources = sources_of(config.settings, config.project)
    read = {DATABASE_URL, *(read.name for source in sources for read in reads(source.tree))}
    return sorted(found & read - variables(sources).keys() - _of_the_key(sources) - {"DJANGO_SETTINGS_MODULE"})


def _of_the_key(sources: Sequence[Source]) -> set[str]:
    """Return the variables that make nothing but SECRET_KEY, which is the stack's."""
    given = [
        value
        for source in sources
        for node in assignments(source.tree, "SECRET_KEY")
        if (value := value_of(node, "SECRET_KEY")) is not None
    ]
    made = Counter(read.name for value in given for read in reads(value))
    everywhere = Counter(read.name for source in sources for read in reads(source.tree))
    return {name for name, number in made.items() if everywhere[name] == number}


def _sqlite_file(database: dict[str, Any]) -> str:
    """Return the absolute path of an sqlite database, which may stand as relative to the project's directory."""
    if not is_of_files(str(database.get("ENGINE", ""))):
        return ""
    name = str(database.get("NAME") or "")
    return str(Path(file_of(name) or name).absolute())


def main() -> int:
    """Write the facts, and prove that the project's application imports."""
    from cluster_runtime.django_setup import import_application, set_up  # noqa: PLC0415 - imports the project

    config = RuntimeConfig.from_environment()
    output, opened = Path(sys.argv[1]), Opened(config)
    imports: Imports | None = None
    try:
        prepare(config)
        imports = Imports(config)
        opened.begin()
        with loading():
            set_up(config)
            known = dict(os.environ)
            import_application(config)
        facts = describe(config, opened) | imports.derived() | {"set_late": _set_late(config, known)}
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is: the project's own code may raise anything
        if imports is not None:
            imports.end()
        failure = explain(error, config.project, sources_of(config.settings, config.project), opened.database)
        output.write_text(json.dumps({**_choices(), "failure": failure}, default=str), encoding="utf-8")
        # Why it does not import may be that what it reads was left out of the release.
        missed = refusals_of_paths(look(config, opened, None))
        print(*filter(None, (failure["text"], remedy(failure), *missed)), sep="\n", file=sys.stderr)
        return NOT_IMPORTED
    refused = [*refusals(config, facts), *refusals_of_paths(facts["paths"])]
    # A setting may be lazy (reverse_lazy, gettext_lazy), and is what it says.
    output.write_text(json.dumps({**facts, "refused": refused}, default=str), encoding="utf-8")
    if refused:
        print(*refused, sep="\n", file=sys.stderr)
        return REFUSED
    wanted = sys.argv[2:]
    if COLLECT in wanted and facts["static_app"]:
        if not _succeeds("collectstatic", verbosity=0):
            return NOT_COLLECTED
        endings = _value(COMPRESS, wanted)
        if endings and config.static_root and not _is_compressed(Path(config.static_root), endings):
            return NOT_COMPRESSED
    migrated = _value(MIGRATE, wanted)
    aliases = [] if migrated is None else migrated.split(",") if migrated else facts["databases"]
    for alias in aliases:
        if not _succeeds("migrate", verbosity=1, skip_checks=False, database=alias):
            return NOT_MIGRATED
    return 0


def _value(option: str, words: Sequence[str]) -> str | None:
    """Return what an option is given, empty where that is nothing; None where it is not there."""
    return next((word.partition("=")[2] for word in words if word.startswith(option)), None)


def _is_compressed(public: Path, endings: str) -> bool:
    """Put the compressed copies there; print why that failed where it does."""
    try:
        compress(public, tuple(endings.split(",")))
    except OSError:
        traceback.print_exc()
        return False
    return True


def _succeeds(command: str, **options: Any) -> bool:
    """Run a management command without asking anybody; print why it failed where it does."""
    from django.core.management import call_command  # noqa: PLC0415 - after the settings

    try:
        call_command(command, interactive=False, **options)
    except (Exception, SystemExit):  # noqa: BLE001 - whatever it is: the project's own code may raise anything
        traceback.print_exc()
        return False
    return True


if __name__ == "__main__":
    leave(main())
