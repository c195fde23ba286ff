"""A stack on hosts, as the commands ask for it."""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from cluster.acme.status import await_first
from cluster.checks import Check
from cluster.config.models import HOSTS_KEY
from cluster.endpoints import Endpoint
from cluster.errors import CommandError
from cluster.lint.hosts import hosts_fit
from cluster.placement import place
from cluster.plan import Planned
from cluster.plan.judged import forbidding
from cluster.plan.shown import text
from cluster.render.maintenance import digest_of, render_maintenance
from cluster.services import Kind, asked_by
from cluster.stack.history import KEPT_RELEASES
from cluster.tls.certificates import named, names_of
from cluster.tls.hosts import new_hosts_key
from cluster.topology import build_topology
from platforms.base import RELEASE_VARIABLE, Applied, Back, Change, Forward, Invocation, LogSource, Status
from platforms.pulumi.backend import share
from platforms.pulumi.engine import Event, PolicyError, Pulumi, PulumiError, name_of, warm
from platforms.pulumi.kept_stack import keep_stack
from platforms.pulumi.keys import PulumiHostsKeys, PulumiKeys, make_secrets, secrets_there
from platforms.pulumi.planning import state_of
from platforms.pulumi.policing import tell_disabled
from platforms.pulumi.preview import Preview
from platforms.pulumi.progress import NGINX_CONFIG
from platforms.pulumi.relay import Relay
from platforms.remote import filesystem
from platforms.remote.host.places import Places
from platforms.remote.host.releases import in_release
from platforms.remote.kept import history_of
from platforms.remote.looked import (
    MOST_AT_ONCE,
    Seen,
    check_name,
    facts_of,
    look,
    look_around,
    look_at_former,
    said_of_sessions,
)
from platforms.remote.made import needs_hosts_key
from platforms.remote.misplaced import let_go
from platforms.remote.observe import Observed, told
from platforms.remote.passed_on import pass_on, sources
from platforms.remote.paths import RemotePaths, access_log, nginx_config, written
from platforms.remote.planning import Site, drifted, plan, previewed
from platforms.remote.reached import checked_broker, reaching
from platforms.remote.relays import Relays
from platforms.remote.renewing import said_of
from platforms.remote.ssh import LOOK_SECONDS, AwayError, HostError, Ssh
from platforms.remote.wheels import said_of_building

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from cluster.acme.kept import Said
    from cluster.lint import Facts
    from cluster.maintenance import Maintained, Maintenance
    from cluster.placement import Placement
    from cluster.render.nginx import NginxConfig
    from cluster.stack.opened import Stack
    from platforms.base import Gate, Shared, Voice
    from platforms.pulumi.engine import Changes

#: What is said when a step begins, by the end of its name.
STEPS = {
    "host": "setting {host} up",
    "postgres": "making the database",
    "daemons": "starting what keeps sessions and jobs",
    "broker": "starting the broker",
    "uploads": "copying what is written there to where all hosts have it",
    "sent": "sending the release",
    "prepare": "the release: static files, migrations, and one instance that proves it healthy",
    "static-files": "sending its static files on",
    "start": "starting instances of release {release} beside those that serve",
    "static": "letting nginx serve the release's static files",
    "serve": "letting release {release} serve",
    "renewer-sent": "sending what keeps the certificate",
    "address": "letting it hold the site's address, if no other host does",
    "renewer": "starting what keeps the certificate",
    "relays": "nginx: passing on what other hosts ask for",
    "nginx-config": "nginx: checking its configuration, one reload",
    "retire": "draining and stopping what serves no more",
}

#: A host, in what a step runs.
_ON = re.compile(r"/on ([a-z][a-z0-9-]*) ")


def _host_of(inputs: dict[str, Any]) -> str:
    """Return the host of a step by what it runs, the last one where it asks two; empty where it is none."""
    found = _ON.findall(str(inputs.get("create", "")))
    return str(found[-1]) if found else ""


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
        certificate = named(self.stack.config, self.stack.root, dt.datetime.now(dt.UTC))
        return Observed(
            seen=look_around(self.ssh, self.topology),
            topology=self.topology,
            places=self.places,
            certificate=certificate,
        )

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
        try:
            planned, changes = previewed(site, self.pulumi)
        except PolicyError as error:
            raise CommandError(str(error)) from error
        except PulumiError as error:
            raise _failed(error) from error
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
        if planned.changes or not changes.none or self.pulumi.unsettled:
            former = site.environment.get(RELEASE_VARIABLE)
            if former is not None:
                pass_on(self.ssh, site.seen, former, sources(site.seen, former) or {}, self._say_of)
            try:
                policed = bool(changes.unjudged)  # else the preview has asked of everything
                with self._closing(site, planned):
                    changes = self.pulumi.up(self._tell, refresh=False, policed=policed, **site.environment)
            except PulumiError as error:
                raise _failed(error, self._tidied()) from error
        release = str(changes.outputs["release"])
        history = history_of(self.paths, site.seen)
        if not changes.none or history.current != release:
            history.served(release, rolled_back=bool(site.environment))
            keep = {*history.releases[-KEPT_RELEASES:], release, history.former()}
            history.releases = [digest for digest in history.releases if digest in keep]
            self.paths.state.mkdir(parents=True, exist_ok=True)
            history.save(self.paths)
            self._forget_archives(keep)
        keep_stack(self.paths, self.stack.config, changes.outputs)
        self._await_certificates()
        observed = self.observe()
        self._shut_out(observed.seen)
        for host, kinds in let_go(self.topology, observed.seen, lambda: look_at_former(self.ssh)).items():
            if host not in observed.seen.away:
                self.ssh.run(host, "let-go", *kinds)
        return Applied(
            release=release,
            changed=not changes.none,
            checks=lambda: self._checked(observed, release),
            maintenance=observed.maintenance,
        )

    @contextmanager
    def _closing(self, site: Site, planned: Planned) -> Iterator[None]:
        """While the engine begins, let responses end their connections where nothing comes before nginx's reload.

        Where that can't be begun the reload waits for as long itself.
        """
        steps = {one.name for one in planned.resources}
        reloaded = {f"{one.host}-{NGINX_CONFIG}": one for one in site.seen.edges}
        with contextlib.ExitStack() as begun:
            for name in sorted(steps) if steps <= reloaded.keys() else ():
                if reloaded[name].polite:
                    with contextlib.suppress(OSError):
                        begun.callback(_end, self._start(reloaded[name].host, "closing"))
            yield

    def _tidied(self) -> str:
        """Stop what was started on one host and won't serve, since another one failed; return what could not be done.

        On one host what failed has done so itself. Its secrets go in any case.
        """
        said, words = [], ["stop"] if len(self.placement.app) > 1 else []
        for host in self.placement.app:
            try:
                self.ssh.run(host, "tidy", *words)
            except HostError as error:
                said.append(f"what was started there may still run: {error}\n")
        return "".join(said)

    def _shut_out(self, seen: Seen) -> None:
        """Let nobody get to the database or the broker any more by what former releases had: what they did is done now.

        Nor are those heard that held the site's address, and have given it up.
        """
        for name, looked in seen.each.items():
            if looked.address and looked.address["left"]:
                self.ssh.run(name, "part")
        for host in {self.placement.database, self.placement.broker} - {None, *seen.away}:
            stack = seen.each[str(host)].stack or {}
            found, jobs = stack.get("database") or {}, stack.get("broker") or {}
            if found.get("left") or found.get("owner_logs_in") or jobs.get("left"):
                self.ssh.run(str(host), "shut-out")

    def _await_certificates(self) -> None:
        """Wait until the authority has given each host the first certificate, or has said why not; that is said."""
        for host in self.placement.nginx if self.topology.of_kind(Kind.ACME) else ():
            await_first(partial(self._renewal, host), partial(self._say_of, host), names_of(self.stack.config))

    def _renewal(self, host: str) -> tuple[Said, str | None]:
        return said_of(json.loads(self.ssh.run(host, "renewal", seconds=LOOK_SECONDS)))

    def _say_of(self, host: str, words: str) -> None:
        self.voice.say(f"{host}: {words}" if len(self.ssh.hosts) > 1 else words)

    def _forget_archives(self, keep: set[str | None]) -> None:
        """Remove what was sent: a host has it."""
        for path in self.paths.releases.iterdir() if self.paths.releases.is_dir() else ():
            if path.name.partition("-")[0] not in keep:
                path.unlink()

    def _tell(self, event: Event) -> None:
        building = said_of_building(event)
        if building:
            self.voice.say(building)
        step = (event.get("resourcePreEvent") or {}).get("metadata")
        if not step or step["op"] in ("same", "read", "refresh", "delete", "delete-replaced"):
            return
        inputs = (step.get("new") or {}).get("inputs") or {}
        host = _host_of(inputs)
        _kind, name = name_of(step["urn"])
        what = name.rpartition(f"-{host}-")[2].rstrip("0123456789") if host else ""
        words = STEPS.get(what, "").format(host=host, release=inputs.get("environment", {}).get("RELEASE", ""))
        if words:
            if what == "host":  # it names it already
                self.voice.say(words)
            else:
                self._say_of(host, words)

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
        if not self.pulumi.forget(lambda resource: _host_of(resource.get("inputs") or {}) == name):
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
                self.pulumi.destroy(self._tell, protected=delete_data)
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
        return self._checked(observed, observed.release or held)

    def _checked(self, observed: Observed, release: str) -> list[Check]:
        """Check each host that has visitors, as one of them does."""
        several, away = len(self.placement.nginx) > 1, observed.seen.away
        unseen = [Check(name=f"{name} answers", ok=False, expected="yes", found=why) for name, why in away.items()]
        unseen += filesystem.checked(self.ssh, observed.seen)
        unseen += self._checked_address(observed)
        unseen += self._checked_broker(observed, release)
        return unseen + [
            replace(check, name=f"{host}: {check.name}") if several else check
            for host in self.placement.nginx
            if host not in away
            for check in self._checked_by(host, release, observed)
        ]

    def _checked_address(self, observed: Observed) -> list[Check]:
        """Check that one of the hosts holds the address to which visitors come."""
        allowed = f"one of {', '.join(self.placement.nginx)}"
        return [
            Check(
                name=f"one host holds {address}",
                ok=len(found) == 1 and found[0] in self.placement.nginx,
                expected=allowed if len(self.placement.nginx) > 1 else self.placement.nginx[0],
                found=" and ".join(found) or "none",
            )
            for address, found in observed.holders.items()
        ]

    def _checked_broker(self, observed: Observed, release: str) -> list[Check]:
        """Check on each host with instances that these get to the broker, by TLS and the password alone."""
        asked = [name for name in self.placement.app if name not in observed.seen.away]
        return checked_broker(self.topology, self._said, asked, release)

    def _asked_at(self, visited: str, observed: Observed) -> str:
        """Return where a host's site is asked for: by the address that visitors use, where this host holds it."""
        shared = next((one for one, found in observed.holders.items() if found == [visited]), None)
        return shared or self.stack.config.host(visited).address

    def _checked_by(self, visited: str, release: str, observed: Observed) -> list[Check]:
        from cluster.verify import Endpoints, verify  # noqa: PLC0415 - most commands send no requests

        site, away = self.stack.config.site, observed.seen.away
        with contextlib.ExitStack() as relays:
            to = {
                host: relays.enter_context(contextlib.closing(Relays(partial(self._start, host, "relay-all")))).to
                for host in {*self.placement.app, visited}
            }
            nginx = relays.enter_context(contextlib.closing(Relay(partial(self._start, visited, "relay"))))
            sockets = self.topology.endpoints(lambda _kind: str(self.places.sockets), Kind.INSTANCE)
            host = self.stack.config.host(visited)
            # Where it is reached through another one, its address may be nobody's here.
            ports = [] if host.jump is None else [site.listen, *([] if site.tls is None else [site.tls.listen])]
            there = Endpoints(
                internal=nginx.to(str(self.places.internal)),
                instances={name: to[self.placement.host_of[name]](one.path) for name, one in sockets.items()},
                site=Endpoint(host=self._asked_at(visited, observed), port=site.listen),
                release=release,
                intruders=partial(self._intruders, away),
                counted_twice=self.placement.on(visited, self.topology.names)
                if self.placement.reaches_out(visited)
                else (),
                authority=self.paths.shown_authority(),
                ways={port: to[visited](str(port)) for port in ports},
            )
            return verify(self.topology, there)

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
            _end(process)
            raise
        return process

    def _intruders(self, away: Collection[str]) -> list[str]:
        """Return what listens though it must not, on hosts that are not away; and who gets where nobody must."""
        listening = self._said([host.name for host in self.ssh.hosts if host.name not in away], "listening")
        found = [
            f"an instance on {host} listens on port {port}"
            for host, ports in listening.items()
            for port in ports.split()
        ]
        return [*found, *reaching(self.topology, self._said, away)]

    def _said(self, hosts: Sequence[str], what: str, *words: str) -> dict[str, str]:
        """Return what hosts say, asked at once, by their names; HostError where one can't be."""
        with ThreadPoolExecutor(max_workers=MOST_AT_ONCE) as pool:
            said = pool.map(lambda host: self.ssh.run(host, what, *words).strip(), hosts)
            return dict(zip(hosts, said, strict=True))

    def nginx_config(self) -> NginxConfig:
        """Return the site's file, for the nginx that the host has."""
        certificate = named(self.stack.config, self.stack.root, dt.datetime.now(dt.UTC))
        edge = self.look().edge
        return nginx_config(self.topology, self.places, edge.host, edge.nginx, certificate)

    def logs(self, *, lines: int, follow: bool) -> list[LogSource]:
        """Return the journal of each instance, and nginx's log of the site's errors."""
        options = ["--output=short-iso", "--no-hostname", f"--lines={lines}", *(["--follow"] if follow else [])]
        found = []
        seen = self.observe().seen
        for why in seen.away.values():
            self.voice.say(why)
        for host, looked in seen.each.items():
            if host in seen.away:
                continue
            units = {
                unit: self._called(unit)
                for unit, said in looked.units.items()
                if said["state"] != "inactive" or not follow
            }
            units |= {
                self.places.daemon(one.name).name: (one.name, one.name)
                for one in self.placement.services(host, self.topology.daemons)
            }
            if host in self.placement.nginx:
                renewers = {path.name for path in self.places.renewer_units.values() if path.suffix == ".service"}
                units |= {unit: (one.name, one.name) for one in self.topology.of_kind(Kind.ACME) for unit in renewers}
            if looked.address is not None:
                units |= {self.places.address_unit.name: (str(Kind.ADDRESS), str(Kind.ADDRESS))}
            for unit, called in units.items():
                found.append(self._log(host, *called, ["journalctl", f"--unit={unit}", *options]))
            if host in self.placement.nginx:
                words = ["tail", f"--lines={lines}", *(["-F"] if follow else []), access_log(self.places)]
                found.append(self._log(host, "nginx", "nginx", words))
        return found

    def _called(self, unit: str) -> tuple[str, str]:
        """Return what a unit is called where logs are shown, and by which word it is asked for."""
        template, _, process = unit.removesuffix(".service").partition("@")
        instance, _, release = process.rpartition("-")
        if template == self.places.name:
            return f"{instance}-{release}", instance
        service = template.removeprefix(f"{self.places.name}.")
        return f"{service}-{process.partition('.')[0]}", service

    def _log(self, host: str, name: str, word: str, words: Sequence[str]) -> LogSource:
        several = len(self.ssh.hosts) > 1
        return LogSource(
            name=f"{name}@{host}" if several else name,
            words=frozenset({name, word, *asked_by(word), *([host] if several else [])}),
            printed=Invocation(command=self.ssh.plain(host, words)),
        )

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


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command of a host's, which does so as its standard input ends."""
    try:
        process.communicate(timeout=LOOK_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _failed(error: PulumiError, tidied: str = "") -> CommandError:
    return CommandError(f"{error}\n{tidied}What served still serves; the next `cluster up` goes on from here.")


def platform(stack: Stack, voice: Voice) -> RemotePlatform:
    """Return the stack on its hosts."""
    return RemotePlatform(stack, voice)
