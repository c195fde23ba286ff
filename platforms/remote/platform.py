"""A stack on hosts, as the commands ask for it."""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import subprocess
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from cluster.config.models import HOSTS_KEY
from cluster.errors import CommandError
from cluster.lint.hosts import hosts_fit
from cluster.placement import place
from cluster.plan import Planned
from cluster.plan.judged import forbidding
from cluster.plan.shown import text
from cluster.render.maintenance import digest_of, render_maintenance
from cluster.stack.history import KEPT_RELEASES
from cluster.tls.certificates import named
from cluster.tls.hosts_keys import new_hosts_key
from cluster.topology import build_topology
from platforms.base import RELEASE_VARIABLE, Applied, Back, Change, Forward, Invocation, LogSource, Status
from platforms.pulumi.backend import share
from platforms.pulumi.engine import PolicyError, Pulumi, PulumiError, warm
from platforms.pulumi.kept_stack import keep_stack
from platforms.pulumi.keys import PulumiHostsKeys, PulumiKeys, make_secrets, secrets_there
from platforms.pulumi.looking import looking
from platforms.pulumi.planning import state_of
from platforms.pulumi.policing import tell_disabled
from platforms.pulumi.preview import Preview
from platforms.remote.closing import Closing, end, reloaded, will_reload
from platforms.remote.host.paths import HostPaths
from platforms.remote.host.releases import in_release
from platforms.remote.kept import history_of
from platforms.remote.logs import Logs
from platforms.remote.looked import (
    Seen,
    check_name,
    facts_of,
    handed,
    look,
    look_around,
    look_at_former,
    said_of_sessions,
)
from platforms.remote.made import needs_hosts_key
from platforms.remote.misplaced import let_go
from platforms.remote.observe import Observed, told
from platforms.remote.passed_on import pass_on, sources
from platforms.remote.paths import RemotePaths, nginx_config, written
from platforms.remote.planning import Site, drifted, plan, previewed
from platforms.remote.progress import Progress, host_of
from platforms.remote.settling import await_certificates, forget_archives, shut_out, tidied
from platforms.remote.ssh import LOOK_SECONDS, AwayError, HostError, Ssh
from platforms.remote.verifying import Verifying

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from cluster.checks import Check
    from cluster.lint import Facts
    from cluster.maintenance import Maintained, Maintenance
    from cluster.placement import Placement
    from cluster.render.nginx import NginxConfig
    from cluster.stack.opened import Stack
    from platforms.base import Gate, Shared, Voice
    from platforms.pulumi.engine import Changes


class RemotePlatform:
    """A stack on hosts."""

    def __init__(self, stack: Stack, voice: Voice) -> None:
        self.stack = stack
        self.voice = voice
        self.paths = RemotePaths(stack.root, stack.name)
        self.topology = build_topology(stack.config)
        self.places = HostPaths(stack.name)

    @cached_property
    def pulumi(self) -> Pulumi:
        """The stack in Pulumi's words, which is installed where it is missing."""
        return Pulumi(self.stack.root, self.stack.name, self.voice.say, f"{__package__}.program")

    @cached_property
    def ssh(self) -> Ssh:
        """The way to the hosts; CommandError where none is named."""
        check_name(self.stack.name)
        if not self.stack.config.hosts:
            raise CommandError("hosts: none is named: platform remote runs on hosts")
        ssh = Ssh(self.stack.root, self.paths.ssh, self.stack.name, tuple(self.stack.config.hosts))
        ssh.write()
        return ssh

    @cached_property
    def placement(self) -> Placement:
        """Which host runs what."""
        return place(self.topology)

    def look(self) -> Seen:
        """Look at all hosts at once; HostError where one is away."""
        return look(self.ssh, self.topology)

    def observe(self) -> Observed:
        """Look at what runs, as far as hosts answer."""
        return self._observed(look_around(self.ssh, self.topology))

    def _observed(self, seen: Seen) -> Observed:
        certificate = named(self.stack.config, self.stack.root, dt.datetime.now(dt.UTC))
        return Observed(seen=seen, topology=self.topology, places=self.places, certificate=certificate)

    def facts(self) -> Facts:
        """Return what the lints may look at; who only looks needs no host that answers."""
        stack = self.stack
        with contextlib.suppress(HostError, CommandError):  # a host that is away is told by what needs it
            return self._seen()[1]
        return facts_of(stack.root, stack.name, self._secrets(), None)

    # --- changing

    def set_up(self, shared: Shared) -> None:
        """Set Pulumi and the stack up."""
        self.look()
        share(self.pulumi, shared)
        self._set_up()

    def _set_up(self) -> None:
        self.pulumi.set_up()
        make_secrets(self.pulumi, self.stack.config, self.paths.authority, self.voice.say)
        if needs_hosts_key(self.topology) and not self.pulumi.has_secret(HOSTS_KEY):
            self.pulumi.set_secret(HOSTS_KEY, new_hosts_key())

    def plan(self, wanted: Forward | Back) -> Planned:
        """Look at what is to be done, and change nothing."""
        warm(lambda: self.pulumi)
        seen, facts = self._seen()
        if seen is None:
            return Planned(stack=self.stack.name, changes=True, refused=tuple(forbidding(self.stack.config, facts)))
        return plan(self._site(wanted, seen, facts), lambda: self.pulumi)

    def _seen(self) -> tuple[Seen | None, Facts]:
        """Look at the hosts, where the stack file has hosts that can be, and return what the lints may look at."""
        stack = self.stack
        plain = facts_of(stack.root, stack.name, self._secrets(), None)
        if not hosts_fit(stack.config, plain):
            return None, plain
        seen = self.look()
        return seen, facts_of(stack.root, stack.name, self._secrets(), seen)

    def _site(self, wanted: Forward | Back, seen: Seen, facts: Facts) -> Site:
        certificate = named(self.stack.config, self.stack.root, dt.datetime.now(dt.UTC))
        former = {RELEASE_VARIABLE: self._former(wanted, seen)} if isinstance(wanted, Back) else {}
        return Site(self.stack, self.paths, self.ssh, seen, facts, certificate, former)

    @contextmanager
    def change(self, wanted: Forward | Back, gate: Gate) -> Iterator[Change]:
        """Say what is to be done, by the engine's preview; while it does it, its own lock keeps others away."""
        if isinstance(wanted, Forward) and wanted.pull:
            raise CommandError("--pull is for platforms whose services are containers; a host's packages are its own")
        warm(lambda: self.pulumi)
        # What keeps the hosts from being what they should, first the stack file's part of it.
        seen, facts = self._seen()
        gate(self.stack.config, facts)
        assert seen is not None  # noqa: S101 - the gate refuses what does not fit
        if isinstance(wanted, Forward):
            seen.check_room()
        site = self._site(wanted, seen, facts)
        self._set_up()
        with contextlib.closing(Closing(self._start)) as closing:
            closing.begin(will_reload(site.hosts))
            try:
                planned, changes = previewed(site, self.pulumi)
            except PolicyError as error:
                raise CommandError(str(error)) from error
            except PulumiError as error:
                raise _failed(error) from error
            closing.go_on(site, planned)
            lines = text(planned) if planned.changes else []
            if not lines:
                tell_disabled(self.stack.config, self.voice)
            yield Change(lines=lines, apply=lambda: self._apply(site, planned, changes))

    def _secrets(self) -> frozenset[str]:
        return secrets_there(self.stack.root, self.stack.name)

    def _former(self, wanted: Back, seen: Seen) -> str:
        """Return the release that is to serve again."""
        history = history_of(self.paths, seen)
        serving = Observed(seen=seen, topology=self.topology, places=self.places, certificate=None).release
        if serving is not None and serving != history.current:
            history.served(serving)
            self.paths.state.mkdir(parents=True, exist_ok=True)
            history.save(self.paths)
        digest = history.back_to(wanted.release)
        if sources(seen, digest) is None:
            raise history.not_here(digest)
        return digest

    def _apply(self, site: Site, planned: Planned, changes: Changes) -> Applied:
        """Let Pulumi do what it has previewed."""
        verifying = self._verifying()
        progress = self._progress(partial(verifying.begin_early, site.seen.away))
        with contextlib.ExitStack() as failing:
            failing.callback(verifying.close)
            if planned.changes or not changes.none or self.pulumi.unsettled:
                changes = self._up(site, changes, progress)
            release = str(changes.outputs["release"])
            self._remember(site, release, changes)
            await_certificates(self.ssh, self.topology, self.placement, self._say_of)
            observed = self._afterwards(site, progress.begun)
            shut_out(self.ssh, observed.seen)
            for host, kinds in let_go(self.topology, observed.seen, lambda: look_at_former(self.ssh)).items():
                if host not in observed.seen.away:
                    self.ssh.run(host, "let-go", *kinds)
            failing.pop_all()
        return Applied(
            release=release,
            changed=not changes.none,
            checks=lambda: verifying.checked(observed, release),
            maintenance=observed.maintenance,
        )

    def _up(self, site: Site, changes: Changes, progress: Progress) -> Changes:
        """Let Pulumi change what is to be changed; changes: what it has previewed."""
        former = site.environment.get(RELEASE_VARIABLE)
        if former is not None:
            pass_on(self.ssh, site.seen, former, sources(site.seen, former) or {}, self._say_of)
        policed = bool(changes.unjudged)  # else the preview has asked of everything
        try:
            # What they are by now, not what was previewed.
            with looking(lambda: handed(look(self.ssh, self.topology))) as looked:
                return self.pulumi.up(progress.take, looked, refresh=False, policed=policed, **site.environment)
        except PulumiError as error:
            raise _failed(error, tidied(self.ssh, self.placement)) from error

    def _remember(self, site: Site, release: str, changes: Changes) -> None:
        """Keep here which release serves, and what it is made of."""
        history = history_of(self.paths, site.seen)
        if not changes.none or history.current != release:
            history.served(release, rolled_back=bool(site.environment))
            keep = {*history.releases[-KEPT_RELEASES:], release, history.former()}
            history.releases = [digest for digest in history.releases if digest in keep]
            self.paths.state.mkdir(parents=True, exist_ok=True)
            history.save(self.paths)
            forget_archives(self.paths, keep)
        keep_stack(self.paths, self.stack.config, changes.outputs)

    def _afterwards(self, site: Site, begun: Collection[str]) -> Observed:
        """Look again, but where nginx alone was told something: then all the rest is as it was found.

        begun: the steps that were begun.
        """
        return self._observed(site.seen) if set(begun) <= reloaded(site).keys() else self.observe()

    def _say_of(self, host: str, words: str) -> None:
        self.voice.say(f"{host}: {words}" if len(self.ssh.hosts) > 1 else words)

    def _progress(self, reloading: Callable[[], object] = lambda: None) -> Progress:
        return Progress(self.voice.say, self._say_of, reloading)

    def keys(self) -> PulumiKeys:
        """Return where the stack's keys are."""
        return PulumiKeys(self.pulumi)

    def hosts_keys(self) -> PulumiHostsKeys | None:
        """Return where it is of what its hosts make their certificates."""
        return PulumiHostsKeys(self.pulumi) if needs_hosts_key(self.topology) else None

    def sessions(self) -> dict[str, Any] | None:
        """Return what an instance says of the session store; None where none says it."""
        told = (said_of_sessions(self.ssh, host) for host in self.placement.nginx)
        return next(filter(None, told), None)

    def data(self) -> str:
        """Return in words what there is of a stack's data, and where."""
        hosts = " and ".join(host.name for host in self.ssh.hosts)
        config = self.stack.config
        shared = "" if config.app.shared_filesystem is None else f", and in {written(config, self.places)}"
        return f"the database, sessions and uploads in {self.places.state} of {hosts}{shared}"

    def maintenance(self, wanted: Maintenance | None) -> Maintained:
        """Let visitors get a page in place of the site, or the site again for None; no process is touched."""
        from cluster.maintenance import Maintained  # noqa: PLC0415 - only here

        found = self.observe()
        for looked in found.seen.edges:
            if not (looked.stack or {}).get("nginx_runs"):
                raise CommandError(f"stack {self.stack.name} is not up; `cluster up {self.stack.name}` starts it")
        changed = found.maintenance != wanted or found.is_divided
        page = None if wanted is None else render_maintenance(wanted).text
        asked = {"text": page, "digest": digest_of(wanted), "kept": told(wanted)}
        for looked in found.seen.edges:
            told_host = json.dumps({**asked, "polite": looked.polite})
            self.ssh.run(looked.host, "maintain", "maintain=1", told=told_host)
        missed = [why for name, why in found.seen.away.items() if name in self.placement.nginx]
        if missed:
            raise CommandError("\n".join(["the other hosts do so; say it again when these answer:", *missed]))
        return Maintained(changed=changed, in_force=True)

    def maintained(self) -> Maintenance | None:
        """Return what visitors are told in place of the site; None where they get the site."""
        return self.observe().maintenance

    def forget_host(self, name: str, *, gone: bool) -> None:
        """Forget a host that is gone for good: Pulumi's state, and what this machine keeps of the way to it."""
        if name in {host.name for host in self.stack.config.hosts}:
            raise CommandError(f"hosts: {name} is named in the stack file: take it out there first")
        if not gone:
            self._check_gone(name)
        if not self.pulumi.forget(lambda resource: host_of(resource.get("inputs") or {}) == name):
            raise CommandError(f"hosts: {name} was never one of stack {self.stack.name}'s")
        self.ssh.forget(name)

    def _check_gone(self, name: str) -> None:
        """See that a host that is not named any more does not answer; CommandError says why that is not so."""
        sure = f"`cluster forget-host {self.stack.name} {name} --gone` where it is gone for good all the same"
        if all(host.name != name for host in self.ssh.former()):
            raise CommandError(f"hosts: where {name} was is not known here, so that it can't be asked: {sure}")
        try:
            self.ssh.run(name, "look", seconds=LOOK_SECONDS)
        except AwayError:
            return
        except HostError as error:
            raise CommandError(f"{error}\nIt answers, and can't be looked at: {sure}") from error
        raise CommandError(f"{name} answers: `cluster up {self.stack.name}` takes down what runs there")

    def down(self, *, delete_data: bool) -> bool:
        """Remove everything but the data; with `delete_data` the data too."""
        _ = self.ssh
        try:
            resources = self.pulumi.export()
        except CommandError as error:
            if "no stack named" not in str(error):
                raise
            return False
        there = not self.look().is_new
        if resources:
            try:
                self.pulumi.destroy(self._progress().take, protected=delete_data)
            except PulumiError as error:
                raise CommandError(str(error)) from error
        if there and delete_data:
            for host in self.ssh.hosts:
                self.ssh.run(host.name, "remove", "data")
        return there or bool(resources)

    # --- looking

    def status(self) -> Status:
        """Look at what runs."""
        return self.observe().status(self.sessions())

    def drift(self) -> Sequence[str]:
        """Return what was changed by hand, or is broken, beside what Pulumi's state has."""
        seen, facts = self._seen()
        if seen is None:
            raise CommandError("\n".join(forbidding(self.stack.config, facts)))
        resources = state_of(self.stack.name, lambda: self.pulumi)
        return () if resources is None else drifted(self._site(Forward(), seen, facts), Preview.of_state(resources))

    def verify(self) -> list[Check]:
        """Check what serves with real requests; CommandError where nothing does."""
        observed = self.observe()
        held = next(iter(filter(None, observed.seen.live.holders.values())), None)
        if held is None:
            raise CommandError(f"stack {self.stack.name} is not up; `cluster up {self.stack.name}` starts it")
        return self._verifying().checked(observed, observed.release or held)

    def _verifying(self) -> Verifying:
        return Verifying(
            topology=self.topology,
            places=self.places,
            ssh=self.ssh,
            start=self._start,
            authority=self.paths.shown_authority(),
        )

    def _start(self, host: str, what: str, *words: str) -> subprocess.Popen[bytes]:
        """Begin a command of a host's, which gets standard input."""
        process = subprocess.Popen(
            self.ssh.command(host, what, *words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdin is not None  # noqa: S101 - a pipe was asked for
        agent = self.ssh.agent()
        with contextlib.suppress(OSError):  # so many may be had: else what follows waits for the host to take it
            fcntl.fcntl(process.stdin, fcntl.F_SETPIPE_SZ, len(agent))
        try:
            process.stdin.write(agent)
            process.stdin.flush()
        except OSError:
            end(process)
            raise
        return process

    def nginx_config(self) -> NginxConfig:
        """Return the site's file, for the nginx that the host has."""
        certificate = named(self.stack.config, self.stack.root, dt.datetime.now(dt.UTC))
        edge = self.look().edge
        return nginx_config(self.topology, self.places, edge.host, edge.nginx, certificate)

    def logs(self, *, lines: int, follow: bool) -> list[LogSource]:
        """Return the journal of each instance, and nginx's log of the site's errors."""
        seen = self.observe().seen
        for why in seen.away.values():
            self.voice.say(why)
        return [*Logs(ssh=self.ssh, seen=seen, places=self.places).each(lines=lines, follow=follow)]

    def program(self, words: Sequence[str], *, terminal: bool) -> Invocation:
        """Return how a program runs once in the serving release."""
        observed = self.observe()
        release, there = observed.release, [name for name in self.placement.app if name not in observed.seen.away]
        if release is None or not there:
            raise CommandError(f"no release serves all of stack {self.stack.name}")
        # As instances run there now: the stack file may say something else that was never brought up.
        unit = self.ssh.run(there[0], "unit")
        given = observed.seen.each[there[0]].has_secrets(release)
        python = in_release(self.places, release, unit, terminal=terminal, given=given)
        command = [*python, "-P", "-m", "cluster_runtime.program", *words]
        return Invocation(command=self.ssh.plain(there[0], command, terminal=terminal))


def _failed(error: PulumiError, tidied: str = "") -> CommandError:
    return CommandError(f"{error}\n{tidied}What served still serves; the next `cluster up` goes on from here.")


def platform(stack: Stack, voice: Voice) -> RemotePlatform:
    """Return the stack on its hosts."""
    return RemotePlatform(stack, voice)
