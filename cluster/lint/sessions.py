"""Lints of sessions and the database: what loses a session, and stores that instances don't share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cluster.config.models import DatabaseEngine, Interface, SessionEngine
from cluster.lint.rule import ERROR, NOTE, WARNING, Remark, Rule, has_secret
from cluster.sessions import CANNOT_SURVIVE, Fault
from cluster.topology import uses_memcached
from cluster_runtime.databases import is_of_files
from cluster_runtime.sessions import DJANGO_TABLE, table_of

if TYPE_CHECKING:
    from cluster.config.models import ClusterConfig
    from cluster.lint.finding import Facts
    from cluster.lint.rule import Remarks


#: PostgreSQL's max_connections is 100, of which it keeps some for itself.
POSTGRES_CONNECTIONS = 90

#: memcached's limit is 1024; each node is looked at and restored from elsewhere too.
MEMCACHED_CONNECTIONS = 1000

#: What Django calls the lack of a database.
NO_DATABASE = ("", "django.db.backends.dummy")


def _engines(config: ClusterConfig) -> tuple[SessionEngine | None, ...]:
    return config.sessions.engine, config.sessions.previous


def _sqlite_path(config: ClusterConfig, facts: Facts) -> str | None:
    """Return the key that makes the database sqlite; None where it is another, or not known."""
    if config.database is not None:
        return "database.engine" if config.database.engine is DatabaseEngine.SQLITE else None
    return "database" if is_of_files(str((facts.project or {}).get("database_engine", ""))) else None


def _database_inside_release(config: ClusterConfig, facts: Facts) -> Remarks:
    # A release is a copy of the project; what its settings name beside themselves is a new file in each release.
    if config.database is not None or facts.root is None or _sqlite_path(config, facts) is None:
        return
    name = str((facts.project or {}).get("database_name") or "")
    if Path(name).name == ":memory:" or _is_in_a_release(Path(name), facts.root, config.app.project):
        why = "The project's sqlite database lies in its own directory: each release would begin with an empty one."
        remedy = "Set `database: {engine: sqlite}`, or let the project's DATABASES name a file elsewhere."
        yield Remark("database", why, remedy)


def _is_in_a_release(file: Path, root: Path, project: str) -> bool:
    """Tell whether `file` is below the project, whose settings may have been read in a copy of it."""
    root = root.resolve()
    if file.is_relative_to(root / ".cluster"):
        parts = file.relative_to(root / ".cluster").parts
        return len(parts) > 1 and parts[1] == "releases"
    return file.is_relative_to((root / project).resolve())


def _postgres_on_local(config: ClusterConfig, _facts: Facts) -> Remarks:
    # Platform local needs nothing but Python, nginx and memcached.
    if config.makes_postgres and not config.platform.traits.postgres:
        why = f"Platform {config.platform} makes no PostgreSQL."
        yield Remark("database.engine", why, "Set it to sqlite, or to external with the secret database_url.")


def _is_external(config: ClusterConfig) -> bool:
    return config.database is not None and config.database.engine is DatabaseEngine.EXTERNAL


def _external_without_url(config: ClusterConfig, facts: Facts) -> Remarks:
    # Where it is, only the secret tells.
    if _is_external(config) and has_secret(config, facts, "database_url") is False:
        why = "database.engine is external, and the stack has no secret database_url that says where the database is."
        yield Remark(
            "database_url", why, "Set the secret database_url, for example postgres://user:password@host/name."
        )


def _url_ignored(config: ClusterConfig, facts: Facts) -> Remarks:
    # A secret that nothing reads.
    if has_secret(config, facts, "database_url") and not _is_external(config):
        why = "The secret database_url is used with database.engine external only."
        yield Remark("database_url", why, "Set `database: {engine: external}`, or remove the secret.")


def _too_many_connections(config: ClusterConfig, _facts: Facts) -> Remarks:
    # Each thread keeps a connection, and during a release the old and the new process live side by side.
    connections = _threads_in_a_release(config)
    if config.makes_postgres and connections > POSTGRES_CONNECTIONS:
        why = f"During a release up to {connections} threads keep a connection each; PostgreSQL allows 100 by default."
        remedy = "Lower app.workers, app.threads or app.rollout.batch, or raise max_connections."
        yield Remark("database.engine", why, remedy)


def _too_many_for_memcached(config: ClusterConfig, _facts: Facts) -> Remarks:
    # Each thread keeps a connection to each node; beyond its limit memcached leaves them waiting.
    connections = _threads_in_a_release(config)
    if uses_memcached(config) and connections > MEMCACHED_CONNECTIONS:
        why = f"During a release up to {connections} threads keep a connection to each node; memcached takes 1024."
        yield Remark("sessions.memcached", why, "Lower app.workers, app.threads or app.rollout.batch.")


def _threads_in_a_release(config: ClusterConfig) -> int:
    """Return how many threads of instances live while the former release is still beside the new one."""
    count = len(config.upstream.servers)
    batch = config.app.rollout.batch
    beside = min(batch, count) if isinstance(batch, int) else count
    threads = config.app.threads if config.app.interface is Interface.WSGI else 1
    return (count + beside) * config.app.workers * threads


def _not_migrated(config: ClusterConfig, _facts: Facts) -> Remarks:
    # The platform's database is empty at first.
    if config.database is not None and not _is_external(config) and not config.app.migrate:
        why = "The platform makes an empty database, and nothing makes its tables."
        yield Remark("app.migrate", why, "Set it to true, or run `cluster manage STACK -- migrate` yourself.")


def _sessions_without_app(config: ClusterConfig, facts: Facts) -> Remarks:
    # Django: Session doesn't declare an explicit app_label and isn't in an application in INSTALLED_APPS.
    project = facts.project or {}
    uses_sessions = project.get("session_middleware") is not False
    if table_of(config.sessions.engine) == DJANGO_TABLE and project.get("sessions_app") is False and uses_sessions:
        why = f"The engine {config.sessions.engine} needs the table of django.contrib.sessions, which is not installed."
        remedy = "Add django.contrib.sessions to INSTALLED_APPS, or set sessions.engine to cache or signed_cookies."
        yield Remark("sessions.engine", why, remedy)


def _sessions_without_database(config: ClusterConfig, facts: Facts) -> Remarks:
    # A store that is not there at all.
    project = facts.project or {}
    missing = config.database is None and project.get("database_engine", "?") in NO_DATABASE
    if missing and table_of(config.sessions.engine) and project.get("session_middleware") is not False:
        why = f"The engine {config.sessions.engine} keeps sessions in the database, and the project has none."
        yield Remark("sessions.engine", why, "Set `database`, or set sessions.engine to cache or signed_cookies.")


def _one_memcached_node(config: ClusterConfig, _facts: Facts) -> Remarks:
    # There is nothing behind it.
    if config.sessions.engine is SessionEngine.CACHE and config.sessions.memcached.nodes == 1:
        why = "With one memcached node, its restart logs everybody out."
        remedy = "Set sessions.engine to cached_db, or nodes to 2 or more: each session is on two of them then."
        yield Remark("sessions.memcached.nodes", why, remedy)


def _all_of_memcached(config: ClusterConfig, _facts: Facts) -> Remarks:
    # Where it is the only node, the rule above says so.
    why = CANNOT_SURVIVE.get((config.sessions.engine, Fault.ALL_OF_MEMCACHED))
    if why and config.sessions.memcached.nodes > 1:
        yield Remark("sessions.engine", why, "Set it to cached_db where sessions must outlive that.")


def _signed_cookies_rotation(config: ClusterConfig, facts: Facts) -> Remarks:
    # A change of the key is the end of every session.
    if config.sessions.engine is SessionEngine.SIGNED_COOKIES and not has_secret(config, facts, "secret_key_fallbacks"):
        why = "Cookies are signed with secret_key, and changing it alone logs everybody out."
        remedy = "Plan for it: change it by `cluster rotate-key`, which keeps the old one valid for as long as needed."
        yield Remark("sessions.engine", why, remedy)


def _secure_cookie(config: ClusterConfig, facts: Facts) -> Remarks:
    # Browsers send such a cookie over TLS only (to localhost otherwise too).
    if config.site.tls is None and (facts.project or {}).get("session_cookie_secure") is True:
        why = "The project sets SESSION_COOKIE_SECURE, and nginx answers without TLS here: nobody stays logged in."
        remedy = "Remove it: over TLS the runtime marks the cookie Secure by itself."
        yield Remark("app.settings", why, remedy)


def _open_cookie(_config: ClusterConfig, facts: Facts) -> Remarks:
    # Django's own defaults are HttpOnly and SameSite=Lax.
    project = facts.project or {}
    if project.get("session_cookie_httponly") is False:
        why = "SESSION_COOKIE_HTTPONLY is off: any script in a page can read the session's cookie and send it away."
        yield Remark("app.settings", why, "Remove it from the project's settings: Django's default is on.")
    if project.get("session_cookie_samesite", "Lax") in (False, "None"):
        why = "SESSION_COOKIE_SAMESITE is off: other sites' pages can send requests in the name of who is logged in."
        yield Remark("app.settings", why, "Remove it from the project's settings: Django's default is Lax.")


def _relative_session_path(config: ClusterConfig, _facts: Facts) -> Remarks:
    # The working directory of an instance is its release.
    path = config.sessions.path
    if SessionEngine.FILE in _engines(config) and path is not None and not path.startswith("/"):
        why = "A relative path lies inside the release: the next release would log everybody out."
        yield Remark("sessions.path", why, "Write an absolute path, or remove it: the platform makes a directory.")


def _session_path_in_container(config: ClusterConfig, _facts: Facts) -> Remarks:
    # The instances have a file system of their own.
    path = config.sessions.path
    if SessionEngine.FILE in _engines(config) and path is not None and config.platform.traits.containers:
        why = "An instance in a container sees no directory of the machine's."
        yield Remark("sessions.path", why, "Remove it: the platform makes a volume that all instances share.")


def _session_path_ignored(config: ClusterConfig, _facts: Facts) -> Remarks:
    # A key that has no effect.
    if config.sessions.path is not None and SessionEngine.FILE not in _engines(config):
        why = f"The engine {config.sessions.engine} keeps no files."
        yield Remark("sessions.path", why, "Remove it, or set sessions.engine to file.")


def _memcached_ignored(config: ClusterConfig, _facts: Facts) -> Remarks:
    # A key that has no effect.
    if "memcached" in config.sessions.model_fields_set and not uses_memcached(config):
        why = f"The engine {config.sessions.engine} uses no memcached, and none is started."
        yield Remark("sessions.memcached", why, "Remove it, or set sessions.engine to cached_db or cache.")


def _previous_is_engine(config: ClusterConfig, _facts: Facts) -> Remarks:
    # A key that has no effect.
    if config.sessions.previous is config.sessions.engine:
        why = f"The engine is {config.sessions.engine} already, so there are no older sessions to keep valid."
        yield Remark("sessions.previous", why, "Name the engine that you come from, or remove it.")


def _previous_of_project(config: ClusterConfig, _facts: Facts) -> Remarks:
    # Two engines at once are the runtime's own.
    if config.sessions.previous is not None and SessionEngine.PROJECT in _engines(config):
        why = "Sessions of the project's own engine can't be moved: nothing reads its engine and another one."
        yield Remark("sessions.previous", why, "Remove it; `discard: true` lets a change of the engine end them.")


def _discard_kept(config: ClusterConfig, _facts: Facts) -> Remarks:
    if config.sessions.discard:
        why = "As long as it stands there, a change that ends all sessions is made without being refused."
        yield Remark("sessions.discard", why, "Take it out once the change that needed it is done.")
    if config.database is not None and config.database.discard:
        why = "As long as it stands there, a change that leaves all data behind is made without being refused."
        yield Remark("database.discard", why, "Take it out once the change that needed it is done.")


SESSION_RULES = (
    Rule(
        "database-in-release",
        ERROR,
        "The project's sqlite database lies in its directory, so that each release has its own.",
        _database_inside_release,
    ),
    Rule("postgres-on-local", ERROR, "Platform local makes no PostgreSQL.", _postgres_on_local),
    Rule("database-url-missing", ERROR, "database.engine external needs database_url.", _external_without_url),
    Rule(
        "sessions-app-missing",
        ERROR,
        "Sessions in the database need django.contrib.sessions.",
        _sessions_without_app,
    ),
    Rule(
        "sessions-without-database",
        ERROR,
        "Sessions in the database need a database.",
        _sessions_without_database,
    ),
    Rule(
        "session-path-relative",
        ERROR,
        "A relative sessions.path lies inside the release.",
        _relative_session_path,
    ),
    Rule(
        "session-path-in-container",
        ERROR,
        "sessions.path is a directory that instances in containers do not see.",
        _session_path_in_container,
    ),
    Rule(
        "previous-of-project",
        ERROR,
        "sessions.previous can't be used to or from an engine of the project's own.",
        _previous_of_project,
    ),
    Rule("one-memcached-node", WARNING, "A restart of the only node logs everybody out.", _one_memcached_node),
    Rule("session-cookie-secure", WARNING, "SESSION_COOKIE_SECURE on a site without TLS.", _secure_cookie),
    Rule("session-cookie-open", WARNING, "SESSION_COOKIE_HTTPONLY or SESSION_COOKIE_SAMESITE is off.", _open_cookie),
    Rule("all-of-memcached", NOTE, "Sessions in memcached alone end with all of it.", _all_of_memcached),
    Rule("postgres-connections", WARNING, "More threads than PostgreSQL has connections.", _too_many_connections),
    Rule("memcached-connections", WARNING, "More threads than memcached takes connections.", _too_many_for_memcached),
    Rule("migrate-off", WARNING, "Nothing makes the tables of a database that the platform makes.", _not_migrated),
    Rule("discard-kept", WARNING, "discard is for one change, and lets any later one do the same.", _discard_kept),
    Rule("previous-is-engine", WARNING, "sessions.previous is the engine itself.", _previous_is_engine),
    Rule(
        "signed-cookies-rotation",
        NOTE,
        "Changing secret_key without secret_key_fallbacks ends every session in a signed cookie.",
        _signed_cookies_rotation,
    ),
    Rule("session-path-ignored", NOTE, "sessions.path is for the engine file.", _session_path_ignored),
    Rule("memcached-ignored", NOTE, "sessions.memcached is for the engines cache and cached_db.", _memcached_ignored),
    Rule("database-url-ignored", NOTE, "database_url is for database.engine external.", _url_ignored),
)
