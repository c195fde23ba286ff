"""The structure that is behind every form of a plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.plan.costs import Cost


class Kind(StrEnum):
    """What becomes of a file, a package or a secret."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, kw_only=True)
class FileChange:
    """A file of the code, by its path from the project's directory.

    added, removed: lines; None where nobody counts them (no text, or too large).
    """

    path: str
    kind: Kind
    added: int | None
    removed: int | None


@dataclass(frozen=True, kw_only=True)
class PackageChange:
    """A package that the requirements name, with what they say of its version; None where they don't name it."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True, kw_only=True)
class SettingChange:
    """A key, as the stack file has it, and its values as JSON; None where it is not there."""

    key: str
    before: str | None
    after: str | None


@dataclass(frozen=True, kw_only=True)
class SecretChange:
    """A secret, by its name; of `secret_environment` each variable is one."""

    name: str
    kind: Kind


@dataclass(frozen=True, kw_only=True)
class Migration:
    """A migration that will run, as `app.name`.

    unsafe: what of it the former release can't live beside, in words. unread: what of it can't be judged by reading.
    """

    name: str
    unsafe: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Release:
    """What of a release changes. before, after: digests. parts: in words (code, requirements, …)."""

    before: str | None = None
    after: str | None = None
    parts: tuple[str, ...] = ()
    code: tuple[FileChange, ...] = ()
    requirements: tuple[PackageChange, ...] = ()
    secrets: tuple[SecretChange, ...] = ()
    migrations: tuple[Migration, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Share:
    """An instance's share of new requests, 0 to 1, before and after; None where it is not there."""

    instance: str
    before: float | None
    after: float | None


@dataclass(frozen=True, kw_only=True)
class Lint:
    """A lint that finds something which it did not find before."""

    id: str
    severity: str
    path: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Resource:
    """A resource of the engine's: what is done (create, update, replace, delete), and the inputs that are why."""

    operation: str
    kind: str
    name: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What `up` or `rollback` would do to a stack.

    changes: whether it would do anything. costs: the dearest first. refused: why it would do nothing at all, a line
    each. steps: what it does, in order. settings: keys of the stack file that change. nginx: the difference of its
    configuration, in unified form without context; each line begins with its file, +, - or a space. sessions: those at
    risk, in words. deleted: what is stopped or removed for good. drift: what was changed by hand. unknown: what can't
    be known before. disabled: rules of the policy that the stack file switches off, with its reasons.
    """

    stack: str
    changes: bool
    costs: tuple[Cost, ...] = ()
    refused: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    traffic: tuple[Share, ...] = ()
    nginx: tuple[str, ...] = ()
    release: Release = field(default_factory=Release)
    settings: tuple[SettingChange, ...] = ()
    sessions: str = ""
    deleted: tuple[str, ...] = ()
    lints: tuple[Lint, ...] = ()
    drift: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()
    resources: tuple[Resource, ...] = ()
