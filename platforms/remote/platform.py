"""A stack on hosts, as the commands ask for it."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import subprocess
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cluster.endpoints import Endpoint
from cluster.errors import CommandError
from cluster.render.maintenance import digest_of, render_maintenance
from cluster.render.versions import KEEPALIVE_MIN_TIMEOUT_SINCE
from cluster.services import Kind, asked_by
from cluster.stack.history import KEPT_RELEASES, History
from cluster.tls.certificates import named
from cluster.topology import build_topology
from platforms.base import RELEASE_VARIABLE, Applied, Back, Change, Forward, Invocation, LogSource, Status
from platforms.pulumi.engine import Event, Pulumi, PulumiError, name_of
from platforms.pulumi.keys import PulumiKeys, make_secrets, secrets_there
from platforms.pulumi.relay import Relay
from platforms.remote.host.places import Places
from platforms.remote.host.releases import in_release
from platforms.remote.looked import Looked, check_name, facts_of, look, said_of_sessions
from platforms.remote.observe import Observed, told
from platforms.remote.paths import RemotePaths, access_log, nginx_config
from platforms.remote.ssh import HostError, Ssh
from platforms.remote.units import instance_unit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cluster.checks import Check
    from cluster.lint import Facts
    from cluster.maintenance import Maintained, Maintenance
    from cluster.plan import Planned
    from cluster.render.nginx import NginxConfig
    from cluster.stack.opened import Stack
    from platforms.base import Gate, Voice

#: What is said when a step begins, by the end of its name.
STEPS = {
    "-daemons": "starting what keeps sessions and jobs",
    "-sent": "sending the release",
    "-prepare": "the release: static files, migrations, and one instance that proves it healthy",
    "-static": "letting nginx serve the release's static files",
    "-nginx-config": "nginx: checking its configuration, one reload",
    "-retire": "draining and stopping what serves no more",
}


class RemotePlatform:
    """A stack on hosts."""

    def __init__(self, stack: Stack, voice: Voice) -> None:
        self.stack = stack
        self.voice = voice
        self.paths = RemotePaths(stack.root, stack.name)
        self.topology = build_topology(stack.config)
        self.places = Places(stack.name)

    @cached_property
    def pulumi(self) -> Pulumi:
        """The stack in Pulumi's words, which is installed where it is missing."""
        return Pulumi(self.stack.root, self.stack.name, self.voice.say)

    @cached_property
    def ssh(self) -> Ssh:
        """The way to the hosts; CommandError where none is named."""
        check_name(self.stack.name)
        if not self.stack.config.hosts:
            raise CommandError("hosts: none is named: platform remote runs on hosts")
        ssh = Ssh(self.stack.root, self.paths.ssh, self.stack.name, tuple(self.stack.config.hosts))
        ssh.write()
        return ssh

    @property
    def host(self) -> str:
        """The name of the host."""
        return self.ssh.hosts[0].name

    def look(self) -> Looked:
        """Look at the host; HostError where it is away."""
        return look(self.ssh, self.ssh.hosts[0])

    def observe(self) -> Observed:
        """Look at what runs."""
        certificate = named(self.stack.config, self.stack.root, dt.datetime.now(dt.UTC))
        return Observed(looked=self.look(), topology=self.topology, places=self.places, certificate=certificate)

    def facts(self) -> Facts:
        """Return what the lints may look at; who only looks needs no host that answers."""
        looked = None
        with contextlib.suppress(HostError, CommandError):  # a host that is away is told by what needs it
            looked = self.look()
        stack = self.stack
        return facts_of(stack.root, stack.name, secrets_there(stack.root, stack.name), looked)

    # --- changing

    def set_up(self) -> None:
        """Set Pulumi and the stack up."""
        self.look()
        self.pulumi.set_up()
        make_secrets(self.pulumi, self.stack.config, self.paths.authority, self.voice.say)

    def plan(self, wanted: Forward | Back) -> Planned:  # noqa: ARG002 - the engine's preview is asked elsewhere yet
        """Look at what is to be done, and change nothing."""
        name = self.stack.name
        raise CommandError(
            f"stack {name} is a Pulumi program: `pulumi preview --diff -s {name}` shows what would change"
        )

    @contextmanager
    def change(self, wanted: Forward | Back, gate: Gate) -> Iterator[Change]:
        """Say what is to be done: what that is, Pulumi tells while it does it, and its own lock keeps others away."""
        if isinstance(wanted, Forward) and wanted.pull:
            raise CommandError("--pull is for platforms whose services are containers; a host's packages are its own")
        # First of all what keeps the host from being one, in its own words.
        looked = self.look() if self.stack.config.hosts else None
        gate(self.stack.config, facts_of(self.stack.root, self.stack.name, self._secrets(), looked))
        assert looked is not None  # noqa: S101 - the gate refuses a stack without hosts
        if isinstance(wanted, Forward):
            looked.check_room()
        environment = {RELEASE_VARIABLE: self._former(wanted, looked)} if isinstance(wanted, Back) else {}
        yield Change(lines=[], apply=lambda: self._apply(environment))

    def _secrets(self) -> frozenset[str]:
        return secrets_there(self.stack.root, self.stack.name)

    def _former(self, wanted: Back, looked: Looked) -> str:
        """Return the release that is to serve again."""
        history = History.load(self.paths)
        serving = Observed(looked=looked, topology=self.topology, places=self.places, certificate=None).release
        if not history.releases:  # another checkout made them
            history.releases = list(looked.releases)
        if serving is not None and serving != history.current:
            history.served(serving)
            history.save(self.paths)
        digest = history.back_to(wanted.release)
        if digest not in looked.releases:
            raise history.not_here(digest)
        return digest

    def _apply(self, environment: dict[str, str]) -> Applied:
        """Set up what is missing, and let Pulumi do it."""
        self.pulumi.set_up()
        make_secrets(self.pulumi, self.stack.config, self.paths.authority, self.voice.say)
        try:
            changes = self.pulumi.up(self._tell, refresh=False, **environment)
        except PulumiError as error:
            raise CommandError(
                f"{error}\nWhat served still serves; the next `cluster up` goes on from here."
            ) from error
        release = str(changes.outputs["release"])
        history = History.load(self.paths)
        if not changes.none or history.current != release:
            history.served(release, rolled_back=bool(environment))
            keep = {*history.releases[-KEPT_RELEASES:], release, history.former()}
            history.releases = [digest for digest in history.releases if digest in keep]
            self.paths.state.mkdir(parents=True, exist_ok=True)
            history.save(self.paths)
            self._forget_archives(keep)
        return Applied(
            release=release,
            changed=not changes.none,
            checks=lambda: self._checked(release),
            maintenance=self.observe().maintenance,
        )

    def _forget_archives(self, keep: set[str | None]) -> None:
        """Remove what was sent: a host has it."""
        for path in self.paths.releases.iterdir() if self.paths.releases.is_dir() else ():
            if path.name.partition(".")[0] not in keep:
                path.unlink()

    def _tell(self, event: Event) -> None:
        step = (event.get("resourcePreEvent") or {}).get("metadata")
        if not step or step["op"] in ("same", "read", "refresh", "delete", "delete-replaced"):
            return
        _kind, name = name_of(step["urn"])
        release = ((step.get("new") or {}).get("inputs") or {}).get("environment", {}).get("RELEASE", "")
        part = name.rstrip("0123456789")
        if part.endswith("-start"):
            self.voice.say(f"starting instances of release {release} beside those that serve")
        elif part.endswith("-serve"):
            self.voice.say(f"letting release {release} serve")
        elif name.endswith("-host"):
            self.voice.say(f"setting {self.host} up")
        for end, words in STEPS.items():
            if name.endswith(end):
                self.voice.say(words)

    def keys(self) -> PulumiKeys:
        """Return where the stack's keys are."""
        return PulumiKeys(self.pulumi)

    def sessions(self) -> dict[str, Any] | None:
        """Return what an instance says of the session store; None where none says it."""
        return said_of_sessions(self.ssh, self.host)

    def data(self) -> str:
        """Return in words what there is of a stack's data, and where."""
        return f"the database, sessions and uploads in {self.places.state} of {self.host}"

    def maintenance(self, wanted: Maintenance | None) -> Maintained:
        """Let visitors get a page in place of the site, or the site again for None; no process is touched."""
        from cluster.maintenance import Maintained  # noqa: PLC0415 - only here

        found = self.observe()
        if found.looked.stack is None or not found.looked.stack["nginx_runs"]:
            raise CommandError(f"stack {self.stack.name} is not up; `cluster up {self.stack.name}` starts it")
        changed = found.maintenance != wanted
        text = None if wanted is None else render_maintenance(wanted).text
        polite = found.looked.nginx < KEEPALIVE_MIN_TIMEOUT_SINCE
        asked = {"text": text, "digest": digest_of(wanted), "kept": told(wanted), "polite": polite}
        self.ssh.run(self.host, "maintain", "maintain=1", told=json.dumps(asked))
        return Maintained(changed=changed, in_force=True)

    def maintained(self) -> Maintenance | None:
        """Return what visitors are told in place of the site; None where they get the site."""
        return self.observe().maintenance

    def down(self, *, delete_data: bool) -> bool:
        """Remove everything but the data; with `delete_data` the data too."""
        _ = self.ssh
        try:
            resources = self.pulumi.export()
        except CommandError as error:
            if "no stack named" not in str(error):
                raise
            return False
        there = self.look().stack is not None
        if resources:
            try:
                self.pulumi.destroy(self._tell, protected=delete_data)
            except PulumiError as error:
                raise CommandError(str(error)) from error
        if there and delete_data:
            self.ssh.run(self.host, "remove", "data")
        return there or bool(resources)

    # --- looking

    def status(self) -> Status:
        """Look at what runs."""
        return self.observe().status(self.sessions())

    def verify(self) -> list[Check]:
        """Check what serves with real requests; CommandError where nothing does."""
        observed = self.observe()
        held = next(iter(filter(None, observed.looked.live.holders.values())), None)
        if held is None:
            raise CommandError(f"stack {self.stack.name} is not up; `cluster up {self.stack.name}` starts it")
        return self._checked(observed.release or held)

    def _checked(self, release: str) -> list[Check]:
        from cluster.verify import Endpoints, verify  # noqa: PLC0415 - most commands send no requests

        with contextlib.closing(Relay(self._start_relay)) as relay:
            sockets = self.topology.endpoints(lambda _kind: str(self.places.sockets), Kind.INSTANCE)
            there = Endpoints(
                internal=relay.to(str(self.places.internal)),
                instances={name: relay.to(endpoint.path) for name, endpoint in sockets.items()},
                site=Endpoint(host=self.ssh.hosts[0].address, port=self.stack.config.site.listen),
                release=release,
                intruders=self._intruders,
                authority=self.paths.shown_authority(),
            )
            return verify(self.topology, there)

    def _start_relay(self, path: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self.ssh.command(self.host, "relay", path),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdin is not None  # noqa: S101 - a pipe was asked for
        process.stdin.write(self.ssh.agent())
        process.stdin.flush()
        return process

    def _intruders(self) -> list[str]:
        ports = self.ssh.run(self.host, "listening").split()
        return [f"an instance on {self.host} listens on port {port}" for port in ports]

    def nginx_config(self) -> NginxConfig:
        """Return the site's file, for the nginx that the host has."""
        certificate = named(self.stack.config, self.stack.root, dt.datetime.now(dt.UTC))
        return nginx_config(self.topology, self.places, self.look().nginx, certificate)

    def logs(self, *, lines: int, follow: bool) -> list[LogSource]:
        """Return the journal of each instance, and nginx's log of the site's errors."""
        options = ["--output=short-iso", "--no-hostname", f"--lines={lines}", *(["--follow"] if follow else [])]
        found = [
            self._log(*self._called(unit), ["journalctl", f"--unit={unit}", *options])
            for unit, said in self.look().units.items()
            if said["state"] != "inactive" or not follow
        ]
        for service in self.topology.services:
            if service.daemon is not None:
                unit = self.places.daemon(service.name).name
                found.append(self._log(service.name, service.name, ["journalctl", f"--unit={unit}", *options]))
        path = access_log(self.places)
        return [*found, self._log("nginx", "nginx", ["tail", f"--lines={lines}", *(["-F"] if follow else []), path])]

    def _called(self, unit: str) -> tuple[str, str]:
        """Return what a unit is called where logs are shown, and by which word it is asked for."""
        template, _, process = unit.removesuffix(".service").partition("@")
        instance, _, release = process.rpartition("-")
        if template == self.places.name:
            return f"{instance}-{release}", instance
        service = template.removeprefix(f"{self.places.name}.")
        return f"{service}-{process.partition('.')[0]}", service

    def _log(self, name: str, word: str, words: Sequence[str]) -> LogSource:
        return LogSource(
            name=name,
            words=frozenset({name, word, *asked_by(word)}),
            printed=Invocation(command=self.ssh.plain(self.host, words)),
        )

    def program(self, words: Sequence[str], *, terminal: bool) -> Invocation:
        """Return how a program runs once in the serving release."""
        release = self.observe().release
        if release is None:
            raise CommandError(f"no release serves all of stack {self.stack.name}")
        unit = instance_unit(self.topology, self.places)
        python = in_release(self.places, release, unit, terminal=terminal)
        command = [*python, "-P", "-m", "cluster_runtime.program", *words]
        return Invocation(command=self.ssh.plain(self.host, command, terminal=terminal))


def platform(stack: Stack, voice: Voice) -> RemotePlatform:
    """Return the stack on its hosts."""
    return RemotePlatform(stack, voice)
