"""The steps that set hosts up, and make on them what keeps sessions, jobs and the database."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pulumi
from pulumi_command import local

from cluster.config.models import SessionEngine
from cluster.services import PACKAGED, Kind
from platforms import base
from platforms.remote import broker, database, filesystem
from platforms.remote.host.broker import digest as broker_digest
from platforms.remote.host.broker import given_digest
from platforms.remote.host.postgres import digest
from platforms.remote.host.setting_up import SERVICE
from platforms.remote.made import makes_secrets
from platforms.remote.steps import Steps
from platforms.remote.units import daemon_unit, instance_unit, nginx_unit, service_unit, socket_of, tmpfiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.services import Service


@dataclass(frozen=True, kw_only=True)
class Store(base.Store):
    """What keeps sessions and jobs on a host that is set up."""

    ready: tuple[pulumi.Resource, ...]


@dataclass(frozen=True, kw_only=True)
class MadeDatabase(base.MadeDatabase):
    """A database that takes connections, where one is made."""

    ready: tuple[pulumi.Resource, ...]


@dataclass(frozen=True, kw_only=True)
class StoreSteps(Steps):
    """Set the hosts up, and start what keeps sessions or jobs on one of them."""

    def store(self) -> Store:
        """Make them all."""
        hosts = [self._set_up(host) for host in self.seen.each]
        hosts += self._gathered(hosts)
        nodes = [socket_of(service, self.places) for service in self.topology.of_kind(Kind.MEMCACHED)]
        there = (*self._daemons(hosts), *self._broker(hosts))
        return Store(nodes=pulumi.Output.from_input(nodes), ready=(*hosts, *there))

    def _set_up(self, host: str) -> local.Command:
        looked, step = self.seen.each[host], self.step(host, "host")
        texts = self._texts(host)
        shared = filesystem.wanted(self.seen, host)
        told = {
            "owner": self.site.owner,
            "made_by": step.resource,
            **texts,
            **({"filesystem": shared} if shared else {}),
        }
        return self.command(
            step,
            "set-up",
            # By another name this host is another resource's to remove.
            done=looked.has_files(texts) and looked.made_by == step.resource and filesystem.is_ready(looked, shared),
            stdin=json.dumps(told),
            delete=f"exec {self.words(host, 'remove', f'by={step.resource}')}",
        )

    def _texts(self, host: str) -> dict[str, str]:
        """Return the texts of a host's files, by what a set-up calls them."""
        topology, places = self.topology, self.places
        beside = self.placement.services(host, topology.beside)
        texts = {
            **({"unit": instance_unit(topology, places)} if host in self.placement.app else {}),
            **({"nginx_unit": nginx_unit(places)} if host in self.placement.hosts else {}),
            "tmpfiles": tmpfiles(topology, places),
            **{f"{SERVICE}{service.name}": service_unit(service, topology, places) for service in beside},
        }
        if makes_secrets(topology) and host in self.placement.app:
            texts["authority"] = self.site.hosts_keys.authorities(places.stack)
        return texts

    def _gathered(self, hosts: Sequence[local.Command]) -> list[local.Command]:
        """Copy what hosts have written to themselves to where all have it: it is there once instances look for it."""
        shared = self.topology.config.app.shared_filesystem
        return [
            self.command(self.step(host, "uploads"), "gather", after=hosts, done=not self.seen.each[host].has_uploads)
            for host in (self.placement.hosts if shared is not None else ())
        ]

    def _daemons(self, hosts: Sequence[local.Command]) -> list[local.Command]:
        """Start programs of the distribution's, one after another: of two memcached nodes one is always full."""
        services = self.placement.services(self.placement.leader, self.topology.daemons)
        services = [one for one in services if one.daemon is not None and not one.daemon.is_given]
        if not services:
            return []
        units = {service.name: daemon_unit(service, self.places) for service in services}
        called = {self.places.daemon(one).name: text for one, text in units.items()}
        started = self.command(
            self.step(self.placement.leader, "daemons"),
            "daemons",
            after=hosts,
            done=self.seen.leader.has_daemons(called),
            stdin=json.dumps([self._daemon(service, units[service.name]) for service in services], indent=1),
        )
        return [started]

    def _daemon(self, service: Service, unit: str) -> dict[str, Any]:
        """Return what a host is told of a program of the distribution's."""
        sessions = self.topology.config.sessions
        alone = SessionEngine.CACHE in (sessions.engine, sessions.previous) and self.topology.memcached_nodes > 1
        return {
            "name": service.name,
            "unit": unit,
            "programs": PACKAGED[service.kind].names,
            "socket": socket_of(service, self.places),
            "ping": service.daemon.ping if service.daemon is not None else None,
            "seconds": service.start_seconds,
            "filled": alone and service.kind is Kind.MEMCACHED,
        }

    def _broker(self, hosts: Sequence[local.Command]) -> list[local.Command]:
        """Start the broker that instances on several hosts ask; one that has a socket alone is a daemon as others."""
        host = self.placement.broker
        if host is None:
            return []
        told = broker.wanted(self.topology, self.places, self.site.hosts_keys)
        made = self.command(
            self.step(host, "broker"),
            "broker",
            after=hosts,
            environment={"DIGEST": broker_digest(told), "GIVEN": given_digest(told)},
            done=self.seen.each[host].has_broker(broker_digest(told), told["name"], told["unit"]),
            stdin=pulumi.Output.secret(json.dumps(told)),
            logging=local.Logging.NONE,
        )
        return [made]

    def database(self) -> MadeDatabase:
        """Make the PostgreSQL that the stack file asks for; an sqlite file is made by who opens it."""
        host = self.placement.database
        if host is None or not self.topology.config.makes_postgres:
            return MadeDatabase(ready=())
        told = database.wanted(self.topology, self.places, self.site.hosts_keys, self.site.owner)
        made = self.command(
            self.step(host, "postgres"),
            "postgres",
            environment={"DIGEST": digest(told)},
            done=self.seen.each[host].has_database(digest(told)),
            stdin=pulumi.Output.secret(json.dumps(told)),
        )
        return MadeDatabase(ready=(made,))


__all__ = ["MadeDatabase", "Store", "StoreSteps"]
