"""The keys of `cluster:app`: the Django project, and one instance of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainValidator
from pydantic_core import PydanticCustomError

from cluster.config.kinds import (
    ApplicationName,
    CommandText,
    Model,
    ModuleName,
    PackageName,
    PathPrefix,
    PathText,
    PlainText,
    ProjectPath,
    PythonVersion,
    SharedDirectory,
    UrlPath,
    VariableName,
    text_enum,
)
from cluster.config.units import Duration, Size


class Interface(StrEnum):
    """How gunicorn talks to the project."""

    WSGI = "wsgi"
    ASGI = "asgi"


def _batch(value: object) -> int | str:
    if value == "all" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise PydanticCustomError("batch", "must be a number of instances from 1, or all")


def _requirements(value: object) -> object:
    """Take `requirements: requirements.txt` as the file alone."""
    return {"file": value} if isinstance(value, str) or value is None else value


def _no(value: object) -> object:
    """Take `media: false` as no media at all; null is what the project says."""
    return {"root": None} if value is False else value


def _migrate(value: object) -> bool | list[str]:
    if isinstance(value, bool):
        return value
    if isinstance(value, list) and value and all(isinstance(name, str) and name for name in value):
        return value
    raise PydanticCustomError("migrate", "must be true or false, or a list of aliases of DATABASES")


class Health(Model):
    """How an instance is judged."""

    path: UrlPath = Field("/-/health", description="What the running check asks for; the default is the runtime's own.")
    pages: list[UrlPath] | None = Field(
        None,
        description="What a release must answer before it takes a name, as a visitor would see it, with a static file "
        "of each; default: / and LOGIN_URL.",
    )
    interval: Duration = Field(Duration.parse("1s"), description="Time between two checks.")
    timeout: Duration = Field(Duration.parse("2s"), description="How long an answer may take.")
    retries: int = Field(3, ge=1, le=100, description="Failed checks in a row until the instance is started again.")
    start_timeout: Duration = Field(
        Duration.parse("60s"), description="How long an instance may take to become healthy."
    )
    busy_timeout: Duration = Field(
        Duration.parse("60s"),
        description="How long all threads may be in requests of which none moves, until the instance counts as "
        "deadlocked. The default is nginx's proxy_read_timeout: by then no client waits any more.",
    )


class Requirements(Model):
    """Which packages the project needs, and from where that is read."""

    file: PathText | None = Field(
        None,
        description="From the project's directory; default: requirements.txt, else pyproject.toml. A lock beside "
        "pyproject.toml (uv.lock, poetry.lock, pdm.lock), or Pipfile.lock, is honoured exactly.",
    )
    extras: list[PackageName] = Field(default_factory=list, description="Optional dependencies of pyproject.toml.")
    groups: list[PackageName] = Field(default_factory=list, description="Dependency groups of pyproject.toml.")


class Media(Model):
    """A directory of files that a project writes and nginx reads."""

    root: ProjectPath | None = Field(description="The directory, from the project's; null: none.")
    url: PathPrefix | None = Field("/media/", description="Where nginx serves it; null: nowhere.")


class ProtectedMedia(Media):
    """A directory of files that nginx serves only where the project says so."""

    url: PathPrefix | None = Field(
        "/protected/", description="What X-Accel-Redirect begins with; never public by itself."
    )


class Rollout(Model):
    """How a release replaces instances."""

    batch: Annotated[int | str, PlainValidator(_batch)] = Field(
        "all",
        description="How many instances are replaced at a time; 1 where memory is short. The first goes alone.",
    )


class App(Model):
    """The Django project, and one instance of it."""

    project: PathText = Field(description="The directory that holds manage.py, from the repository's root.")
    settings: ModuleName = Field(description="The project's own settings module: wrapped, never edited.")
    application: ApplicationName | None = Field(
        None, description="module:callable; default: the project's WSGI_APPLICATION (ASGI_APPLICATION)."
    )
    interface: Annotated[Interface, text_enum(Interface)] = Field(
        Interface.WSGI, description="wsgi: gunicorn with threads; asgi: gunicorn with uvicorn workers."
    )
    requirements: Annotated[Requirements, BeforeValidator(_requirements)] = Field(
        default_factory=lambda: Requirements(file=None),
        description="The project's packages; just a path means `file`.",
    )
    python: PythonVersion | None = Field(
        None,
        description='The version of Python, in quotes: "3.13"; default: what the project asks for (requires-python, '
        ".python-version or its lock).",
    )
    workers: int = Field(1, ge=1, le=64, description="gunicorn's workers of one instance.")
    threads: int = Field(4, ge=1, le=256, description="gunicorn's threads of one worker (wsgi).")
    preload: bool = Field(
        True,
        description="Load the project once for all workers of an instance, so that one that has ended is replaced in "
        "milliseconds. A project that starts threads or opens connections when it is imported is loaded by each "
        "worker for itself, as with false.",
    )
    environment: dict[VariableName, PlainText] = Field(
        default_factory=dict,
        description="Plain values for the project; secret ones go to secret_environment.",
    )
    health: Health = Field(default_factory=Health, description="How an instance is judged.")
    graceful_timeout: Duration = Field(
        Duration.parse("30s"),
        description="How long a request in flight may still take when an instance stops.",
    )
    rollout: Rollout = Field(default_factory=Rollout, description="How a release replaces instances.")
    memory: Size = Field(Size.parse("512m"), description="Limit of one instance, where the platform can set it.")
    processes: int = Field(256, ge=8, le=65536, description="Limit of one instance, where the platform can set it.")
    read_only: bool = Field(
        True,
        description="The project can't write into its own directory, where the platform can see to it; false: each "
        "instance has a copy of its own, as long as it lives.",
    )
    migrate: Annotated[bool | list[str], PlainValidator(_migrate)] = Field(
        True,
        description="Run migrate once per release, in the new release, before it gets traffic: for every database, for "
        "none, or for those of a list of aliases.",
    )
    collectstatic: bool = Field(
        True,
        description="Run collectstatic once per release, whoever serves the files; false: STATIC_ROOT stays as it is.",
    )
    release_commands: list[CommandText] = Field(
        default_factory=list,
        description="Management commands that run once per release, after collectstatic and migrate, before it is "
        "proven.",
    )
    shared: list[ProjectPath] = Field(
        default_factory=list,
        description="Paths of the project that it writes: kept outside the releases, one for all instances, deleted by "
        "`down --delete-data` alone.",
    )
    shared_filesystem: SharedDirectory | None = Field(
        None,
        description="With several hosts: the directory, the same on each, where a filesystem is mounted that they "
        "share (NFS, CephFS, GlusterFS). The shared paths are kept there, in `cluster-STACK`; null: on the host.",
    )
    include: list[ProjectPath] = Field(
        default_factory=list, description="Files and directories from above the project that belong to a release."
    )
    media: Annotated[Media | None, BeforeValidator(_no)] = Field(
        None,
        description="Uploads, which nginx serves; default: the project's MEDIA_ROOT and MEDIA_URL, where its settings "
        "say them plainly; false: none.",
    )
    protected_media: ProtectedMedia | None = Field(
        None, description="Files that nginx serves only where the project says so, by the header X-Accel-Redirect."
    )


__all__ = [
    "App",
    "Health",
    "Interface",
    "Media",
    "ProtectedMedia",
    "Requirements",
    "Rollout",
]
