"""Makes Django start with the overlay, whatever the project's own wsgi.py or manage.py says."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import site
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from cluster_runtime import debug
from cluster_runtime.loading import loading
from cluster_runtime.sources import are_imported
from cluster_runtime.trial import watch_failures

if TYPE_CHECKING:
    from types import ModuleType

    from cluster_runtime.config import RuntimeConfig

OVERLAY = "cluster_runtime.settings"

#: What makes settings of classes, when it has been installed before they are imported.
CONFIGURATIONS = "configurations"


def prepare(config: RuntimeConfig) -> None:
    """Set the environment that the project sees: its directory, its plain and secret variables, the overlay.

    Secret variables are set inside the process only: they never stand in its initial environment, which other
    programs can read from /proc.
    """
    os.environ.update(config.environment)
    os.environ.update(config.secret_environment())
    debug.apply(config, os.environ)
    os.environ["DJANGO_SETTINGS_MODULE"] = OVERLAY
    os.chdir(config.project)
    if config.project not in sys.path:
        sys.path.insert(0, config.project)
    if config.packages and os.path.isdir(config.packages):  # noqa: PTH112 - before the project, as little as can be
        # As pip would have it: after the project's directory and beside site-packages, with .pth files read.
        site.addsitedir(config.packages)


def import_settings(config: RuntimeConfig) -> ModuleType:
    """Import the project's own settings, while DJANGO_SETTINGS_MODULE names them, as it does without the overlay.

    django-configurations makes them of a class only then (the one that DJANGO_CONFIGURATION names).
    """
    former = os.environ["DJANGO_SETTINGS_MODULE"]
    os.environ["DJANGO_SETTINGS_MODULE"] = config.settings
    try:
        # Few projects have it, and every process comes by here: the settings are looked through only where it is.
        installed = importlib.util.find_spec(CONFIGURATIONS) is not None
        if installed and are_imported(CONFIGURATIONS, debug.sources_of(config.settings, config.project)):
            with contextlib.suppress(ImportError):  # a project may have a package of that name itself
                importlib.import_module(f"{CONFIGURATIONS}.importer").install()
        return importlib.import_module(config.settings)
    finally:
        os.environ["DJANGO_SETTINGS_MODULE"] = former


def load_application(config: RuntimeConfig) -> Any:
    """Return the project's own WSGI or ASGI application, with Django set up under the overlay."""
    with loading():
        set_up(config)
        return import_application(config)


def set_up(config: RuntimeConfig) -> None:
    """Set Django up under the overlay: a wsgi.py that sets DJANGO_SETTINGS_MODULE can't undo it from here on."""
    prepare(config)
    import django  # noqa: PLC0415 - only after the environment is prepared

    django.setup()
    watch_failures()


def import_application(config: RuntimeConfig) -> Any:
    """Import the project's own WSGI or ASGI application; Django is set up."""
    from django.conf import settings  # noqa: PLC0415

    attribute = "WSGI_APPLICATION" if config.interface == "wsgi" else "ASGI_APPLICATION"
    path = config.application or (getattr(settings, attribute, None) or "").replace(":", ".")
    if path:
        module, _, name = path.replace(":", ".").rpartition(".")
        return getattr(importlib.import_module(module), name)
    if config.interface == "wsgi":
        from django.core.wsgi import get_wsgi_application  # noqa: PLC0415

        return get_wsgi_application()
    from django.core.asgi import get_asgi_application  # noqa: PLC0415

    return get_asgi_application()


def leave(status: int) -> NoReturn:
    """End a process that has only looked at the project: a thread that this has started would go on for ever."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
