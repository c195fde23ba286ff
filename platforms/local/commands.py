"""The commands on platform local."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import signal
import subprocess
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from cluster.adopting import left_behind
from cluster.asking import sessions_report
from cluster.config import StackFileError, load_stack
from cluster.config.load import STACKS
from cluster.config.models import DatabaseEngine
from cluster.console import say, tell, warn
from cluster.errors import CommandError
from cluster.render.nginx import NEW_NGINX, NginxConfig, render_nginx
from cluster.services import asked_by, refused_without
from cluster.sessions import Lasting, refusal, refused_loss, refused_rollback
from cluster.stack.history import History, locked
from cluster.stack.judge import judge
from cluster.stack.rotation import unverified_by
from cluster.stack.secrets import ensure_secrets, keep_dropped, write_secret
from cluster.topology import build_topology, site_url
from cluster_runtime.sessions.ended import ENDED, MARKS_VARIABLE
from cluster_runtime.status import SERVING
from platforms.base import InstanceStatus, LogSource, NginxStatus, Process, Status
from platforms.local.listeners import listening_ports, with_children
from platforms.local.nginx import NginxError, find_nginx
from platforms.local.orphans import stack_processes
from platforms.local.places import Places
from platforms.local.services import statuses
from platforms.local.state import is_instance, is_service

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.lint import Facts
    from cluster.stack.opened import Stack
    from cluster.verify import Check
    from platforms.local.builder import Release
    from platforms.local.cluster import LocalCluster
    from platforms.local.owner import Owner
    from platforms.local.plan import Plan
    from platforms.local.state import Observed


def paths(stack: Stack) -> Places:
    """Return where the stack is on this machine."""
    return Places(stack.root, stack.name)


def opened(stack: Stack) -> LocalCluster:
    """Return the cluster on this machine."""
    from platforms.local.cluster import LocalCluster  # noqa: PLC0415 - not every command looks at it

    return LocalCluster(paths(stack), stack.config, say)


def site_address(stack: Stack) -> str:
    """Return where the site answers on this machine."""
    return f"http://127.0.0.1:{stack.config.site.listen}"


def run_up(stack: Stack, *, pull: bool = False) -> None:
    """Plan, say so, do it, and prove it."""
    if pull:
        raise CommandError(
            f"--pull is for platform docker: it builds the images anew, with security updates; stack {stack.name} runs "
            "what this machine has installed (apt-get upgrade)"
        )
    cluster = opened(stack)
    gone = cluster.gone()
    if gone:
        raise CommandError(gone)
    cluster.restore_secrets()
    known = facts(stack)
    judge(stack.config, known)
    if cluster.owner.warning:
        warn(f"warning: {cluster.owner.warning}")
    with locked(paths(stack), f"up {stack.name}"):
        began = time.monotonic()
        cluster.recover()
        refused = refusal(stack.config, cluster.said_of_sessions(), lambda: sessions(stack))
        if refused:
            raise CommandError(refused)
        spec = cluster.specify()
        refused = cluster.refused_loss(spec)
        if refused:
            raise CommandError(refused)
        cluster.put_back(cluster.builder.find(spec.digest))
        plan = cluster.plan(spec.digest, dict(spec.parts))
        _print_plan(stack, plan)
        _keep_history(stack)
        if plan.is_empty:
            return
        project: dict[str, object] = {}

        def make() -> Release:
            release = cluster.builder.make(spec, cluster.topology)
            project.update(release.facts())
            judge(stack.config, known, project)
            _warn_of_database(stack, release, project)
            return release

        cluster.apply(plan, make)
        seconds = time.monotonic() - began
    tell(f"done in {seconds:.1f} s")
    checks = proved(stack, cluster, spec.digest)
    tell(f"verified: {sum(check.ok is True for check in checks)} checks; {url(stack)}")


def facts(stack: Stack) -> Facts:
    """Return what the lints may look at: what is known of this machine and of the other stacks on it."""
    from cluster.lint import Facts  # noqa: PLC0415 - most commands judge nothing

    try:
        nginx = find_nginx()[1]
    except NginxError:
        nginx = None  # `up` says so
    secrets = paths(stack).secrets
    return Facts(
        root=stack.root,
        nginx=nginx,
        secrets=frozenset(path.name for path in secrets.iterdir()) if secrets.is_dir() else frozenset(),
        other_listens=_other_listens(stack),
        privileged=os.geteuid() == 0,
        stack=stack.name,
        now=dt.datetime.now(dt.UTC),
    )


def _other_listens(stack: Stack) -> dict[int, str]:
    """Return the ports of other stacks on this machine."""
    found = {}
    for path in sorted((stack.root / STACKS).glob("Pulumi.*.yaml")):
        name = path.name[7:-5]
        if name == stack.name:
            continue
        try:
            other = load_stack(stack.root, name)
        except StackFileError:
            continue  # its own commands say so
        if other.platform is stack.config.platform:
            found[other.site.listen] = name
    return found


def _keep_history(stack: Stack) -> None:
    """Write the history again where it was hurt."""
    history = History.load(paths(stack))
    if history.found:
        say(f"{paths(stack).history.name} {history.found}: written again from what is in {paths(stack).releases.name}")
        history.save(paths(stack))


def _warn_of_database(stack: Stack, release: Release, facts: dict[str, object]) -> None:
    """Say at the first `up` that the project's own sqlite database is in use, and not what this stack begins with."""
    database = stack.config.database
    if database is not None and database.engine is DatabaseEngine.SQLITE:
        project = (stack.root / stack.config.app.project).resolve()
        line = left_behind(paths(stack), project, release.project, facts)
        if line:
            warn(f"warning: {line}")


def url(stack: Stack) -> str:
    """Return the address to open in a browser."""
    return site_url(stack.config)


def _print_plan(stack: Stack, plan: Plan) -> None:
    lines = plan.lines()
    if plan.is_empty:
        tell(f"stack {stack.name}: no changes; release {plan.release} serves at {url(stack)}")
        return
    tell(f"stack {stack.name}:")
    for line in lines:
        tell(f"  {line}")


def run_rollback(stack: Stack, to: str | None) -> None:
    """Let a former release serve."""
    cluster = opened(stack)
    with locked(paths(stack), f"rollback {stack.name}"):
        cluster.recover()
        history = History.load(paths(stack))
        digest = to or history.former()
        if digest is None:
            raise CommandError("there is no release before the one that serves")
        cluster.builder.mend_environment(digest)
        release = cluster.builder.find(digest)
        if release is None:
            hurt = ", ".join(cluster.builder.hurt(digest))
            if hurt:
                raise CommandError(
                    f"release {digest} was hurt ({hurt}) and can't serve again: put its code back and say `cluster up`"
                )
            known = ", ".join(history.releases) or "none"
            raise CommandError(f"release {digest} is not here; known: {known}")
        runtime, said = release.runtime(), cluster.said_of_sessions()
        refused = refused_rollback(digest, runtime, said) or refused_without(stack.config, digest, runtime)
        refused = refused or unverified_by(release.secrets(), keys(stack).read()[0], digest)
        lasting = Lasting.of(runtime["sessions"]["path"], runtime["database"], release.secrets())
        refused = refused or refused_loss(said, lasting) or cluster.refused_hiding(runtime["shared"], digest)
        if refused:
            raise CommandError(refused)
        plan = cluster.plan(digest, release.parts())
        _print_plan(stack, plan)
        if plan.is_empty:
            return
        cluster.apply(plan, lambda: release, rolled_back=True)
    proved(stack, cluster, digest)
    tell(f"release {digest} serves. The next `cluster up` follows the stack file and the code again.")


class LocalKeys:
    """A stack's keys, in files that only their owner reads."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def read(self) -> tuple[str, list[str]]:
        """Return secret_key and secret_key_fallbacks."""
        found = ensure_secrets(self.directory)
        return found["secret_key"], json.loads(found.get("secret_key_fallbacks") or "[]")

    def write_key(self, key: str) -> None:
        """Replace secret_key."""
        write_secret(self.directory / "secret_key", key)

    def write_fallbacks(self, keys: list[str]) -> None:
        """Replace secret_key_fallbacks."""
        write_secret(self.directory / "secret_key_fallbacks", json.dumps(keys))

    def keep_aside(self, keys: list[str]) -> str:
        """Keep keys in a file beside the secrets."""
        path = keep_dropped(self.directory, keys, time.strftime("%Y-%m-%d"))
        return f"{path}, 0600, which nothing reads; delete it when nothing needs the key any more"


def keys(stack: Stack) -> LocalKeys:
    """Return where the stack's keys are."""
    return LocalKeys(paths(stack).secrets)


def sessions(stack: Stack) -> dict[str, Any] | None:
    """Return what an instance says of the session store; None where none says it."""
    return sessions_report(str(paths(stack).nginx_socket))


def data(stack: Stack) -> str:
    """Return in words what there is of a stack's data, and where."""
    jobs = "jobs, " if stack.config.broker is not None else ""
    return f"the database, sessions, uploads, {jobs}secrets and releases in {paths(stack).state}"


def down(stack: Stack, *, delete_data: bool) -> bool:
    """Stop everything; with `delete_data` remove what the stack keeps."""
    places = paths(stack)
    if not places.state.exists() and not stack_processes(places):
        return False
    cluster = opened(stack)
    with locked(places, f"down {stack.name}"):
        cluster.down()
        if delete_data:
            shutil.rmtree(places.run, ignore_errors=True)
            shutil.rmtree(places.state)
    return True


# --- looking


def status(stack: Stack) -> Status:
    """Look at what runs."""
    cluster = opened(stack)
    observed = cluster.observe()
    history = History.load(paths(stack))
    instances = [_instance(name, cluster, observed, history.current) for name in cluster.topology.names]
    nginx = NginxStatus(
        digest=observed.nginx,
        current=observed.nginx == cluster.nginx_config().digest,
        runs=observed.silent or observed.nginx is not None,
        version=_version(cluster.nginx.version),
    )
    troubles = cluster.troubles(observed, history)
    current = history.current
    kinds = cluster.runnable(current) if current else None
    services = statuses(cluster.topology, cluster.places, observed, current, kinds)
    well = nginx.current and all(one.ok for one in instances) and all(one.ok for one in services)
    notes = []
    if cluster.nginx.version != cluster.nginx.installed:
        notes.append(
            f"nginx {nginx.version} runs, and {_version(cluster.nginx.installed)} is installed: `cluster down`, "
            "`cluster up` loads it"
        )
    return Status(
        ok=well and history.current is not None and not troubles,
        release=history.current,
        releases=history.releases,
        nginx=nginx,
        store=sessions(stack) if observed.nginx else None,
        instances=instances,
        services=services,
        troubles=troubles,
        notes=notes,
    )


def _version(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _instance(name: str, cluster: LocalCluster, observed: Observed, current: str | None) -> InstanceStatus:
    holder = observed.holders.get(name)
    processes = []
    for running in observed.of(name):
        said = running.status or {}
        processes.append(
            Process(
                release=running.release,
                state=running.state,
                since=said.get("since"),
                pid=running.process.pid,
                container=None,
                message=said.get("message", ""),
                sessions=said.get("sessions"),
            )
        )
    serving = [process for process in processes if process.state == SERVING]
    return InstanceStatus(
        instance=name,
        share=round(float(cluster.topology.instance(name).share), 6),
        release=holder,
        ok=len(serving) == 1 and serving[0].release == holder == current,
        processes=processes,
    )


def checked(stack: Stack, cluster: LocalCluster, release: str) -> list[Check]:
    """Check with real requests that `release` serves, and everything else."""
    from cluster.verify import Reach  # noqa: PLC0415 - most commands send no requests
    from cluster.verify import verify as verified  # noqa: PLC0415
    from cluster_runtime.names import Name  # noqa: PLC0415

    def intruders() -> list[str]:
        processes = cluster.supervisor.processes()
        nginx = with_children({processes["nginx"].pid}) if "nginx" in processes else set()
        others = {process.pid for process in processes.values() if process.pid} - nginx
        return [f"process {pid} on port {port}" for pid, port in listening_ports(others) if pid not in nginx]

    ways = Reach(
        internal=str(paths(stack).nginx_socket),
        instances={name: str(Name(paths(stack).run, name).link) for name in cluster.topology.names},
        address=site_address(stack),
        release=release,
        intruders=intruders,
    )
    return verified(cluster.topology, ways)


def proved(stack: Stack, cluster: LocalCluster, release: str) -> list[Check]:
    """Return the checks; CommandError where one failed."""
    from cluster.verify import fail_unverified  # noqa: PLC0415 - most commands send no requests

    checks = checked(stack, cluster, release)
    fail_unverified(checks)
    return checks


def verify(stack: Stack) -> list[Check]:
    """Check what serves with real requests; CommandError where nothing does."""
    cluster = opened(stack)
    current = History.load(paths(stack)).current
    if current is None or cluster.nginx.live_digest() is None:
        trouble = cluster.troubles(cluster.observe(), History.load(paths(stack)))
        words = "is not up" if not trouble else f"does not answer: {trouble[0]}"
        raise CommandError(f"stack {stack.name} {words}; `cluster up {stack.name}` starts it")
    return checked(stack, cluster, current)


def nginx_config(stack: Stack) -> NginxConfig:
    """Return nginx's configuration as `up` would put it in place; for a new nginx where there is none here."""
    try:
        return opened(stack).nginx_config()
    except (NginxError, CommandError):
        return render_nginx(build_topology(stack.config), paths(stack).nginx_places(None), NEW_NGINX)


def set_up(stack: Stack) -> None:
    """Say that nothing is to be made: the first `up` does it."""
    raise CommandError(f"stacks/Pulumi.{stack.name}.yaml is there already; next: cluster up {stack.name}")


def logs(stack: Stack, *, lines: int, follow: bool) -> list[LogSource]:
    """Return the log of each instance's releases, and nginx's, Supervisor's and the nodes'."""
    directory = paths(stack).logs
    options = [f"--lines={lines}", *(["--follow=name", "--retry"] if follow else [])]
    return [
        LogSource(name=path.stem, words=_words_for(path.stem), command=["tail", *options, str(path)])
        for path in (sorted(directory.glob("*.log")) if directory.is_dir() else [])
    ]


def _words_for(log: str) -> frozenset[str]:
    """Return by which words a log is asked for: an instance's or a service's by its name too, and nginx's by nginx."""
    if is_service(log):
        name = log.partition("@")[0]
        return frozenset({log, *asked_by(name)})
    of_nginx = {"nginx"} if log in ("error", "access") else set()
    of_instance = {log.rpartition("-")[0]} if is_instance(log) else set()
    return frozenset({log, *of_instance, *of_nginx})


def run_program(stack: Stack, words: list[str]) -> int:
    """Run a program once in the serving release, as the instances' user; return its exit status."""
    cluster = opened(stack)
    current = History.load(paths(stack)).current
    release = cluster.builder.find(current) if current else None
    if release is None:
        hurt = ", ".join(cluster.builder.hurt(current))
        if hurt:
            raise CommandError(f"release {current} was hurt ({hurt}); `cluster up {stack.name}` mends it")
        raise CommandError(f"stack {stack.name} has no release yet; `cluster up {stack.name}` makes one")
    environment = release.environment()
    passed = {"TERM", "HOME", "COLUMNS", "LINES"}
    environment |= {
        name: value for name, value in os.environ.items() if name in passed or name.startswith("DJANGO_SUPERUSER_")
    }
    environment[MARKS_VARIABLE] = str(paths(stack).run / ENDED)
    command = [release.python, "-P", "-m", "cluster_runtime.program", *words]
    return _run_as_owner(command, cluster.owner, release.project, environment)


def _run_as_owner(command: list[str], owner: Owner, directory: Path, environment: dict[str, str]) -> int:
    """Run a command of the project as the instances' user, with this terminal's input and output; return its status.

    Where that is another user it gets a session of its own: from within this one it could type into root's terminal.
    Interrupts are passed on to it instead.
    """
    with subprocess.Popen(
        command,
        env=environment,
        start_new_session=owner.changed,
        preexec_fn=partial(os.chdir, directory),  # noqa: PLW1509 - as that user: what leads there may be its to change
        **owner.subprocess_options(),
    ) as process:
        if not owner.changed:
            return process.wait()
        former = signal.signal(signal.SIGINT, lambda *_what: process.send_signal(signal.SIGINT))
        try:
            status = process.wait()
        finally:
            signal.signal(signal.SIGINT, former)
        return status if status >= 0 else 128 - status  # as a shell says by which signal it ended


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
