"""What `up` and `rollback` would do on this machine, told as a plan; nothing is changed by it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cluster.config import StackFileError, parse_config
from cluster.config.models import SessionEngine
from cluster.errors import ClusterError
from cluster.plan import compare
from cluster.plan.costs import Cost, dearest_first
from cluster.plan.migrations import new_migrations, unsafe
from cluster.plan.nginx_check import Checker, UncheckedError
from cluster.plan.planned import PackageChange, Planned, Release, SettingChange
from cluster.release import ReleaseError, runtime_config
from cluster.requirements import read_requirements
from cluster.services import Kind
from cluster.sessions import Discard, refusal
from cluster.sessions import lines as session_lines
from cluster.source import DATABASE_SUFFIXES, TREE
from cluster.stack.history import KEPT_RELEASES, History
from cluster.stack.judge import findings
from platforms.local.daemons import kind_of
from platforms.local.release import Release as Made
from platforms.local.state import is_instance
from platforms.local.written import known_files

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cluster.config.models import ClusterConfig
    from cluster.lint import Facts
    from cluster.release import ReleaseSpec
    from platforms.local.cluster import LocalCluster
    from platforms.local.plan import Plan

#: What of a release's configuration is a key of the stack file, by its path there.
KEYS = {
    "app": (
        *("settings", "application", "interface", "workers", "threads", "preload", "health", "graceful_timeout"),
        *("environment", "release_commands"),
    ),
    "sessions": ("engine", "previous", "path"),
}


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of two releases. packages: None where they are not kept with it."""

    tree: Mapping[str, Path | str]
    packages: Mapping[str, str] | None
    secrets: Mapping[str, str]
    runtime: Mapping[str, Any]


class Planning:
    """Tells what a plan of this machine's is. refused: what forbids it, in words."""

    def __init__(self, cluster: LocalCluster, stack: str, facts: Facts) -> None:
        self.cluster = cluster
        self.stack = stack
        self.facts = facts

    # --- what `up` would do

    def forward(self, report: Mapping[str, Any] | None) -> Planned:
        """Return what the stack file and the code as they are now would do. report: what an instance says of sessions.

        What forbids it is in `refused`, and what could be found out all the same is there.
        """
        forbidden = [str(one) for one in findings(self.cluster.config, self.facts) if one.severity == "error"]
        refused = list(forbidden)
        try:
            words = refusal(self.cluster.config, self.cluster.said_of_sessions(), lambda: report)
            refused += [words] if words else []
            self.cluster.check_ports()
        except ClusterError as error:
            refused.append(str(error))
        by_nginx, unchecked = ([], []) if forbidden else self._asked_of_nginx()
        refused += by_nginx
        try:
            planned = self._specified(refused, report)
        except ClusterError as error:
            return self._refused([*refused, str(error)])
        return replace(planned, unknown=(*planned.unknown, *unchecked)) if planned.changes else planned

    def _asked_of_nginx(self) -> tuple[list[str], list[str]]:
        """Return what nginx refuses of a configuration that is not in place yet, and why that can't be said."""
        nginx, config = self.cluster.nginx, self.cluster.config
        if nginx.is_in_place(self.cluster.nginx_config()):
            return [], []
        program = nginx.running or nginx.path
        checker = Checker(program, nginx.version, user=nginx.user, prefix=self.cluster.paths.state)
        try:
            return [str(one) for one in checker.refusals(config)], []
        except UncheckedError as error:
            return [], [f"whether nginx takes its configuration: {error}"]

    def _specified(self, refused: list[str], report: Mapping[str, Any] | None) -> Planned:
        from cluster.interpreters import NoInterpreterError  # noqa: PLC0415 - looks at uv

        try:
            spec = self.cluster.look()
        except NoInterpreterError as error:
            return Planned(stack=self.stack, changes=True, costs=(Cost.NONE,), unknown=(str(error),))
        if spec is None:
            return self._first(refused)
        words = self.cluster.refused_loss(spec)
        refused += [words] if words else []
        planned = self.told(self.cluster.plan(spec.digest, dict(spec.parts)), spec, report)
        return replace(planned, refused=tuple(dict.fromkeys(refused)), drift=self._drift())

    def _first(self, refused: list[str]) -> Planned:
        """Return a plan of a stack that has no secret_key: nobody knows its release yet."""
        config = self.cluster.config
        lints = compare.compare_lints([], self._lints(config))
        steps = ["the first release; its secret_key is made first", *([] if not config.app.migrate else ["migrations"])]
        return Planned(
            stack=self.stack,
            changes=True,
            costs=(Cost.START,),
            refused=tuple(dict.fromkeys(refused)),
            steps=(*steps, *(f"+ {service.name}" for service in self.cluster.topology.services)),
            traffic=compare.compare_shares({}, {one.name: one.share for one in self.cluster.topology.instances}),
            lints=lints,
        )

    def _refused(self, refused: list[str]) -> Planned:
        return Planned(stack=self.stack, changes=True, refused=tuple(dict.fromkeys(refused)), drift=self._drift())

    def _drift(self) -> tuple[str, ...]:
        history = History.load(self.cluster.paths)
        if history.current is None:
            return ()
        try:
            return tuple(self.cluster.troubles(self.cluster.observe(), history))
        except ClusterError as error:
            return (str(error),)

    # --- what a plan is, told

    def told(self, plan: Plan, wanted: ReleaseSpec | Made, report: Mapping[str, Any] | None = None) -> Planned:
        """Return a plan with all that is known of it; `wanted`: the release that is to serve."""
        if plan.is_empty:
            return Planned(stack=self.stack, changes=False)
        release, settings, unknown = self._release(plan, wanted)
        costs = self._costs(plan, wanted, release)
        former = self._former_config()
        before = [] if former is None else self._lints(former)
        return Planned(
            stack=self.stack,
            changes=True,
            costs=costs,
            steps=tuple(plan.steps()),
            traffic=plan.traffic,
            nginx=plan.nginx_lines,
            release=release,
            settings=settings,
            sessions=self._at_risk(report) if Cost.LOGGED_OUT in costs else "",
            deleted=self._deleted(plan),
            lints=compare.compare_lints(before, self._lints(self.cluster.config)),
            unknown=unknown,
        )

    def _lints(self, config: ClusterConfig) -> list[Any]:
        return [one for one in findings(config, self.facts) if one.severity == "warning"]

    def _former_config(self) -> ClusterConfig | None:
        """Return the stack that nginx's configuration in place was made of; None where there is none."""
        kept = self.cluster.nginx.current_stack()
        try:
            return None if kept is None else parse_config(kept)
        except StackFileError:
            return None  # written by another version of this tool

    # --- what of the release changes

    def _release(
        self, plan: Plan, wanted: ReleaseSpec | Made
    ) -> tuple[Release, tuple[SettingChange, ...], tuple[str, ...]]:
        """Return what changes of the release, of the keys of the stack file, and what is not known of it."""
        parts = tuple(compare.PARTS.get(part, part) for part in plan.changed_parts)
        release = Release(before=plan.former, after=plan.release, parts=parts)
        former = self.cluster.builder.find(plan.former) if plan.former else None
        if plan.former == plan.release or former is None:
            return release, (), ()
        old, new = self._of_made(former), self._side(wanted)
        unknown = []
        packages: tuple[PackageChange, ...] = ()
        if "requirements" in plan.changed_parts:
            if old.packages is None or new.packages is None:
                unknown.append("which packages change: the former requirements are not kept with their release")
            else:
                packages = compare.compare_packages(old.packages, new.packages)
                unknown.append("versions that the requirements leave open, and the migrations of packages")
        release = replace(
            release,
            code=compare.compare_code(old.tree, new.tree) if "code" in plan.changed_parts else (),
            requirements=packages,
            secrets=compare.compare_secrets(old.secrets, new.secrets),
            migrations=new_migrations(old.tree, new.tree) if plan.migrate else (),
        )
        return release, compare.compare_settings(_keys(old.runtime), _keys(new.runtime)), tuple(unknown)

    def _side(self, wanted: ReleaseSpec | Made) -> Side:
        if isinstance(wanted, Made):
            return self._of_made(wanted)
        config, paths = self.cluster.config, self.cluster.paths
        runtime = paths.runtime_paths(self.cluster.topology, wanted.digest)
        return Side(
            tree=compare.tree_of(wanted.source.tree(str(paths.shared))),
            packages=compare.packages_of(wanted.requirements),
            secrets=wanted.secrets,
            runtime=runtime_config(config, runtime, wanted.digest),
        )

    def _of_made(self, release: Made) -> Side:
        try:
            packages = compare.packages_of(read_requirements(self.cluster.config.app, release.project))
        except ReleaseError:
            packages = None
        return Side(tree=_made_of(release), packages=packages, secrets=release.secrets(), runtime=release.runtime())

    # --- what it costs

    def _costs(self, plan: Plan, wanted: ReleaseSpec | Made, release: Release) -> tuple[Cost, ...]:
        costs = []
        if plan.nginx == "start":
            costs.append(Cost.SITE_STARTED if plan.orphans else Cost.START)
        elif plan.nginx == "restart":
            costs.append(Cost.NGINX_STARTED)
        if unsafe(release.migrations) and Cost.START not in costs:
            costs.append(Cost.MIGRATION)
        if self._ends_sessions(plan):
            costs.append(Cost.LOGGED_OUT)
        if not isinstance(wanted, Made):
            ended, left = self._discarded(wanted)
            costs += [Cost.LOGGED_OUT] if ended else []
            costs += [Cost.DATA_LEFT] if left else []
        return dearest_first(costs)

    def _ends_sessions(self, plan: Plan) -> bool:
        """Tell whether the only place where sessions are is emptied."""
        sessions = self.cluster.config.sessions
        alone = SessionEngine.CACHE in (sessions.engine, sessions.previous)
        nodes = [name for name in plan.emptied if kind_of(name) is Kind.MEMCACHED]
        return alone and bool(nodes) and self.cluster.topology.memcached_nodes == 1

    def _discarded(self, spec: ReleaseSpec) -> tuple[bool, bool]:
        """Tell whether sessions end, and whether data is not seen any more, because the stack file lets them go."""
        cluster, may = self.cluster, Discard.of(self.cluster.config)
        if not any(may) or cluster.refused_loss(spec) is not None:
            return False, False
        sessions = cluster.config.sessions.model_copy(update={"discard": False})
        kept = cluster.config.model_copy(update={"sessions": sessions})
        ended = may.sessions and (
            refusal(kept, cluster.said_of_sessions()) is not None
            or cluster.refused_loss(spec, discard=Discard(sessions=False, data=True)) is not None
        )
        left = may.data and cluster.refused_loss(spec, discard=Discard(sessions=True, data=False)) is not None
        return ended, left

    def _at_risk(self, report: Mapping[str, Any] | None) -> str:
        return "nobody can count them" if not report else session_lines(report, self.cluster.config)[0]

    def _deleted(self, plan: Plan) -> tuple[str, ...]:
        """Return what goes for good: what the stack file does not name any more, and releases beyond the kept ones."""
        named = self.cluster.topology.names
        instances = {name.rpartition("-")[0] for name in plan.stop if is_instance(name)}
        others = {name.partition("@")[0] for name in plan.stop if not is_instance(name)}
        services = {service.name for service in self.cluster.topology.services}
        found = [f"{name} drains and is stopped" for name in sorted(instances - set(named))]
        found += [f"{name} is stopped" for name in sorted(others - services)]
        history = History.load(self.cluster.paths)
        after = [one for one in history.releases if one != plan.release] + [plan.release]
        gone = after[:-KEPT_RELEASES] if plan.release != history.current else []
        found += [f"release {one}: {KEPT_RELEASES} are kept" for one in gone if one != history.current]
        return tuple(found)


def _made_of(release: Made) -> dict[str, Path | str]:
    """Return what a release was made of, by paths from its project's directory; not what the project wrote since."""
    tree, found = release.directory / TREE, dict[str, "Path | str"]()
    known = known_files(release.directory)
    for path in sorted(tree.rglob("*")):
        place = path.relative_to(tree).as_posix()
        if path.is_symlink():
            found[compare.from_project(place, tree, release.project)] = str(path.readlink())
        elif path.is_file() and (known is None or place in known) and not place.endswith(DATABASE_SUFFIXES):
            found[compare.from_project(place, tree, release.project)] = path
    return {place: one for place, one in found.items() if "__pycache__" not in place.split("/")}


def _keys(runtime: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a release's configuration are keys of the stack file, under the names that they have there."""
    plain = json.loads(json.dumps(runtime, default=str))
    found: dict[str, Any] = {
        "app": {key: plain.get(key) for key in KEYS["app"]},
        "sessions": {key: (plain.get("sessions") or {}).get(key) or None for key in KEYS["sessions"]},
        "database": {"engine": (plain.get("database") or {}).get("engine")},
        "site": {"server_names": plain.get("hosts")},
    }
    found["app"]["shared"] = sorted(plain.get("shared") or {})
    return found
