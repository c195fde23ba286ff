"""What a proposed change does to a stack, by its files alone: a revision of git compared with the working tree.

No engine, state, secret or machine is asked, and nothing of either state is run. What follows from them is told as a
plan is; what does not is named in `unknown`.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.config.models import dump
from cluster.errors import CommandError
from cluster.lint import Facts
from cluster.machine.nginx import NginxError, find_nginx
from cluster.plan import compare
from cluster.plan.addresses import cut, left
from cluster.plan.confined import confined
from cluster.plan.costs import Cost, dearest_first
from cluster.plan.held_address import may_move, steps_of_address
from cluster.plan.judged import disabled_rules
from cluster.plan.leaving import losses
from cluster.plan.migrations import new_migrations, unsafe
from cluster.plan.nginx import difference, in_order
from cluster.plan.nginx_check import NO_HOST, Checker, UncheckedError
from cluster.plan.planned import Kind as Change
from cluster.plan.planned import Planned, Release, SecretChange
from cluster.plan.replaced import image_of, nginx_made_of, restarted
from cluster.plan.revisions import SCHEME, Repository, resolve_pointers, scratch
from cluster.plan.shown import listed
from cluster.plan.side import InvalidStackError, Side, nginx_version, read_side, stacks_of
from cluster.release import RUNTIME
from cluster.services import Kind
from cluster.stack.judge import findings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cluster.config import ClusterConfig
    from cluster.lint import Finding
    from cluster.plan.planned import SettingChange
    from cluster.plan.revisions import Tree
    from cluster.services import Service

#: Keys whose change nginx's own lines, the shares and the steps tell.
TOLD_OTHERWISE = ("upstream", "site", "workers", "schedule", "broker", "platform")

#: What this program is made of, where it lies in the repository whose stacks it compares.
PROGRAM = ("cluster", "platforms", "components", "cli", "runtime", "__main__.py")


def plan_against(root: Path, stacks: Sequence[str], against: str) -> list[Planned]:
    """Return what the working tree would do to stacks that are as a revision has them; all stacks where none is named.

    root: the directory that holds `stacks`. against: `git:` and a revision. CommandError where there is no such one.
    """
    if not against.startswith(SCHEME):
        raise CommandError(f"--against {against}: say {SCHEME} and a revision, for example {SCHEME}main")
    revision = against.removeprefix(SCHEME)
    with _trees(root, revision) as (before, after):
        known = sorted({*stacks_of(before), *stacks_of(after)})
        missing = [name for name in stacks if name not in known]
        if missing:
            there = f"the stacks are {', '.join(known)}" if known else "there is no stack in either"
            raise CommandError(f"stack {missing[0]} is neither in {revision} nor in the working tree; {there}")
        found = [_planned(before, after, name) for name in stacks or known]
    return [planned if asked is None else _asked_of_nginx(planned, asked) for planned, asked in found]


@contextmanager
def _trees(root: Path, revision: str) -> Iterator[tuple[Tree, Tree]]:
    """Give copies of both, of which nothing leads out, and read nothing else until they are gone."""
    repository = Repository(root)
    commit = repository.commit(revision)
    where = scratch(repository.bytes_of(commit))
    with tempfile.TemporaryDirectory(prefix="cluster-against-", dir=where) as made:
        place = Path(made).resolve()
        before = repository.at(commit, revision, place / "before")
        after = repository.working_tree(place / "after", before)
        resolve_pointers(before, after)
        with confined(place):
            yield before, after


def _planned(before: Tree, after: Tree, stack: str) -> tuple[Planned, ClusterConfig | None]:
    """Return what becomes of one stack, and what nginx is to be asked of; None where it has nothing new to say."""
    try:
        new = read_side(after, stack)
    except InvalidStackError as error:
        return Planned(stack=stack, changes=True, refused=error.problems), None
    try:
        old = read_side(before, stack)
    except InvalidStackError as error:
        if new is None:
            return _gone(stack, before.name), None
        problems = tuple(f"{before.name}:{problem}" for problem in error.problems)
        words = f"what changes: the stack file of {before.name} is invalid"
        return _alone(stack, new, (words, *problems)), new.config
    return (_gone(stack, before.name), None) if new is None else _compared(stack, old, new, before.name)


def _compared(stack: str, old: Side | None, new: Side, revision: str) -> tuple[Planned, ClusterConfig | None]:
    if old is None:
        return _first(stack, new, revision), new.config
    if old.config.platform is not new.config.platform:
        return _moved(stack, old, new), new.config
    comparison = Comparison(stack, old, new)
    return comparison.planned(), new.config if old.nginx.files != new.nginx.files else None


def _asked_of_nginx(planned: Planned, config: ClusterConfig) -> Planned:
    """Return a plan with what the nginx that is here says of the configuration."""
    if planned.refused:
        return planned  # the lints say it in the stack file's words
    traits = config.platform.traits
    wanted = ".".join(map(str, nginx_version(config)[:2])) if traits.containers else "of the hosts"
    try:
        program, version = find_nginx()
        found = Checker(program, version).refusals(config)
    except (NginxError, UncheckedError) as error:
        return replace(planned, unknown=(*planned.unknown, f"whether nginx takes its configuration: {error}"))
    here = ".".join(map(str, version))
    other = traits.hosts or (traits.containers and wanted != ".".join(map(str, version[:2])))
    # A host may be known where the stack runs, a directive to its own nginx.
    sure = [str(one) for one in found if not other and not one.words.startswith(NO_HOST)]
    unsure = [f"here, by nginx {here}: {one}" for one in found if str(one) not in sure]
    if other:
        unsure.append(f"whether nginx {wanted} takes its configuration: nginx {here} was asked")
    return replace(planned, refused=(*planned.refused, *sure), unknown=(*planned.unknown, *unsure))


def _gone(stack: str, revision: str) -> Planned:
    step = f"the stack file goes; what runs goes on, until `cluster down {stack}` is said with the file of {revision}"
    return Planned(stack=stack, changes=True, costs=(Cost.NONE,), steps=(step,), unknown=("whether it runs",))


def _alone(stack: str, new: Side, unknown: tuple[str, ...]) -> Planned:
    """Return what is known of a stack that is compared with nothing."""
    found = _lints(new)
    return Planned(
        stack=stack,
        changes=True,
        refused=_refused(new, found),
        disabled=disabled_rules(new.config),
        traffic=compare.compare_shares({}, {one.name: one.share for one in new.topology.instances}),
        lints=compare.compare_lints([], [one for one in found if one.severity == "warning"]),
        unknown=unknown,
    )


def _first(stack: str, new: Side, revision: str) -> Planned:
    names = [service.name for service in new.topology.services]
    steps = (
        f"a stack that {revision} has not: the first release" + ("; migrations run first" if _migrates(new) else ""),
        f"+ {listed(names)}",
    )
    unknown = ("its secrets, and what of it runs already",)
    return replace(_alone(stack, new, unknown), costs=(Cost.START,), steps=steps)


def _moved(stack: str, old: Side, new: Side) -> Planned:
    was, becomes = old.config.platform.value, new.config.platform.value
    steps = (
        f"platform: {was} -> {becomes}: another cluster comes up, with a database, sessions and secrets of its own",
        f"what runs on {was} goes on, until `cluster down {stack}` is said with the file of {old.tree.name}",
    )
    return replace(_alone(stack, new, ("what of either runs",)), costs=(Cost.START,), steps=steps)


def _migrates(side: Side) -> bool:
    return bool(side.config.app.migrate)


def _lints(side: Side) -> list[Finding]:
    """Return what the lints find; of a project that can't be read they look at the stack file alone."""
    version = nginx_version(side.config) if side.config.platform.traits.containers else None
    return findings(side.config, Facts(root=side.tree.root if side.code is not None else None, nginx=version))


def _refused(side: Side, found: list[Finding]) -> tuple[str, ...]:
    errors = [side.tree.plain(str(one)) for one in found if one.severity == "error"]
    return (*errors, *([side.uncoded] if side.uncoded and not errors else []))


class Comparison:
    """Tells a stack from what it was."""

    def __init__(self, stack: str, old: Side, new: Side) -> None:
        self.stack = stack
        self.old = old
        self.new = new
        self.parts = self._parts()
        self.replaced = self._replaced()
        self.restarted = restarted(old.topology, new.topology)
        hosts = [{host.host_key: host.name for host in one.config.hosts} for one in (old, new)]
        # A machine is known by its key, whatever its address is.
        self.new_hosts = [name for key, name in hosts[1].items() if key not in hosts[0]]
        self.gone_hosts = [name for key, name in hosts[0].items() if key not in hosts[1]]
        self.secrets, self.opaque = _secrets(old, new)
        known = {one.name: one for one in old.topology.services}
        there = {one.name: one for one in new.topology.services}
        self.added = [one for name, one in there.items() if name not in known]
        self.gone = [one for name, one in known.items() if name not in there]
        # Workers and schedules whose own words change, of the release that serves.
        self.other = [one for name, one in there.items() if one.is_of_release and name in known and known[name] != one]

        self.address = steps_of_address(old.config, new.config)

    def planned(self) -> Planned:
        """Return what is known of the change."""
        old, new = self.old, self.new
        found = _lints(new)
        refused, costs, sessions = losses(old, new)
        refused = [*_refused(new, found), *refused]
        moved_costs, moved = left(old.nginx.files.values(), new.nginx.files.values())
        disabled = disabled_rules(new.config)
        if not self._changes():
            return Planned(stack=self.stack, changes=False, refused=tuple(refused), disabled=disabled)
        release = self._release()
        if self.replaced:
            costs.append(Cost.NGINX_REPLACED)
        elif old.nginx.files != new.nginx.files:
            costs += cut(old.nginx.files.values())
        if any(self._costs_requests(one) for one in self.restarted):
            costs.append(Cost.SERVICE_REPLACED)
        if unsafe(release.migrations):
            costs.append(Cost.MIGRATION)
        if self.gone_hosts:
            costs.append(Cost.DATA_LEFT)
        costs += moved_costs
        if may_move(old.config, new.config):
            costs.append(Cost.ADDRESS_MOVED)
        alone = new.topology.memcached_nodes == 1 and "cache" in (
            new.config.sessions.engine,
            new.config.sessions.previous,
        )
        if alone and any(one.kind is Kind.MEMCACHED for one in self.restarted):
            costs.append(Cost.LOGGED_OUT)
        before = [one for one in _lints(old) if one.severity == "warning"]
        return Planned(
            stack=self.stack,
            changes=True,
            costs=dearest_first(costs),
            refused=tuple(refused),
            disabled=disabled,
            steps=(*self._steps(), *moved),
            traffic=compare.compare_shares(*({i.name: i.share for i in one.topology.instances} for one in (old, new))),
            nginx=tuple(self._nginx_lines()),
            release=release,
            settings=self._settings(),
            sessions="nobody can count them here" if Cost.LOGGED_OUT in costs else "",
            deleted=tuple(self._deleted()),
            lints=compare.compare_lints(before, [one for one in found if one.severity == "warning"]),
            unknown=(*self._unknown(release), *sessions),
        )

    def _changes(self) -> bool:
        lists = (
            self.parts,
            self.replaced,
            self.restarted,
            self.secrets,
            self.opaque,
            self.added,
            self.gone,
            self.other,
            self.address,
        )
        unread = (self.old.uncoded, self.old.tree.unfit) != (self.new.uncoded, self.new.tree.unfit)
        hosts = self.old.config.hosts != self.new.config.hosts
        policy = self.old.config.policy != self.new.config.policy  # nothing is done, and whoever reviews it must see it
        return any(lists) or unread or hosts or policy or self.old.nginx.files != self.new.nginx.files

    @staticmethod
    def _costs_requests(service: Service) -> bool:
        """Tell whether requests fail while a service is made anew: memcached is a cache, or filled from another."""
        return service.kind in (Kind.DATABASE, Kind.BROKER)

    def _nginx_lines(self) -> list[str]:
        old, new = self.old.nginx, self.new.nginx
        files = in_order({*old.files, *new.files})
        return difference(lambda path: old.files.get(path, ""), new.files, new.digest, files)

    # --- the release

    def _parts(self) -> tuple[str, ...]:
        """Return the parts of the release that differ."""
        old, new = self.old.code, self.new.code
        if old is None or new is None:
            return ()
        names = [name for name in compare.PARTS if old.spec.parts.get(name, "") != new.spec.parts.get(name, "")]
        modules = {
            path
            for path, one in {**old.tree, **new.tree}.items()
            if old.tree.get(path) != new.tree.get(path) and _is_module(one)
        }
        images = image_of(self.old.config, Kind.INSTANCE) != image_of(self.new.config, Kind.INSTANCE)
        more = {
            "code": bool(modules),
            "runtime": _runtime(self.old.tree) != _runtime(self.new.tree),
            "platform": images,
        }
        return tuple(name for name in compare.PARTS if name in names or more.get(name))

    def _release(self) -> Release:
        old, new = self.old.code, self.new.code
        parts = tuple(compare.PARTS[name] for name in self.parts)
        if old is None or new is None:
            return Release(parts=parts, secrets=self.secrets)
        return Release(
            parts=parts,
            code=compare.compare_code(old.tree, new.tree) if "code" in self.parts else (),
            requirements=compare.compare_packages(old.packages, new.packages),
            secrets=self.secrets,
            migrations=new_migrations(old.tree, new.tree) if _migrates(self.new) else (),
        )

    def _settings(self) -> tuple[SettingChange, ...]:
        def told(side: Side) -> dict[str, object]:
            values = dump(side.config)
            names = values["site"]["server_names"]
            return {
                **{key: one for key, one in values.items() if key not in TOLD_OTHERWISE},
                "site": {"server_names": names},
            }

        return compare.compare_settings(told(self.old), told(self.new))

    # --- what is done

    def _replaced(self) -> list[str]:
        """Return the keys for which nginx is made anew."""
        old, new = nginx_made_of(self.old.topology), nginx_made_of(self.new.topology)
        return [key for key in dict.fromkeys((*old, *new)) if old.get(key) != new.get(key)]

    def _steps(self) -> Iterator[str]:
        if self.parts:
            first = "; migrations run first" if _migrates(self.new) else ""
            yield f"release: another one ({', '.join(compare.PARTS[name] for name in self.parts)}){first}"
        yield from (f"+ host {name}" for name in self.new_hosts)
        yield from (f"- host {name}: what it keeps stays there, and is not seen any more" for name in self.gone_hosts)
        if self.added:
            yield f"+ {listed([one.name for one in self.added])}: start"
        if self.other:
            names = listed([one.name for one in self.other])
            yield f"~ {names}: started again; those of before end what they are at"
        for service in self.restarted:
            kept = "its data stays" if service.kept or service.kind is Kind.DATABASE else "what it holds is lost"
            yield f"~ {service.name}: started again; {kept}"
        if self.gone:
            yield f"- {listed([one.name for one in self.gone])}: stop, once no request or job needs it"
        yield from self.address
        if self.replaced:
            yield f"nginx: replaced ({', '.join(self.replaced)})"
        elif self.old.nginx.files != self.new.nginx.files:
            untouched = "" if self.parts or self.added or self.gone else "; no process of the app is touched by it"
            yield f"nginx: one reload{untouched}"

    def _deleted(self) -> Iterator[str]:
        for service in self.gone:
            yield (
                f"{service.name} drains and is stopped"
                if service.kind is Kind.INSTANCE
                else f"{service.name} is stopped"
            )

    # --- what nobody knows here

    def _unknown(self, release: Release) -> Iterator[str]:
        revision = self.old.tree.name
        yield f"whether {revision} is what runs, and what was changed by hand there"
        yield "the values of secrets, and what the database and the sessions hold"
        if self.new.config.platform.traits.containers:
            yield "whether an image of the same name is another one by now"
        if self.opaque:
            yield f"whether {', '.join(self.opaque)} changes: another text is encrypted"
        for side in (self.old, self.new):
            if side.uncoded:
                yield f"what of the code changes: of {side.tree.name} no release can be made ({side.uncoded})"
        if release.requirements:
            yield "versions that the requirements leave open, and the migrations of packages"
        if any(one.kind is Change.CHANGED and _is_module(self._at(one.path)) for one in release.code):
            yield "what of the submodules' code changes: it is another repository's"
        for side in (self.old, self.new):
            yield from (f"of {side.tree.name}: {one}" for one in side.tree.unfit)
        if _program(self.old.tree) != _program(self.new.tree):
            yield "what the changes of this program itself do: both are told by the one that runs now"

    def _at(self, path: str) -> Path | str:
        assert self.new.code is not None  # noqa: S101 - its files were compared
        return self.new.code.tree.get(path, "")


def _is_module(one: Path | str) -> bool:
    return isinstance(one, str) and one.startswith("submodule ")


def _secrets(old: Side, new: Side) -> tuple[tuple[SecretChange, ...], list[str]]:
    """Return the secrets that come, go, or are plain and others; and the names of those that are encrypted anew."""
    changes, opaque = [], []
    for name in sorted({*old.secrets, *new.secrets}):
        before, after = old.secrets.get(name), new.secrets.get(name)
        if before == after:
            continue
        if before is None or after is None:
            changes.append(SecretChange(name=name, kind=Change.ADDED if before is None else Change.REMOVED))
        elif isinstance(before, str) and isinstance(after, str):
            changes.append(SecretChange(name=name, kind=Change.CHANGED))
        else:
            opaque.append(name)
    return tuple(changes), opaque


def _runtime(tree: Tree) -> set[tuple[str, bytes]]:
    """Return the runtime's files where it is the repository's own; none where it is not."""
    return _contents(tree.root / "runtime" / RUNTIME.name)


def _program(tree: Tree) -> set[tuple[str, bytes]]:
    """Return the files of this program where the repository is its own; none where it is not."""
    if not (tree.root / "cluster" / "plan" / Path(__file__).name).is_file():
        return set()
    return {one for name in PROGRAM for one in _contents(tree.root / name)}


def _contents(top: Path) -> set[tuple[str, bytes]]:
    """Return the Python files below a directory, or one alone, by their paths, with what is in each."""
    found = [top] if top.is_file() else top.rglob("*.py")
    return {(path.relative_to(top.parent).as_posix(), path.read_bytes()) for path in found if path.is_file()}
