"""What is chosen for a new stack, of what a project's files or an import of it have shown."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.config import SessionEngine
from cluster.initial.settings import made_from
from cluster.looking import wants_asgi
from cluster_runtime.choices import DJANGO_ENGINES, NO_SERVER
from cluster_runtime.paths import directory_of

if TYPE_CHECKING:
    from cluster.initial.offer import Offer
    from cluster.initial.project import Project
    from cluster.looking import Look

#: nginx's location of static files or uploads.
PREFIX = re.compile(r"/?([\w.~-]+/)+")

#: Caches that a process has for itself alone, so that instances would not share sessions in them.
OWN_CACHES = ("locmem", "dummy", "")


@dataclass
class Written:
    """What a stack file is written of; `lines` say what was found, `decide` what somebody must do."""

    interface: str = "wsgi"
    engine: str = "db"
    replace: bool = False
    database: str | None = "sqlite"
    static: str | None = "/static/"
    media: tuple[str, str] | None = None
    shared: list[str] = field(default_factory=list)
    extras: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    decide: list[str] = field(default_factory=list)


def from_files(project: Project, offer: Offer, sessions: str | None = None) -> Written:
    """Return what can be told by files alone; what is computed is named."""
    written = Written()
    url, apps = project.values.get("STATIC_URL", "static/"), project.values.get("INSTALLED_APPS")
    served = isinstance(url, str) and PREFIX.fullmatch(url)
    written.static = _prefix(str(url)) if served else None
    if not served:
        written.decide.append(
            "site.static_url: STATIC_URL is computed, or another host's; write what it is, or leave null"
        )
    databases = project.values.get("DATABASES")
    written.database = offer.database if databases is None or "sqlite" in str(databases) else None
    named = "django.contrib.sessions" in str(apps) if apps is not None else True
    own = str(project.values.get("SESSION_ENGINE", ""))
    _choose_sessions(written, sessions, own, named, str(project.values.get("CACHES", "")))
    return written


def from_import(project: Project, found: Look, offer: Offer, sessions: str | None = None) -> Written:
    """Return what the import of the project has shown."""
    facts = found.facts
    written = Written(extras=sorted(found.extras), groups=sorted(found.groups))
    for kind, names in (("extra", written.extras), ("group", written.groups)):
        written.lines += [f"requirements: the {kind} {name}, which the settings import from" for name in names]
    if wants_asgi(facts):
        written.interface = "asgi"
        why = " and ".join(facts["asgi_apps"]) or "no WSGI_APPLICATION"
        written.lines.append(f"interface: asgi ({why}; {facts['applications']['asgi']})")
    _choose_static(written, facts, project)
    _choose_media(written, facts, project.directory)
    _choose_shared(written, facts, found.absent)
    if facts.get("offline_compression"):
        written.commands.append("compress")
        written.lines.append("release commands: compress, without which no page can be made: COMPRESS_OFFLINE is set")
    _choose_database(written, facts, project, offer.database)
    caches = str(facts.get("own_session_cache", ""))
    named = any("django.contrib.sessions" in app for app in facts["installed"])
    _choose_sessions(written, sessions, str(facts["own_session_engine"]), named, caches)
    return written


def _choose_static(written: Written, facts: dict[str, Any], project: Project) -> None:
    url = str(facts["static_url_of_project"])
    variables = made_from(project.directory, project.settings, "STATIC_URL")
    if variables:
        written.decide.append(
            f"site.static_url: STATIC_URL is made from {', '.join(variables)}, and is {url} while nothing is set; "
            "write what it is where they are to be set"
        )
    if PREFIX.fullmatch(url):
        written.static = _prefix(url)
        written.lines.append(f"static files: {written.static}")
    else:
        written.static = None
        written.lines.append(f"static files: not nginx's: STATIC_URL is {url or 'empty'}")


def _prefix(url: str) -> str:
    return "/" + url.strip("/") + "/"


def _choose_media(written: Written, facts: dict[str, Any], directory: Path) -> None:
    root, url = facts["media"]
    if not root:
        return
    path = Path(os.path.normpath(directory / root))
    if not path.is_relative_to(directory) or path == directory:
        written.decide.append(
            f"app.media: MEDIA_ROOT is {path}, outside the project; the instances must be able to write there"
        )
    elif not PREFIX.fullmatch(url):
        written.lines.append(
            f"media: {path.relative_to(directory)}, which nginx does not serve: MEDIA_URL is {url or 'empty'}"
        )
    else:
        written.media = (str(path.relative_to(directory)), _prefix(url))
        written.lines.append(f"media: {written.media[0]} at {written.media[1]}")


def _choose_shared(written: Written, facts: dict[str, Any], absent: list[str]) -> None:
    """Keep what the settings say is written outside the releases; uploads and databases have keys of their own."""
    paths = [{"setting": "the project, which fails without it,", "share": directory_of(path)} for path in absent]
    for one in (*paths, *facts.get("paths", {}).get("written", ())):
        path = str(one["share"])
        # What the import alone writes may be for each release, or must stay: only who made the project knows.
        if not path or not one["setting"] or one["setting"].startswith(("MEDIA_ROOT", "DATABASES")):
            continue
        if path not in written.shared:
            written.shared.append(path)
            written.lines.append(f"shared: {path}, which {one['setting']} writes")


def _choose_database(written: Written, facts: dict[str, Any], project: Project, made: str) -> None:
    """Let the cluster make a database (engine: `made`) in the place of an sqlite only: a server is the project's."""
    engine, host = facts["own_database_engine"], facts["own_database_host"]
    variables = made_from(project.directory, project.settings, "DATABASES")
    by = f"; DATABASES is made from {', '.join(variables)}" if variables else ""
    if engine not in NO_SERVER:
        written.database = None
        where = f" at {host}" if host and not variables else ""
        written.lines.append(f"database: the project's own, {engine.rpartition('.')[2]}{where}{by}")
    elif "sqlite" in engine:
        written.database = made
        written.lines.append(f"database: {written.database}, made by the cluster, for the project's sqlite")
        if variables:
            written.decide.append(
                f"database: sqlite is what the settings choose when nothing is set{by}: remove `cluster:database` from "
                "the stack file where they are to choose another one"
            )
    elif not engine:
        written.database = made
        written.lines.append(
            f"database: {written.database}, made by the cluster, since the project's settings name none"
        )
    else:
        written.database = None
        written.lines.append("database: none, as the project's settings say")
    for alias, (other, place) in facts["own_databases"].items():
        if alias != "default":
            written.lines.append(f"database {alias}: the project's own, {other.rpartition('.')[2]} {place}".rstrip())


def _choose_sessions(written: Written, asked: str | None, own: str, installed: bool, cache: str) -> None:
    """Keep the engine that the project has, unless another one is asked for."""
    named = own.removeprefix(DJANGO_ENGINES)
    if asked is not None:
        written.engine = asked
        written.replace = bool(own) and named == own and asked != SessionEngine.PROJECT
        written.lines.append(f"sessions: {written.engine}, as --sessions says")
    elif own and named == own:
        written.engine = "project"
        written.lines.append(f"sessions: the project's own engine, {own}")
    elif named == "cache" and not any(word and word in cache for word in OWN_CACHES) and cache:
        written.engine = "project"
        written.lines.append(f"sessions: in the project's own cache ({cache}), as its SESSION_ENGINE says")
    elif named == "cache":
        written.engine = "cached_db"
        written.lines.append("sessions: cached_db; the project's own cache is one that instances would not share")
    elif not own and not installed:
        written.engine = "signed_cookies"
        written.lines.append("sessions: signed_cookies, since django.contrib.sessions is not in INSTALLED_APPS")
    else:
        written.engine = named or "db"
        why = (
            "as the project's SESSION_ENGINE says" if named else "Django's default; cached_db reads them from memcached"
        )
        written.lines.append(f"sessions: {written.engine} ({why})")
