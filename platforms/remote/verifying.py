"""Checks what serves on hosts with real requests: each host's nginx as its visitors ask it, and who gets where."""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from cluster.checks import Check
from cluster.endpoints import Endpoint
from cluster.placement import place
from cluster.services import Kind
from platforms.pulumi.relay import Relay
from platforms.remote import filesystem
from platforms.remote.host.passing import LISTENING
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
    empty where it has none. Where it was begun and nothing is checked, it is to be closed.
    """

    topology: Topology
    places: HostPaths
    ssh: Ssh
    start: Callable[..., subprocess.Popen[bytes]]
    authority: str
    _ways: dict[str, Relays] = field(default_factory=dict)

    @cached_property
    def placement(self) -> Placement:
        """Which host runs what."""
        return place(self.topology)

    def begin(self, away: Collection[str]) -> None:
        """Begin what leads to the hosts, so that it is there when it is checked what serves; once is enough."""
        from cluster import verify  # noqa: F401, PLC0415 - most commands send no requests

        for host in sorted({*self.placement.app, *self.placement.nginx}):
            if host in self._ways and self._ways[host].has_ended:
                self._ways.pop(host).close()
            if host not in self._ways:
                self._ways[host] = Relays(partial(self.start, host, "relay-all"))
                if host not in away:
                    self._ways[host].begin()

    def begin_early(self, away: Collection[str]) -> None:
        """Do so while something else is done, which it must not keep from being done: it is tried again."""
        with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: no thread can be had
            self.begin(away)

    def close(self) -> None:
        """End what leads to the hosts."""
        while self._ways:
            self._ways.popitem()[1].close()

    def checked(self, observed: Observed, release: str) -> list[Check]:
        """Check each host that has visitors, as one of them does."""
        with contextlib.closing(self):
            self.begin(observed.seen.away)
            return self._checked(observed, release)

    def _checked(self, observed: Observed, release: str) -> list[Check]:
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
        with contextlib.closing(Relay(partial(self.start, visited, "relay"))) as nginx:
            sockets = self.topology.endpoints(lambda _kind: str(self.places.sockets), Kind.INSTANCE)
            host = self.topology.config.host(visited)
            # Where it is reached through another one, its address may be nobody's here.
            ports = [] if host.jump is None else [site.listen, *([] if site.tls is None else [site.tls.listen])]
            there = Endpoints(
                internal=nginx.to(str(self.places.internal)),
                instances={name: self._to(self.placement.host_of[name], one.path) for name, one in sockets.items()},
                site=Endpoint(host=self._asked_at(visited, observed), port=site.listen),
                release=release,
                intruders=partial(self._intruders, away),
                counted_twice=self.placement.on(visited, self.topology.names)
                if self.placement.reaches_out(visited)
                else (),
                authority=self.authority,
                ways={port: self._to(visited, str(port)) for port in ports},
            )
            return verify(self.topology, there)

    def _intruders(self, away: Collection[str]) -> list[str]:
        """Return what listens though it must not, on hosts that are not away; and who gets where nobody must."""
        found = [
            f"an instance on {host} listens on port {port}"
            for host, ports in self._listening(away).items()
            for port in json.loads(ports)
        ]
        return [*found, *reaching(self.topology, self._said, away)]

    def _listening(self, away: Collection[str]) -> dict[str, str]:
        """Return on which ports of each host the instances' user listens, as JSON; HostError where one is silent."""
        hosts = [host.name for host in self.ssh.hosts if host.name not in away]
        with ThreadPoolExecutor(max_workers=MOST_AT_ONCE) as pool:
            led_to = [host for host in hosts if host in self._ways]
            found = dict(zip(led_to, pool.map(lambda host: self._ways[host].said(LISTENING), led_to), strict=True))
        # A program of its own says it of the others, or why it can't.
        said = {host: ports for host, ports in found.items() if ports.endswith("]")}
        return {**said, **self._said([host for host in hosts if host not in said], LISTENING)}

    def _to(self, host: str, there: str) -> Endpoint:
        """Return a socket here that leads to one of a host's, or to a port of it."""
        return self._ways[host].to(there)

    def _said(self, hosts: Sequence[str], what: str, *words: str) -> dict[str, str]:
        """Return what hosts say, asked at once, by their names; HostError where one can't be."""
        with ThreadPoolExecutor(max_workers=MOST_AT_ONCE) as pool:
            said = pool.map(lambda host: self.ssh.run(host, what, *words).strip(), hosts)
            return dict(zip(hosts, said, strict=True))
