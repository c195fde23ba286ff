"""Who gets to what is made on one host for others: the database and the broker, asked from every host and from here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cluster.checks import Check
from cluster.placement import place
from platforms.remote import broker, database
from platforms.remote.host.guarding import reaches

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from cluster.topology import Topology

    #: Asks hosts for something at once, by a command and its words; their answers by their names.
    Ask = Callable[..., dict[str, str]]


def reaching(topology: Topology, ask: Ask, away: Collection[str]) -> list[str]:
    """Return who gets to the database or the broker though no instance runs there, this machine among them."""
    placement, found = place(topology), []
    for what, host, (address, port) in _shared(topology):
        not_asked = {host, *placement.app, *away}
        asked = [one.name for one in topology.config.hosts if one.name not in not_asked]
        there = [name for name, said in ask(asked, "reaches", address, str(port)).items() if said == "yes"]
        there += ["this machine"] if reaches(address, port) else []
        found += [f"{who} gets to the {what} at {address}:{port}" for who in there]
    return found


def _shared(topology: Topology) -> Iterator[tuple[str, str, tuple[str, int]]]:
    """Yield what is asked by instances on another host: what it is, its host, its address and its port."""
    placement = place(topology)
    if placement.database is not None and topology.config.makes_postgres and placement.asks_database:
        yield "database", placement.database, database.reached_at(topology)
    if placement.broker is not None and placement.asks_broker:
        yield "broker", placement.broker, broker.reached_at(topology)


def checked_broker(topology: Topology, ask: Ask, asked: Sequence[str], release: str) -> list[Check]:
    """Check on these hosts with instances that a broker takes their password, by TLS, and nothing less."""
    if place(topology).broker is None:
        return []
    said = {host: json.loads(text) for host, text in ask(asked, "ask-broker", release).items()}
    return [
        Check(
            name=f"instances on {host} get to the broker",
            ok=not problems,
            expected="by TLS and the password alone",
            found="; ".join(problems) or "so",
        )
        for host, problems in said.items()
    ]


__all__ = ["checked_broker", "reaching"]
