"""The steps that bring a release to hosts: its files and packages, static files, migrations, secrets."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pulumi
from pulumi_command import local

from cluster.errors import ClusterError
from platforms import base
from platforms.pulumi.preparing import release_words
from platforms.remote.archives import make_release
from platforms.remote.environments import make_environment
from platforms.remote.steps import Steps
from platforms.remote.wheels import kind_of, wheels_for

if TYPE_CHECKING:
    from cluster.release import ReleaseSpec
    from platforms.remote.store_steps import MadeDatabase, Store


@dataclass(frozen=True, kw_only=True)
class Prepared(base.Prepared):
    """A release that is on the hosts, with its database migrated."""

    ready: tuple[pulumi.Resource, ...]


@dataclass(frozen=True, kw_only=True)
class ReleaseSteps(Steps):
    """Send the release to all hosts; on one of them collect its static files and migrate the database."""

    spec: ReleaseSpec

    def prepare(self, store: Store, made: MadeDatabase) -> Prepared:
        """Make them all."""
        digest, leader = self.spec.digest, self.placement.leader
        sent = [self._sent(host, store) for host in self.placement.app]
        words = release_words(self.topology, lock=f"{self.places.static}/lock", sockets=str(self.places.sockets))
        prepared = self.command(
            self.step(leader, "prepare"),
            "prepare",
            ("$RELEASE", *words),
            after=[*sent, *made.ready],
            environment={"RELEASE": digest},
            done=digest in self.seen.leader.releases and self.seen.leader.has_secrets(digest),
            stdin=self.site.secrets,
            logging=local.Logging.NONE,
        )
        others = [host for host in self.placement.hosts if host != leader]
        return Prepared(ready=(prepared, *(one for host in others for one in self._adopted(host, prepared))))

    def _sent(self, host: str, store: Store) -> local.Command:
        """Send a host the release and its environment, as far as it lacks them; they are made here before."""
        looked = self.seen.each[host]
        python, platform, codename = kind_of(looked)
        target = f"{python}-{platform}"
        # What is built on one distribution is for that one alone.
        environment, kind = self.spec.environment_for(target), f"{target}-{codename}"
        is_there = self.spec.digest in looked.releases
        if not is_there and not pulumi.runtime.is_dry_run():
            self._make(host, environment, kind)
        there = shlex.quote(self.site.ssh.relative(self.site.sent))
        lacks = self.words(host, "lacks", "$RELEASE", "$ENVIRONMENT")
        receive = self.words(host, "receive", "receive=$TURN", "${lacked%/*}", "${lacked#*/}")
        archive = 'case "$lacked" in release/*) sent="$RELEASE-$KIND";; *) sent="${ENVIRONMENT%%-*}-$KIND";; esac'
        send = f'{archive}\n    {receive} <{there}/"$sent.tar.gz"'
        script = f"set -eu\nfor lacked in $({lacks} </dev/null); do\n    {send}\ndone\n"
        given = {"RELEASE": self.spec.digest, "ENVIRONMENT": environment, "KIND": kind}
        turn = looked.turn("receive", done=is_there)
        return self.script(self.step(host, "sent"), script, {**given, "TURN": turn}, after=store.ready)

    def _make(self, host: str, environment: str, kind: str) -> None:
        """Make what is sent to a host; RunError says why it can't be. kind: of hosts for which it is."""
        site, looked = self.site, self.seen.each[host]
        release, packages = (
            site.sent / f"{one}-{kind}.tar.gz" for one in (self.spec.digest, self.spec.environment_digest)
        )
        try:
            looked.check_room()
            wheels = wheels_for(host, site.ssh, self.seen, site.wheels, pulumi.log.info)
            if environment not in looked.environments:
                make_environment(packages, self.topology, self.spec, wheels)
            make_release(release, self.topology, self.spec, self.places, environment, wheels=wheels)
        except ClusterError as error:
            raise pulumi.RunError(str(error)) from error

    def _adopted(self, host: str, prepared: local.Command) -> list[local.Command]:
        """Give another host what was made of the release on the first: its static files, and its secrets."""
        digest, looked = self.spec.digest, self.seen.each[host]
        release = {"RELEASE": digest}
        send = self.words(self.placement.leader, "static-of", "$RELEASE")
        receive = self.words(host, "receive-static", "receive-static=$TURN", "$RELEASE")
        turn = looked.turn("receive-static", done=digest in looked.statics)
        # What comes is looked at as a whole: of an archive that ends too soon nothing is left.
        script = f"{send} </dev/null | {receive}"
        step = self.step(host, "static-files")
        files = self.script(step, script, {**release, "TURN": turn}, after=[prepared])
        if host not in self.placement.app:
            return [files]
        secrets = self.command(
            self.step(host, "secrets"),
            "adopt",
            ("$RELEASE",),
            after=[prepared],
            environment=release,
            done=digest in looked.releases and looked.has_secrets(digest),
            stdin=self.site.secrets,
            logging=local.Logging.NONE,
        )
        return [files, secrets]


__all__ = ["Prepared", "ReleaseSteps"]
