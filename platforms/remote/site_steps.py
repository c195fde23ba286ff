"""The steps that put nginx before the instances, and then let go of what serves no more."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pulumi
from pulumi_command import local

from cluster.errors import ClusterError
from cluster.render.nginx import digest_of_files
from cluster.services import Kind
from platforms import base
from platforms.remote.address import shared
from platforms.remote.archives import make_renewer
from platforms.remote.paths import asked_relays, nginx_config, relay_files, relay_ports, shown_files
from platforms.remote.renewing import LOCK, code, renewer_of, variable
from platforms.remote.steps import Steps
from platforms.remote.targets import target_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from platforms.remote.address import Shared
    from platforms.remote.instance_steps import Instances
    from platforms.remote.looked import Looked
    from platforms.remote.renewing import Renewer


@dataclass(frozen=True, kw_only=True)
class SiteSteps(Steps):
    """Put nginx before the instances, and then let go of those that serve no more."""

    instances: Instances

    def nginx(self) -> base.Site:
        """Make them all."""
        ready, placement = self.instances.ready, self.placement
        after = [*ready, *(one for host in placement.app for one in self._relayed(host, ready))]
        kept = {host: self._renewed(host, ready) for host in placement.nginx}
        delivered = {host: self._delivered(host, [*after, *kept[host]]) for host in placement.nginx}
        sites = [one for one, _digest in delivered.values()]
        told = shared(self.topology, self.places, self.seen)
        # Who begins to hold the address hears of the others first, and those who end give it up before: it moves once.
        first = [host for host in told if self.seen.each[host].address is not None] or [*told]
        held = self._held({host: told[host] for host in first}, sites)
        retired = {host: self._retired(host, [*sites, *held]) for host in self.seen.each}
        others = {host: one for host, one in told.items() if host not in first}
        self._held(others, [*held, *(one for host, one in retired.items() if host not in told)])
        done = pulumi.Output.all(*(command.stdout for command, _digest in delivered.values()))
        _first, digest = delivered[placement.nginx[0]]
        return base.Site(digest=done.apply(lambda _: digest))

    # --- nginx

    def _relayed(self, host: str, after: Sequence[pulumi.Resource]) -> list[local.Command]:
        """Let a host's nginx pass on to its instances what other hosts' nginx send them."""
        looked = self.seen.each[host]
        files = relay_files(self.topology, self.places, host, looked.nginx)
        if not files:
            return []
        private = shown_files(self.places, self.site.hosts_keys, host)
        told = {"files": files, "private": private, "polite": looked.polite}
        step = self.command(
            self.step(host, "relays"),
            "relays",
            after=after,
            done=looked.has_relay(files, alone=False),
            environment={"DIGEST": digest_of_files(files)},
            stdin=pulumi.Output.secret(json.dumps(told, indent=1)),
        )
        return [step]

    def _delivered(self, host: str, after: Sequence[pulumi.Resource]) -> tuple[local.Command, str]:
        """Put the site in place on a host; return the digest of its configuration, too."""
        site, looked = self.site, self.seen.each[host]
        rendered = nginx_config(
            *(self.topology, self.places, host, looked.nginx, site.certificate, site.users), keys=site.hosts_keys
        )
        shown = shown_files(self.places, site.hosts_keys, host) if self.placement.reaches_out(host) else {}
        told = {
            "files": rendered.files,
            "links": rendered.links,
            "digest": rendered.digest,
            "polite": looked.polite,
        }
        asked = asked_relays(self.topology, host) if shown else []
        private = {"private": rendered.private, "users": rendered.users, "shown": shown, "relays": asked}
        text = json.dumps({**told, **private}, indent=1)
        delivered = self.command(
            self.step(host, "nginx-config"),
            "site",
            after=after,
            environment={"DIGEST": rendered.digest},
            done=looked.has_site(rendered),
            stdin=pulumi.Output.secret(text) if any(private.values()) else text,
        )
        return delivered, rendered.digest

    # --- the certificate by ACME

    def _renewed(self, host: str, after: Sequence[pulumi.Resource]) -> list[local.Command]:
        """Start what keeps the certificate of a host's nginx by ACME; nothing where it comes otherwise."""
        looked = self.seen.each[host]
        renewer = self._renewer(looked)
        if renewer is None:
            return []
        (service,) = self.topology.of_kind(Kind.ACME)
        sent = self._renewer_sent(looked, renewer, after)
        told = {
            "renewer": renewer.digest,
            "units": renewer.units,
            "given": renewer.given,
            "seconds": service.start_seconds,
        }
        started = self.command(
            self.step(host, "renewer"),
            "renew",
            after=[sent],
            done=renewer.runs_on(looked),
            environment={variable(name): digest for name, digest in renewer.digests.items()},
            stdin=pulumi.Output.secret(json.dumps(told, indent=1)),
            logging=local.Logging.NONE,
        )
        return [started]

    def _renewer(self, looked: Looked) -> Renewer | None:
        return renewer_of(self.topology, self.places, looked, self.site.account)

    def _renewer_sent(self, looked: Looked, renewer: Renewer, after: Sequence[pulumi.Resource]) -> local.Command:
        """Send a host what keeps its certificate, where it lacks it; that is made here before."""
        host, packed = looked.host, self.site.sent / f"renewer-{renewer.digest}.tar.gz"
        is_there = renewer.digest in looked.renewal.get("sent", ())
        if not is_there and not pulumi.runtime.is_dry_run():
            _pack(packed, looked)
        lacks, there = self.words(host, "lacks-renewer", "$RENEWER"), shlex.quote(self.site.ssh.relative(packed.parent))
        receive = self.words(host, "receive", "receive-renewer=$TURN", "renewer", "$RENEWER")
        send = f'{receive} <{there}/"renewer-$RENEWER.tar.gz"'
        script = f'set -eu\nif [ -n "$({lacks} </dev/null)" ]; then\n    {send}\nfi\n'
        turn = looked.turn("receive-renewer", done=is_there)
        given = {"RENEWER": renewer.digest, "TURN": turn}
        return self.script(self.step(host, "renewer-sent"), script, given, after=after)

    # --- the site's address

    def _held(self, told: Mapping[str, Shared], after: Sequence[pulumi.Resource]) -> list[local.Command]:
        """Let hosts hold the site's address in turn, one told after another."""
        held: list[local.Command] = []
        for host, one in told.items():
            step = self.command(
                self.step(host, "address"),
                "address",
                after=[*after, *held],
                environment={"DIGEST": one.digest},
                done=one.is_done(self.seen.each[host]),
                stdin=json.dumps(one.wanted, indent=1),
            )
            held.append(step)
        return held

    # --- what serves no more

    def _retired(self, host: str, after: Sequence[pulumi.Resource]) -> local.Command:
        """Let go of what serves no more on a host."""
        release = self.instances.digest
        told = self._kept(self.seen.each[host], release)
        return self.command(
            self.step(host, "retire"),
            "retire",
            after=after,
            environment={"RELEASE": release},
            done=self._has_retired(self.seen.each[host], release, told),
            stdin=json.dumps(told, indent=1),
        )

    def _kept(self, looked: Looked, release: str) -> dict[str, Any]:
        """Return what a host is told that it keeps."""
        topology, placement, host = self.topology, self.placement, looked.host
        names = placement.on(host, topology.names)
        files = relay_files(topology, self.places, host, looked.nginx)
        beside = placement.services(host, topology.beside)
        visited = host in placement.nginx
        return {
            "release": release,
            "instances": names,
            "services": [f"{one.name}={one.generation(release)}" for one in beside],
            "daemons": [one.name for one in placement.services(host, topology.daemons)],
            "relayed": [str(relay_ports(topology)[one]) for one in names] if files else [],
            "visited": visited,
            "renewed": self._renewer(looked) is not None,
            "polite": looked.polite,
            **({"holds": True} if visited and topology.config.site.address else {}),
            **({"broker": True} if host == placement.broker else {}),
        }

    def _has_retired(self, looked: Looked, release: str, told: Mapping[str, Any]) -> bool:
        """Tell whether a host was found to have no more than what it is told that it keeps."""
        placement, host = self.placement, looked.host
        wanted = {self.places.unit_of(one, release) for one in told["instances"]}
        wanted |= {self.places.unit_of_service(*one.split("=")) for one in told["services"]}
        files = relay_files(self.topology, self.places, host, looked.nginx)
        shares = host in placement.hosts and self.topology.config.app.shared_filesystem is not None
        return (
            looked.runs_only(wanted, {self.places.daemon(one).name for one in told["daemons"]})
            and looked.has_relay(files, alone=True)
            and looked.has_visitors == told["visited"]
            and ("holds" in told or looked.address is None)
            and ("broker" in told or not looked.asked_for_broker)
            and looked.has_renewer == told["renewed"]
            and not (shares and looked.has_uploads)
        )


def _pack(packed: Path, looked: Looked) -> None:
    """Make what keeps a host's certificate, as it is sent; RunError says why it can't be."""
    try:
        make_renewer(packed, LOCK, code(), *target_of(dict(looked.machine)))
    except ClusterError as error:
        raise pulumi.RunError(str(error)) from error


__all__ = ["SiteSteps"]
