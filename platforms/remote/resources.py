"""The five operations on a host: each step is a command of it, whose inputs say what it makes and what was found."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pulumi
from pulumi_command import local

from cluster.config.models import Replacement, SessionEngine
from cluster.errors import ClusterError
from cluster.render.versions import KEEPALIVE_MIN_TIMEOUT_SINCE
from cluster.services import PACKAGED, Kind
from cluster.topology import batches
from platforms import base
from platforms.pulumi.made import ours
from platforms.pulumi.preparing import release_words
from platforms.remote.archives import check, make_environment, make_release, target_of
from platforms.remote.host.setting_up import SERVICE
from platforms.remote.paths import nginx_config
from platforms.remote.units import daemon_unit, instance_unit, nginx_unit, service_unit, socket_of, tmpfiles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cluster.release import ReleaseSpec
    from cluster.tls.certificates import Certificate
    from cluster.topology import Topology
    from platforms.remote.host.places import Places
    from platforms.remote.looked import Looked
    from platforms.remote.ssh import Ssh


@dataclass(frozen=True, kw_only=True)
class Store(base.Store):
    """What keeps sessions and jobs on a host that is set up."""

    ready: tuple[pulumi.Resource, ...]


@dataclass(frozen=True, kw_only=True)
class Prepared(base.Prepared):
    """A release that is on the host, with its database migrated."""

    ready: tuple[pulumi.Resource, ...]


@dataclass(frozen=True, kw_only=True)
class Instances(base.Instances):
    """Instances that hold their names."""

    digest: str
    ready: tuple[pulumi.Resource, ...]


@dataclass(frozen=True, kw_only=True)
class Remote:
    """One site on one host.

    owner: says on the host whose it is. looked: what was found there when the program began. sent: where archives are
    until they are sent. secrets: the stack's secrets, a JSON object; a secret output. certificate: the site's, with its
    key. users: what nginx reads of the site's users, hashes among it.
    """

    owner: str
    host: str
    ssh: Ssh
    looked: Looked
    places: Places
    sent: Path
    secrets: pulumi.Output[str]
    certificate: Certificate | None = None
    users: str = field(default="", repr=False)

    def store(self, name: str, topology: Topology, opts: pulumi.ResourceOptions) -> Store:
        """Set the host up, and start what keeps sessions or jobs on it."""
        texts = {
            "unit": instance_unit(topology, self.places),
            "nginx_unit": nginx_unit(self.places),
            "tmpfiles": tmpfiles(topology, self.places),
            **{f"{SERVICE}{service.name}": service_unit(service, self.places) for service in topology.beside},
        }
        host = self._command(
            *(f"{name}-host", "set-up", ()),
            opts,
            turn=self.looked.turn("set-up", done=self.looked.has_files(texts)),
            stdin=json.dumps({"owner": self.owner, "made_by": f"{name}-host", **texts}),
            delete=f"exec {self._words('remove', f'by={name}-host')}",
        )
        nodes = [socket_of(service, self.places) for service in topology.of_kind(Kind.MEMCACHED)]
        return Store(nodes=pulumi.Output.from_input(nodes), ready=(host, *self._daemons(name, topology, opts, host)))

    def _daemons(
        self, name: str, topology: Topology, opts: pulumi.ResourceOptions, host: local.Command
    ) -> list[local.Command]:
        """Start programs of the distribution's, one after another: of two memcached nodes one is always full."""
        services = [service for service in topology.services if service.daemon is not None]
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
            *(f"{name}-daemons", "daemons", ()),
            opts,
            after=[host],
            turn=self.looked.turn("daemons", done=self.looked.has_daemons(called)),
            stdin=json.dumps(wanted, indent=1),
        )
        return [started]

    def database(self, name: str, topology: Topology, opts: pulumi.ResourceOptions) -> base.MadeDatabase:  # noqa: ARG002
        """Make nothing: an sqlite file is made by who opens it."""
        return base.MadeDatabase()

    # --- prepare

    def prepare(  # noqa: PLR0913, PLR0917 - what is asked of a platform
        self,
        name: str,
        topology: Topology,
        spec: ReleaseSpec,
        store: base.Store,
        made: base.MadeDatabase,  # noqa: ARG002
        opts: pulumi.ResourceOptions,
    ) -> Prepared:
        """Send the release, put its secrets in place, collect its static files and migrate the database."""
        store = ours(Store, store)
        sent = self._sent(name, topology, spec, opts, store)
        words = release_words(topology, lock=f"{self.places.static}/lock", sockets=str(self.places.sockets))
        prepared = self._command(
            *(f"{name}-prepare", "prepare", ("$RELEASE", *words)),
            opts,
            after=[sent],
            environment={"RELEASE": spec.digest},
            turn=self.looked.turn("prepare", done=spec.digest in self.looked.releases),
            stdin=self.secrets,
            logging=local.Logging.NONE,
        )
        return Prepared(ready=(prepared,))

    def _sent(
        self, name: str, topology: Topology, spec: ReleaseSpec, opts: pulumi.ResourceOptions, store: Store
    ) -> local.Command:
        """Send the release and its environment, as far as the host lacks them; they are made here before."""
        python, platform = target_of(dict(self.looked.machine))
        environment = f"{spec.environment_digest}-{python}"
        release, packages = self.sent / f"{spec.digest}.tar.gz", self.sent / f"{environment}.tar.gz"
        is_there = spec.digest in self.looked.releases
        if not is_there and not pulumi.runtime.is_dry_run():
            try:
                self.looked.check_room()
                check(spec)
                if environment not in self.looked.environments:
                    make_environment(packages, topology, spec, python, platform)
                make_release(release, topology, spec, self.places, environment)
            except ClusterError as error:
                raise pulumi.RunError(str(error)) from error
        archive = f'{shlex.quote(self.ssh.relative(self.sent))}/"${{lacked#*/}}.tar.gz"'
        lacks = self._words("lacks", "$RELEASE", "$ENVIRONMENT")
        receive = self._words("receive", "receive=$TURN", "${lacked%/*}", "${lacked#*/}")
        script = f"set -eu\nfor lacked in $({lacks} </dev/null); do\n    {receive} <{archive}\ndone\n"
        given = {"RELEASE": spec.digest, "ENVIRONMENT": environment}
        turn = self.looked.turn("receive", done=is_there)
        return self._script(f"{name}-sent", script, opts, store.ready, {**given, "TURN": turn})

    def _words(self, what: str, *words: str) -> str:
        """Return what `sh` runs for a command; of words with a $ it reads what they say."""
        script = self.ssh.script(self.host, what, *words)
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
        """Start the release's instances beside those that serve; once a batch is healthy it takes its names."""
        prepared = ours(Prepared, prepared)
        release = {"RELEASE": spec.digest}
        alone = "alone" if isinstance(topology.config.app.rollout.batch, int) else "beside"
        before: Sequence[pulumi.Resource] = prepared.ready
        served: list[local.Command] = []
        for number, batch in enumerate(batches(topology.names, topology.config.app), start=1):
            started = self._command(
                *(f"{name}-start{number}", "start", ("$RELEASE", *batch)),
                opts,
                after=before,
                environment=release,
                turn=self.looked.turn(f"start{number}", done=self.looked.run(batch, spec.digest)),
                step=f"start{number}",
            )
            ready: list[pulumi.Resource] = [started]
            if number == 1:
                # They would take jobs of a release that does not get healthy.
                ready += self._beside(name, topology, spec.digest, Replacement.BESIDE, opts, ready)
                turn = str(self.looked.live.next_static_generation(spec.digest))
                shown = self._command(
                    *(f"{name}-static", "show", ("$RELEASE", "$TURN")),
                    opts,
                    after=ready,
                    environment=release,
                    turn=turn,
                )
                ready.append(shown)
            taken = self._command(
                *(f"{name}-serve{number}", "serve", ("$RELEASE", alone, *(f"{one}=$TURN" for one in batch))),
                opts,
                after=ready,
                environment=release,
                turn=self.looked.turn(f"serve{number}", done=self.looked.hold_names(batch, spec.digest)),
                step=f"serve{number}",
            )
            served.append(taken)
            before = [*prepared.ready, taken]
        last = self._beside(name, topology, spec.digest, Replacement.ALONE, opts, served)
        return Instances(
            release=pulumi.Output.all(*(command.stdout for command in served)).apply(lambda _: spec.digest),
            digest=spec.digest,
            ready=(*served, *last),
        )

    def _beside(  # noqa: PLR0913, PLR0917 - what it needs
        self,
        name: str,
        topology: Topology,
        release: str,
        replacement: Replacement,
        opts: pulumi.ResourceOptions,
        after: Sequence[pulumi.Resource],
    ) -> list[local.Command]:
        """Start what runs the project's code beside the instances and is replaced so."""
        found = {one.name: one.generation(release) for one in topology.beside if one.replacement is replacement}
        if not found:
            return []
        units = [self.places.unit_of_service(*one) for one in found.items()]
        step = f"services-{replacement.value}"
        started = self._command(
            *(f"{name}-{step}", "start-services", (replacement.value, *(f"{one}={of}" for one, of in found.items()))),
            opts,
            after=after,
            turn=self.looked.turn(step, done=self.looked.are_active(units)),
            step=step,
        )
        return [started]

    # --- site

    def site(self, name: str, topology: Topology, instances: base.Instances, opts: pulumi.ResourceOptions) -> base.Site:
        """Put nginx before the instances, and then let go of those that serve no more."""
        instances = ours(Instances, instances)
        version = self.looked.nginx
        rendered = nginx_config(topology, self.places, version, self.certificate, self.users)
        polite = version < KEEPALIVE_MIN_TIMEOUT_SINCE
        told = {"files": rendered.files, "links": rendered.links, "digest": rendered.digest, "polite": polite}
        private = {"private": rendered.private, "users": rendered.users}
        text = json.dumps({**told, **private}, indent=1)
        delivered = self._command(
            *(f"{name}-nginx-config", "site", ()),
            opts,
            after=instances.ready,
            environment={"DIGEST": rendered.digest},
            turn=self.looked.turn("site", done=self.looked.has_site(rendered)),
            stdin=pulumi.Output.secret(text) if any(private.values()) else text,
        )
        release = instances.digest
        beside = {one.name: one.generation(release) for one in topology.beside}
        wanted = {self.places.unit_of(one, release) for one in topology.names}
        wanted |= {self.places.unit_of_service(*one) for one in beside.items()}
        daemons = [service.name for service in topology.services if service.daemon is not None]
        words = [*topology.names, *(f"{one}={of}" for one, of in beside.items()), *(f"{one}=" for one in daemons)]
        units = {self.places.daemon(one).name for one in daemons}
        self._command(
            *(f"{name}-retire", "retire", ("$RELEASE", *words)),
            opts,
            after=[delivered],
            environment={"RELEASE": release},
            turn=self.looked.turn("retire", done=self.looked.runs_only(wanted, units)),
        )
        return base.Site(digest=delivered.stdout.apply(lambda _: rendered.digest))

    # --- steps

    def _command(  # noqa: PLR0913 - what a step is
        self,
        name: str,
        what: str,
        words: Sequence[str],
        opts: pulumi.ResourceOptions,
        *,
        turn: str,
        step: str = "",
        after: Sequence[pulumi.Resource] = (),
        environment: Mapping[str, str] | None = None,
        stdin: pulumi.Input[str] | None = None,
        logging: local.Logging | None = None,
        delete: str | None = None,
    ) -> local.Command:
        """Make a step: a command of the host's. Words that begin with $ are what the environment says."""
        script = f"exec {self._words(what, f'{step or what}=$TURN', *words)}"
        return self._script(
            name,
            script,
            opts,
            after,
            {**(environment or {}), "TURN": turn},
            stdin=stdin,
            logging=logging,
            delete=delete,
        )

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
