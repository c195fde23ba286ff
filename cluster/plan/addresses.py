"""The addresses at which nginx answers for a site, by its own text: a change that leaves one costs who knows it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from cluster.plan.blocks import parsed
from cluster.plan.costs import Cost
from cluster.plan.shown import listed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from cluster.plan.blocks import Node

#: What hands requests to the instances, whichever of them; an instance's own port does not.
PASSES = re.compile(r"proxy_pass https?://cluster;")

#: What leads elsewhere, with the same method and body.
LEADS = "return 308 "

#: What listens for HTTP/3.
QUIC = re.compile(r"^\s*listen \S+ quic\b", re.MULTILINE)

#: The ports that an address need not say.
USUAL = {"http": "80", "https": "443"}


class Address(NamedTuple):
    """One address. listen: a port, perhaps after an IP address, as nginx's directive has it."""

    scheme: str
    listen: str
    name: str

    def __str__(self) -> str:
        """Return it as clients write it."""
        port = self.listen.rpartition(":")[2]
        return f"{self.scheme}://{self.name}" + ("" if port == USUAL[self.scheme] else f":{port}")


class Addresses(NamedTuple):
    """Those at which the site is, and those that only lead to it."""

    of_site: frozenset[Address]
    leading: frozenset[Address]


def addresses(texts: Iterable[str]) -> Addresses:
    """Return what the files of a configuration answer; nothing of one that does not close what it opens."""
    found: dict[bool, set[Address]] = {True: set(), False: set()}
    for node in (node for text in texts for node in parsed(text.splitlines()) or ()):
        if node.head == "server {":
            lines = [line.strip() for line in node.lines]
            of_site = any(PASSES.match(line) for line in lines)
            if of_site or any(line.startswith(LEADS) for line in lines):
                found[of_site] |= set(_of_server(node))
    return Addresses(frozenset(found[True]), frozenset(found[False]))


def _of_server(node: Node) -> Iterator[Address]:
    directives = [one.head.removesuffix(";").split() for one in node.inner or () if one.inner is None]
    names = [name for words in directives if words[:1] == ["server_name"] for name in words[1:] if name != "''"]
    for words in directives:
        if words[:1] == ["listen"] and not words[1].startswith("unix:"):
            yield from (Address("https" if {"ssl", "quic"} & {*words} else "http", words[1], name) for name in names)


def left(before: Iterable[str], after: Iterable[str]) -> tuple[list[Cost], list[str]]:
    """Return what it costs that a configuration takes another's place, and in words which addresses are left.

    before, after: the texts of their files.
    """
    old, new = addresses(before), addresses(after)
    unserved = [one for one in old.of_site if not _answers(new.of_site, one)]
    redirected = [one for one in unserved if _answers(new.leading, one)]
    gone = [one for one in {*unserved, *old.leading} - {*redirected} if not _answers({*new.of_site, *new.leading}, one)]
    costs = [cost for cost, found in ((Cost.REDIRECTED, redirected), (Cost.ADDRESS_LEFT, gone)) if found]
    lines = [f"- {_told(gone)}: answered no more"] if gone else []
    return costs, [*lines, *([f"~ {_told(redirected)}: only redirected from now on"] if redirected else [])]


def cut(before: Iterable[str]) -> list[Cost]:
    """Return what a reload costs clients of HTTP/3. before: the texts of the files of what serves."""
    return [Cost.QUIC_CUT] if any(QUIC.search(text) for text in before) else []


def _told(found: Iterable[Address]) -> str:
    return listed(sorted(set(map(str, found))))


def _answers(known: Collection[Address], asked: Address) -> bool:
    return asked in known or any(
        (one.scheme, one.listen) == (asked.scheme, asked.listen) and _covers(one.name, asked.name) for one in known
    )


def _covers(name: str, other: str) -> bool:
    """Tell whether a server name of nginx's, one with a wildcard or of all, is that of whatever another one is of."""
    if name == "_":
        return True
    if not name.startswith((".", "*.")):
        return False
    domain, host = (one.lstrip("*").lstrip(".") for one in (name, other))
    return host.endswith(f".{domain}") or (host == domain and (name.startswith(".") or other.startswith("*.")))


__all__ = ["Address", "Addresses", "addresses", "cut", "left"]
