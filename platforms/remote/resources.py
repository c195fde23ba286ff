"""The five operations on hosts: each step is a command of one, whose inputs say what it makes and what was found."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pulumi
from pulumi_command import local

from cluster.config.models import Replacement, SessionEngine
from cluster.errors import ClusterError
from cluster.render.nginx import digest_of_files
from cluster.services import PACKAGED, Kind
from cluster.tls.hosts import HostsKeys
from cluster.topology import batches
from platforms import base
from platforms.pulumi.made import ours
from platforms.pulumi.preparing import release_words
from platforms.remote import broker, database, filesystem
from platforms.remote.address import shared
from platforms.remote.archives import make_release, make_renewer
from platforms.remote.environments import make_environment
from platforms.remote.host.broker import digest as broker_digest
from platforms.remote.host.broker import given_digest
from platforms.remote.host.postgres import digest
from platforms.remote.host.setting_up import SERVICE
from platforms.remote.made import makes_secrets
from platforms.remote.paths import asked_relays, nginx_config, relay_files, relay_ports, shown_files
from platforms.remote.renewing import LOCK, code, renewer_of, variable
from platforms.remote.targets import target_of
from platforms.remote.units import daemon_unit, instance_unit, nginx_unit, service_unit, socket_of, tmpfiles
from platforms.remote.wheels import kind_of, wheels_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cluster.placement import Placement
    from cluster.release import ReleaseSpec
    from cluster.tls.certificates import Certificate
    from cluster.tls.renewing import Account
    from cluster.topology import Topology
    from platforms.remote.address import Shared
    from platforms.remote.host.places import Places
    from platforms.remote.looked import Seen
    from platforms.remote.ssh import Ssh


@dataclass(frozen=True, kw_only=True)
class Store(base.Store):
    """What keeps sessions and jobs on a host that is set up."""

    ready: tuple[pulumi.Resource, ...]


@dataclass(frozen=True, kw_only=True)
class MadeDatabase(base.MadeDatabase):
    """A database that takes connections, where one is made."""

    ready: tuple[pulumi.Resource, ...]


@dataclass(frozen=True, kw_only=True)
class Prepared(base.Prepared):
    """A release that is on the hosts, with its database migrated."""

    ready: tuple[pulumi.Resource, ...]


@dataclass(frozen=True, kw_only=True)
class Instances(base.Instances):
    """Instances that hold their names."""

    digest: str
    ready: tuple[pulumi.Resource, ...]


@dataclass(frozen=True, kw_only=True)
class _Step:
    """A step on a host. component: what its resource is called after, with the host's name and its own."""

    component: str
    host: str
    name: str

    @property
    def resource(self) -> str:
        """What its resource is called."""
        return f"{self.component}-{self.host}-{self.name}"


@dataclass(frozen=True, kw_only=True)
class Remote:
    """One site on its hosts.

    owner: says on a host whose it is. seen: what was found there when the program began. sent: where archives are
    until they are sent. wheels: where those are that a host has built. secrets: the stack's secrets, a JSON object; a
    secret output. certificate: the site's, with its key. users: what nginx reads of the site's users, hashes among it.
    hosts_keys: of which is made what hosts show each other. account: the site's by ACME, where its certificate comes
    so.
    """

    owner: str
    ssh: Ssh
    seen: Seen
    places: Places
    sent: Path
    wheels: Path
    secrets: pulumi.Output[str]
    certificate: Certificate | None = None
    users: str = field(default="", repr=False)
    hosts_keys: HostsKeys = field(default_factory=HostsKeys, repr=False)
    account: Account | None = None

    @property
    def placement(self) -> Placement:
        """Which host runs what."""
        return self.seen.placement

    def store(self, name: str, topology: Topology, opts: pulumi.ResourceOptions) -> Store:
        """Set the hosts up, and start what keeps sessions or jobs on one of them."""
        hosts = [self._set_up(name, host, topology, opts) for host in self.seen.each]
        hosts += self._gathered(name, topology, opts, hosts)
        nodes = [socket_of(service, self.places) for service in topology.of_kind(Kind.MEMCACHED)]
        there = (*self._daemons(name, topology, opts, hosts), *self._broker(name, topology, opts, hosts))
        return Store(nodes=pulumi.Output.from_input(nodes), ready=(*hosts, *there))

    def _set_up(self, name: str, host: str, topology: Topology, opts: pulumi.ResourceOptions) -> local.Command:
        beside = self.placement.services(host, topology.beside)
        texts = {
            **({"unit": instance_unit(topology, self.places)} if host in self.placement.app else {}),
            **({"nginx_unit": nginx_unit(self.places)} if host in self.placement.hosts else {}),
            "tmpfiles": tmpfiles(topology, self.places),
            **{f"{SERVICE}{service.name}": service_unit(service, topology, self.places) for service in beside},
        }
        if makes_secrets(topology) and host in self.placement.app:
            texts["authority"] = self.hosts_keys.authorities(self.places.stack)
        step = _Step(component=name, host=host, name="host")
        shared = filesystem.wanted(self.seen, host)
        told = {"owner": self.owner, "made_by": step.resource, **texts, **({"filesystem": shared} if shared else {})}
        return self._command(
            *(step, "set-up", ()),
            opts,
            # By another name this host is another resource's to remove.
            done=self.seen.each[host].has_files(texts)
            and self.seen.each[host].made_by == step.resource
            and filesystem.is_ready(self.seen.each[host], shared),
            stdin=json.dumps(told),
            delete=f"exec {self._words(host, 'remove', f'by={step.resource}')}",
        )

    def _gathered(
        self, name: str, topology: Topology, opts: pulumi.ResourceOptions, hosts: Sequence[local.Command]
    ) -> list[local.Command]:
        """Copy what hosts have written to themselves to where all have it: it is there once instances look for it."""
        shared = topology.config.app.shared_filesystem
        return [
            self._command(
                *(_Step(component=name, host=host, name="uploads"), "gather", ()),
                opts,
                after=hosts,
                done=not self.seen.each[host].has_uploads,
            )
            for host in (self.placement.hosts if shared is not None else ())
        ]

    def _daemons(
        self, name: str, topology: Topology, opts: pulumi.ResourceOptions, hosts: Sequence[local.Command]
    ) -> list[local.Command]:
        """Start programs of the distribution's, one after another: of two memcached nodes one is always full."""
        services = self.placement.services(self.placement.leader, topology.daemons)
        services = [one for one in services if one.daemon is not None and not one.daemon.is_given]
        if not services:
            return []
        sessions = topology.config.sessions
        alone = SessionEngine.CACHE in (sessions.engine, sessions.previous) and topology.memcached_nodes > 1
        units = {service.name: daemon_unit(service, self.places) for service in services}
        wanted = [
            {
                "name": service.name,
                "unit": units[service.name],
                "programs": PACKAGED[service.kind].names,
                "socket": socket_of(service, self.places),
                "ping": service.daemon.ping if service.daemon is not None else None,
                "seconds": service.start_seconds,
                "filled": alone and service.kind is Kind.MEMCACHED,
            }
            for service in services
        ]
        called = {self.places.daemon(one).name: text for one, text in units.items()}
        started = self._command(
            *(_Step(component=name, host=self.placement.leader, name="daemons"), "daemons", ()),
            opts,
            after=hosts,
            done=self.seen.leader.has_daemons(called),
            stdin=json.dumps(wanted, indent=1),
        )
        return [started]

    def _broker(
        self, name: str, topology: Topology, opts: pulumi.ResourceOptions, hosts: Sequence[local.Command]
    ) -> list[local.Command]:
        """Start the broker that instances on several hosts ask; one that has a socket alone is a daemon as others."""
        host = self.placement.broker
        if host is None:
            return []
        told = broker.wanted(topology, self.places, self.hosts_keys)
        made = self._command(
            *(_Step(component=name, host=host, name="broker"), "broker", ()),
            opts,
            after=hosts,
            environment={"DIGEST": broker_digest(told), "GIVEN": given_digest(told)},
            done=self.seen.each[host].has_broker(broker_digest(told), told["name"], told["unit"]),
            stdin=pulumi.Output.secret(json.dumps(told)),
            logging=local.Logging.NONE,
        )
        return [made]

    def database(self, name: str, topology: Topology, opts: pulumi.ResourceOptions) -> MadeDatabase:
        """Make the PostgreSQL that the stack file asks for; an sqlite file is made by who opens it."""
        host = self.placement.database
        if host is None or not topology.config.makes_postgres:
            return MadeDatabase(ready=())
        told = database.wanted(topology, self.places, self.hosts_keys, self.owner)
        made = self._command(
            *(_Step(component=name, host=host, name="postgres"), "postgres", ()),
            opts,
            environment={"DIGEST": digest(told)},
            done=self.seen.each[host].has_database(digest(told)),
            stdin=pulumi.Output.secret(json.dumps(told)),
        )
        return MadeDatabase(ready=(made,))

    # --- prepare

    def prepare(  # noqa: PLR0913, PLR0917 - what is asked of a platform
        self,
        name: str,
        topology: Topology,
        spec: ReleaseSpec,
        store: base.Store,
        made: base.MadeDatabase,
        opts: pulumi.ResourceOptions,
    ) -> Prepared:
        """Send the release to all hosts; on one of them collect its static files and migrate the database."""
        store, made = ours(Store, store), ours(MadeDatabase, made)
        sent = [self._sent(name, host, topology, spec, opts, store) for host in self.placement.app]
        words = release_words(topology, lock=f"{self.places.static}/lock", sockets=str(self.places.sockets))
        prepared = self._command(
            *(_Step(component=name, host=self.placement.leader, name="prepare"), "prepare", ("$RELEASE", *words)),
            opts,
            after=[*sent, *made.ready],
            environment={"RELEASE": spec.digest},
            done=spec.digest in self.seen.leader.releases and self.seen.leader.has_secrets(spec.digest),
            stdin=self.secrets,
            logging=local.Logging.NONE,
        )
        others = [host for host in self.placement.hosts if host != self.placement.leader]
        return Prepared(
            ready=(prepared, *(one for host in others for one in self._adopted(name, host, spec, opts, prepared)))
        )

    def _sent(  # noqa: PLR0913, PLR0917 - what it needs
        self, name: str, host: str, topology: Topology, spec: ReleaseSpec, opts: pulumi.ResourceOptions, store: Store
    ) -> local.Command:
        """Send a host the release and its environment, as far as it lacks them; they are made here before."""
        looked = self.seen.each[host]
        python, platform, codename = kind_of(looked)
        target = f"{python}-{platform}"
        environment, kind = spec.environment_for(target), f"{target}-{codename}"
        # What is built on one distribution is for that one alone.
        release, packages = (self.sent / f"{one}-{kind}.tar.gz" for one in (spec.digest, spec.environment_digest))
        is_there = spec.digest in looked.releases
        if not is_there and not pulumi.runtime.is_dry_run():
            try:
                looked.check_room()
                wheels = wheels_for(host, self.ssh, self.seen, self.wheels, pulumi.log.info)
                if environment not in looked.environments:
                    make_environment(packages, topology, spec, wheels)
                make_release(release, topology, spec, self.places, environment, wheels=wheels)
            except ClusterError as error:
                raise pulumi.RunError(str(error)) from error
        there = shlex.quote(self.ssh.relative(self.sent))
        lacks = self._words(host, "lacks", "$RELEASE", "$ENVIRONMENT")
        receive = self._words(host, "receive", "receive=$TURN", "${lacked%/*}", "${lacked#*/}")
        archive = 'case "$lacked" in release/*) sent="$RELEASE-$KIND";; *) sent="${ENVIRONMENT%%-*}-$KIND";; esac'
        send = f'{archive}\n    {receive} <{there}/"$sent.tar.gz"'
        script = f"set -eu\nfor lacked in $({lacks} </dev/null); do\n    {send}\ndone\n"
        given = {"RELEASE": spec.digest, "ENVIRONMENT": environment, "KIND": kind}
        turn = looked.turn("receive", done=is_there)
        step = _Step(component=name, host=host, name="sent")
        return self._script(step.resource, script, opts, store.ready, {**given, "TURN": turn})

    def _adopted(
        self, name: str, host: str, spec: ReleaseSpec, opts: pulumi.ResourceOptions, prepared: local.Command
    ) -> list[local.Command]:
        """Give another host what was made of the release on the first: its static files, and its secrets."""
        looked, release = self.seen.each[host], {"RELEASE": spec.digest}
        send = self._words(self.placement.leader, "static-of", "$RELEASE")
        receive = self._words(host, "receive-static", "receive-static=$TURN", "$RELEASE")
        turn = looked.turn("receive-static", done=spec.digest in looked.statics)
        step = _Step(component=name, host=host, name="static-files")
        # What comes is looked at as a whole: of an archive that ends too soon nothing is left.
        script = f"{send} </dev/null | {receive}"
        files = self._script(step.resource, script, opts, [prepared], {**release, "TURN": turn})
        if host not in self.placement.app:
            return [files]
        secrets = self._command(
            *(_Step(component=name, host=host, name="secrets"), "adopt", ("$RELEASE",)),
            opts,
            after=[prepared],
            environment=release,
            done=spec.digest in looked.releases and looked.has_secrets(spec.digest),
            stdin=self.secrets,
            logging=local.Logging.NONE,
        )
        return [files, secrets]

    def _words(self, host: str, what: str, *words: str) -> str:
        """Return what `sh` runs for a command; of words with a $ it reads what they say."""
        script = self.ssh.script(host, what, *words)
        for word in words:
            script = script.replace(shlex.quote(word), f'"{word}"') if "$" in word else script
        return script

    # --- instances

    def instances(
        self,
        name: str,
        topology: Topology,
        spec: ReleaseSpec,
        prepared: base.Prepared,
        opts: pulumi.ResourceOptions,
    ) -> Instances:
        """Start the release's instances beside those that serve; once a batch is healthy it takes its names.

        A batch is healthy once it is on all hosts.
        """
        prepared = ours(Prepared, prepared)
        before: Sequence[pulumi.Resource] = prepared.ready
        served: list[local.Command] = []
        for number, batch in enumerate(batches(topology.names, topology.config.app), start=1):
            ready: list[pulumi.Resource] = list(self._started(name, number, batch, spec, opts, before))
            if number == 1:
                # They would take jobs of a release that does not get healthy.
                ready += self._beside(name, topology, spec.digest, Replacement.BESIDE, opts, ready)
                ready += [self._shown(name, host, spec, opts, ready) for host in self.placement.hosts]
            taken = self._served(name, number, batch, topology, spec, opts, ready)
            served += taken
            before = [*prepared.ready, *taken]
        last = self._beside(name, topology, spec.digest, Replacement.ALONE, opts, served)
        return Instances(
            release=pulumi.Output.all(*(command.stdout for command in served)).apply(lambda _: spec.digest),
            digest=spec.digest,
            ready=(*served, *last),
        )

    def _started(  # noqa: PLR0913, PLR0917 - what it needs
        self,
        name: str,
        number: int,
        batch: Sequence[str],
        spec: ReleaseSpec,
        opts: pulumi.ResourceOptions,
        after: Sequence[pulumi.Resource],
    ) -> list[local.Command]:
        """Start a batch of instances, each on its host."""
        return [
            self._command(
                *(_Step(component=name, host=host, name=f"start{number}"), "start", ("$RELEASE", *own)),
                opts,
                after=after,
                environment={"RELEASE": spec.digest},
                done=self.seen.each[host].run(own, spec.digest),
                turn_of=f"start{number}",
            )
            for host in self.placement.app
            if (own := self.placement.on(host, batch))
        ]

    def _shown(
        self,
        name: str,
        host: str,
        spec: ReleaseSpec,
        opts: pulumi.ResourceOptions,
        after: Sequence[pulumi.Resource],
    ) -> local.Command:
        """Let a host's nginx serve the release's static files first."""
        return self._command(
            *(_Step(component=name, host=host, name="static"), "show", ("$RELEASE", "$TURN")),
            opts,
            after=after,
            environment={"RELEASE": spec.digest},
            turn=str(self.seen.each[host].live.next_static_generation(spec.digest)),
        )

    def _served(  # noqa: PLR0913, PLR0917 - what it needs
        self,
        name: str,
        number: int,
        batch: Sequence[str],
        topology: Topology,
        spec: ReleaseSpec,
        opts: pulumi.ResourceOptions,
        after: Sequence[pulumi.Resource],
    ) -> list[local.Command]:
        """Let a batch take its names, on all hosts at once."""
        alone = "alone" if isinstance(topology.config.app.rollout.batch, int) else "beside"
        return [
            self._command(
                *(_Step(component=name, host=host, name=f"serve{number}"), "serve"),
                ("$RELEASE", alone, *(f"{one}=$TURN" for one in own)),
                opts,
                after=after,
                environment={"RELEASE": spec.digest},
                done=self.seen.each[host].hold_names(own, spec.digest),
                turn_of=f"serve{number}",
            )
            for host in self.placement.app
            if (own := self.placement.on(host, batch))
        ]

    def _beside(  # noqa: PLR0913, PLR0917 - what it needs
        self,
        name: str,
        topology: Topology,
        release: str,
        replacement: Replacement,
        opts: pulumi.ResourceOptions,
        after: Sequence[pulumi.Resource],
    ) -> list[local.Command]:
        """Start what runs the project's code beside the instances and is replaced so, each on its host."""
        step = f"services-{replacement.value}"
        started = []
        for host in self.placement.app:
            found = {
                one.name: one.generation(release)
                for one in self.placement.services(host, topology.beside)
                if one.replacement is replacement
            }
            if not found:
                continue
            units = [self.places.unit_of_service(*one) for one in found.items()]
            words = (replacement.value, *(f"{one}={of}" for one, of in found.items()))
            started.append(
                self._command(
                    *(_Step(component=name, host=host, name=step), "start-services", words),
                    opts,
                    after=after,
                    done=self.seen.each[host].are_active(units),
                    turn_of=step,
                )
            )
        return started

    # --- site

    def site(self, name: str, topology: Topology, instances: base.Instances, opts: pulumi.ResourceOptions) -> base.Site:
        """Put nginx before the instances, and then let go of those that serve no more."""
        instances = ours(Instances, instances)
        relays = [
            one for host in self.placement.app for one in self._relayed(name, host, topology, opts, instances.ready)
        ]
        after = [*instances.ready, *relays]
        kept = {host: self._renewed(name, host, topology, opts, instances.ready) for host in self.placement.nginx}
        delivered = {
            host: self._delivered(name, host, topology, opts, [*after, *kept[host]]) for host in self.placement.nginx
        }
        sites = [one for one, _digest in delivered.values()]
        told = shared(topology, self.places, self.seen)
        # Who begins to hold the address hears of the others first, and those who end give it up before: it moves once.
        first = [host for host in told if self.seen.each[host].address is not None] or [*told]
        held = self._held(name, {host: told[host] for host in first}, opts, sites)
        retired = {
            host: self._retired(name, host, topology, instances.digest, opts, [*sites, *held])
            for host in self.seen.each
        }
        others = {host: one for host, one in told.items() if host not in first}
        self._held(name, others, opts, [*held, *(one for host, one in retired.items() if host not in told)])
        done = pulumi.Output.all(*(command.stdout for command, _digest in delivered.values()))
        _first, digest = delivered[self.placement.nginx[0]]
        return base.Site(digest=done.apply(lambda _: digest))

    def _relayed(
        self,
        name: str,
        host: str,
        topology: Topology,
        opts: pulumi.ResourceOptions,
        after: Sequence[pulumi.Resource],
    ) -> list[local.Command]:
        """Let a host's nginx pass on to its instances what other hosts' nginx send them."""
        looked = self.seen.each[host]
        files = relay_files(topology, self.places, host, looked.nginx)
        if not files:
            return []
        private = shown_files(self.places, self.hosts_keys, host)
        told = {"files": files, "private": private, "polite": looked.polite}
        step = self._command(
            *(_Step(component=name, host=host, name="relays"), "relays", ()),
            opts,
            after=after,
            done=looked.has_relay(files, alone=False),
            environment={"DIGEST": digest_of_files(files)},
            stdin=pulumi.Output.secret(json.dumps(told, indent=1)),
        )
        return [step]

    def _renewed(
        self,
        name: str,
        host: str,
        topology: Topology,
        opts: pulumi.ResourceOptions,
        after: Sequence[pulumi.Resource],
    ) -> list[local.Command]:
        """Start what keeps the certificate of a host's nginx by ACME; nothing where it comes otherwise."""
        looked = self.seen.each[host]
        renewer = renewer_of(topology, self.places, looked, self.account)
        if renewer is None:
            return []
        (service,) = topology.of_kind(Kind.ACME)
        packed, is_there = (
            self.sent / f"renewer-{renewer.digest}.tar.gz",
            renewer.digest in looked.renewal.get("sent", ()),
        )
        if not is_there and not pulumi.runtime.is_dry_run():
            try:
                make_renewer(packed, LOCK, code(), *target_of(dict(looked.machine)))
            except ClusterError as error:
                raise pulumi.RunError(str(error)) from error
        lacks, there = self._words(host, "lacks-renewer", "$RENEWER"), shlex.quote(self.ssh.relative(packed.parent))
        receive = self._words(host, "receive", "receive-renewer=$TURN", "renewer", "$RENEWER")
        send = f'{receive} <{there}/"renewer-$RENEWER.tar.gz"'
        script = f'set -eu\nif [ -n "$({lacks} </dev/null)" ]; then\n    {send}\nfi\n'
        step = _Step(component=name, host=host, name="renewer-sent")
        turn = looked.turn("receive-renewer", done=is_there)
        sent = self._script(step.resource, script, opts, after, {"RENEWER": renewer.digest, "TURN": turn})
        told = {
            "renewer": renewer.digest,
            "units": renewer.units,
            "given": renewer.given,
            "seconds": service.start_seconds,
        }
        started = self._command(
            *(_Step(component=name, host=host, name="renewer"), "renew", ()),
            opts,
            after=[sent],
            done=renewer.runs_on(looked),
            environment={variable(name): digest for name, digest in renewer.digests.items()},
            stdin=pulumi.Output.secret(json.dumps(told, indent=1)),
            logging=local.Logging.NONE,
        )
        return [started]

    def _delivered(
        self,
        name: str,
        host: str,
        topology: Topology,
        opts: pulumi.ResourceOptions,
        after: Sequence[pulumi.Resource],
    ) -> tuple[local.Command, str]:
        """Put the site in place on a host; return the digest of its configuration, too."""
        looked = self.seen.each[host]
        rendered = nginx_config(
            *(topology, self.places, host, looked.nginx, self.certificate, self.users), keys=self.hosts_keys
        )
        shown = shown_files(self.places, self.hosts_keys, host) if self.placement.reaches_out(host) else {}
        told = {
            "files": rendered.files,
            "links": rendered.links,
            "digest": rendered.digest,
            "polite": looked.polite,
        }
        asked = asked_relays(topology, host) if shown else []
        private = {"private": rendered.private, "users": rendered.users, "shown": shown, "relays": asked}
        text = json.dumps({**told, **private}, indent=1)
        delivered = self._command(
            *(_Step(component=name, host=host, name="nginx-config"), "site", ()),
            opts,
            after=after,
            environment={"DIGEST": rendered.digest},
            done=looked.has_site(rendered),
            stdin=pulumi.Output.secret(text) if any(private.values()) else text,
        )
        return delivered, rendered.digest

    def _held(
        self, name: str, told: Mapping[str, Shared], opts: pulumi.ResourceOptions, after: Sequence[pulumi.Resource]
    ) -> list[local.Command]:
        """Let hosts hold the site's address in turn, one told after another."""
        held: list[local.Command] = []
        for host, one in told.items():
            step = self._command(
                *(_Step(component=name, host=host, name="address"), "address", ()),
                opts,
                after=[*after, *held],
                environment={"DIGEST": one.digest},
                done=one.is_done(self.seen.each[host]),
                stdin=json.dumps(one.wanted, indent=1),
            )
            held.append(step)
        return held

    def _retired(  # noqa: PLR0913, PLR0917 - what it needs
        self,
        name: str,
        host: str,
        topology: Topology,
        release: str,
        opts: pulumi.ResourceOptions,
        after: Sequence[pulumi.Resource],
    ) -> local.Command:
        """Let go of what serves no more on a host."""
        looked, placement = self.seen.each[host], self.placement
        names = placement.on(host, topology.names)
        beside = {one.name: one.generation(release) for one in placement.services(host, topology.beside)}
        daemons = [one.name for one in placement.services(host, topology.daemons)]
        files = relay_files(topology, self.places, host, looked.nginx)
        visited = host in placement.nginx
        holds = visited and bool(topology.config.site.address)
        renewed = renewer_of(topology, self.places, looked, self.account) is not None
        wanted = {self.places.unit_of(one, release) for one in names}
        wanted |= {self.places.unit_of_service(*one) for one in beside.items()}
        done = looked.runs_only(wanted, {self.places.daemon(one).name for one in daemons})
        told = {
            "release": release,
            "instances": names,
            "services": [f"{one}={of}" for one, of in beside.items()],
            "daemons": daemons,
            "relayed": [str(relay_ports(topology)[one]) for one in names] if files else [],
            "visited": visited,
            "renewed": renewed,
            "polite": looked.polite,
            **({"holds": True} if holds else {}),
            **({"broker": True} if host == placement.broker else {}),
        }
        return self._command(
            *(_Step(component=name, host=host, name="retire"), "retire", ()),
            opts,
            after=after,
            environment={"RELEASE": release},
            done=done
            and looked.has_relay(files, alone=True)
            and looked.has_visitors == visited
            and (holds or looked.address is None)
            and (host == placement.broker or not looked.asked_for_broker)
            and looked.has_renewer == renewed
            and not (
                host in placement.hosts and looked.has_uploads and topology.config.app.shared_filesystem is not None
            ),
            stdin=json.dumps(told, indent=1),
        )

    # --- steps

    def _command(  # noqa: PLR0913 - what a step is
        self,
        step: _Step,
        what: str,
        words: Sequence[str],
        opts: pulumi.ResourceOptions,
        *,
        done: bool = False,
        turn: str = "",
        turn_of: str = "",
        after: Sequence[pulumi.Resource] = (),
        environment: Mapping[str, str] | None = None,
        stdin: pulumi.Input[str] | None = None,
        logging: local.Logging | None = None,
        delete: str | None = None,
    ) -> local.Command:
        """Make a step: a command of a host's. Words that begin with $ are what the environment says.

        done: whether what it does was found so. turn: instead of what the host says of it. turn_of: what it is called
        there, where that is not the command.
        """
        called = turn_of or what
        script = f"exec {self._words(step.host, what, f'{called}=$TURN', *words)}"
        found = turn or self.seen.each[step.host].turn(called, done=done)
        given = {**(environment or {}), "TURN": found}
        return self._script(step.resource, script, opts, after, given, stdin=stdin, logging=logging, delete=delete)

    def _script(  # noqa: PLR0913, PLR0917 - what a command is
        self,
        name: str,
        script: str,
        opts: pulumi.ResourceOptions,
        after: Sequence[pulumi.Resource],
        environment: Mapping[str, str],
        stdin: pulumi.Input[str] | None = None,
        logging: local.Logging | None = None,
        delete: str | None = None,
    ) -> local.Command:
        return local.Command(
            name,
            create=script,
            delete=delete,
            stdin=stdin if stdin is not None else "",
            environment=dict(environment),
            logging=logging,
            add_previous_output_in_env=False,
            opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=list(after))),
        )
