"""What a Pulumi program makes on hosts: each step is a command of one, whose inputs say what it makes and was found."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pulumi
from pulumi_command import local

from cluster.tls.hosts_keys import HostsKeys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cluster.placement import Placement
    from cluster.tls.certificates import Certificate
    from cluster.tls.renewing import Account
    from cluster.topology import Topology
    from platforms.remote.host.paths import HostPaths
    from platforms.remote.looked import Seen
    from platforms.remote.ssh import Ssh


@dataclass(frozen=True, kw_only=True)
class SiteOnHosts:
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
    places: HostPaths
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


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step on a host. component: what its resource is called after, with the host's name and its own."""

    component: str
    host: str
    name: str

    @property
    def resource(self) -> str:
        """What its resource is called."""
        return f"{self.component}-{self.host}-{self.name}"


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Makes the steps of one operation. name: of its component. opts: of each step, whose parent is the component."""

    site: SiteOnHosts
    name: str
    topology: Topology
    opts: pulumi.ResourceOptions

    @property
    def seen(self) -> Seen:
        """What was found on the hosts."""
        return self.site.seen

    @property
    def places(self) -> HostPaths:
        """Where things are on a host."""
        return self.site.places

    @property
    def placement(self) -> Placement:
        """Which host runs what."""
        return self.site.placement

    def step(self, host: str, name: str) -> Step:
        """Return the step of this name on a host."""
        return Step(component=self.name, host=host, name=name)

    def words(self, host: str, what: str, *words: str) -> str:
        """Return what `sh` runs for a command; of words with a $ it reads what they say."""
        script = self.site.ssh.script(host, what, *words)
        for word in words:
            script = script.replace(shlex.quote(word), f'"{word}"') if "$" in word else script
        return script

    def command(  # noqa: PLR0913 - what a step is
        self,
        step: Step,
        what: str,
        words: Sequence[str] = (),
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
        script = f"exec {self.words(step.host, what, f'{called}=$TURN', *words)}"
        found = turn or self.seen.each[step.host].turn(called, done=done)
        given = {**(environment or {}), "TURN": found}
        return self.script(step, script, given, after=after, stdin=stdin, logging=logging, delete=delete)

    def script(  # noqa: PLR0913 - what a command is
        self,
        step: Step,
        script: str,
        environment: Mapping[str, str],
        *,
        after: Sequence[pulumi.Resource],
        stdin: pulumi.Input[str] | None = None,
        logging: local.Logging | None = None,
        delete: str | None = None,
    ) -> local.Command:
        """Make a step of what `sh` runs here."""
        return local.Command(
            step.resource,
            create=script,
            delete=delete,
            stdin=stdin if stdin is not None else "",
            environment=dict(environment),
            logging=logging,
            add_previous_output_in_env=False,
            opts=pulumi.ResourceOptions.merge(self.opts, pulumi.ResourceOptions(depends_on=list(after))),
        )


__all__ = ["SiteOnHosts", "Step", "Steps"]
