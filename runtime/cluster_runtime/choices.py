"""What a project's own settings have chosen that the overlay, nginx or a site without TLS would make otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster_runtime.databases import file_of, is_of_files
from cluster_runtime.sessions import PROJECT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from cluster_runtime.config import RuntimeConfig

#: Django's own session engines begin with it.
DJANGO_ENGINES = "django.contrib.sessions.backends."


def choices(project: ModuleType) -> dict[str, Any]:
    """Return the facts; `project` is the project's settings module, without the overlay."""
    from django.conf import global_settings  # noqa: PLC0415 - the project's Django

    def chosen(name: str, default: Any = None) -> Any:
        return getattr(project, name, getattr(global_settings, name, default))

    database = chosen("DATABASES").get("default") or {}
    caches = chosen("CACHES")
    apps = [str(app) for app in chosen("INSTALLED_APPS")]
    return {
        # Empty where the project says nothing, and so Django's default counts.
        "own_session_engine": str(getattr(project, "SESSION_ENGINE", "")),
        "own_session_cache": _backend(caches, chosen("SESSION_CACHE_ALIAS")),
        "own_database_engine": str(database.get("ENGINE", "")),
        "own_database_host": str(database.get("HOST", "")),
        "own_databases": {alias: _engine_and_file(entry) for alias, entry in chosen("DATABASES").items()},
        "media": [str(chosen("MEDIA_ROOT") or ""), str(chosen("MEDIA_URL") or "")],
        "static_url_of_project": str(chosen("STATIC_URL") or ""),
        "installed": apps,
        "applications": {name: chosen(f"{name.upper()}_APPLICATION") or "" for name in ("wsgi", "asgi")},
        "own_default_cache": _backend(caches, "default"),
        "ssl_redirect": bool(chosen("SECURE_SSL_REDIRECT")),
        "script_name": str(chosen("FORCE_SCRIPT_NAME") or ""),
        "csrf_cookie_secure": bool(chosen("CSRF_COOKIE_SECURE")),
        "cookie_domains": {
            name: str(chosen(name)) for name in ("SESSION_COOKIE_DOMAIN", "CSRF_COOKIE_DOMAIN") if chosen(name)
        },
        "email_backend": str(chosen("EMAIL_BACKEND")),
        "cors_all": any(bool(chosen(name)) for name in ("CORS_ALLOW_ALL_ORIGINS", "CORS_ORIGIN_ALLOW_ALL")),
        "cors_credentials": bool(chosen("CORS_ALLOW_CREDENTIALS")),
        "password_validators": len(chosen("AUTH_PASSWORD_VALIDATORS") or ()),
        "auth_app": any(app.startswith("django.contrib.auth") for app in apps),
        "offline_compression": "compressor" in apps
        and bool(chosen("COMPRESS_OFFLINE", False))
        and bool(chosen("COMPRESS_ENABLED", True)),
        "asgi_apps": [app for app in apps if app.partition(".")[0] in ("channels", "daphne")],
    }


def _engine_and_file(entry: dict[str, Any]) -> list[str]:
    """Return an alias' engine, and where its file is if it is sqlite's; else the host."""
    engine, name = str(entry.get("ENGINE", "")), str(entry.get("NAME") or "")
    if is_of_files(engine):
        file = file_of(name)
        return [engine, str(Path(file).absolute()) if file else name]
    return [engine, str(entry.get("HOST", ""))]


def _backend(caches: dict[str, Any], alias: str) -> str:
    entry = caches.get(alias) if isinstance(caches, dict) else None
    return str((entry or {}).get("BACKEND", ""))


#: Of the stack file, what a variable belongs into that the settings read and the application's module sets after that.
SET_LATE = "app.environment"

#: Engines in whose place the stack file's sqlite can stand: none, and the same.
NO_SERVER = ("", "django.db.backends.dummy", "django.db.backends.sqlite3")


def refusals(config: RuntimeConfig, facts: Mapping[str, Any]) -> list[str]:
    """Return why the stack file must not be as it is: it would replace what the project has chosen, and lose by it."""
    found = (_session_engine(config, facts), _database(config, facts), _script_name(facts), _set_late(facts))
    return [line for line in found if line]


def _set_late(facts: Mapping[str, Any]) -> str:
    names = ", ".join(facts["set_late"])
    if not names:
        return ""
    return (
        f"{SET_LATE}: the module of the application sets {names}, which the settings read; here, and in management "
        "commands, they are read before it: set it in app.environment, or in the secret secret_environment"
    )


def _session_engine(config: RuntimeConfig, facts: Mapping[str, Any]) -> str:
    own = facts["own_session_engine"]
    if not own or own.startswith(DJANGO_ENGINES) or config.sessions.engine == PROJECT or config.sessions.replace:
        return ""
    return (
        f"sessions.engine: the project has a session engine of its own, {own}; set it to project to keep it (or "
        "`replace: true` beside it, if the stack's shall be used instead)"
    )


def _database(config: RuntimeConfig, facts: Mapping[str, Any]) -> str:
    own, database = facts["own_database_engine"], config.database or {}
    if own in NO_SERVER or database.get("engine") != "sqlite" or database.get("replace"):
        return ""
    where = f" at {facts['own_database_host']}" if facts["own_database_host"] else ""
    kind = "an sqlite of another kind" if is_of_files(own) else "a server"
    name = own if is_of_files(own) else own.rpartition(".")[2]
    return (
        f"database.engine: the project's DATABASES name {kind} ({name}{where}), and sqlite would "
        "put an empty file in its place; remove `database` to keep the project's, or set it to external with the "
        "secret database_url (or set `replace: true` beside it)"
    )


def _script_name(facts: Mapping[str, Any]) -> str:
    name = facts["script_name"]
    if not name.strip("/"):
        return ""
    return (
        f"app.settings: FORCE_SCRIPT_NAME is {name}, and nginx gives the site the whole of the host here, so that "
        "every link would lead where nothing answers; remove it"
    )
