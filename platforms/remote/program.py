"""A site on hosts as a Pulumi program finds it: what runs, what a release is made of, and what makes it."""

from __future__ import annotations

import hashlib
import json
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pulumi
import yaml

from cluster.config.models import HOSTS_KEY, HOSTS_KEY_FALLBACKS, OWN
from cluster.lint.hosts import hosts_fit
from cluster.stack.paths import stack_path
from cluster.tls.hosts_keys import HostsKeys, read_fallbacks
from cluster.topology import build_topology
from platforms.pulumi.looking import seen_by_another
from platforms.remote import filesystem
from platforms.remote.believed import disbelieved
from platforms.remote.host.paths import HostPaths
from platforms.remote.looked import (
    LOOKED_VARIABLE,
    Seen,
    check_name,
    facts_of,
    look,
    look_at_former,
    said_of_sessions,
    taken,
)
from platforms.remote.made import made_secrets, makes_secrets, needs_hosts_key
from platforms.remote.misplaced import misplaced
from platforms.remote.paths import RemotePaths, runtime_paths
from platforms.remote.resources import Remote
from platforms.remote.ssh import HostError, Ssh
from platforms.remote.targets import target_of
from platforms.remote.units import instance_unit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cluster.config import ClusterConfig
    from cluster.config.hosts import Host
    from cluster.lint import Facts
    from cluster.release import RuntimePaths
    from cluster.tls.certificates import Certificate
    from cluster.tls.renewing import Account
    from cluster.topology import Topology
    from platforms.base import Ground


#: Hexadecimal digits that tell a stack file from another.
TAG_LENGTH = 12


def stack_file_tag(root: Path, stack: str) -> str:
    """Return what tells a stack file from another of the same name; empty where Pulumi's service tells them apart.

    Programs are often copies of each other, by their names too, and a host is not to be taken over by the wrong one.
    Pulumi writes it once, and whoever has the same file has it: how its secrets are encrypted.
    """
    found = yaml.safe_load(stack_path(root, stack).read_text(encoding="utf-8")) or {}
    told = found.get("encryptionsalt") or found.get("encryptedkey")
    return hashlib.sha256(told.encode()).hexdigest()[:TAG_LENGTH] if isinstance(told, str) else ""


class RemoteGround:
    """One site on its hosts. owner: says on the host which site of which program it is."""

    def __init__(self, root: Path, stack: str, site: str | None) -> None:
        self.root = root
        self.stack = stack
        self.site = site
        running = pulumi.get_stack()
        called = "/".join([pulumi.get_project(), running, *([site] if site else [])])
        self.owner = " ".join(filter(None, (called, stack_file_tag(root, running))))
        self.name = f"{running}-{site}" if site else running
        check_name(self.name)
        self.kept = RemotePaths(root, f"{running}.{site}" if site else running)
        self.places = HostPaths(self.name)
        self.hosts: tuple[Host, ...] = ()
        self._seen: Seen | None = None

    @cached_property
    def ssh(self) -> Ssh:
        """The way to the hosts, written down for the steps of the program."""
        ssh = Ssh(self.root, self.kept.ssh, self.name, self.hosts)
        ssh.write()
        return ssh

    def seen(self, topology: Topology) -> Seen:
        """Return what there is on the hosts, which is looked at once; HostError where one is away.

        A preview that a command has begun takes what that one has found; what changes hosts, what is looked at while
        the engine begins, or it looks itself.
        """
        if self._seen is None:
            self._seen = self._handed(topology) or look(self.ssh, topology)
        return self._seen

    def _handed(self, topology: Topology) -> Seen | None:
        if self.site is not None:  # another stack on the same hosts, perhaps
            return None
        path = os.environ.get(LOOKED_VARIABLE)
        if not pulumi.runtime.is_dry_run():
            found = seen_by_another()
        else:
            found = None if path is None else Path(path).read_text(encoding="utf-8")
        return None if found is None else taken(found, self.ssh, topology)

    def facts(self, config: ClusterConfig, secrets: frozenset[str]) -> Facts:
        """Return what the lints may look at."""
        self.hosts = tuple(config.hosts)
        plain = facts_of(self.root, self.stack, secrets, None)
        if not hosts_fit(config, plain):
            return plain
        return facts_of(self.root, self.stack, secrets, self.seen(build_topology(config)))

    def served(self, topology: Topology) -> Sequence[Mapping[str, str] | None]:
        """Return what each instance that serves says of its sessions."""
        return self.seen(topology).live.served(topology.names)

    def sessions(self) -> dict[str, Any] | None:
        """Return what an instance says of the session store; None where none says it."""
        return said_of_sessions(self.ssh, self._found.placement.nginx[0])

    @property
    def _found(self) -> Seen:
        assert self._seen is not None  # noqa: S101 - the lints have asked for it
        return self._seen

    def paths(self, topology: Topology) -> RuntimePaths:
        """Return where a release's configuration finds things."""
        return runtime_paths(topology, self.places, "")

    def digest(self, topology: Topology) -> str:
        """Return a digest of the hosts' Pythons and how the instances' units are made."""
        seen = self.seen(topology)
        targets = {target_of(dict(seen.each[host].machine)) for host in seen.placement.app}
        told = [instance_unit(topology, self.places), *(word for target in sorted(targets) for word in target)]
        return hashlib.sha256("\0".join(told).encode()).hexdigest()

    def former(self, release: str) -> dict[str, Any]:
        """Return the configuration file of a former release; OSError where that is gone."""
        try:
            found: dict[str, Any] = json.loads(self.ssh.run(self._found.placement.leader, "config", release))
        except HostError as error:
            raise FileNotFoundError(str(error)) from error
        return found

    def resources(
        self, secrets: pulumi.Output[str], certificate: Certificate | None, users: str, account: Account | None = None
    ) -> Remote:
        """Return what makes the steps on the hosts; RunError where what the stack keeps is not where it would look."""
        refused = filesystem.problems(self._found) or list(
            filter(None, (misplaced(self._found.topology, self._found, lambda: look_at_former(self.ssh)),))
        )
        if not refused and not pulumi.runtime.is_dry_run():
            refused = filesystem.unproven(self.ssh, self._found)
        if refused:
            raise pulumi.RunError("\n".join(refused))
        keys = self._hosts_keys()
        said = disbelieved(self._found.topology, self._found, keys)
        if said:
            raise pulumi.RunError(f"{self.site or OWN}:{HOSTS_KEY}: {said}")
        return Remote(
            owner=self.owner,
            ssh=self.ssh,
            seen=self._found,
            places=self.places,
            sent=self.kept.releases,
            wheels=self.kept.wheels,
            secrets=secrets,
            certificate=certificate,
            users=users,
            hosts_keys=keys,
            account=account,
        )

    def made_secrets(self, config: ClusterConfig) -> dict[str, str]:
        """Return the URLs of the database and of the broker, where they are made and hold a password."""
        topology = build_topology(config)
        return made_secrets(topology, self.places, self._hosts_keys().key) if makes_secrets(topology) else {}

    def _hosts_keys(self) -> HostsKeys:
        """Return of what hosts' certificates are made; empty where they need none. RunError where it is missing."""
        if not needs_hosts_key(self._found.topology):
            return HostsKeys()
        where = f"{self.site or OWN}:{HOSTS_KEY}"
        found: str | None = pulumi.runtime.get_config(where)
        if not found:
            raise pulumi.RunError(f"{where}: missing; `cluster up` makes it")
        try:
            HostsKeys(key=found).authorities(self.name)
        except ValueError as error:
            raise pulumi.RunError(f"{where}: {error}; remove it, and `cluster up` makes a new one") from None
        where = f"{self.site or OWN}:{HOSTS_KEY_FALLBACKS}"
        try:
            keys = HostsKeys(key=found, fallbacks=read_fallbacks(pulumi.runtime.get_config(where)))
            keys.authorities(self.name)
        except ValueError as error:
            raise pulumi.RunError(f"{where}: {error}") from None
        return keys


def ground(root: Path, stack: str, site: str | None) -> Ground:
    """Return where a site stands: on the hosts that its stack file names."""
    return RemoteGround(root, stack, site)
