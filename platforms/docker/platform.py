"""A stack on Docker, as the commands ask for it."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cluster.acme.kept import Said
from cluster.acme.status import await_first
from cluster.config.units import moment_text
from cluster.errors import CommandError
from cluster.services import Kind, asked_by
from cluster.stack.history import KEPT_RELEASES, History
from cluster.topology import build_topology
from cluster_runtime.migrations import lacking_url
from cluster_runtime.sessions.ended import ENDED, MARKS_VARIABLE
from platforms.base import RELEASE_VARIABLE, Applied, Back, Change, Forward, Invocation, LogSource, Status, run_told
from platforms.docker import container_paths
from platforms.docker.bases import SERVES_ON, Base, BaseError, base_of, bases, context_as_of, ensure, forget
from platforms.docker.container_paths import RUN
from platforms.docker.engine import (
    INSTANCE_LABEL,
    RELEASE_LABEL,
    ROLE_LABEL,
    SERVICE_LABEL,
    STACK_LABEL,
    Engine,
    EngineError,
    image_repository,
)
from platforms.docker.facts import facts_of
from platforms.docker.failures import explain
from platforms.docker.maintaining import HURT, Found, Maintaining
from platforms.docker.repair import lost, remove_orphans, stop_what_never_served, unknown
from platforms.docker.stack import DockerStack, engine_host, paths
from platforms.pulumi.engine import STACK, Pulumi, PulumiError, installed_pulumi
from platforms.pulumi.keys import PulumiKeys, make_secrets, secrets_there
from platforms.pulumi.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cluster.checks import Check
    from cluster.lint import Facts
    from cluster.maintenance import Maintained, Maintenance
    from cluster.plan import Planned
    from cluster.render.nginx import NginxConfig
    from cluster.stack.opened import Stack
    from platforms.base import Gate, Voice


class DockerPlatform:
    """A stack on Docker."""

    def __init__(self, stack: Stack, voice: Voice) -> None:
        self.stack = stack
        self.voice = voice
        self.paths = paths(stack)

    @cached_property
    def docker(self) -> DockerStack:
        """The stack on its engine; CommandError where it is no stack of a Pulumi program."""
        return DockerStack(self.stack)

    @cached_property
    def pulumi(self) -> Pulumi:
        """The stack in Pulumi's words, which is installed where it is missing."""
        return Pulumi(self.stack.root, self.stack.name, self.voice.say)

    def facts(self) -> Facts:
        """Return what the lints may look at; the secret_key that the stack file lacks is made by `up`."""
        stack = self.stack
        engine, known = Engine(engine_host(stack)), secrets_there(stack.root, stack.name)
        return facts_of(stack.config, stack.root, stack.name, engine, known, lambda: self.docker.label)

    # --- changing

    def set_up(self) -> None:
        """Set Pulumi and the stack up."""
        _ = self.docker
        self._set_up()

    def _set_up(self) -> list[dict[str, Any]]:
        """Set Pulumi and the stack up, and make the secrets that it lacks; return the resources in its state."""
        resources = self.pulumi.set_up()
        make_secrets(self.pulumi, self.stack.config, self.paths.authority, self.voice.say)
        return resources

    def plan(self, wanted: Forward | Back) -> Planned:  # noqa: ARG002 - the engine's preview is asked elsewhere yet
        """Look at what is to be done, and change nothing."""
        name = self.stack.name
        raise CommandError(
            f"stack {name} is a Pulumi program: `pulumi preview --diff -s {name}` shows what would change"
        )

    @contextmanager
    def change(self, wanted: Forward | Back, gate: Gate) -> Iterator[Change]:
        """Say what is to be done: what that is, Pulumi tells while it does it, and its own lock keeps others away."""
        pull = isinstance(wanted, Forward) and wanted.pull
        environment = {RELEASE_VARIABLE: self._former(wanted)} if isinstance(wanted, Back) else {}
        docker = DockerStack(self._as_of_now()) if pull else self.docker
        docker.engine.run("version")  # said before Pulumi is looked for
        gate(docker.stack.config, self.facts())
        yield Change(lines=[], apply=lambda: self._apply(docker, environment, pull=pull))

    def _as_of_now(self) -> Stack:
        """Return the stack on bases as of this minute."""
        images = self.stack.config.images.model_copy(update={"as_of": this_minute()})
        return replace(self.stack, config=self.stack.config.model_copy(update={"images": images}))

    def _former(self, wanted: Back) -> str:
        """Return the release that is to serve again."""
        history = History.load(self.paths)
        serving = self.docker.observe().release
        if serving is not None and serving != history.current:  # `pulumi up` writes no history
            history.served(serving)
            history.save(self.paths)
        digest = history.back_to(wanted.release)
        if not (self.paths.images / digest).is_dir():
            raise history.not_here(digest)
        return digest

    def _apply(self, docker: DockerStack, environment: dict[str, str], *, pull: bool = False) -> Applied:
        """Set up what is missing, and let Pulumi do it; `pull`: on images that are pulled now."""
        pulumi, rolled_back = self.pulumi, RELEASE_VARIABLE in environment
        with ThreadPoolExecutor(max_workers=1) as beside:  # each of the two waits for a program
            lacking = beside.submit(_lacking_migrations, docker)
            resources = self._set_up()
        if pull:
            self._pull(docker)
        refresh = bool(lost(docker, resources))
        if refresh:
            self.voice.say("containers are missing or stopped: looking at what is there first")
        self._migrate_again(lacking.result())
        proof = Proof(docker)
        try:
            progress = Progress(docker.topology, self.voice.say, proof.begin)
            changes = pulumi.up(progress.take, refresh=refresh, **environment)
        except PulumiError as error:
            words = explain(docker, error, pulumi)
            with contextlib.suppress(EngineError):  # an engine that is away is told by the error itself
                stop_what_never_served(docker, self.voice.say)
            raise CommandError(words) from error
        orphans: list[str] = []
        if not changes.none or "release" not in changes.outputs or unknown(docker, resources):
            resources = pulumi.export()
            orphans = remove_orphans(docker, resources, self.voice.say)
        release = changes.outputs.get("release") or _release_of(resources)
        changed = bool(orphans) or not changes.none
        if changed or History.load(self.paths).current != release:
            _remember(docker, release, rolled_back=rolled_back)
        self._await_certificate(docker)
        maintenance = self._left_in_maintenance()
        return Applied(release=release, changed=changed, checks=lambda: proof.of(release), maintenance=maintenance)

    def _await_certificate(self, docker: DockerStack) -> None:
        """Wait until the authority has given the first certificate, or has said why not; what that is, is said."""
        if docker.topology.of_kind(Kind.ACME):

            def look() -> tuple[Said, str | None]:
                live = docker.engine.live(docker.label)
                return live.renewal or Said(), live.certificate

            await_first(look, self.voice.say)

    def _migrate_again(self, lacking: dict[str, list[str]]) -> None:
        """Run the migrations that the databases of the serving release lack: an older one was put back."""
        for alias, names in lacking.items():
            self.voice.say(
                f"the database {alias} lacks {len(names)} migrations of the release that serves: migrating it again"
            )
            words = ["manage.py", "migrate", "--noinput", "--database", alias]
            if run_told(self.program(words, terminal=False), self.voice.say) != 0:
                raise CommandError(f"app.migrate: the database {alias} can't be migrated again; migrate said why above")

    def _pull(self, docker: DockerStack) -> None:
        """Pull the bases, and only then write as of when they are; CommandError where one can't be had."""
        as_of = docker.stack.config.images.as_of
        assert as_of is not None  # noqa: S101 - for mypy
        try:
            for base in bases(docker.topology, as_of):
                said = ensure(docker.engine, docker.label, base, self.voice.say)
                if said:
                    self.voice.warn(said)
        except BaseError as error:
            raise CommandError(f"{error}; nothing is changed, the stack file neither, and {SERVES_ON}") from error
        self.pulumi.set_value("images.as_of", moment_text(as_of))

    @cached_property
    def maintaining(self) -> Maintaining:
        """What keeps visitors out."""
        # Who only looks is no reason to install Pulumi.
        return Maintaining(self.docker, lambda: self.pulumi.export() if installed_pulumi() else [])

    def maintenance(self, wanted: Maintenance | None) -> Maintained:
        """Let visitors get a page in place of the site, or the site again for None.

        It does not touch Pulumi's state, and so not its lock: what changes nginx takes turns by a lock beside it.
        """
        self.docker.engine.run("version")  # said before Pulumi is looked for
        return self.maintaining.maintain(wanted)

    def maintained(self) -> Maintenance | None:
        """Return what visitors are told in place of the site; None where they get the site."""
        found = self.maintaining.find()
        if found.hurt:
            raise CommandError(f"{HURT}; say `cluster maintenance {self.stack.name} on`, or off, again")
        return found.kept

    def _maintenance_found(self) -> tuple[Found, list[str]]:
        """Return what there is of maintenance, and what is worth knowing of it."""
        try:
            found = self.maintaining.find()
        except EngineError as error:
            return Found(told=None, kept=None), [f"maintenance: {error}"]
        again = f"{HURT}; say `cluster maintenance {self.stack.name} on`, or off, again"
        return found, [again] if found.hurt else []

    def _left_in_maintenance(self) -> Maintenance | None:
        """Return the maintenance in which the site is; nginx is told again where it does something else."""
        try:
            found = self.maintaining.find()
            if found.trouble:
                self.voice.say(f"{found.trouble}: telling it again")
                self.maintaining.maintain(found.kept)
        except EngineError as error:  # what was asked for is done
            self.voice.warn(f"maintenance: {error}")
            return None
        return found.kept

    def keys(self) -> PulumiKeys:
        """Return where the stack's keys are."""
        return PulumiKeys(self.pulumi)

    def sessions(self) -> dict[str, Any] | None:
        """Return what an instance says of the session store; None where none says it."""
        return self.docker.engine.sessions(self.docker.label)

    def data(self) -> str:
        """Return in words what there is of a stack's data, and where."""
        kept = "".join(f", {service.kept}" for service in self.docker.topology.services if service.kept)
        return f"the database, sessions, uploads{kept} and secrets in the volumes of {self.docker.label}"

    def down(self, *, delete_data: bool) -> bool:
        """Remove everything but the data; with `delete_data` the data too."""
        docker = self.docker
        docker.engine.run("version")  # said before Pulumi is looked for
        pulumi = self.pulumi
        try:
            resources = pulumi.export()
        except CommandError as error:
            if "no stack named" not in str(error):
                raise
            return False
        if not resources:
            return False
        try:
            # What holds a volume or a network of the stack is in the way.
            pulumi.destroy(
                Progress(docker.topology, self.voice.say).take,
                protected=delete_data,
                before=lambda: remove_orphans(docker, resources, self.voice.say, tasks=True),
            )
        except PulumiError as error:
            raise CommandError(explain(docker, error, pulumi)) from error
        return True

    # --- looking

    def status(self) -> Status:
        """Look at what runs."""
        observed = self.docker.observe()
        instances, services = observed.instances(), observed.services()
        nginx = observed.nginx()
        well = all(one.ok for one in instances) and all(one.ok for one in services)
        maintenance, notes = self._maintenance_found()
        trouble = maintenance.trouble
        return Status(
            ok=nginx.current and observed.release is not None and well and trouble is None,
            release=observed.release,
            releases=History.load(self.paths).releases,
            nginx=nginx,
            store=self.sessions(),
            instances=instances,
            services=services,
            maintenance=maintenance.kept,
            troubles=[f"{trouble}; `cluster up {self.stack.name}` mends it"] if trouble else [],
            notes=notes,
        )

    def verify(self) -> list[Check]:
        """Check what serves with real requests; CommandError where nothing does."""
        observed = self.docker.observe()
        if observed.live.nginx is None:
            raise CommandError(f"stack {self.stack.name} is not up; `cluster up {self.stack.name}` starts it")
        held = next(iter(filter(None, observed.live.holders.values())), "none").partition(".")[0]
        return _checked(self.docker, observed.release or held)

    def nginx_config(self) -> NginxConfig:
        """Return nginx's configuration, for the version that its base image has."""
        return container_paths.nginx_config(build_topology(self.stack.config), DockerStack(self.stack).certificate)

    def logs(self, *, lines: int, follow: bool) -> list[LogSource]:
        """Return the log of each container that is no task's."""
        docker = self.docker
        options = ["--tail", str(lines), *(["--follow"] if follow else [])]
        found = []
        for container in docker.observe().containers:
            labels = container["Config"]["Labels"]
            role, release = labels[ROLE_LABEL], labels.get(RELEASE_LABEL)
            if role == "task":
                continue
            instance = labels.get(INSTANCE_LABEL, role)
            name = f"{instance}-{release}" if release else role
            found.append(
                LogSource(
                    name=name,
                    words=frozenset({instance, name, *(asked_by(instance) if SERVICE_LABEL in labels else [])}),
                    printed=Invocation(
                        command=["docker", "logs", *options, container["Id"]],
                        environment={**os.environ, **docker.engine.environment()},
                    ),
                )
            )
        return found

    def program(self, words: Sequence[str], *, terminal: bool) -> Invocation:
        """Return how a program runs once in the serving release, in a container of its own."""
        passed = [name for name in os.environ if name == "TERM" or name.startswith("DJANGO_SUPERUSER_")]
        variables = [word for name in passed for word in ("--env", name)]
        variables += ["--env", f"{MARKS_VARIABLE}={RUN}/{ENDED}"]
        options = ["--interactive", *(["--tty"] if terminal else []), *variables, *_beside_the_serving(self.docker)]
        return Invocation(
            command=["docker", "run", *options, "python", "-P", "-m", "cluster_runtime.program", *words],
            environment={**os.environ, **self.docker.engine.environment()},
        )


def _lacking_migrations(docker: DockerStack) -> dict[str, list[str]]:
    """Return the migrations that the databases of the serving release lack, by alias; none where nobody says it."""
    wanted = docker.stack.config.app.migrate
    said = None
    with contextlib.suppress(EngineError):  # what keeps it from answering is told by what follows
        said = docker.engine.ask(docker.label, lacking_url(wanted)) if wanted else None
    return (said or {}).get("lacking") or {}


def this_minute() -> dt.datetime:
    """Return when this minute began."""
    return dt.datetime.now(dt.UTC).replace(second=0, microsecond=0)


def _kept_bases(docker: DockerStack, contexts: Path) -> list[Base]:
    """Return the bases of the stack file, and those that the releases which are kept were built on."""
    config = docker.stack.config
    kept = [] if config.images.as_of is None else bases(docker.topology, config.images.as_of)
    former = [context_as_of(context) for context in (contexts.iterdir() if contexts.is_dir() else ())]
    return [*kept, *(base for as_of in former if (base := base_of(config, "app", as_of)))]


def _release_of(resources: list[dict[str, Any]]) -> str:
    """Return the stack's output `release`."""
    (stack,) = [resource for resource in resources if resource["type"] == STACK]
    return str(stack["outputs"]["release"])


def _remember(docker: DockerStack, release: str, *, rolled_back: bool) -> None:
    """Write down which release serves, and forget what is older than the kept ones."""
    ours = paths(docker.stack)
    history = History.load(ours)
    history.served(release, rolled_back=rolled_back)
    keep = {*history.releases[-KEPT_RELEASES:], release, history.former()}
    history.releases = [digest for digest in history.releases if digest in keep]
    ours.state.mkdir(parents=True, exist_ok=True)
    history.save(ours)
    contexts = ours.images
    for context in contexts.iterdir() if contexts.is_dir() else ():
        if context.name not in keep:
            shutil.rmtree(context)
    forget(docker.engine, docker.label, _kept_bases(docker, contexts))
    repository = image_repository(docker.label, "app")
    for line in docker.engine.run("images", "--format", "{{.Repository}}:{{.Tag}}", repository).splitlines():
        if line.rpartition(":")[2] not in keep:
            with contextlib.suppress(EngineError):  # a container of it is still ending
                docker.engine.run("rmi", line)


class Proof:
    """The checks of what `up` made. They may begin while former instances drain: these get no new request."""

    def __init__(self, docker: DockerStack) -> None:
        self.docker = docker
        self._executor = ThreadPoolExecutor(max_workers=1)
        self._begun: tuple[str, Future[list[Check]]] | None = None

    def begin(self, release: str) -> None:
        """Begin to check that `release` serves, as well as everything else."""
        if not self.docker.topology.of_kind(Kind.ACME):  # which is to be waited for
            self._begin(release)

    def _begin(self, release: str) -> None:
        self._begun = release, self._executor.submit(_checked, self.docker, release)

    def of(self, release: str) -> list[Check]:
        """Return the checks."""
        if self._begun is None or self._begun[0] != release:
            self._begin(release)
        assert self._begun is not None  # noqa: S101 - for mypy
        with self._executor:
            return self._begun[1].result()


def _checked(docker: DockerStack, release: str) -> list[Check]:
    from cluster.verify import verify as verified  # noqa: PLC0415
    from platforms.docker.endpoints import endpoints  # noqa: PLC0415 - most commands send no requests

    authority = paths(docker.stack).shown_authority()
    with endpoints(docker.engine, docker.label, docker.topology, release, authority) as there:
        return verified(docker.topology, there)


def _beside_the_serving(docker: DockerStack) -> list[str]:
    """Return how a container is made in which a command runs as in the first instance that serves, and its image.

    One of its own: the command may run for weeks, and a release must not end it.
    """
    serving = docker.instance_container(docker.topology.names[0])
    (found,) = docker.engine.inspect([serving])
    network = next(iter(found["NetworkSettings"]["Networks"]), "none")
    return [
        *("--rm", "--init", "--volumes-from", serving, "--network", network),
        *("--memory", str(found["HostConfig"]["Memory"]), "--read-only", "--cap-drop", "ALL"),
        *("--tmpfs", "/tmp", "--security-opt", "no-new-privileges:true", "--log-driver", "none"),  # noqa: S108 - its own
        *("--attach", "stdin", "--attach", "stdout", "--attach", "stderr"),
        *("--label", f"{STACK_LABEL}={docker.label}", "--label", f"{ROLE_LABEL}=task", found["Image"]),
    ]


def platform(stack: Stack, voice: Voice) -> DockerPlatform:
    """Return the stack on Docker."""
    return DockerPlatform(stack, voice)


__all__ = ["DockerPlatform", "platform"]
