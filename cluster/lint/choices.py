"""Lints of what a project's own settings have chosen: what is replaced, and what users would meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.config.models import DatabaseEngine, Interface, SessionEngine
from cluster.lint.rule import NOTE, WARNING, Remark, Rule
from cluster_runtime.choices import DJANGO_ENGINES, NO_SERVER

if TYPE_CHECKING:
    from typing import Any

    from cluster.config.models import ClusterConfig
    from cluster.lint.finding import Facts
    from cluster.lint.rule import Remarks

#: Backends that send no mail to anybody.
NO_MAIL = "django.core.mail.backends."
WITHOUT_MAIL = ("console", "filebased", "dummy", "locmem")

#: A variable's text that means yes.
YES = ("1", "true", "yes", "on", "t", "y")


def _of(facts: Facts) -> dict[str, Any]:
    return dict(facts.project or {})


def _debug_derived(config: ClusterConfig, facts: Facts) -> Remarks:
    # DEBUG is False in the end, but what was made from it before is not made again.
    project = _of(facts)
    remedy = f"Let DEBUG come from a variable of the environment, or set it to False in {config.app.settings}."
    for setting in project.get("debug_derived", ()):
        where = f" ({setting['where']})" if setting["where"] else ""
        why = (
            f"{setting['name']}{where} is made from DEBUG, which is True when the settings are imported, and stays so."
        )
        yield Remark("app.settings", why, remedy)
    if project.get("debug_unknown"):
        why = (
            f"What DEBUG makes in the settings can't be told: with DEBUG False they fail ({project['debug_unknown']})."
        )
        yield Remark("app.settings", why, remedy)


def _debug_variable(config: ClusterConfig, _facts: Facts) -> Remarks:
    # The overlay's DEBUG is False whatever a variable says.
    for name, value in config.app.environment.items():
        if "DEBUG" in name.upper().split("_") and value.strip().lower() in YES:
            why = f"{name} is {value}: DEBUG is False here in any case, but what the settings make from it is not."
            yield Remark(f"app.environment.{name}", why, "Remove it: such a variable is set to no, before the import.")


def _session_engine_replaced(config: ClusterConfig, facts: Facts) -> Remarks:
    # One of Django's engines that the project names is a choice too.
    own, engine = str(_of(facts).get("own_session_engine", "")), config.sessions.engine
    if not own.startswith(DJANGO_ENGINES) or engine is SessionEngine.PROJECT:
        return
    if own.removeprefix(DJANGO_ENGINES) != engine.value:
        why = f"The project's SESSION_ENGINE is {own}, and the stack keeps sessions in {engine} instead."
        yield Remark("sessions.engine", why, "Set it to project to keep the project's own, or let it be so.")


def _database_replaced(config: ClusterConfig, facts: Facts) -> Remarks:
    # With sqlite it is refused.
    project = _of(facts)
    own, host = str(project.get("own_database_engine", "")), project.get("own_database_host")
    told = config.database is not None and config.database.engine is not DatabaseEngine.SQLITE
    if told and own not in NO_SERVER:
        name = f"{own.rpartition('.')[2]} at {host}" if host else own.rpartition(".")[2]
        why = f"The project's DATABASES name a server ({name}), and the stack's database takes its place."
        yield Remark("database.engine", why, "Remove `database` to keep the project's own, or let it be so.")


def _ssl_redirect(config: ClusterConfig, facts: Facts) -> Remarks:
    # nginx answers without TLS, and says so to the project, whatever a proxy in front of it has said.
    if config.site.tls is None and _of(facts).get("ssl_redirect"):
        why = "SECURE_SSL_REDIRECT sends every visitor to https, where nothing answers here: no page can be seen."
        yield Remark("app.settings", why, "Set it to False in the settings of this stack, or by their variable.")


def _csrf_cookie(config: ClusterConfig, facts: Facts) -> Remarks:
    # As with the session's cookie.
    if config.site.tls is None and _of(facts).get("csrf_cookie_secure"):
        why = "The project sets CSRF_COOKIE_SECURE, and nginx answers without TLS here: every form is refused."
        yield Remark("app.settings", why, "Remove it: over TLS the runtime marks the cookie Secure by itself.")


def _cookie_domain(config: ClusterConfig, facts: Facts) -> Remarks:
    # A browser takes a cookie for the name that it asked for, or for a domain above it.
    for setting, domain in _of(facts).get("cookie_domains", {}).items():
        wanted = domain.lstrip(".").lower()
        names = [name.removeprefix("*").lstrip(".").lower() for name in config.site.server_names if name != "_"]
        others = [name for name in names if name != wanted and not name.endswith(f".{wanted}")]
        if others:
            why = f"{setting} is {domain}, and browsers that ask for {', '.join(others)} take no such cookie."
            yield Remark("site.server_names", why, f"Name hosts below {wanted} only, or remove {setting}.")


def _no_mail(_config: ClusterConfig, facts: Facts) -> Remarks:
    # Where it comes from DEBUG, that lint says so too.
    backend = str(_of(facts).get("email_backend", ""))
    if backend.startswith(NO_MAIL) and backend.removeprefix(NO_MAIL).partition(".")[0] in WITHOUT_MAIL:
        why = f"EMAIL_BACKEND is {backend}: no mail reaches anybody, a new password's link included."
        yield Remark("app.settings", why, "Set another one where the site sends mail.")


def _open_to_all_origins(_config: ClusterConfig, facts: Facts) -> Remarks:
    # django-cors-headers then repeats whatever origin asks.
    project = _of(facts)
    if project.get("cors_all") and project.get("cors_credentials"):
        why = "CORS is open to all origins, with credentials: any site reads and does what its visitors may here."
        yield Remark("app.settings", why, "List the origins in CORS_ALLOWED_ORIGINS.")


def _any_password(_config: ClusterConfig, facts: Facts) -> Remarks:
    # startproject writes four.
    project = _of(facts)
    if project.get("auth_app") and project.get("password_validators") == 0:
        why = "AUTH_PASSWORD_VALIDATORS is empty: any password is taken."
        yield Remark("app.settings", why, "List validators where users choose passwords.")


def _no_cache(_config: ClusterConfig, facts: Facts) -> Remarks:
    # It forgets at once.
    if "dummy" in str(_of(facts).get("own_default_cache", "")).lower():
        yield Remark("app.settings", "The cache `default` is a dummy: it keeps nothing.", "Set another one in CACHES.")


def _websockets(config: ClusterConfig, facts: Facts) -> Remarks:
    # gunicorn's threads know no websockets.
    apps = _of(facts).get("asgi_apps")
    if apps and config.app.interface is Interface.WSGI:
        why = f"The project has {' and '.join(apps)}, and with the interface wsgi no websocket is answered."
        yield Remark("app.interface", why, "Set it to asgi.")


def _offline_compression(config: ClusterConfig, facts: Facts) -> Remarks:
    # Its template tag raises for what is not in the manifest that the command writes.
    commands = {command.split()[0] for command in config.app.release_commands if command.split()}
    if _of(facts).get("offline_compression") and "compress" not in commands:
        why = "COMPRESS_OFFLINE is set, and nothing compresses: a page that has something to compress is no page."
        yield Remark("app.release_commands", why, "Add compress to it.")


CHOICE_RULES = (
    Rule("debug-derived", WARNING, "Settings that were made from a DEBUG that is True.", _debug_derived),
    Rule("debug-variable", WARNING, "A variable asks for DEBUG.", _debug_variable),
    Rule("session-engine-replaced", WARNING, "The project names another session engine.", _session_engine_replaced),
    Rule("database-replaced", WARNING, "The project's DATABASES name a server.", _database_replaced),
    Rule("ssl-redirect", WARNING, "SECURE_SSL_REDIRECT on a site without TLS.", _ssl_redirect),
    Rule("csrf-cookie-secure", WARNING, "CSRF_COOKIE_SECURE on a site without TLS.", _csrf_cookie),
    Rule("cookie-domain", WARNING, "Cookies for a domain that the site is not in.", _cookie_domain),
    Rule("cors-open", WARNING, "CORS is open to all origins, with credentials.", _open_to_all_origins),
    Rule("websockets-unanswered", WARNING, "channels or daphne with the interface wsgi.", _websockets),
    Rule("compression-missing", WARNING, "COMPRESS_OFFLINE without the command compress.", _offline_compression),
    Rule("mail-nowhere", WARNING, "Mail that reaches nobody.", _no_mail),
    Rule("any-password", NOTE, "No password validators.", _any_password),
    Rule("cache-dummy", NOTE, "The project's default cache keeps nothing.", _no_cache),
)
