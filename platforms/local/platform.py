"""A stack on this machine, as the commands ask for it."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import time
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from cluster.acme.kept import Store
from cluster.asking import sessions_report
from cluster.config import StackFileError, load_stack
from cluster.config.models import DatabaseEngine
from cluster.endpoints import Endpoint
from cluster.errors import CommandError
from cluster.machine.nginx import NginxError, find_nginx, has_http3
from cluster.plan.shown import text
from cluster.render.nginx import NginxConfig, render_nginx
from cluster.render.versions import NEW_NGINX
from cluster.services import asked_by, refused_without
from cluster.sessions import Lasting, refusal, refused_loss, refused_rollback
from cluster.stack.history import History, locked
from cluster.stack.paths import STACKS
from cluster.stack.rotation import ProgressFile, unverified_by
from cluster.stack.secrets import ensure_secrets, keep_dropped, write_secret
from cluster.tls.certificates import named
from cluster.topology import build_topology
from cluster_runtime.sessions.ended import ENDED, MARKS_VARIABLE
from cluster_runtime.status import SERVING
from platforms.base import (
    Applied,
    Change,
    Forward,
    InstanceStatus,
    Invocation,
    LogSource,
    NginxStatus,
    Process,
    Shared,
    Status,
)
from platforms.local.adopting import left_behind
from platforms.local.lasting import gone_of, secrets_of
from platforms.local.listeners import listening_ports, with_children
from platforms.local.maintaining import Keeping
from platforms.local.orphans import stack_processes
from platforms.local.paths import LocalPaths
from platforms.local.planning import Planning, by_hand
from platforms.local.services import statuses
from platforms.local.state import is_instance, is_service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from cluster.checks import Check
    from cluster.lint import Facts
    from cluster.maintenance import Maintained, Maintenance
    from cluster.plan import Planned
    from cluster.release import ReleaseSpec
    from cluster.stack.opened import Stack
    from platforms.base import Back, Gate, Voice
    from platforms.local.cluster import LocalCluster
    from platforms.local.plan import Plan
    from platforms.local.release import Release
    from platforms.local.state import Observed


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

    def progress(self, state: Path) -> ProgressFile:
        """Return the file that says how far a rotation is."""
        return ProgressFile(state / "rotation.json")


class LocalPlatform:
    """A stack on this machine."""

    def __init__(self, stack: Stack, voice: Voice) -> None:
        self.stack = stack
        self.voice = voice
        self.paths = LocalPaths(stack.root, stack.name)

    @cached_property
    def cluster(self) -> LocalCluster:
        """The cluster on this machine: as root nothing of it is believed that another user could have written."""
        from platforms.local.cluster import LocalCluster  # noqa: PLC0415 - not every command looks at it

        return LocalCluster(self.paths, self.stack.config, self.voice.say)

    def facts(self) -> Facts:
        """Return what the lints may look at: what is known of this machine and of the other stacks on it."""
        from cluster.lint import Facts  # noqa: PLC0415 - most commands judge nothing

        nginx = http3 = None
        try:
            program, nginx = find_nginx()
            http3 = has_http3(program) if self.stack.config.site.http3 else None
        except NginxError:
            pass  # `up` says so
        return Facts(
            root=self.stack.root,
            nginx=nginx,
            http3=http3,
            secrets=secrets_of(self.paths),
            other_listens=_other_listens(self.stack),
            privileged=os.geteuid() == 0,
            stack=self.stack.name,
            now=dt.datetime.now(dt.UTC),
            issued=Store(self.paths.acme).said().issued,
        )

    def set_up(self, shared: Shared) -> None:
        """Say that nothing is to be made: the first `up` does it."""
        name = self.stack.name
        if shared != Shared():
            raise CommandError(
                f"--backend: stack {name} is on this machine alone: it has no state that others could share"
            )
        raise CommandError(f"stacks/Pulumi.{name}.yaml is there already; next: cluster up {name}")

    # --- changing

    def plan(self, wanted: Forward | Back) -> Planned:
        """Look at what is to be done, and change nothing."""
        self._check(wanted)
        if isinstance(wanted, Forward):
            return self._planning.forward(self.sessions())
        plan, release = self._planned_back(wanted)
        return self._planning.told(plan, release)

    @property
    def _planning(self) -> Planning:
        return Planning(self.cluster, self.stack.name, self.facts())

    def _check(self, wanted: Forward | Back) -> None:
        """Refuse what can't be had here; CommandError says why."""
        if isinstance(wanted, Forward) and wanted.pull:
            raise CommandError(
                "--pull is for platform docker: it builds the images anew, with security updates; stack "
                f"{self.stack.name} runs what this machine has installed (apt-get upgrade)"
            )
        gone = gone_of(self.paths)
        if gone:
            raise CommandError(gone)

    @contextmanager
    def change(self, wanted: Forward | Back, gate: Gate) -> Iterator[Change]:
        """Look at what is to be done, and keep others from changing the stack until it is left."""
        name = self.stack.name
        self._check(wanted)
        facts = self.facts()
        gate(self.stack.config, facts)
        if self.cluster.owner.warning:
            self.voice.warn(self.cluster.owner.warning)
        with locked(self.paths, f"{'up' if isinstance(wanted, Forward) else 'rollback'} {name}"):
            self.cluster.restore_secrets()
            self.cluster.recover()
            yield (
                self._forward(partial(gate, self.stack.config, facts))
                if isinstance(wanted, Forward)
                else self._back(wanted)
            )

    def _forward(self, judge: Callable[[dict[str, object]], None]) -> Change:
        """Return what makes the cluster what its stack file and its code say; `judge` is told what the project is."""
        cluster, config = self.cluster, self.stack.config
        refused = refusal(config, cluster.said_of_sessions(), self.sessions)
        if refused:
            raise CommandError(refused)
        spec = cluster.specify()
        refused = cluster.refused_loss(spec)
        if refused:
            raise CommandError(refused)
        cluster.put_back(cluster.builder.find(spec.digest))
        plan = cluster.plan(spec.digest, dict(spec.parts))
        self._keep_history()

        def make() -> Release:
            release = cluster.builder.make(spec, cluster.topology)
            project = release.facts()
            judge(project)
            self._warn_of_database(release, project)
            return release

        return self._change(plan, spec, make)

    def _back(self, wanted: Back) -> Change:
        """Return what lets a former release serve."""
        self.cluster.builder.mend_environment(History.load(self.paths).back_to(wanted.release))
        plan, release = self._planned_back(wanted)
        return self._change(plan, release, lambda: release, rolled_back=True)

    def _planned_back(self, wanted: Back) -> tuple[Plan, Release]:
        """Return what is to be done for a former release to serve; CommandError says why it must not."""
        cluster, config = self.cluster, self.stack.config
        history = History.load(self.paths)
        digest = history.back_to(wanted.release)
        release = cluster.builder.find(digest)
        if release is None:
            hurt = ", ".join(cluster.builder.hurt(digest))
            if hurt:
                raise CommandError(
                    f"release {digest} was hurt ({hurt}) and can't serve again: put its code back and say `cluster up`"
                )
            raise history.not_here(digest)
        runtime, said = release.runtime(), cluster.said_of_sessions()
        lasting = Lasting.of(runtime["sessions"]["path"], runtime["database"], release.secrets())
        refused = (
            refused_rollback(digest, runtime, said)
            or refused_without(config, digest, runtime)
            or unverified_by(release.secrets(), cluster.known_secrets().get("secret_key", ""), digest)
            or refused_loss(said, lasting)
            or cluster.refused_hiding(runtime["shared"], digest)
        )
        if refused:
            raise CommandError(refused)
        return cluster.plan(digest, release.parts()), release

    def _change(
        self, plan: Plan, wanted: ReleaseSpec | Release, make: Callable[[], Release], *, rolled_back: bool = False
    ) -> Change:
        def apply() -> Applied:
            if not plan.is_empty:
                self.cluster.apply(plan, make, rolled_back=rolled_back)
            return Applied(
                release=plan.release,
                changed=not plan.is_empty,
                checks=lambda: self._checked(plan.release),
                maintenance=self.cluster.maintaining.keeping.found(),
            )

        return Change(lines=[] if plan.is_empty else text(self._planning.told(plan, wanted)), apply=apply)

    def _keep_history(self) -> None:
        """Write the history again where it was hurt."""
        history, ours = History.load(self.paths), self.paths
        if history.found:
            self.voice.say(f"{ours.history.name} {history.found}: written again from what is in {ours.releases.name}")
            history.save(ours)

    def _warn_of_database(self, release: Release, facts: dict[str, object]) -> None:
        """Say at the first `up` that this stack does not begin with what the project's own sqlite database has."""
        config = self.stack.config
        if config.database is not None and config.database.engine is DatabaseEngine.SQLITE:
            project = (self.stack.root / config.app.project).resolve()
            line = left_behind(self.paths, project, release.project, facts)
            if line:
                self.voice.warn(line)

    def maintenance(self, wanted: Maintenance | None) -> Maintained:
        """Let visitors get a page in place of the site, or the site again for None."""
        gone = gone_of(self.paths)
        if gone:
            raise CommandError(gone)
        with locked(self.paths, f"maintenance {self.stack.name}"):
            return self.cluster.maintaining.maintain(wanted)

    def maintained(self) -> Maintenance | None:
        """Return what visitors are told in place of the site; None where they get the site."""
        return Keeping(self.paths).load()

    def keys(self) -> LocalKeys:
        """Return where the stack's keys are."""
        return LocalKeys(self.paths.secrets)

    def hosts_keys(self) -> None:
        """Return None: there is no other host to be known by."""

    def sessions(self) -> dict[str, Any] | None:
        """Return what an instance says of the session store; None where none says it."""
        return sessions_report(str(self.paths.nginx_socket))

    def data(self) -> str:
        """Return in words what there is of a stack's data, and where."""
        kept = "".join(f"{service.kept}, " for service in build_topology(self.stack.config).services if service.kept)
        return f"the database, sessions, uploads, {kept}secrets and releases in {self.paths.state}"

    def down(self, *, delete_data: bool) -> bool:
        """Stop everything; with `delete_data` remove what the stack keeps."""
        if not self.paths.state.exists() and not stack_processes(self.paths):
            return False
        cluster = self.cluster
        with locked(self.paths, f"down {self.stack.name}"):
            cluster.down()
            if delete_data:
                shutil.rmtree(self.paths.run, ignore_errors=True)
                shutil.rmtree(self.paths.state)
        return True

    # --- looking

    def drift(self) -> Sequence[str]:
        """Return what was changed by hand, or is broken, beside what the last `up` made."""
        history = History.load(self.paths)
        return [] if history.current is None else by_hand(self.cluster, history)

    def status(self) -> Status:
        """Look at what runs."""
        cluster = self.cluster
        observed = cluster.observe()
        history = History.load(self.paths)
        current = history.current
        instances = [_instance(name, cluster, observed, current) for name in cluster.topology.names]
        nginx = NginxStatus(
            digest=observed.nginx,
            current=observed.nginx == cluster.nginx_config().digest,
            runs=observed.silent or observed.nginx is not None,
            version=_version(cluster.nginx.version),
        )
        troubles = cluster.troubles(observed, history)
        kinds = cluster.runnable(current) if current else None
        services = statuses(cluster.topology, cluster.paths, observed, current, kinds)
        well = nginx.current and all(one.ok for one in instances) and all(one.ok for one in services)
        notes = []
        if cluster.nginx.version != cluster.nginx.installed:
            notes.append(
                f"nginx {nginx.version} runs, and {_version(cluster.nginx.installed)} is installed: `cluster down`, "
                "`cluster up` loads it"
            )
        hurt = cluster.maintaining.hurt()
        notes += [hurt] if hurt else []
        return Status(
            ok=well and current is not None and not troubles,
            release=current,
            releases=history.releases,
            nginx=nginx,
            store=self.sessions() if observed.nginx else None,
            instances=instances,
            services=services,
            maintenance=cluster.maintaining.keeping.found(),
            troubles=troubles,
            notes=notes,
        )

    def verify(self) -> list[Check]:
        """Check what serves with real requests; CommandError where nothing does."""
        cluster, name = self.cluster, self.stack.name
        history = History.load(self.paths)
        if history.current is None or cluster.nginx.live_digest() is None:
            trouble = cluster.troubles(cluster.observe(), history)
            words = "is not up" if not trouble else f"does not answer: {trouble[0]}"
            raise CommandError(f"stack {name} {words}; `cluster up {name}` starts it")
        return self._checked(history.current)

    def _checked(self, release: str) -> list[Check]:
        """Check with real requests that `release` serves, and everything else."""
        from cluster.verify import Endpoints, verify  # noqa: PLC0415 - most commands send no requests

        cluster = self.cluster

        def intruders() -> list[str]:
            processes = cluster.supervisor.processes()
            nginx = with_children({processes["nginx"].pid}) if "nginx" in processes else set()
            others = {process.pid for process in processes.values() if process.pid} - nginx
            return [f"process {pid} on port {port}" for pid, port in listening_ports(others) if pid not in nginx]

        there = Endpoints(
            internal=Endpoint(path=str(self.paths.nginx_socket)),
            instances=self.paths.endpoints(cluster.topology),
            site=Endpoint(host="127.0.0.1", port=self.stack.config.site.listen),
            release=release,
            intruders=intruders,
            authority=self.paths.shown_authority(),
        )
        return verify(cluster.topology, there)

    def nginx_config(self) -> NginxConfig:
        """Return nginx's configuration as `up` would put it in place; for a new nginx where there is none here."""
        try:
            return self.cluster.nginx_config()
        except (NginxError, CommandError):
            topology = build_topology(self.stack.config)
            certificate = named(self.stack.config, self.stack.root, dt.datetime.now(dt.UTC))
            return render_nginx(topology, self.paths.nginx_paths(topology, None), NEW_NGINX, certificate)

    def logs(self, *, lines: int, follow: bool) -> list[LogSource]:
        """Return the log of each instance's releases, and nginx's, Supervisor's and the nodes'."""
        directory = self.paths.logs
        options = [f"--lines={lines}", *(["--follow=name", "--retry"] if follow else [])]
        return [
            LogSource(
                name=path.stem,
                words=_words_for(path.stem),
                printed=Invocation(command=["tail", *options, str(path)]),
            )
            for path in (sorted(directory.glob("*.log")) if directory.is_dir() else [])
        ]

    def program(self, words: Sequence[str], *, terminal: bool) -> Invocation:  # noqa: ARG002 - it is inherited here
        """Return how a program runs once in the serving release, as the instances' user."""
        cluster, name = self.cluster, self.stack.name
        current = History.load(self.paths).current
        release = cluster.builder.find(current) if current else None
        if release is None:
            hurt = ", ".join(cluster.builder.hurt(current))
            if hurt:
                raise CommandError(f"release {current} was hurt ({hurt}); `cluster up {name}` mends it")
            raise CommandError(f"stack {name} has no release yet; `cluster up {name}` makes one")
        passed = {"TERM", "HOME", "COLUMNS", "LINES"}
        given = {
            name: value for name, value in os.environ.items() if name in passed or name.startswith("DJANGO_SUPERUSER_")
        }
        return Invocation(
            command=[release.python, "-P", "-m", "cluster_runtime.program", *words],
            environment={**release.environment(), **given, MARKS_VARIABLE: str(self.paths.run / ENDED)},
            directory=release.project,
            identity=cluster.owner.subprocess_options(),
        )


def _other_listens(stack: Stack) -> dict[int, str]:
    """Return the ports of other stacks on this machine."""
    found: dict[int, str] = {}
    for path in sorted((stack.root / STACKS).glob("Pulumi.*.yaml")):
        name = path.name[7:-5]
        if name == stack.name:
            continue
        try:
            other = load_stack(stack.root, name)
        except StackFileError:
            continue  # its own commands say so
        if other.platform is stack.config.platform:
            found |= dict.fromkeys(other.site.listeners, name)
    return found


def _version(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _instance(name: str, cluster: LocalCluster, observed: Observed, current: str | None) -> InstanceStatus:
    holder = observed.holders.get(name)
    processes = [
        Process.of(
            running.status or {}, release=running.release, state=running.state, lives=True, pid=running.process.pid
        )
        for running in observed.of(name)
    ]
    serving = [process for process in processes if process.state == SERVING]
    return InstanceStatus(
        instance=name,
        share=round(float(cluster.topology.instance(name).share), 6),
        release=holder,
        ok=len(serving) == 1 and serving[0].release == holder == current,
        processes=processes,
    )


def _words_for(log: str) -> frozenset[str]:
    """Return by which words a log is asked for: an instance's or a service's by its name too, and nginx's by nginx."""
    if is_service(log):
        name = log.partition("@")[0]
        return frozenset({log, *asked_by(name)})
    of_nginx = {"nginx"} if log in ("error", "access") else set()
    of_instance = {log.rpartition("-")[0]} if is_instance(log) else set()
    return frozenset({log, *of_instance, *of_nginx})


def platform(stack: Stack, voice: Voice) -> LocalPlatform:
    """Return the stack on this machine."""
    return LocalPlatform(stack, voice)


__all__ = ["LocalKeys", "LocalPlatform", "platform"]
