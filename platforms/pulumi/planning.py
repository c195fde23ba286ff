"""What `up` and `rollback` would do to a stack of a Pulumi program, told as a plan: by the engine's preview.

What runs, and where releases are kept, the platform knows.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from cluster.config.models import ACCOUNT, AUTHORITY, Server
from cluster.errors import CommandError
from cluster.plan import compare
from cluster.plan.addresses import cut, left
from cluster.plan.costs import Cost, dearest_first
from cluster.plan.judged import disabled_rules, first, forbidding, new_lints
from cluster.plan.migrations import unsafe
from cluster.plan.nginx_check import UncheckedError
from cluster.plan.planned import Planned, Release
from cluster.plan.releases import compare_releases, retired
from cluster.plan.risk import at_risk, discarded
from cluster.sessions import Lasting, refused_loss
from cluster.topology import build_topology, shares
from platforms.pulumi.engine import SECRET_KEY
from platforms.pulumi.installing import installed_pulumi
from platforms.pulumi.kept_stack import kept_stack
from platforms.pulumi.keys import stack_keys
from platforms.pulumi.progress import COMMAND, UNCHANGED, changed_by, part_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from fractions import Fraction

    from cluster.lint import Facts
    from cluster.plan.nginx_check import Checker
    from cluster.plan.planned import Lint, SettingChange, Share
    from cluster.plan.releases import Side
    from cluster.stack.history import History
    from cluster.stack.opened import Stack
    from cluster.stack.paths import StackPaths
    from platforms.pulumi.engine import Pulumi
    from platforms.pulumi.preview import Preview
    from platforms.pulumi.running import Event
    from platforms.pulumi.told import Told

SERVERS = TypeAdapter(list[Server])

#: The resources in a stack's state.
Resources = list[dict[str, Any]]

#: What it costs to leave addresses of the site, and which those are, in words.
Left = tuple[list[Cost], list[str]]

#: Ends the name of the command by which a migrated release is prepared; its standard input is the stack's secrets.
PREPARE, SECRETS_INPUT = "prepare", "stdin"


def begun(
    stack: Stack, facts: Facts, pulumi: Callable[[], Pulumi], first_tls: Callable[[Resources], Left], *more_keys: str
) -> Planned | Resources:
    """Return what is to be known before a preview: the resources in the stack's state; a plan where there can't be one.

    first_tls: tells what a certificate costs whose key `up` makes first, and which addresses it leaves. more_keys:
    others that it makes first. CommandError where Pulumi is not there.
    """
    name, topology, keys = stack.name, build_topology(stack.config), stack_keys(stack.root, stack.name)
    refused = forbidding(stack.config, facts)
    if SECRET_KEY not in keys:
        return first(name, topology, facts, refused)
    resources = state_of(name, pulumi)
    if resources is None:
        return first(name, topology, facts, refused)
    if refused:
        return Planned(stack=name, changes=True, refused=tuple(refused), disabled=disabled_rules(stack.config))
    for key in filter(None, (_key_of_certificate(stack), *more_keys)):
        if f"cluster:{key}" not in keys:
            unknown = f"what else changes: `up` makes cluster:{key} first"
            costs, moved = ([], []) if key in more_keys else first_tls(resources)
            known = dearest_first(costs) if costs else ()
            return Planned(stack=name, changes=True, costs=known, steps=tuple(moved), unknown=(unknown,))
    return resources


def taking(preview: Preview, pulumi: Pulumi) -> Callable[[Event], None]:
    """Return what takes a preview's events: as soon as one says that a release is prepared, secrets begin to be read.

    Those that it has and, where the engine says that they are others, those of the one before, by which the plan says
    what becomes of sessions.
    """

    def take(event: Event) -> None:
        preview.take(event)
        step = (event.get("resourcePreEvent") or {}).get("metadata")
        if step and step["op"] not in UNCHANGED and _prepares(*part_of(step)):
            pulumi.begin_secrets(former=step["op"] != "create" and not _keeps_secrets(changed_by(step)))

    return take


def _prepares(kind: str, part: str) -> bool:
    """Tell whether a resource is the command by which a migrated release is prepared."""
    return kind == COMMAND and part.endswith(PREPARE)


def _keeps_secrets(changed: Collection[str]) -> bool:
    """Tell whether a release is prepared with the secrets of the one before; changed: the paths of other inputs.

    To read the former ones takes half a second of a processor, since a key is derived for it.
    """
    return bool(changed) and SECRETS_INPUT not in changed


def state_of(stack: str, pulumi: Callable[[], Pulumi]) -> Resources | None:
    """Return the resources in a stack's state; None where there is no such stack. CommandError where Pulumi is not."""
    if installed_pulumi() is None:
        raise CommandError(f"Pulumi is missing: `cluster up {stack}` installs it, and says what it does")
    return pulumi().find()


def _key_of_certificate(stack: Stack) -> str | None:
    """Return the key of the stack file by which the site's certificate is had; None where it needs none."""
    site = stack.config.site
    if site.tls is not None and site.tls.self_signed:
        return AUTHORITY
    return ACCOUNT if site.acme is not None else None


class UnkeptError(Exception):
    """What a release was made of is not kept; the text says which one, and where it is not."""


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Two releases, and the parts in which they differ, by their names in compare.PARTS."""

    old: Side
    new: Side
    parts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The release that serves beside the one that is wanted.

    lasting: what sessions and data hang on in the wanted one; None where it is the one that serves.
    """

    release: Release
    parts: tuple[str, ...] = ()
    settings: tuple[SettingChange, ...] = ()
    unknown: tuple[str, ...] = ()
    lasting: Lasting | None = None


class Planning(ABC):
    """Tells what a preview is, with all that is known of it. unjudged: what the policy could not tell before."""

    unjudged: tuple[str, ...] = ()

    def __init__(self, stack: Stack, paths: StackPaths, preview: Preview, pulumi: Pulumi, facts: Facts) -> None:
        self.stack = stack
        self.paths = paths
        self.preview = preview
        self.pulumi = pulumi
        self.facts = facts
        self.config = stack.config
        self.topology = build_topology(stack.config)

    # --- what the platform knows

    @property
    @abstractmethod
    def serves(self) -> bool:
        """Whether the site is up now."""

    @property
    @abstractmethod
    def serving(self) -> str | None:
        """The release that every instance's name leads to; None where that is not one."""

    @abstractmethod
    def history(self) -> History:
        """Return which releases have served."""

    @abstractmethod
    def drift(self) -> tuple[str, ...]:
        """Return what was changed by hand, or is broken, in words."""

    @abstractmethod
    def broken(self) -> bool:
        """Tell whether something of that is mended although the preview finds nothing to do."""

    @abstractmethod
    def told_of(self, release: Release) -> Told:
        """Return what is done with what runs."""

    @abstractmethod
    def said(self) -> Sequence[Mapping[str, str] | None]:
        """Return what each instance that serves says of its sessions."""

    def secrets(self) -> dict[str, str]:
        """Return the secrets of the wanted release, in plain: for what shows none."""
        return self.pulumi.secrets()

    @abstractmethod
    def sessions(self) -> Mapping[str, Any] | None:
        """Return what an instance says of the session store; None where none says it."""

    @abstractmethod
    def lasting(self, wanted: str, secrets: Mapping[str, str]) -> Lasting:
        """Return what sessions and data hang on in the wanted release."""

    @abstractmethod
    def sides(self, former: str, wanted: str, old: Mapping[str, str] | None, new: Mapping[str, str]) -> Sides:
        """Return both releases; old, new: their secrets (None: nobody knows them). UnkeptError where one is gone."""

    @abstractmethod
    def nginx_lines(self) -> list[str]:
        """Return nginx's lines that go and come."""

    @abstractmethod
    def nginx_files(self) -> Iterable[tuple[Mapping[str, str], Mapping[str, str]]]:
        """Return the files of each nginx whose configuration is another one, before and after; by their paths."""

    @abstractmethod
    def checkers(self) -> AbstractContextManager[Sequence[Checker]]:
        """Give the nginx that is to be asked whether it takes a configuration which is not in place yet; none: it is.

        UncheckedError where it can't be asked.
        """

    # --- the plan

    def judged(self) -> Planned:
        """Return the plan, with what nginx says of a configuration that is not in place yet."""
        planned = self.told()
        if not planned.changes:
            return planned
        try:
            with self.checkers() as asked:
                found = [checker.judged(self.config) for checker in asked]
        except UncheckedError as error:
            found = [([], [f"whether nginx takes its configuration: {error}"])]
        refused = dict.fromkeys(line for lines, _unsure in found for line in lines)
        unsure = dict.fromkeys(line for _refused, lines in found for line in lines)
        return replace(planned, refused=tuple(refused), unknown=(*planned.unknown, *unsure))

    def told(self) -> Planned:
        """Return the plan."""
        by_hand = self.drift()
        name = self.stack.name
        if not (self.preview.steps or self.broken()):
            return Planned(stack=name, changes=False, drift=by_hand, disabled=disabled_rules(self.config))
        try:
            compared = self._compared(self.serving if self.serves else None)
        finally:
            self.pulumi.end_secrets()
        release = compared.release
        told = self.told_of(release)
        files = [*(self.nginx_files() if self.serves else ())]
        found = [left(old.values(), new.values()) for old, new in files]
        lost = [cost for old, _new in files for cost in cut(old.values())] if told.nginx == "reload" else []
        costs = [*self._costs(told, compared), *lost, *(cost for costs, _moved in found for cost in costs)]
        moved = dict.fromkeys(line for _costs, lines in found for line in lines)
        lints, unsaid = self._lints()
        return Planned(
            stack=name,
            changes=True,
            costs=dearest_first(costs),
            steps=(*told.steps(release, compared.parts, migrate=self._migrates()), *moved),
            traffic=self._traffic(),
            nginx=tuple(self.nginx_lines()),
            release=release,
            settings=compared.settings,
            sessions=at_risk(self.sessions(), self.config) if Cost.LOGGED_OUT in costs else "",
            deleted=(*told.deleted(), *self._retired(release)),
            lints=lints,
            drift=by_hand,
            unknown=(*compared.unknown, *unsaid, *self.unjudged),
            disabled=disabled_rules(self.config),
            resources=self.preview.resources(),
        )

    def _migrates(self) -> bool:
        steps = self.preview.of(COMMAND, "create", "update", "replace")
        return bool(self.config.app.migrate) and any(_prepares(COMMAND, part) for part in steps)

    # --- the release

    def _compared(self, serving: str | None) -> Compared:
        """Compare the wanted release with the one that serves, or that the state has, or that served last."""
        believed, wanted = self.preview.release()
        former = serving or believed or self.history().current
        release = Release(before=former, after=wanted)
        if wanted is None or former == wanted:
            return Compared(release=release)
        secrets = self.secrets()
        lasting = self.lasting(wanted, secrets)
        if former is None:
            return Compared(release=release, lasting=lasting)
        try:
            sides = self.sides(former, wanted, self._former_secrets(secrets), secrets)
        except UnkeptError as error:
            return Compared(release=release, lasting=lasting, unknown=(f"what of the release changes: {error}",))
        told, settings, lines = compare_releases(
            replace(release, parts=tuple(compare.PARTS[part] for part in sides.parts)),
            *(sides.old, sides.new, sides.parts),
            migrate=bool(self.config.app.migrate),
        )
        return Compared(release=told, parts=sides.parts, settings=settings, unknown=lines, lasting=lasting)

    def _former_secrets(self, wanted: dict[str, str]) -> dict[str, str] | None:
        """Return the secrets that the stack was made with last; None where they can't be read."""
        steps = [one for one in self.preview.all if _prepares(one.kind, one.part)]
        there = [one for one in steps if one.operation not in ("create", "delete")]
        if there and all(one.operation == "same" or _keeps_secrets(one.changed) for one in there):
            return wanted
        for resource in self.pulumi.export(plain=True):
            if _prepares(*part_of({"urn": resource["urn"], "new": resource})):
                given = (resource.get("inputs") or {}).get(SECRETS_INPUT)
                text = given.get("plaintext") if isinstance(given, dict) else None
                return None if text is None else dict(json.loads(json.loads(text)))
        return None

    # --- what it costs

    def _costs(self, told: Told, compared: Compared) -> list[Cost]:
        costs = told.costs()
        if told.serves and unsafe(compared.release.migrations):
            costs.append(Cost.MIGRATION)
        lasting = compared.lasting
        if lasting is not None:
            said = self.said()
            costs += discarded(
                self.config,
                said,
                lambda may: refused_loss(said, lasting, discard_sessions=may.sessions, discard_data=may.data),
            )
        return costs

    # --- the rest

    def _traffic(self) -> tuple[Share, ...]:
        after = {instance.name: instance.share for instance in self.topology.instances}
        before: dict[str, Fraction] = {}
        if self.serves:
            try:
                before = shares(SERVERS.validate_python(list(map(_server, self.preview.before["upstream"]))))
            except (KeyError, TypeError, ValidationError):
                return ()  # a program of another kind
        return compare.compare_shares(before, after)

    def _retired(self, release: Release) -> list[str]:
        if release.after is None:
            return []
        return retired(self.history(), release.after)

    def _lints(self) -> tuple[tuple[Lint, ...], tuple[str, ...]]:
        """Return those that are new, and what is not known of that."""
        former = kept_stack(self.paths, self.preview.before.get("nginx"))
        found = new_lints(former, self.config, self.facts)
        if former is None and self.serves and found:
            return (), (f"which of {len(found)} lints are new: the stack file of before is not kept in this checkout",)
        return found, ()


def lasting_of(runtime: Mapping[str, Any], secrets: Mapping[str, str]) -> Lasting:
    """Return what sessions and data hang on in a release; runtime: its configuration file."""
    found = Lasting.of(runtime["sessions"]["path"], runtime["database"], secrets)
    return replace(found, shared=frozenset(runtime["shared"]))


def _server(output: Mapping[str, Any]) -> dict[str, Any]:
    """Return a server of the stack's output `upstream` as the stack file has one."""
    return {key: output[key] for key in ("name", "weight", "backup", "down") if key in output}


__all__ = [
    "PREPARE",
    "SECRETS_INPUT",
    "Compared",
    "Planning",
    "Sides",
    "UnkeptError",
    "begun",
    "lasting_of",
    "state_of",
]
