"""What `up` and `rollback` would do to a stack on Docker: what runs there, and releases by their build contexts."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster.plan.addresses import left
from cluster.plan.costs import Cost
from cluster.plan.nginx import OTHER_USERS, difference
from cluster.plan.nginx_check import UncheckedError
from cluster.tls.certificates import Certificate
from cluster.topology import build_topology
from platforms.docker.container_paths import nginx_config
from platforms.docker.contexts import changed_parts, config_of, side_of
from platforms.docker.delivery import read_delivered
from platforms.docker.drift import drift
from platforms.docker.engine import EngineError
from platforms.docker.nginx_check import checker
from platforms.docker.paths import ASIDE_VARIABLE, set_aside
from platforms.docker.releases import fetch, history_of, usable
from platforms.docker.repair import lacking_migrations, unknown
from platforms.docker.stack import paths
from platforms.docker.told import Told
from platforms.pulumi import planning
from platforms.pulumi.looking import seen_by_another
from platforms.pulumi.planning import Sides, UnkeptError, lasting_of
from platforms.pulumi.preview import Preview
from platforms.pulumi.progress import COMMAND, CONTAINER, NGINX_CONFIG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from cluster.lint import Facts
    from cluster.plan.nginx_check import Checker
    from cluster.plan.planned import Release
    from cluster.sessions import Lasting
    from cluster.stack.history import History
    from cluster.stack.opened import Stack
    from platforms.docker.observe import Observed
    from platforms.docker.stack import DockerStack
    from platforms.pulumi.engine import Changes, Pulumi
    from platforms.pulumi.planning import Left
    from platforms.pulumi.running import Event

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
    it writes them where they stay. looking: variables by which the program finds what a process beside sees. unjudged:
    what the policy could not tell before it is made.
    """

    docker: DockerStack
    resources: list[dict[str, Any]]
    lost: Sequence[str] = ()
    maintenance: Callable[[], str | None] = lambda: None
    aside: Path | None = None
    looking: Mapping[str, str] = field(default_factory=dict)
    unjudged: tuple[str, ...] = ()
    preview: Preview = field(default_factory=Preview)
    _beside: tuple[ThreadPoolExecutor, Future[Found]] | None = None

    def run(
        self, pulumi: Pulumi, environment: Mapping[str, str], tell: Callable[[Event], object] = lambda _event: None
    ) -> Changes:
        """Let the engine preview; PulumiError says what it refuses, PolicyError what the policy does.

        tell: is told each event, once it is taken.
        """
        more = {} if self.aside is None else {ASIDE_VARIABLE: str(self.aside)}
        take = planning.taking(self.preview, pulumi)

        def taken(event: Event) -> None:
            self._look()  # once Pulumi's process is there: its preexec_fn is for a process without threads
            take(event)
            tell(event)

        changes = pulumi.preview(taken, refresh=bool(self.lost), **environment, **more, **self.looking)
        self.unjudged = changes.unjudged
        return changes

    def _look(self) -> tuple[ThreadPoolExecutor, Future[Found]]:
        if self._beside is None:
            executor = ThreadPoolExecutor(max_workers=1)
            self._beside = executor, executor.submit(self._looked)
        return self._beside

    def _looked(self) -> Found:
        observed = self.docker.observe(seen_by_another(self.looking))
        return Found(
            observed=observed,
            strays=unknown(self.resources, observed.containers),
            lacking=lacking_migrations(self.docker),
            trouble=None if observed.live.nginx is None else self.maintenance(),
        )

    def found(self) -> Found:
        """Return what is there; EngineError where the engine is away."""
        executor, future = self._look()
        with executor:
            return future.result()

    def drift(self, believed: Preview) -> tuple[str, ...]:
        """Return what was changed by hand, or is broken, in words; EngineError where the engine is away."""
        found = self.found()
        told = drift(found.observed, believed.before, lost=self.lost, unknown=found.strays, lacking=found.lacking)
        return (*told, *([found.trouble] if found.trouble else []))

    def context(self, release: str) -> Path:
        """Return where the build context of a release is."""
        place = paths(self.docker.stack).images / release
        return place if self.aside is None or place.exists() else set_aside(self.aside, place)

    def kept(self, release: str) -> Path | None:
        """Return where a release of before is, as it was built or as its image has it; None where it is nowhere.

        EngineError where the engine is away, OSError where there is no room for it.
        """
        engine, label, place = self.docker.engine, self.docker.label, self.context(release)
        return place if usable(engine, label, place) or fetch(engine, label, place) else None


def first_tls(stack: Stack, resources: list[dict[str, Any]]) -> Left:
    """Return what the first certificate costs, whose key is not there yet, and in words which addresses it leaves.

    resources: those in the stack's state. nginx is replaced: what makes a certificate is asked by its container, or the
    port is published by another one.
    """
    found = [one for one in Preview.of_state(resources).all if (one.kind, one.part) == (COMMAND, NGINX_CONFIG)]
    texts = [text for one in found if isinstance(text := one.old.get("stdin"), str)]
    wanted = nginx_config(build_topology(stack.config), Certificate(label="its key is not there yet"))
    costs, moved = left((file for text in texts for file in read_delivered(text).values()), wanted.files.values())
    return [Cost.NGINX_REPLACED, *costs], moved


class Planning(planning.Planning):
    """Tells what a preview is, with all that is known of it."""

    def __init__(self, look: Look, pulumi: Pulumi, facts: Facts) -> None:
        stack = look.docker.stack
        super().__init__(stack, paths(stack), look.preview, pulumi, facts)
        self.look = look
        self.docker = look.docker
        self.found = look.found()
        self.unjudged = look.unjudged

    @property
    def serves(self) -> bool:
        """Whether nginx answers, and some instance's name leads to a process."""
        live = self.found.observed.live
        return live.nginx is not None and any(live.holders.values())

    @property
    def serving(self) -> str | None:
        """The release that every instance's name leads to; None where that is not one."""
        return self.found.observed.release

    def drift(self) -> tuple[str, ...]:
        """Return what was changed by hand, or is broken, in words."""
        return self.look.drift(self.preview)

    def broken(self) -> bool:
        """Tell whether something of that is mended although the preview finds nothing to do."""
        return bool(self.found.strays or self.found.lacking or self.found.trouble)

    def history(self) -> History:
        """Return which releases have served."""
        return history_of(self.docker)

    def told_of(self, release: Release) -> Told:  # noqa: ARG002 - the engine's steps say all of it
        """Return what is done with containers."""
        return Told(self.preview, self.topology, serves=self.serves)

    def said(self) -> Sequence[Mapping[str, str] | None]:
        """Return what each instance that serves says of its sessions."""
        return self.found.observed.live.served(self.topology.names)

    def sessions(self) -> Mapping[str, Any] | None:
        """Return what an instance says of the session store; None where none says it."""
        return self.docker.engine.sessions(self.docker.label)

    def lasting(self, wanted: str, secrets: Mapping[str, str]) -> Lasting:
        """Return what sessions and data hang on in the wanted release."""
        return lasting_of(config_of(self.look.context(wanted)), secrets)

    def sides(self, former: str, wanted: str, old: Mapping[str, str] | None, new: Mapping[str, str]) -> Sides:
        """Return both releases; UnkeptError where one can't be had."""
        context, app = self.look.context(wanted), self.config.app
        try:
            kept = self.look.kept(former)
            if kept is None:
                raise UnkeptError("the former one is kept neither in this checkout nor by the engine")
            before, after = side_of(kept, app, old or new), side_of(context, app, new)
        except (EngineError, OSError, ValueError, KeyError) as error:
            raise UnkeptError("the former one is not kept in this checkout") from error
        return Sides(old=before, new=after, parts=changed_parts(kept, context, before, after))

    def nginx_files(self) -> list[tuple[Mapping[str, str], Mapping[str, str]]]:
        """Return nginx's files as Pulumi's state has them, and as they are to be; none where they are the same."""
        found = self.preview.of(COMMAND, "update", "replace").get(NGINX_CONFIG)
        old, new = (found.old.get("stdin"), found.new.get("stdin")) if found else (None, None)
        return [(read_delivered(old), read_delivered(new))] if isinstance(old, str) and isinstance(new, str) else []

    def nginx_lines(self) -> list[str]:
        """Return nginx's lines that go and come, beside those that Pulumi's state has."""
        found = self.preview.of(COMMAND, "update", "replace").get(NGINX_CONFIG)
        files = self.nginx_files()
        if found is None or not files:
            return []
        ((before, after),) = files
        digest = str((found.new.get("environment") or {}).get("DIGEST") or "")
        # Pulumi tells which value of the environment is another, and not what it is.
        users = [OTHER_USERS] if any(path.endswith(f".{USERS}") for path in found.changed) else []
        return [*users, *difference(lambda path: before.get(path, ""), after, digest)]

    @contextmanager
    def checkers(self) -> Iterator[Sequence[Checker]]:
        """Give the stack's nginx in a container of its own; none where its configuration is the same."""
        step = self.preview.of(COMMAND, "create", "update", "replace").get(NGINX_CONFIG)
        if step is None or (step.operation == "update" and "stdin" not in step.changed):
            yield []
            return
        there = [one for one in self.found.observed.of("nginx") if one["State"]["Running"]]
        others = (one for one in self.preview.of(CONTAINER, "create", "replace").values() if one.part == "nginx")
        if any("image" in one.changed for one in others):
            raise UncheckedError("its image is made by `up`")
        if not there:
            raise UncheckedError("its container does not run")
        try:
            with checker(self.docker, there[0]["Id"]) as asked:
                yield [asked]
        except EngineError as error:
            raise UncheckedError(str(error)) from error


__all__ = ["Look", "Planning"]
