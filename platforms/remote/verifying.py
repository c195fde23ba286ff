"""Checks what serves on hosts with real requests: each host's nginx as its visitors ask it, and who gets where."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from cluster.checks import Check
from cluster.endpoints import Endpoint
from cluster.placement import place
from cluster.services import Kind
from platforms.pulumi.relay import Relay
from platforms.remote import filesystem
from platforms.remote.looked import MOST_AT_ONCE
from platforms.remote.reached import checked_broker, reaching
from platforms.remote.relays import Relays

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Collection, Sequence

    from cluster.placement import Placement
    from cluster.topology import Topology
    from platforms.remote.host.paths import HostPaths
    from platforms.remote.observe import Observed
    from platforms.remote.ssh import Ssh


@dataclass(frozen=True, kw_only=True)
class Verifying:
    """Checks a stack on its hosts; HostError where one can't be asked.

    start: begins a command of a host's, which gets standard input. authority: the certificate of the stack's own, PEM;
    empty where it has none.
    """

    topology: Topology
    places: HostPaths
    ssh: Ssh
    start: Callable[..., subprocess.Popen[bytes]]
    authority: str

    @cached_property
    def placement(self) -> Placement:
        """Which host runs what."""
        return place(self.topology)

    def checked(self, observed: Observed, release: str) -> list[Check]:
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
        return shared or self.topology.config.host(visited).address

    def _checked_by(self, visited: str, release: str, observed: Observed) -> list[Check]:
        from cluster.verify import Endpoints, verify  # noqa: PLC0415 - most commands send no requests

        site, away = self.topology.config.site, observed.seen.away
        with contextlib.ExitStack() as relays:
            to = {
                host: relays.enter_context(contextlib.closing(Relays(partial(self.start, host, "relay-all")))).to
                for host in {*self.placement.app, visited}
            }
            nginx = relays.enter_context(contextlib.closing(Relay(partial(self.start, visited, "relay"))))
            sockets = self.topology.endpoints(lambda _kind: str(self.places.sockets), Kind.INSTANCE)
            host = self.topology.config.host(visited)
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
                authority=self.authority,
                ways={port: to[visited](str(port)) for port in ports},
            )
            return verify(self.topology, there)

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
