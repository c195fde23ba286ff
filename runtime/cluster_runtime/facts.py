"""What whoever looks at the site as a visitor must know of the project; told by an instance that runs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster_runtime.config import RuntimeConfig

#: Stands for whatever a route has a parameter for: a number, a word, a slug.
EXAMPLE = "1"


def site_facts(config: RuntimeConfig) -> dict[str, Any]:
    """Return the pages to look at, where static files are, and a websocket's path where the project has any."""
    from django.conf import settings  # noqa: PLC0415 - after the settings

    return {
        "site": config.site,
        "hosts": list(config.hosts),
        "pages": pages(config),
        "unrouted": [] if config.health.pages is not None else [page for page in pages(config) if not _is_routed(page)],
        "static_url": settings.STATIC_URL or "",
        "static_root": config.static_root,
        "static_here": _keeps_static_files_here(),
        "served_static_url": config.static_url,
        "ssl_redirect": bool(settings.SECURE_SSL_REDIRECT),
        "prepend_www": bool(settings.PREPEND_WWW),
        "websocket": websocket(config),
    }


def pages(config: RuntimeConfig) -> list[str]:
    """Return what a release must answer: what the stack file says, or / and the page to log in."""
    if config.health.pages is not None:
        return list(config.health.pages)
    return list(dict.fromkeys(("/", *_login_page())))


def _is_routed(page: str) -> bool:
    """Tell whether the project has a view for a page. Where it has none, its page for what is not found answers."""
    from django.urls import Resolver404, resolve  # noqa: PLC0415 - after the settings

    try:
        resolve(page)
    except Resolver404:
        return False
    return True


def _login_page() -> Iterator[str]:
    from django.conf import settings  # noqa: PLC0415 - after the settings
    from django.shortcuts import resolve_url  # noqa: PLC0415
    from django.urls import NoReverseMatch  # noqa: PLC0415

    try:
        url = urlsplit(str(resolve_url(settings.LOGIN_URL or "")))
    except NoReverseMatch:
        return  # a project whose users never log in need not have it
    if not url.netloc and url.path.startswith("/"):
        yield url.path


def _keeps_static_files_here() -> bool:
    """Tell whether collectstatic puts files into STATIC_ROOT, and not into a store elsewhere."""
    from django.apps import apps  # noqa: PLC0415 - after the settings
    from django.conf import settings  # noqa: PLC0415

    if not apps.is_installed("django.contrib.staticfiles") or not settings.STATIC_ROOT:
        return False
    from django.contrib.staticfiles.storage import staticfiles_storage  # noqa: PLC0415

    try:
        return Path(staticfiles_storage.path("")).resolve() == Path(settings.STATIC_ROOT).resolve()
    except NotImplementedError:
        return False  # Django's storages say so where they have no files of their own


def websocket(config: RuntimeConfig) -> str | None:
    """Return the path of the first websocket that the project's ASGI application routes (channels' URLRouter).

    None where there is none that can be known, or where the interface is wsgi, which has none.
    """
    if config.interface != "asgi":
        return None
    module = sys.modules.get("cluster_runtime.asgi")
    mapping = getattr(getattr(module, "application", None), "project", None)
    application = getattr(mapping, "application_mapping", {}).get("websocket")
    for _layer in range(20):
        if application is None or hasattr(application, "routes"):
            break
        application = next(
            (getattr(application, name) for name in ("application", "inner", "app") if hasattr(application, name)), None
        )
    for route in getattr(application, "routes", ()):
        path = _example_of(route)
        if path is not None and not hasattr(route.callback, "routes"):
            return path
    return None


def _example_of(route: Any) -> str | None:
    """Return a path that a route of Django's matches, without the routes below it; None where none is found."""
    from django.utils.regex_helper import normalize  # noqa: PLC0415 - after the settings

    try:
        for form, parameters in normalize(route.pattern.regex.pattern):
            path = form % dict.fromkeys(parameters, EXAMPLE)
            if route.pattern.match(path):
                return "/" + path.removeprefix("/")
    except (ValueError, TypeError):
        pass  # an expression that Django can't turn around: with (?i) in it, or with a %
    return None
