"""What `up` and `rollback` would do to a stack on Docker, told as a plan: by the engine's preview, and what runs."""

from __future__ import annotations

import json
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from cluster.config.models import Server, dump
from cluster.kept import HurtFile, read_kept, write_kept
from cluster.plan import compare
from cluster.plan.costs import Cost, dearest_first
from cluster.plan.judged import disabled_rules, former_config, new_lints
from cluster.plan.migrations import unsafe
from cluster.plan.nginx import OTHER_USERS, difference
from cluster.plan.planned import Planned, Release
from cluster.plan.releases import compare_releases, retired
from cluster.plan.risk import at_risk, discarded
from cluster.sessions import Lasting, refused_loss
from cluster.stack.history import History
from cluster.topology import shares
from platforms.docker.contexts import changed_parts, config_of, side_of
from platforms.docker.delivery import read_delivered
from platforms.docker.drift import drift
from platforms.docker.paths import ASIDE_VARIABLE, set_aside
from platforms.docker.repair import lacking_migrations, unknown
from platforms.docker.stack import paths
from platforms.docker.told import Told
from platforms.pulumi.preview import Preview
from platforms.pulumi.progress import COMMAND, NGINX_CONFIG, part_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from fractions import Fraction
    from pathlib import Path

    from cluster.config import ClusterConfig
    from cluster.lint import Facts
    from cluster.plan.planned import Lint, SettingChange, Share
    from platforms.docker.observe import Observed
    from platforms.docker.stack import DockerStack
    from platforms.pulumi.engine import Changes, Event, Pulumi
    from platforms.pulumi.live import Live

#: The stack that an `up` has made, by the digest of nginx's configuration that it has put in place.
KEPT_STACK: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])

SERVERS = TypeAdapter(list[Server])


#: Where a migrated release is prepared, whose standard input is the stack's secrets.
PREPARE = "prepare"

#: In the environment of nginx's command: for whom nginx asks.
USERS = "USERS"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What is there, whatever Pulumi's state believes.

    strays: containers of which no state knows. lacking: migrations that the databases of the serving release lack, by
    alias. trouble: what nginx tells visitors that it should not.
    """

    observed: Observed
    strays: list[dict[str, Any]]
    lacking: Mapping[str, Sequence[str]]
    trouble: str | None


@dataclass(kw_only=True)
class Look:
    """A preview, and what is looked at meanwhile.

    resources: those in the stack's state. lost: containers of them that do not run. maintenance: says what nginx tells
    visitors that it should not; asked where nginx runs. aside: where the preview writes contexts that go with it; None:
    it writes them where they stay. unjudged: what the policy could not tell before it is made.
    """

    docker: DockerStack
    resources: list[dict[str, Any]]
    lost: Sequence[str] = ()
    maintenance: Callable[[], str | None] = lambda: None
    aside: Path | None = None
    unjudged: tuple[str, ...] = ()
    preview: Preview = field(default_factory=Preview)
    _beside: tuple[ThreadPoolExecutor, Future[Found]] | None = None

    def run(self, pulumi: Pulumi, environment: Mapping[str, str]) -> Changes:
        """Let the engine preview; PulumiError says what it refuses, PolicyError what the policy does."""
        more = {} if self.aside is None else {ASIDE_VARIABLE: str(self.aside)}
        changes = pulumi.preview(self._take, refresh=bool(self.lost), **environment, **more)
        self.unjudged = changes.unjudged
        return changes

    def _take(self, event: Event) -> None:
        self._look()  # once Pulumi's process is there: none is started beside a thread
        self.preview.take(event)

    def _look(self) -> tuple[ThreadPoolExecutor, Future[Found]]:
        if self._beside is None:
            executor = ThreadPoolExecutor(max_workers=1)
            self._beside = executor, executor.submit(self._looked)
        return self._beside

    def _looked(self) -> Found:
        observed = self.docker.observe()
        return Found(
            observed=observed,
            strays=unknown(self.docker, self.resources),
            lacking=lacking_migrations(self.docker),
            trouble=None if observed.live.nginx is None else self.maintenance(),
        )

    def found(self) -> Found:
        """Return what is there; EngineError where the engine is away."""
        executor, future = self._look()
        with executor:
            return future.result()

    def context(self, release: str) -> Path:
        """Return where the build context of a release is."""
        place = paths(self.docker.stack).images / release
        return place if self.aside is None or place.exists() else set_aside(self.aside, place)


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


class Planning:
    """Tells what a preview is, with all that is known of it."""

    def __init__(self, look: Look, pulumi: Pulumi, facts: Facts) -> None:
        self.look = look
        self.pulumi = pulumi
        self.facts = facts
        self.docker, self.preview = look.docker, look.preview
        self.config, self.topology = look.docker.stack.config, look.docker.topology

    def told(self) -> Planned:
        """Return the plan."""
        look, found = self.look, self.look.found()
        observed = found.observed
        strange = drift(observed, self.preview.before, lost=look.lost, unknown=found.strays, lacking=found.lacking)
        by_hand = (*strange, *([found.trouble] if found.trouble else []))
        name = self.docker.stack.name
        if not (self.preview.steps or found.strays or found.lacking or found.trouble):
            return Planned(stack=name, changes=False, drift=by_hand, disabled=disabled_rules(self.config))
        live = observed.live
        serves = live.nginx is not None and any(live.holders.values())
        compared = self._compared(observed.release if serves else None)
        release = compared.release
        told = Told(self.preview, self.topology, serves=serves)
        costs = self._costs(told, compared, live)
        lints, unsaid = self._lints(serves=serves)
        migrate = bool(self.config.app.migrate) and PREPARE in self.preview.of(COMMAND, "create", "update", "replace")
        return Planned(
            stack=name,
            changes=True,
            costs=costs,
            steps=told.steps(release, compared.parts, migrate=migrate),
            traffic=self._traffic(serves=serves),
            nginx=tuple(self._nginx_lines()),
            release=release,
            settings=compared.settings,
            sessions=at_risk(self.docker.engine.sessions(self.docker.label), self.config)
            if Cost.LOGGED_OUT in costs
            else "",
            deleted=(*told.deleted(), *self._retired(release)),
            lints=lints,
            drift=by_hand,
            unknown=(*compared.unknown, *unsaid, *look.unjudged),
            disabled=disabled_rules(self.config),
            resources=self.preview.resources(),
        )

    # --- the release

    def _compared(self, serving: str | None) -> Compared:
        """Compare the wanted release with the one that serves, or that the state has, or that served last."""
        believed, wanted = self.preview.release()
        former = serving or believed or History.load(paths(self.docker.stack)).current
        release = Release(before=former, after=wanted)
        if wanted is None or former == wanted:
            return Compared(release=release)
        new_secrets = self.pulumi.secrets()
        app, context = self.config.app, self.look.context(wanted)
        lasting = _lasting(config_of(context), new_secrets)
        if former is None:
            return Compared(release=release, lasting=lasting)
        kept = self.look.context(former)
        try:
            old = side_of(kept, app, self._former_secrets() or new_secrets)
            new = side_of(context, app, new_secrets)
        except (OSError, ValueError, KeyError):
            unkept = "what of the release changes: the former one is not kept in this checkout"
            return Compared(release=release, lasting=lasting, unknown=(unkept,))
        parts = changed_parts(kept, context, old, new)
        told, settings, lines = compare_releases(
            replace(release, parts=tuple(compare.PARTS[part] for part in parts)),
            *(old, new, parts),
            migrate=bool(self.config.app.migrate),
        )
        return Compared(release=told, parts=parts, settings=settings, unknown=lines, lasting=lasting)

    def _former_secrets(self) -> dict[str, str] | None:
        """Return the secrets that the stack was made with last; None where they can't be read."""
        for resource in self.pulumi.export(plain=True):
            kind, name = part_of({"urn": resource["urn"], "op": "same", "new": resource})
            if (kind, name) == (COMMAND, PREPARE):
                given = (resource.get("inputs") or {}).get("stdin")
                text = given.get("plaintext") if isinstance(given, dict) else None
                return None if text is None else dict(json.loads(json.loads(text)))
        return None

    # --- what it costs

    def _costs(self, told: Told, compared: Compared, live: Live) -> tuple[Cost, ...]:
        costs = told.costs()
        if told.serves and unsafe(compared.release.migrations):
            costs.append(Cost.MIGRATION)
        lasting = compared.lasting
        if lasting is not None:
            said = live.served(self.topology.names)
            costs += discarded(
                self.config,
                said,
                lambda may: refused_loss(said, lasting, discard_sessions=may.sessions, discard_data=may.data),
            )
        return dearest_first(costs)

    # --- the rest

    def _traffic(self, *, serves: bool) -> tuple[Share, ...]:
        after = {instance.name: instance.share for instance in self.topology.instances}
        before: dict[str, Fraction] = {}
        if serves:
            try:
                before = shares(SERVERS.validate_python(list(map(_server, self.preview.before["upstream"]))))
            except (KeyError, TypeError, ValidationError):
                return ()  # a program of another kind
        return compare.compare_shares(before, after)

    def _nginx_lines(self) -> list[str]:
        found = self.preview.of(COMMAND, "update", "replace").get(NGINX_CONFIG)
        old, new = (found.old.get("stdin"), found.new.get("stdin")) if found else (None, None)
        if found is None or not isinstance(old, str) or not isinstance(new, str):
            return []
        before, after = read_delivered(old), read_delivered(new)
        digest = str((found.new.get("environment") or {}).get("DIGEST") or "")
        # Pulumi tells which value of the environment is another, and not what it is.
        users = [OTHER_USERS] if any(path.endswith(f".{USERS}") for path in found.changed) else []
        return [*users, *difference(lambda path: before.get(path, ""), after, digest)]

    def _retired(self, release: Release) -> list[str]:
        if release.after is None:
            return []
        return retired(History.load(paths(self.docker.stack)), release.after)

    def _lints(self, *, serves: bool) -> tuple[tuple[Lint, ...], tuple[str, ...]]:
        """Return those that are new, and what is not known of that."""
        former = self._former_config()
        found = new_lints(former, self.config, self.facts)
        if former is None and serves and found:
            return (), (f"which of {len(found)} lints are new: the stack file of before is not kept in this checkout",)
        return found, ()

    def _former_config(self) -> ClusterConfig | None:
        """Return the stack that nginx's configuration in place was made of, where an `up` of this checkout made it."""
        kept = _kept(self.docker)
        current = kept.get("nginx") == self.preview.before.get("nginx")
        return former_config(kept.get("stack")) if current else None


def keep_stack(docker: DockerStack, outputs: Mapping[str, Any]) -> None:
    """Keep the stack that an `up` has made. outputs: those of the program."""
    made = {"nginx": outputs.get("nginx"), "stack": dump(docker.stack.config)}
    if made["nginx"] and _kept(docker) != made:
        write_kept(paths(docker.stack).made, made)


def _kept(docker: DockerStack) -> dict[str, Any]:
    try:
        return read_kept(paths(docker.stack).made, KEPT_STACK) or {}
    except HurtFile:
        return {}


def _server(output: Mapping[str, Any]) -> dict[str, Any]:
    """Return a server of the stack's output `upstream` as the stack file has one."""
    return {key: output[key] for key in ("name", "weight", "backup", "down") if key in output}


def _lasting(runtime: Mapping[str, Any], secrets: Mapping[str, str]) -> Lasting:
    """Return what sessions and data hang on in a release."""
    found = Lasting.of(runtime["sessions"]["path"], runtime["database"], secrets)
    return replace(found, shared=frozenset(runtime["shared"]))


__all__ = ["Look", "Planning", "keep_stack"]
