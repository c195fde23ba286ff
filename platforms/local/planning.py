"""What `up` and `rollback` would do on this machine, told as a plan; nothing is changed by it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cluster.errors import ClusterError
from cluster.plan import compare
from cluster.plan.addresses import cut, left
from cluster.plan.costs import Cost, dearest_first
from cluster.plan.judged import first, forbidding, former_config, new_lints
from cluster.plan.migrations import unsafe
from cluster.plan.nginx_check import Checker, UncheckedError
from cluster.plan.planned import Planned, Release, SettingChange
from cluster.plan.releases import Side, compare_releases, packages_in, retired, tree_in
from cluster.plan.risk import at_risk, discarded, empties_the_only_node
from cluster.release import runtime_config
from cluster.services import Kind
from cluster.sessions import refusal
from cluster.source import TREE
from cluster.stack.history import History
from platforms.local.daemons import kind_of
from platforms.local.release import Release as Made
from platforms.local.state import is_instance
from platforms.local.written import known_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster.lint import Facts
    from cluster.release import ReleaseSpec
    from platforms.local.cluster import LocalCluster
    from platforms.local.plan import Plan


def by_hand(cluster: LocalCluster, history: History) -> list[str]:
    """Return what was changed by hand, or is broken, beside what the last `up` made, in words."""
    observed = cluster.observe()
    found = [f"{name} is stopped; `cluster up {cluster.paths.stack}` starts it" for name in observed.ended]
    return [*found, *cluster.troubles(observed, history)]


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
        forbidden = forbidding(self.cluster.config, self.facts)
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
            return first(self.stack, self.cluster.topology, self.facts, refused)
        words = self.cluster.refused_loss(spec)
        refused += [words] if words else []
        planned = self.told(self.cluster.plan(spec.digest, dict(spec.parts)), spec, report)
        return replace(planned, refused=self._told_refused(refused), drift=self._drift())

    def _told_refused(self, refused: list[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(map(self._here, refused)))

    def _refused(self, refused: list[str]) -> Planned:
        return Planned(stack=self.stack, changes=True, refused=self._told_refused(refused), drift=self._drift())

    def _drift(self) -> tuple[str, ...]:
        history = History.load(self.cluster.paths)
        if history.current is None:
            return ()
        try:
            found = by_hand(self.cluster, history)
        except ClusterError as error:
            found = [str(error)]
        return tuple(map(self._here, found))

    def _here(self, line: str) -> str:
        """Return a line with this stack's paths as they are from its repository."""
        return line.replace(f"{self.cluster.paths.root}/", "")

    # --- what a plan is, told

    def told(self, plan: Plan, wanted: ReleaseSpec | Made, report: Mapping[str, Any] | None = None) -> Planned:
        """Return a plan with all that is known of it; `wanted`: the release that is to serve."""
        if plan.is_empty:
            return Planned(stack=self.stack, changes=False)
        release, settings, unknown = self._release(plan, wanted)
        left_costs, moved = self._left(plan)
        costs = dearest_first([*left_costs, *self._costs(plan, wanted, release)])
        # The stack that nginx's configuration in place was made of.
        former = former_config(self.cluster.nginx.current_stack())
        return Planned(
            stack=self.stack,
            changes=True,
            costs=costs,
            steps=(*plan.steps(), *moved),
            traffic=plan.traffic,
            nginx=plan.nginx_lines,
            release=release,
            settings=settings,
            sessions=at_risk(report, self.cluster.config) if Cost.LOGGED_OUT in costs else "",
            deleted=self._deleted(plan),
            lints=new_lints(former, self.cluster.config, self.facts),
            unknown=unknown,
        )

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
        parts, migrate = plan.changed_parts, plan.migrate
        return compare_releases(release, self._of_made(former), self._side(wanted), parts, migrate=migrate)

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
        tree, known = release.directory / TREE, known_files(release.directory)
        return Side(
            tree=tree_in(tree, release.project, None if known is None else known.keys()),
            packages=packages_in(self.cluster.config.app, release.project),
            secrets=release.secrets(),
            runtime=release.runtime(),
        )

    # --- what it costs

    def _left(self, plan: Plan) -> tuple[list[Cost], list[str]]:
        """Return what of the site's addresses is left, and what that costs."""
        if plan.nginx != "reload":
            return [], []
        nginx, files = self.cluster.nginx, self.cluster.nginx_config().files
        before = [*map(nginx.current_text, files)]
        costs, moved = left(before, files.values())
        return [*cut(before), *costs], moved

    def _costs(self, plan: Plan, wanted: ReleaseSpec | Made, release: Release) -> list[Cost]:
        costs = []
        if plan.nginx == "start":
            costs.append(Cost.SITE_STARTED if plan.orphans else Cost.START)
        elif plan.nginx == "restart":
            costs.append(Cost.NGINX_STARTED)
        if unsafe(release.migrations) and Cost.START not in costs:
            costs.append(Cost.MIGRATION)
        nodes = [name for name in plan.emptied if kind_of(name) is Kind.MEMCACHED]
        if empties_the_only_node(self.cluster.topology, nodes):
            costs.append(Cost.LOGGED_OUT)
        if not isinstance(wanted, Made):
            costs += discarded(
                self.cluster.config,
                self.cluster.said_of_sessions(),
                lambda discard: self.cluster.refused_loss(wanted, discard=discard),
            )
        return costs

    def _deleted(self, plan: Plan) -> tuple[str, ...]:
        """Return what goes for good: what the stack file does not name any more, and releases beyond the kept ones."""
        named = self.cluster.topology.names
        instances = {name.rpartition("-")[0] for name in plan.stop if is_instance(name)}
        others = {name.partition("@")[0] for name in plan.stop if not is_instance(name)}
        services = {service.name for service in self.cluster.topology.services}
        found = [f"{name} drains and is stopped" for name in sorted(instances - set(named))]
        found += [f"{name} is stopped" for name in sorted(others - services)]
        return (*found, *retired(History.load(self.cluster.paths), plan.release))
