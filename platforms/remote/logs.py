"""The logs of what a stack has on its hosts: where each is, what it is called, and what prints it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.services import Kind, asked_by
from platforms.base import Invocation, LogSource
from platforms.remote.paths import access_log

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from platforms.remote.host.paths import HostPaths
    from platforms.remote.looked import Looked, Seen
    from platforms.remote.ssh import Ssh


@dataclass(frozen=True, kw_only=True)
class Logs:
    """The journal of each unit, and nginx's log of the site's requests, on the hosts that were found to answer."""

    ssh: Ssh
    seen: Seen
    places: HostPaths

    def each(self, *, lines: int, follow: bool) -> Iterator[LogSource]:
        """Yield them all. lines: of each, its last; follow: and what comes."""
        options = ["--output=short-iso", "--no-hostname", f"--lines={lines}", *(["--follow"] if follow else [])]
        for host, looked in self.seen.each.items():
            if host in self.seen.away:
                continue
            for unit, called in self._units(looked, ended=not follow).items():
                yield self._log(host, *called, ["journalctl", f"--unit={unit}", *options])
            if host in self.seen.placement.nginx:
                words = ["tail", f"--lines={lines}", *(["-F"] if follow else []), access_log(self.places)]
                yield self._log(host, "nginx", "nginx", words)

    def _units(self, looked: Looked, *, ended: bool) -> dict[str, tuple[str, str]]:
        """Return what a host's units are called, as `_called` says. ended: those too that do not run any more."""
        topology, placement = self.seen.topology, self.seen.placement
        units = {
            unit: self._called(unit) for unit, said in looked.units.items() if said["state"] != "inactive" or ended
        }
        units |= {
            self.places.daemon(one.name).name: (one.name, one.name)
            for one in placement.services(looked.host, topology.daemons)
        }
        if looked.host in placement.nginx:
            renewers = {path.name for path in self.places.renewer_units.values() if path.suffix == ".service"}
            units |= {unit: (one.name, one.name) for one in topology.of_kind(Kind.ACME) for unit in renewers}
        if looked.address is not None:
            units |= {self.places.address_unit.name: (str(Kind.ADDRESS), str(Kind.ADDRESS))}
        return units

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


__all__ = ["Logs"]
