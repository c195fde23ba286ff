"""Says what the tool must know of a project and only its settings tell: `python -m cluster_runtime.describe`, as JSON."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from cluster_runtime.config import RuntimeConfig
from cluster_runtime.django_setup import prepare


def describe() -> dict[str, Any]:
    """Return the facts; django.setup() has run, so a project that does not import fails here."""
    from django.apps import apps  # noqa: PLC0415 - after the settings
    from django.conf import settings  # noqa: PLC0415

    database = settings.DATABASES.get("default", {})
    return {
        "static_url": settings.STATIC_URL,
        "static_app": apps.is_installed("django.contrib.staticfiles"),
        "sessions_app": apps.is_installed("django.contrib.sessions"),
        "session_middleware": any(name.endswith("SessionMiddleware") for name in settings.MIDDLEWARE),
        "database_engine": database.get("ENGINE", ""),
        "database_name": os.path.abspath(str(database.get("NAME") or ""))
        if "sqlite" in database.get("ENGINE", "")
        else "",
        "wsgi_application": getattr(settings, "WSGI_APPLICATION", None),
        "asgi_application": getattr(settings, "ASGI_APPLICATION", None),
    }


def main() -> int:
    """Print the facts, and prove that the project's application imports."""
    from cluster_runtime.django_setup import load_application  # noqa: PLC0415 - imports the project

    config = RuntimeConfig.from_environment()
    prepare(config)
    load_application(config)
    print(json.dumps(describe()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
