"""Says what only a project's settings tell of it: `python -m cluster_runtime.describe FILE` writes it there, as JSON.

To a file, since a project may print whatever it likes while it is imported. With `--collect` it collects the project's
static files as well, and with `--migrate` it then runs the migrations, which spares other starts of Django; where these
fail the exit status is NOT_COLLECTED or NOT_MIGRATED.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

from cluster_runtime.config import RuntimeConfig
from cluster_runtime.django_setup import prepare

COLLECT = "--collect"
NOT_COLLECTED = 3

MIGRATE = "--migrate"
NOT_MIGRATED = 4


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
    }


def _sqlite_file(database: dict[str, Any]) -> str:
    """Return the absolute path of an sqlite database, which may stand as relative to the project's directory."""
    if "sqlite" not in database.get("ENGINE", ""):
        return ""
    return str(Path(str(database.get("NAME") or "")).absolute())


def main() -> int:
    """Write the facts, and prove that the project's application imports."""
    from cluster_runtime.django_setup import load_application  # noqa: PLC0415 - imports the project

    config = RuntimeConfig.from_environment()
    prepare(config)
    load_application(config)
    facts = describe()
    Path(sys.argv[1]).write_text(json.dumps(facts), encoding="utf-8")
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
