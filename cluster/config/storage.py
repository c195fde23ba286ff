"""The keys of `cluster:sessions` and `cluster:database`: where sessions and data are kept."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from cluster.config.kinds import Model, PathText, Port, text_enum
from cluster.config.units import Size


class SessionEngine(StrEnum):
    """Where sessions are kept."""

    DB = "db"
    CACHED_DB = "cached_db"
    CACHE = "cache"
    FILE = "file"
    SIGNED_COOKIES = "signed_cookies"
    PROJECT = "project"

    @property
    def where(self) -> str:
        """Where a session is, in a few words."""
        return WHERE_SESSIONS_ARE[self]


WHERE_SESSIONS_ARE = {
    SessionEngine.DB: "kept in the database",
    SessionEngine.CACHED_DB: "kept in the database, cached",
    SessionEngine.CACHE: "kept in memcached alone",
    SessionEngine.FILE: "files, shared by all",
    SessionEngine.SIGNED_COOKIES: "in the client's own cookie",
    SessionEngine.PROJECT: "by the project's own engine",
}


class DatabaseEngine(StrEnum):
    """Who makes the database."""

    SQLITE = "sqlite"
    POSTGRES = "postgres"
    EXTERNAL = "external"


class Memcached(Model):
    """The memcached nodes for sessions."""

    nodes: int = Field(2, ge=1, le=32, description="How many.")
    memory: Size = Field(Size.parse("64m"), description="Of each node.")


class Sessions(Model):
    """Where sessions are kept."""

    engine: Annotated[SessionEngine, text_enum(SessionEngine)] = Field(
        SessionEngine.DB,
        description="Django's session engine; project: the project's own SESSION_ENGINE, with all that its settings "
        "say of sessions, as it is.",
    )
    memcached: Memcached = Field(default_factory=Memcached, description="For cache and cached_db.")
    path: PathText | None = Field(
        None,
        description="For file: a directory that all instances share; default: one that the platform makes.",
    )
    previous: Annotated[SessionEngine, text_enum(SessionEngine)] | None = Field(
        None, description="While changing the engine: sessions of the old one stay valid."
    )
    discard: bool = Field(
        False,
        description="Let a change of the engine without `previous`, of the path or of secret_key end all sessions.",
    )
    replace: bool = Field(
        False, description="Let the engine replace one that the project has written itself (its SESSION_ENGINE)."
    )


class Database(Model):
    """Django's default database. Left out: the project's own DATABASES."""

    engine: Annotated[DatabaseEngine, text_enum(DatabaseEngine)] = Field(
        description="sqlite, postgres (made by the platform), or external (database_url)."
    )
    replace: bool = Field(
        False, description="Let sqlite replace a database server that the project's own DATABASES name."
    )
    port: Port = Field(5432, description="Of the PostgreSQL that is made on a host.")
    discard: bool = Field(
        False, description="Let another database serve than the one that has the data now: that is seen no more."
    )


__all__ = [
    "Database",
    "DatabaseEngine",
    "Memcached",
    "SessionEngine",
    "Sessions",
]
