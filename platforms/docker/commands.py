"""The commands on platform docker."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import yaml

from cluster.config import stack_path
from cluster.config.models import SECRET_KEYS
from cluster.config.units import moment_text
from cluster.console import say, tell, warn
from cluster.errors import CommandError
from cluster.services import asked_by
from cluster.stack.history import History
from cluster.stack.judge import judge
from cluster.topology import build_topology, site_url
from cluster_runtime.migrations import lacking_url
from cluster_runtime.sessions.ended import ENDED, MARKS_VARIABLE
from platforms.base import RELEASE_VARIABLE, LogSource, Status
from platforms.docker import places
from platforms.docker.bases import SERVES_ON, Base, BaseError, base_of, bases, context_as_of, ensure, forget
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
from platforms.docker.places import RUN
from platforms.docker.repair import lost, remove_orphans, stop_what_never_served, unknown
from platforms.docker.stack import DockerStack, engine_host, paths
from platforms.pulumi.engine import STACK, Pulumi, PulumiError
from platforms.pulumi.keys import PulumiKeys
from platforms.pulumi.progress import Progress

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.lint import Facts
    from cluster.render.nginx import NginxConfig
    from cluster.stack.opened import Stack
    from cluster.verify import Check


#: Releases whose images are kept, the serving one included.
KEPT_RELEASES = 3


def facts(stack: Stack) -> Facts:
    """Return what the lints may look at; the secret_key that the stack file lacks is made by `up`."""
    document = yaml.safe_load(stack_path(stack.root, stack.name).read_text(encoding="utf-8"))
    there = frozenset(name for name in SECRET_KEYS if f"cluster:{name}" in document["config"])
    return facts_of(stack.config, stack.root, stack.name, Engine(engine_host(stack)), there | {"secret_key"})


# --- changing


def set_up(stack: Stack) -> None:
    """Set Pulumi and the stack up."""
    DockerStack(stack)
    Pulumi(stack.root, stack.name).set_up()
    tell(f"stack {stack.name} is set up; next: cluster up {stack.name}")


def run_up(stack: Stack, *, pull: bool = False) -> None:
    """Set up what is missing, let Pulumi do it, and prove it; `pull`: on images that are pulled now."""
    _up(stack, None, pull=pull)


def run_rollback(stack: Stack, to: str | None) -> None:
    """Let a former release serve, by the same way as forward."""
    history = History.load(paths(stack))
    serving = DockerStack(stack).observe().release
    if serving is not None and serving != history.current:  # `pulumi up` writes no history
        history.served(serving)
        history.save(paths(stack))
    digest = to or history.former()
    if digest is None:
        raise CommandError("there is no release before the one that serves")
    if not (paths(stack).images / digest).is_dir():
        known = ", ".join(history.releases) or "none"
        raise CommandError(f"release {digest} is not here; known: {known}")
    _up(stack, digest)
    tell(f"release {digest} serves. The next `cluster up` follows the stack file and the code again.")


def _up(stack: Stack, rollback: str | None, *, pull: bool = False) -> None:
    began = time.monotonic()
    if pull:
        images = stack.config.images.model_copy(update={"as_of": this_minute()})
        stack = replace(stack, config=stack.config.model_copy(update={"images": images}))
    docker = DockerStack(stack)
    docker.engine.run("version")
    pulumi = Pulumi(stack.root, stack.name)
    with ThreadPoolExecutor(max_workers=1) as beside:  # each of the two waits for a program
        lacking = beside.submit(_lacking_migrations, docker)
        resources = pulumi.set_up()
    judge(stack.config, facts(stack))
    if pull:
        _pull(docker, pulumi)
    refresh = bool(lost(docker, resources))
    if refresh:
        tell("containers are missing or stopped: looking at what is there first")
    environment = {RELEASE_VARIABLE: rollback} if rollback else {}
    _migrate_again(docker, lacking.result())
    proof = Proof(docker)
    progress = Progress(docker.topology, proof.begin)
    try:
        changes = pulumi.up(progress.take, refresh=refresh, **environment)
    except PulumiError as error:
        words = explain(docker, error, pulumi)
        with contextlib.suppress(EngineError):  # an engine that is away is told by the error itself
            stop_what_never_served(docker)
        raise CommandError(words) from error
    orphans: list[str] = []
    if not changes.none or "release" not in changes.outputs or unknown(docker, resources):
        resources = pulumi.export()
        orphans = remove_orphans(docker, resources)
    release = changes.outputs.get("release") or _release_of(resources)
    if changes.none and not orphans:
        if History.load(paths(stack)).current != release:
            _remember(docker, release, rolled_back=rollback is not None)
        tell(f"stack {stack.name}: no changes; release {release} serves at {site_url(stack.config)}")
        return
    _remember(docker, release, rolled_back=rollback is not None)
    tell(f"done in {time.monotonic() - began:.1f} s")
    checks = proof.of(release)
    tell(f"verified: {sum(check.ok is True for check in checks)} checks; {site_url(stack.config)}")


def _lacking_migrations(docker: DockerStack) -> dict[str, list[str]]:
    """Return the migrations that the databases of the serving release lack, by alias; none where nobody says it."""
    wanted = docker.stack.config.app.migrate
    said = None
    with contextlib.suppress(EngineError):  # what keeps it from answering is told by what follows
        said = docker.engine.ask(docker.label, lacking_url(wanted)) if wanted else None
    return (said or {}).get("lacking") or {}


def _migrate_again(docker: DockerStack, lacking: dict[str, list[str]]) -> None:
    """Run the migrations that the databases of the serving release lack: an older one was put back."""
    for alias, names in lacking.items():
        tell(f"the database {alias} lacks {len(names)} migrations of the release that serves: migrating it again")
        if run_program(docker.stack, ["manage.py", "migrate", "--noinput", "--database", alias]) != 0:
            raise CommandError(f"app.migrate: the database {alias} can't be migrated again; migrate said why above")


def this_minute() -> dt.datetime:
    """Return when this minute began."""
    return dt.datetime.now(dt.UTC).replace(second=0, microsecond=0)


def _pull(docker: DockerStack, pulumi: Pulumi) -> None:
    """Pull the bases, and only then write as of when they are; CommandError where one can't be had."""
    as_of = docker.stack.config.images.as_of
    assert as_of is not None  # noqa: S101 - for mypy
    try:
        for base in bases(docker.topology, as_of):
            said = ensure(docker.engine, docker.label, base, say)
            if said:
                warn(f"warning: {said}")
    except BaseError as error:
        raise CommandError(f"{error}; nothing is changed, the stack file neither, and {SERVES_ON}") from error
    pulumi.set_value("images.as_of", moment_text(as_of))


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
        self._begun = release, self._executor.submit(_checked, self.docker, release)

    def of(self, release: str) -> list[Check]:
        """Return the checks; CommandError where one failed."""
        from cluster.verify import fail_unverified  # noqa: PLC0415 - an `up` that changes nothing sends no requests

        if self._begun is None or self._begun[0] != release:
            self.begin(release)
        assert self._begun is not None  # noqa: S101 - for mypy
        with self._executor:
            checks = self._begun[1].result()
        fail_unverified(checks)
        return checks


def keys(stack: Stack) -> PulumiKeys:
    """Return where the stack's keys are."""
    return PulumiKeys(Pulumi(stack.root, stack.name))


def sessions(stack: Stack) -> dict[str, Any] | None:
    """Return what an instance says of the session store; None where none says it."""
    docker = DockerStack(stack)
    return docker.engine.sessions(docker.label)


def data(stack: Stack) -> str:
    """Return in words what there is of a stack's data, and where."""
    jobs = ", jobs" if stack.config.broker is not None else ""
    return f"the database, sessions, uploads{jobs} and secrets in the volumes of {DockerStack(stack).label}"


def down(stack: Stack, *, delete_data: bool) -> bool:
    """Remove everything but the data; with `delete_data` the data too."""
    docker = DockerStack(stack)
    docker.engine.run("version")
    pulumi = Pulumi(stack.root, stack.name)
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
            Progress(docker.topology).take,
            protected=delete_data,
            before=lambda: remove_orphans(docker, resources, tasks=True),
        )
    except PulumiError as error:
        raise CommandError(explain(docker, error, pulumi)) from error
    return True


# --- looking


def status(stack: Stack) -> Status:
    """Look at what runs."""
    docker = DockerStack(stack)
    observed = docker.observe()
    instances, services = observed.instances(), observed.services()
    nginx = observed.nginx()
    well = all(one.ok for one in instances) and all(one.ok for one in services)
    return Status(
        ok=nginx.current and observed.release is not None and well,
        release=observed.release,
        releases=History.load(paths(stack)).releases,
        nginx=nginx,
        store=docker.engine.sessions(docker.label),
        instances=instances,
        services=services,
    )


def verify(stack: Stack) -> list[Check]:
    """Check what serves with real requests; CommandError where nothing does."""
    docker = DockerStack(stack)
    observed = docker.observe()
    if observed.live.nginx is None:
        raise CommandError(f"stack {stack.name} is not up; `cluster up {stack.name}` starts it")
    release = observed.release or next(iter(filter(None, observed.live.holders.values())), "none").partition(".")[0]
    return _checked(docker, release)


def nginx_config(stack: Stack) -> NginxConfig:
    """Return nginx's configuration, for the version that its base image has."""
    return places.nginx_config(build_topology(stack.config))


def _checked(docker: DockerStack, release: str) -> list[Check]:
    from cluster.verify import verify as verified  # noqa: PLC0415
    from platforms.docker.reach import reach  # noqa: PLC0415 - most commands send no requests

    with reach(docker.engine, docker.label, docker.topology, release) as ways:
        return verified(docker.topology, ways)


def logs(stack: Stack, *, lines: int, follow: bool) -> list[LogSource]:
    """Return the log of each container that is no task's."""
    docker = DockerStack(stack)
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
                command=["docker", "logs", *options, container["Id"]],
                environment={**os.environ, **docker.engine.environment()},
            )
        )
    return found


def run_program(stack: Stack, words: list[str]) -> int:
    """Run a program once in the serving release; return its exit status."""
    docker = DockerStack(stack)
    passed = [name for name in os.environ if name == "TERM" or name.startswith("DJANGO_SUPERUSER_")]
    terminal = ["--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else []
    variables = [word for name in passed for word in ("--env", name)]
    variables += ["--env", f"{MARKS_VARIABLE}={RUN}/{ENDED}"]
    return subprocess.run(
        [
            *("docker", "run", "--interactive", *terminal, *variables, *_beside_the_serving(docker)),
            *("python", "-P", "-m", "cluster_runtime.program", *words),
        ],
        env={**os.environ, **docker.engine.environment()},
        check=False,
    ).returncode


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


__all__ = [
    "data",
    "down",
    "facts",
    "keys",
    "logs",
    "nginx_config",
    "run_program",
    "run_rollback",
    "run_up",
    "sessions",
    "set_up",
    "status",
    "verify",
]
