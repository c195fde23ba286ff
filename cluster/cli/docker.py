"""The commands on platform docker."""

from __future__ import annotations

import contextlib
import datetime as dt
import difflib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import yaml

from cluster.cli.failures import tells_of_no_room
from cluster.cli.pulumi import STACK, Event, Pulumi, PulumiError, name_of
from cluster.cli.showing import fail_unverified
from cluster.config import stack_path
from cluster.config.models import DROPPED_KEYS, SECRET_KEYS
from cluster.config.units import moment_text
from cluster.console import say, tell, warn
from cluster.docker import places
from cluster.docker.bases import SERVES_ON, Base, BaseError, base_of, bases, context_as_of, ensure, forget
from cluster.docker.engine import (
    INSTANCE_LABEL,
    RELEASE_LABEL,
    ROLE_LABEL,
    STACK_LABEL,
    Engine,
    EngineError,
    image_repository,
)
from cluster.docker.facts import facts_of
from cluster.docker.observe import SHORT_ID, Observed, observe
from cluster.docker.paths import DockerPaths
from cluster.docker.places import DATABASE_SECRETS, RUN, base_image
from cluster.errors import CommandError
from cluster.stack.history import History
from cluster.stack.judge import judge
from cluster.stack.secrets import with_dropped
from cluster.topology import Topology, build_topology, site_url
from cluster_runtime.migrations import lacking_url
from cluster_runtime.prepare import mask
from cluster_runtime.sessions.stage import ENDED, MARKS_VARIABLE
from platforms.base import LogSource, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from cluster.lint import Facts
    from cluster.render.nginx import NginxConfig
    from cluster.stack.opened import Stack
    from cluster.verify import Check

#: Lines of an unhealthy container's log that a failed `up` repeats.
LOG_LINES = 20

#: Releases whose images are kept, the serving one included.
KEPT_RELEASES = 3

#: Seconds that a container which serves nobody has to end.
ORPHAN_SECONDS = 60

#: Where PostgreSQL's container reads its password.
PASSWORD_FILE = f"{DATABASE_SECRETS}/password"

#: What Pulumi says of a resource that it must not delete.
PROTECTED = "as it is currently marked for protection"

CONTAINER, COMMAND, IMAGE = "Container", "Command", "Image"

#: What an engine says of an image that it can't get.
UNREACHABLE = re.compile(r"failed to do request|pull access denied|failed to resolve|manifest unknown|not found: not f")

#: What BuildKit and the provider say of a build that is none of its output.
BUILD_FRAME = re.compile(
    r"digest: |\[|Building your image|To ensure you are|Starting Docker build|error: executor|\s*$"
)

#: How the command is called that waits for a memcached node, the one by which an instance takes its name, and nginx's.
RESTORED, SERVE, NGINX_CONFIG = "-restored", "-serve", "nginx-config"

#: Operations of Pulumi's that change nothing.
UNCHANGED = ("same", "read", "refresh")

#: A port in what the engine says of one that it can't publish.
PORT = re.compile(r"(?:Bind for|bind host port|for|bind host port for|tcp4?|tcp6?) \S*?:(?P<port>\d+)(?=[:/ ])")

#: What a command of the program does, in words.
COMMANDS = {
    "database-password": "giving the database its password",
    "prepare": "the release: static files, migrations, and one instance that proves it healthy",
    "static-current": "letting nginx serve the release's static files",
    NGINX_CONFIG: "nginx: checking its configuration, one reload",
}


class DockerStack:
    """A stack on its engine."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.topology: Topology = build_topology(stack.config)
        self.engine = Engine(stack.engine_host())
        self.label = f"{project_name(stack)}/{stack.name}"

    def observe(self) -> Observed:
        """Look at what runs; EngineError where the engine is away."""
        return observe(self.engine, self.label, self.topology)

    def instance_container(self, name: str) -> str:
        """Return the container that holds an instance's name; CommandError where none does."""
        holder = self.observe().live.holders.get(name)
        if holder is None:
            raise CommandError(f"{name} does not serve; `cluster status {self.stack.name}` says what runs")
        return holder.rpartition(".")[2]


def paths(stack: Stack) -> DockerPaths:
    """Return where what is kept of the stack lies on this machine."""
    return DockerPaths(stack.root, stack.name)


def project_name(stack: Stack) -> str:
    """Return the Pulumi project's name."""
    path = stack.root / "Pulumi.yaml"
    if not path.is_file():
        raise CommandError(f"{path} is missing: platform {stack.config.platform} is a Pulumi program")
    return str(yaml.safe_load(path.read_text(encoding="utf-8"))["name"])


def facts(stack: Stack) -> Facts:
    """Return what the lints may look at; the secret_key that the stack file lacks is made by `up`."""
    document = yaml.safe_load(stack_path(stack.root, stack.name).read_text(encoding="utf-8"))
    there = frozenset(name for name in SECRET_KEYS if f"cluster:{name}" in document["config"])
    return facts_of(stack.config, stack.root, stack.name, Engine(stack.engine_host()), there | {"secret_key"})


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
    refresh = bool(_lost(docker, resources))
    if refresh:
        tell("containers are missing or stopped: looking at what is there first")
    environment = {"CLUSTER_RELEASE": rollback} if rollback else {}
    _migrate_again(docker, lacking.result())
    proof = Proof(docker)
    progress = Progress(docker.topology, proof.begin)
    try:
        changes = pulumi.up(progress.take, refresh=refresh, **environment)
    except PulumiError as error:
        words = _explain(docker, error, pulumi)
        with contextlib.suppress(EngineError):  # an engine that is away is told by the error itself
            _stop_what_never_served(docker)
        raise CommandError(words) from error
    orphans: list[str] = []
    if not changes.none or "release" not in changes.outputs or _unknown(docker, resources):
        resources = pulumi.export()
        orphans = _remove_orphans(docker, resources)
    release = changes.outputs.get("release") or _release_of(resources)
    if changes.none and not orphans:
        if History.load(paths(stack)).current != release:
            _remember(docker, release, rolled_back=rollback is not None)
        tell(f"stack {stack.name}: no changes; release {release} serves at {site_url(stack.config)}")
        return
    _remember(docker, release, rolled_back=rollback is not None)
    tell(f"done in {time.monotonic() - began:.1f} s")
    checks = proof.of(release)
    fail_unverified(checks)
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
        if run_manage(docker.stack, ["migrate", "--noinput", "--database", alias]) != 0:
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


def _lost(docker: DockerStack, resources: list[dict[str, Any]]) -> list[str]:
    """Return the names of containers that Pulumi believes to run and that do not: it would not notice."""
    running = set(docker.engine.containers(docker.label))
    wanted = {
        resource["id"]: name_of(resource["urn"])[1]
        for resource in resources
        if name_of(resource["urn"])[0] == CONTAINER and resource.get("id") and not resource.get("delete")
    }
    return sorted(name for found, name in wanted.items() if found not in running)


def _release_of(resources: list[dict[str, Any]]) -> str:
    """Return the stack's output `release`."""
    (stack,) = [resource for resource in resources if resource["type"] == STACK]
    return str(stack["outputs"]["release"])


def _unknown(docker: DockerStack, resources: list[dict[str, Any]], *, tasks: bool = False) -> list[dict[str, Any]]:
    """Return the containers of this stack that a killed run left and no state knows.

    tasks: those too that run a task, or a management command.
    """
    known = {resource.get("id") for resource in resources}
    volumes = {resource["id"] for resource in resources if name_of(resource["urn"])[0] == "Volume"}
    return [
        container
        for container in docker.engine.mounting(docker.label, volumes)
        if container["Id"] not in known and (tasks or not _runs_task(container))
    ]


def _runs_task(container: dict[str, Any]) -> bool:
    return container["Config"]["Labels"].get(ROLE_LABEL) == "task" and bool(container["State"]["Running"])


def _remove_orphans(docker: DockerStack, resources: list[dict[str, Any]], *, tasks: bool = False) -> list[str]:
    """Remove what `_unknown` returns; return the names."""
    names = []
    for container in _unknown(docker, resources, tasks=tasks):
        name = container["Name"].lstrip("/")
        tell(f"  removing {name}: {'its command ends' if _runs_task(container) else 'a killed run left it'}")
        docker.engine.remove(container["Id"], grace=ORPHAN_SECONDS)
        names.append(name)
    return names


def _stop_what_never_served(docker: DockerStack) -> None:
    """Stop the containers that a failed release has started: they would take memory until the next one.

    They are not removed, since Pulumi's state knows them: a release that follows starts them again, or replaces them.
    """
    observed = docker.observe()
    volumes = {mount["Name"] for one in observed.of("nginx") for mount in one["Mounts"] if "Name" in mount}
    for container in docker.engine.mounting(docker.label, volumes, "instance"):
        labels = container["Config"]["Labels"]
        process = f"{labels[RELEASE_LABEL]}.{container['Id'][:SHORT_ID]}"
        name = labels[INSTANCE_LABEL]
        given = observed.live.given.get(name)
        # Nobody knows who serves where nginx can't be asked.
        if container["State"]["Running"] and given not in (None, process) and _is_new(observed, container, given):
            tell(f"  stopping {name} of release {labels[RELEASE_LABEL]}, which does not serve")
            docker.engine.run("stop", "--time", str(ORPHAN_SECONDS), container["Id"], timeout=2 * ORPHAN_SECONDS)


def _is_new(observed: Observed, container: dict[str, Any], given: str | None) -> bool:
    """Tell whether a container was made after the one to which its instance's name was given."""
    made = {one["Id"][:SHORT_ID]: one["Created"] for one in observed.containers}
    former = made.get((given or "").rpartition(".")[2])
    return former is not None and container["Created"] > former


def _remember(docker: DockerStack, release: str, *, rolled_back: bool) -> None:
    """Write down which release serves, and forget what is older than the kept ones."""
    places = paths(docker.stack)
    history = History.load(places)
    history.served(release, rolled_back=rolled_back)
    keep = {*history.releases[-KEPT_RELEASES:], release, history.former()}
    history.releases = [digest for digest in history.releases if digest in keep]
    places.state.mkdir(parents=True, exist_ok=True)
    history.save(places)
    contexts = places.images
    for context in contexts.iterdir() if contexts.is_dir() else ():
        if context.name not in keep:
            shutil.rmtree(context)
    forget(docker.engine, docker.label, _kept_bases(docker, contexts))
    repository = image_repository(docker.label, "app")
    for line in docker.engine.run("images", "--format", "{{.Repository}}:{{.Tag}}", repository).splitlines():
        if line.rpartition(":")[2] not in keep:
            with contextlib.suppress(EngineError):  # a container of it is still ending
                docker.engine.run("rmi", line)


def _explain(docker: DockerStack, error: PulumiError, pulumi: Pulumi) -> str:
    """Return what went wrong, with the last lines of the log of a container that did not get healthy."""
    words = [str(error)]
    if "port is already allocated" in str(error) or "address already in use" in str(error):
        words = [_port_in_use(docker, str(error))]
    if PROTECTED in str(error):
        words.append(
            "It holds data that the stack file no longer asks for. To keep them, put back what it asked for; to drop "
            f"them: pulumi state unprotect URN --stack {docker.stack.name}"
        )
    for urn in error.failed:
        kind, name = name_of(urn)
        if kind == CONTAINER:
            words += _last_log(docker, name, pulumi)
        if kind == IMAGE and SERVES_ON not in str(error):
            service = name.removesuffix("-image")
            base = base_image(docker.stack.config, service)
            if UNREACHABLE.search(str(error)):
                words.insert(0, f"images: {base}, the base of {service}, can't be had: name another in cluster:images")
            else:
                what = "the release" if service == "app" else service
                words = [f"the image of {what} can't be built:", *_build_output(error.remarks.get(urn, ())), *words]
    if tells_of_no_room(str(error)):
        words.append("The disk is full; free some room and run it again (docker system df says what takes it).")
    told = SERVES_ON in str(error)
    serves = "What served still serves; the" if not told and _serves(docker) else "The"
    words.append(f"{serves} next `cluster up` goes on from here.")
    return "\n".join(words)


def _port_in_use(docker: DockerStack, words: str) -> str:
    site = docker.stack.config.site
    found = PORT.search(words)
    port = int(found["port"]) if found else site.listen
    key = "site.listen" if port == site.listen else "site.instance_ports"
    return f"{key}: port {port} is in use by another program; choose another, or stop that one"


def _serves(docker: DockerStack) -> bool:
    """Tell whether nginx answers, and some instance's name leads to a process."""
    with contextlib.suppress(EngineError):
        live = docker.observe().live
        return live.nginx is not None and any(live.holders.values())
    return False


def _build_output(remarks: Iterable[str]) -> list[str]:
    """Return the last lines of what a build's programs printed; BuildKit's own frame around them is left out."""
    lines = [line for remark in remarks for line in remark.splitlines() if not BUILD_FRAME.match(line)]
    return [f"    {line}" for line in lines[-LOG_LINES:]]


def _last_log(docker: DockerStack, name: str, pulumi: Pulumi) -> list[str]:
    for container in docker.observe().containers:
        called = container["Name"].lstrip("/").rpartition("-")[0]
        if called == name:
            # The newest is the first.
            done = docker.engine.output("logs", "--tail", str(LOG_LINES), container["Id"])
            text = mask(done, {**pulumi.secrets(), **_made_secrets(docker)})
            return [f"The last lines of {name}'s log:", *(f"    {line}" for line in text.splitlines())]
    return []


def _made_secrets(docker: DockerStack) -> dict[str, str]:
    """Return the secrets that the platform made and keeps on the engine alone: the database's password."""
    for container in docker.engine.containers(docker.label, "postgres"):
        with contextlib.suppress(EngineError):
            return {"the database's password": docker.engine.run("exec", container, "cat", PASSWORD_FILE).strip()}
    return {}


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
        """Return the checks."""
        if self._begun is None or self._begun[0] != release:
            self.begin(release)
        assert self._begun is not None  # noqa: S101 - for mypy
        with self._executor:
            return self._begun[1].result()


class Progress:
    """Says what the engine does, in words, as it is begun (and for a name taken, once it is done).

    served: called with the release once all of it serves as the stack file says, when only removals are left.
    """

    def __init__(self, topology: Topology, served: Callable[[str], None] | None = None) -> None:
        self.topology = topology
        self.told: set[str] = set()
        self._served = served
        self._changed = False
        self._releases: dict[str, str] = {}

    def take(self, event: Event) -> None:
        """Take one event of the engine's."""
        before, after = event.get("resourcePreEvent"), event.get("resOutputsEvent")
        self._look_for_the_end(before, after)
        for line in begun(before["metadata"]) if before else ended(after["metadata"]) if after else ():
            if line not in self.told:
                self.told.add(line)
                tell(f"  {line}")

    def _look_for_the_end(self, before: dict[str, Any] | None, after: dict[str, Any] | None) -> None:
        """nginx's configuration is the last that is done; Pulumi removes what was replaced when all else is."""
        if before:
            self._changed = self._changed or before["metadata"]["op"] not in UNCHANGED
        if not after or not self._served:
            return
        kind, name = name_of(after["metadata"]["urn"])
        if kind == COMMAND and name.endswith(SERVE):
            self._releases[name.removesuffix(SERVE)] = named_release(after["metadata"])[1]
        releases = set(self._releases.values())
        all_serve = len(releases) == 1 and self._releases.keys() == set(self.topology.names)
        if (kind, name) == (COMMAND, NGINX_CONFIG) and self._changed and all_serve:
            self._served(releases.pop())
            self._served = None


def begun(step: dict[str, Any]) -> list[str]:
    """Return what to say when the engine begins a step."""
    kind, name = name_of(step["urn"])
    operation = step["op"]
    if operation in (*UNCHANGED, "replace"):
        return []
    if operation in ("delete", "delete-replaced"):
        return [_removed(name, former=operation != "delete")] if kind == CONTAINER else []
    if kind == IMAGE:
        return [f"building the image of {'the release' if name == 'app-image' else name.removesuffix('-image')}"]
    if kind == CONTAINER:
        return [f"changing {name} in place" if operation == "update" else f"starting {name}"]
    return _told_of_command(name, step) if kind == COMMAND else []


def _told_of_command(name: str, step: dict[str, Any]) -> list[str]:
    if name.endswith(RESTORED):
        return [f"waiting until {name.removesuffix(RESTORED)} has its sessions again"]
    lines = [f"    {line}" for line in _nginx_lines(step)] if name == NGINX_CONFIG else []
    return [COMMANDS[name], *lines] if name in COMMANDS else []


def _removed(name: str, *, former: bool) -> str:
    if not former:
        return f"draining and removing {name}"
    if name == "nginx":
        return "replacing nginx: connections are refused until the new one listens"
    return f"draining and removing the former {name}"


def ended(step: dict[str, Any]) -> list[str]:
    """Return what to say when the engine has ended a step."""
    taken = name_taken(step)
    return [f"{taken[0]} serves release {taken[1]}"] if taken else []


def name_taken(step: dict[str, Any]) -> tuple[str, str] | None:
    """Return the instance and the release where a step has let one take its name."""
    kind, name = name_of(step["urn"])
    if step["op"] in (*UNCHANGED, "delete", "delete-replaced") or kind != COMMAND or not name.endswith(SERVE):
        return None
    return named_release(step)


def named_release(step: dict[str, Any]) -> tuple[str, str]:
    """Return the instance and the release of the step of a command that gives an instance its name."""
    environment = ((step.get("new") or {}).get("inputs") or {}).get("environment") or {}
    return environment.get("INSTANCE", name_of(step["urn"])[1]), environment.get("RELEASE", "")


def _nginx_lines(step: dict[str, Any]) -> list[str]:
    """Return the lines of nginx's configuration that change, in its own words."""

    def text(state: Any) -> list[str]:
        found = ((state or {}).get("inputs") or {}).get("stdin")
        return found.splitlines() if isinstance(found, str) else []

    old, new = text(step.get("old")), text(step.get("new"))
    if not old:
        return []
    lines = [
        f"{line[0]} {line[1:].strip()}"
        for line in difflib.unified_diff(old, new, lineterm="", n=0)
        if not line.startswith(("---", "+++", "@@"))
    ]
    return [line for line in lines if not line[2:].startswith("return 200 ")]


class PulumiKeys:
    """A stack's keys, encrypted in its file."""

    def __init__(self, pulumi: Pulumi) -> None:
        self.pulumi = pulumi

    def read(self) -> tuple[str, list[str]]:
        """Return secret_key and secret_key_fallbacks."""
        return self.pulumi.secret("secret_key") or "", json.loads(self.pulumi.secret("secret_key_fallbacks") or "[]")

    def write_key(self, key: str) -> None:
        """Replace secret_key."""
        self.pulumi.set_secret("secret_key", key)

    def write_fallbacks(self, keys: list[str]) -> None:
        """Replace secret_key_fallbacks."""
        self.pulumi.set_secret("secret_key_fallbacks", json.dumps(keys))

    def keep_aside(self, keys: list[str]) -> str:
        """Keep keys encrypted beside the others: a file on this machine would be gone where a rotation runs in CI."""
        former = self.pulumi.secret(DROPPED_KEYS) or ""
        try:
            text = with_dropped(former, keys, time.strftime("%Y-%m-%d"))
        except ValueError as error:
            raise CommandError(f"cluster:{DROPPED_KEYS}: can't be read: {error}; remove it") from error
        self.pulumi.set_secret(DROPPED_KEYS, text)
        where = f"cluster:{DROPPED_KEYS}"
        return (
            f"{where} of the stack, encrypted, which nothing reads; when nothing needs the key any more: "
            f"pulumi config rm {where} --stack {self.pulumi.stack}"
        )


def keys(stack: Stack) -> PulumiKeys:
    """Return where the stack's keys are."""
    return PulumiKeys(Pulumi(stack.root, stack.name))


def sessions(stack: Stack) -> dict[str, Any] | None:
    """Return what an instance says of the session store; None where none says it."""
    docker = DockerStack(stack)
    return docker.engine.sessions(docker.label)


def data(stack: Stack) -> str:
    """Return in words what there is of a stack's data, and where."""
    return f"the database, sessions, uploads and secrets in the volumes of {DockerStack(stack).label}"


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
            before=lambda: _remove_orphans(docker, resources, tasks=True),
        )
    except PulumiError as error:
        raise CommandError(_explain(docker, error, pulumi)) from error
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
    from cluster.docker.reach import reach  # noqa: PLC0415 - most commands send no requests
    from cluster.verify import verify as verified  # noqa: PLC0415

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
        instance = labels[INSTANCE_LABEL] if release else role
        found.append(
            LogSource(
                name=f"{instance}-{release}" if release else role,
                words=frozenset({instance, f"{instance}-{release}"}),
                command=["docker", "logs", *options, container["Id"]],
                environment={**os.environ, **docker.engine.environment()},
            )
        )
    return found


def run_manage(stack: Stack, arguments: list[str]) -> int:
    """Run a management command in the serving release; return its exit status."""
    docker = DockerStack(stack)
    passed = [name for name in os.environ if name == "TERM" or name.startswith("DJANGO_SUPERUSER_")]
    terminal = ["--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else []
    variables = [word for name in passed for word in ("--env", name)]
    variables += ["--env", f"{MARKS_VARIABLE}={RUN}/{ENDED}"]
    return subprocess.run(
        [
            *("docker", "run", "--interactive", *terminal, *variables, *_beside_the_serving(docker)),
            *("python", "-P", "-m", "cluster_runtime.manage", *arguments),
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
    "run_manage",
    "run_rollback",
    "run_up",
    "sessions",
    "set_up",
    "status",
    "verify",
]
