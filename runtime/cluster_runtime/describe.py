"""Says what only a project's settings tell of it: `python -m cluster_runtime.describe FILE` writes it there, as JSON.

To a file, since a project may print whatever it likes while it is imported. With `--collect` it collects the project's
static files as well, and with `--migrate` it then runs the migrations, which spares other starts of Django; where these
fail the exit status is NOT_COLLECTED or NOT_MIGRATED. It is REFUSED, with a line for each reason, where the stack file
would replace what the project has chosen itself; and NOT_IMPORTED, with FILE saying why ("failure"), where the project
does not import.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

from cluster_runtime.choices import choices, refusals
from cluster_runtime.config import RuntimeConfig
from cluster_runtime.debug import derived, sources_of
from cluster_runtime.django_setup import OVERLAY, prepare
from cluster_runtime.failure import explain, remedy

COLLECT = "--collect"
NOT_COLLECTED = 3

MIGRATE = "--migrate"
NOT_MIGRATED = 4

REFUSED = 5
NOT_IMPORTED = 6


def describe() -> dict[str, Any]:
    """Return the facts; django.setup() has run, so a project that does not import fails here."""
    from django.apps import apps  # noqa: PLC0415 - after the settings
    from django.conf import settings  # noqa: PLC0415
    from django.urls import get_resolver  # noqa: PLC0415

    get_resolver().url_patterns  # noqa: B018 - imports the URLs, which Django does only at the first request
    database = settings.DATABASES.get("default", {})
    return {
        "static_url": settings.STATIC_URL,
        "static_app": apps.is_installed("django.contrib.staticfiles"),
        "sessions_app": apps.is_installed("django.contrib.sessions"),
        "session_middleware": any(name.endswith("SessionMiddleware") for name in settings.MIDDLEWARE),
        "session_cookie_secure": settings.SESSION_COOKIE_SECURE,
        "session_cookie_httponly": settings.SESSION_COOKIE_HTTPONLY,
        "session_cookie_samesite": settings.SESSION_COOKIE_SAMESITE,
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


def _sqlite_file(database: dict[str, Any]) -> str:
    """Return the absolute path of an sqlite database, which may stand as relative to the project's directory."""
    if "sqlite" not in database.get("ENGINE", ""):
        return ""
    return str(Path(str(database.get("NAME") or "")).absolute())


def main() -> int:
    """Write the facts, and prove that the project's application imports."""
    from cluster_runtime.django_setup import load_application  # noqa: PLC0415 - imports the project

    config = RuntimeConfig.from_environment()
    output = Path(sys.argv[1])
    try:
        prepare(config)
        load_application(config)
        facts = describe() | derived(config)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is: the project's own code may raise anything
        failure = explain(error, config.project, sources_of(config.settings, config.project))
        output.write_text(json.dumps({**_choices(), "failure": failure}), encoding="utf-8")
        print(*filter(None, (failure["text"], remedy(failure))), sep="\n", file=sys.stderr)
        return NOT_IMPORTED
    output.write_text(json.dumps(facts), encoding="utf-8")
    refused = refusals(config, facts)
    if refused:
        print(*refused, sep="\n", file=sys.stderr)
        return REFUSED
    wanted = sys.argv[2:]
    if COLLECT in wanted and facts["static_app"] and not _succeeds("collectstatic", verbosity=0):
        return NOT_COLLECTED
    if MIGRATE in wanted and not _succeeds("migrate", verbosity=1, skip_checks=False):
        return NOT_MIGRATED
    return 0


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
    sys.exit(main())
