"""What a lint says, and what it may look at."""

from __future__ import annotations

import datetime as dt  # noqa: TC003 - a field's type
from collections.abc import Mapping, Sequence  # noqa: TC003 - a field's type
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path  # noqa: TC003 - a field's type

Version = tuple[int, int, int]


class Severity(StrEnum):
    """Errors stop `up`, warnings print, notes are for `cluster lint` alone."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that a lint found: `path` is the key in the stack file, `why` a sentence, `remedy` what to do."""

    id: str
    severity: Severity
    path: str
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: {self.why} {self.remedy} [{self.id}]"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known beside the stack file; what is not known (None, empty) is not judged.

    root: the repository, from which app.project is read.
    nginx: the version of the nginx that the stack runs. http3: whether it was built with HTTP/3.
    secrets: the names of the secrets that the stack has (secret_key, database_url, …), whatever holds them.
    project: what `cluster_runtime.describe` says of the project, by its keys.
    other_listens: ports that other stacks of the repository listen on, with the stacks' names.
    stack: its name. now: the time of the day. bases: when the images were made that the stack's are built on.
    privileged: whether nginx may listen on ports below 1024 (root may).
    issued: when the site got certificates by ACME of late, and for which names (cluster.acme.kept.Said).
    """

    root: Path | None = None
    nginx: Version | None = None
    http3: bool | None = None
    secrets: frozenset[str] | None = None
    project: dict[str, object] | None = None
    other_listens: dict[int, str] = field(default_factory=dict)
    stack: str | None = None
    now: dt.datetime | None = None
    bases: Mapping[str, dt.datetime] = field(default_factory=dict)
    privileged: bool | None = None
    issued: Sequence[tuple[str, str]] = ()
