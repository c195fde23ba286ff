"""A stack on Docker, as the commands ask for it."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.acme.kept import Said
from cluster.acme.status import await_first
from cluster.config.units import moment_text
from cluster.errors import CommandError
from cluster.plan import Planned
from cluster.plan.judged import disabled_rules
from cluster.plan.shown import text
from cluster.services import Kind, asked_by
from cluster.stack.history import History
from cluster.tls.certificates import names_of
from cluster.topology import build_topology
from cluster_runtime.sessions.ended import ENDED, MARKS_VARIABLE
from platforms.base import RELEASE_VARIABLE, Applied, Back, Change, Forward, Invocation, LogSource, Status, run_told
from platforms.docker import container_paths
from platforms.docker.bases import SERVES_ON, BaseError, bases, ensure
from platforms.docker.container_paths import RUN
from platforms.docker.engine import (
    INSTANCE_LABEL,
    RELEASE_LABEL,
    ROLE_LABEL,
    SERVICE_LABEL,
    STACK_LABEL,
    Engine,
    EngineError,
)
from platforms.docker.facts import facts_of
from platforms.docker.failures import explain, refused_by
from platforms.docker.maintaining import HURT, Found, Maintaining
from platforms.docker.planning import Look, Planning, first_tls
from platforms.docker.prebuilding import prebuilding
from platforms.docker.proof import Proof, checked
from platforms.docker.releases import history_of
from platforms.docker.remembering import remember
from platforms.docker.repair import lost, remove_orphans, stop_what_never_served
from platforms.docker.stack import DockerStack, engine_host, paths
from platforms.pulumi.backend import share
from platforms.pulumi.engine import PolicyError, Pulumi, PulumiError, warm
from platforms.pulumi.installing import installed_pulumi
from platforms.pulumi.kept_stack import keep_stack
from platforms.pulumi.keys import PulumiKeys, make_secrets, secrets_there
from platforms.pulumi.looking import looking
from platforms.pulumi.planning import begun, state_of
from platforms.pulumi.policing import tell_disabled
from platforms.pulumi.preview import Preview
from platforms.pulumi.progress import NGINX_CONFIG, Progress
from platforms.pulumi.seen import STACK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cluster.checks import Check
    from cluster.lint import Facts
    from cluster.maintenance import Maintained, Maintenance
    from cluster.render.nginx import NginxConfig
    from cluster.stack.opened import Stack
    from platforms.base import Gate, Shared, Voice
    from platforms.pulumi.engine import Changes


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
        return Pulumi(self.stack.root, self.stack.name, self.voice.say, f"{__package__}.program")

    def facts(self) -> Facts:
        """Return what the lints may look at; the secret_key that the stack file lacks is made by `up`."""
        stack = self.stack
        engine, known = Engine(engine_host(stack)), secrets_there(stack.root, stack.name)
        return facts_of(stack.config, stack.root, stack.name, engine, known, lambda: self.docker.label)

    # --- changing

    def set_up(self, shared: Shared) -> None:
        """Set Pulumi and the stack up."""
        _ = self.docker
        share(self.pulumi, shared)
        self._set_up()

    def _set_up(self) -> list[dict[str, Any]]:
        """Set Pulumi and the stack up, and make the secrets that it lacks; return the resources in its state."""
        resources = self.pulumi.set_up()
        make_secrets(self.pulumi, self.stack.config, self.paths.authority, self.voice.say)
        return resources

    def plan(self, wanted: Forward | Back) -> Planned:
        """Look at what is to be done, and change nothing."""
        docker, name = self.docker, self.stack.name
        docker.engine.check()
        warm(lambda: self.pulumi)
        with tempfile.TemporaryDirectory() as aside, looking(docker.look) as looked:
            facts = self.facts()
            resources = begun(self.stack, facts, lambda: self.pulumi, partial(first_tls, self.stack))
            if isinstance(resources, Planned):
                return resources
            look = self._look(docker, resources, looked, Path(aside))
            environment = {RELEASE_VARIABLE: self._former(wanted, look)} if isinstance(wanted, Back) else {}
            try:
                look.run(self.pulumi, environment)
            except PulumiError as error:
                refused, disabled = tuple(refused_by(docker, error)), disabled_rules(docker.stack.config)
                return Planned(stack=name, changes=True, refused=refused, disabled=disabled)
            return Planning(look, self.pulumi, facts).judged()

    def _look(
        self,
        docker: DockerStack,
        resources: list[dict[str, Any]],
        looked: Mapping[str, str],
        aside: Path | None = None,
    ) -> Look:
        return Look(
            docker=docker,
            resources=resources,
            lost=lost(docker, resources),
            maintenance=lambda: self._maintenance_found()[0].trouble,
            aside=aside,
            looking=looked,
        )

    @contextmanager
    def change(self, wanted: Forward | Back, gate: Gate) -> Iterator[Change]:
        """Say what is to be done, by the engine's preview; while it does it, its own lock keeps others away."""
        pull = isinstance(wanted, Forward) and wanted.pull
        docker = DockerStack(self._as_of_now()) if pull else self.docker
        docker.engine.check()  # said before Pulumi is looked for
        warm(lambda: self.pulumi)
        # What is built ahead goes on while that is carried out which takes it.
        with prebuilding(docker.engine, docker.stack.root) as prebuild:
            with ExitStack() as beside:
                # What is pulled takes its time, and what runs may be something else then.
                looked = {} if pull else beside.enter_context(looking(docker.look))
                facts = self.facts()
                gate(docker.stack.config, facts)
                resources = self._set_up()
                if pull:
                    self._pull(docker)
                look = self._look(docker, resources, looked)
                environment = {RELEASE_VARIABLE: self._former(wanted, look)} if isinstance(wanted, Back) else {}
                if look.lost:
                    self.voice.say("containers are missing or stopped: looking at what is there first")
                try:
                    previewed = look.run(self.pulumi, environment, prebuild)
                except PolicyError as error:
                    raise CommandError(str(error)) from error
                except PulumiError as error:
                    raise self._failed(docker, error) from error
            planned = Planning(look, self.pulumi, facts).told()
            lines = text(planned) if planned.changes else []
            if not lines:
                tell_disabled(docker.stack.config, self.voice)
            yield Change(lines=lines, apply=lambda: self._apply(look, previewed, environment))

    def _as_of_now(self) -> Stack:
        """Return the stack on bases as of this minute."""
        images = self.stack.config.images.model_copy(update={"as_of": this_minute()})
        return replace(self.stack, config=self.stack.config.model_copy(update={"images": images}))

    def _former(self, wanted: Back, look: Look) -> str:
        """Return the release that is to serve again; it is taken from its image where another checkout has made it."""
        history = history_of(self.docker)
        serving = self.docker.observe().release
        if serving is not None and serving != history.current:  # `pulumi up` writes no history
            history.served(serving)
            self.paths.state.mkdir(parents=True, exist_ok=True)
            history.save(self.paths)
        digest = history.back_to(wanted.release)
        try:
            there = look.kept(digest) is not None
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}; free some room") from error
        if not there:
            raise history.not_here(digest)
        return digest

    def _apply(self, look: Look, previewed: Changes, environment: dict[str, str]) -> Applied:
        """Let Pulumi do what it has previewed."""
        docker, pulumi, rolled_back = look.docker, self.pulumi, RELEASE_VARIABLE in environment
        self._migrate_again(look.found().lacking)
        proof = Proof(docker)
        changes = previewed
        # What a killed run left is judged, and removed, by who has gone through the lock.
        strays = bool(look.found().strays)
        progress = Progress(docker.topology, self.voice.say, proof.begin, proof.prepare)
        if strays or pulumi.unsettled or look.lost or not previewed.none or look.preview.before != look.preview.after:
            try:
                # Its program looks itself at what runs, once nobody else changes it.
                changes = pulumi.up(progress.take, refresh=bool(look.lost), policed=bool(look.unjudged), **environment)
            except PulumiError as error:
                raise self._failed(docker, error) from error
        resources, orphans = look.resources, list[str]()
        if "release" not in changes.outputs or strays:
            resources = pulumi.export()
            orphans = remove_orphans(docker, resources, self.voice.say)
        release = changes.outputs.get("release") or _release_of(resources)
        changed = bool(orphans) or not changes.none
        # Another checkout may have let releases serve since; where nginx alone was told something, none was.
        if not progress.begun <= {NGINX_CONFIG} or orphans or History.load(self.paths).current != release:
            remember(docker, release, rolled_back=rolled_back)
        keep_stack(self.paths, docker.stack.config, changes.outputs)
        self._await_certificate(docker)
        maintenance = self._left_in_maintenance()
        return Applied(release=release, changed=changed, checks=lambda: proof.of(release), maintenance=maintenance)

    def _failed(self, docker: DockerStack, error: PulumiError) -> CommandError:
        """Return why an `up` failed; what it has started and what does not serve is stopped."""
        words = explain(docker, error, self.pulumi)
        with contextlib.suppress(EngineError):  # an engine that is away is told by the error itself
            stop_what_never_served(docker, self.voice.say)
        return CommandError(words)

    def _await_certificate(self, docker: DockerStack) -> None:
        """Wait until the authority has given the first certificate, or has said why not; what that is, is said."""
        if docker.topology.of_kind(Kind.ACME):

            def look() -> tuple[Said, str | None]:
                live = docker.engine.live(docker.label)
                return live.renewal or Said(), live.certificate

            await_first(look, self.voice.say, names_of(docker.stack.config))

    def _migrate_again(self, lacking: Mapping[str, Sequence[str]]) -> None:
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
        self.docker.engine.check()  # said before Pulumi is looked for
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

    def hosts_keys(self) -> None:
        """Return None: there is no other host to be known by."""

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
        docker.engine.check()  # said before Pulumi is looked for
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
            releases=history_of(self.docker).releases,
            nginx=nginx,
            store=self.sessions(),
            instances=instances,
            services=services,
            maintenance=maintenance.kept,
            troubles=[f"{trouble}; `cluster up {self.stack.name}` mends it"] if trouble else [],
            notes=notes,
        )

    def drift(self) -> Sequence[str]:
        """Return what was changed by hand, or is broken, beside what Pulumi's state has."""
        self.docker.engine.check()  # said before Pulumi is looked for
        resources = state_of(self.stack.name, lambda: self.pulumi)
        return () if resources is None else self._look(self.docker, resources, {}).drift(Preview.of_state(resources))

    def verify(self) -> list[Check]:
        """Check what serves with real requests; CommandError where nothing does."""
        observed = self.docker.observe()
        if observed.live.nginx is None:
            raise CommandError(f"stack {self.stack.name} is not up; `cluster up {self.stack.name}` starts it")
        held = next(iter(filter(None, observed.live.holders.values())), "none").partition(".")[0]
        return checked(self.docker, observed.release or held)

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


def this_minute() -> dt.datetime:
    """Return when this minute began."""
    return dt.datetime.now(dt.UTC).replace(second=0, microsecond=0)


def _release_of(resources: list[dict[str, Any]]) -> str:
    """Return the stack's output `release`."""
    (stack,) = [resource for resource in resources if resource["type"] == STACK]
    return str(stack["outputs"]["release"])


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
