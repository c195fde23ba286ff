"""A site in maintenance: what its visitors are told, and who is let in all the same."""

from __future__ import annotations

import html
import ipaddress
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field, TypeAdapter

from cluster.config.units import Duration
from cluster.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Of the message, characters: escaped, the page must fit into one word of nginx's configuration (4095 bytes).
LONGEST_MESSAGE = 400

#: How many networks may be let in: nginx compares each request's address with each of them.
MOST_NETWORKS = 100

DEFAULT_MESSAGE = "This site is down for maintenance, and will be back soon."
DEFAULT_RETRY_AFTER = "10m"

#: What no page shows: control characters, and bytes of a command line that are no text.
_UNSEEN = frozenset({"Cc", "Cs"})

#: What Unicode keeps out of all text: a page has no way to say it.
_NONCHARACTERS = frozenset(
    chr(number)
    for number in (
        *range(0xFDD0, 0xFDF0),
        *(plane + end for plane in range(0, 0x110000, 0x10000) for end in (0xFFFE, 0xFFFF)),
    )
)

#: Bytes of a message as the page has it, in ASCII: with the rest of the page nginx reads it as one word of 4,095.
LONGEST_ON_PAGE = 3700

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _is_unseen(char: str) -> bool:
    return unicodedata.category(char) in _UNSEEN or char in _NONCHARACTERS


def _message(text: str) -> str:
    """Return a message as it is kept: lines without what surrounds them; ValueError says what is allowed."""
    lines = "\n".join(line.strip() for line in text.splitlines()).strip()
    if not lines:
        raise ValueError("must say something")
    wrong = next((char for char in lines if char != "\n" and _is_unseen(char)), None)
    if wrong is not None:
        raise ValueError(f"must be text, got {wrong!a} in it")
    if len(lines) > LONGEST_MESSAGE:
        raise ValueError(f"must have at most {LONGEST_MESSAGE} characters, got {len(lines)}")
    if len(html.escape(lines).encode("ascii", "xmlcharrefreplace")) > LONGEST_ON_PAGE:
        raise ValueError("is too long for nginx, which has rare characters by their numbers: make it shorter")
    return lines


def _seconds(text: str) -> int:
    """Return a duration in seconds; ValueError says what is allowed."""
    duration = Duration.parse(text)
    if duration % 1000 or not duration:
        raise ValueError(f"must be whole seconds, at least 1s, got {text}")
    return duration // 1000


def _network(text: str) -> str:
    """Return a network as it is usually written; ValueError says what is allowed."""
    try:
        # An interface of this machine (fe80::1%eth0) is no part of a client's address.
        network = ipaddress.ip_network(text.replace("%", " "), strict=False)
    except ValueError:
        raise ValueError(f"must be an address or a network (10.0.0.0/8, 2001:db8::/32), got {text!r}") from None
    address = text.partition("/")[0]
    if network.network_address != ipaddress.ip_address(address):
        raise ValueError(f"must be a network: {network}, or {address} alone; got {text}")
    return str(network)


@dataclass(frozen=True, kw_only=True)
class Maintenance:
    """What a site in maintenance says, and to whom it does not.

    message: text, in lines. retry_after: seconds, in which a client is told to try again. allow: the networks of
    clients who get the site as usual.
    """

    message: Annotated[str, AfterValidator(_message)]
    retry_after: Annotated[int, Field(ge=1)]
    allow: Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], Field(max_length=MOST_NETWORKS)] = ()

    @property
    def networks(self) -> list[Network]:
        """The networks of clients who get the site as usual."""
        return [ipaddress.ip_network(text) for text in self.allow]

    def __str__(self) -> str:
        """Return in words what it does, and to whom."""
        who = f"all but {', '.join(self.allow)} get 503" if self.allow else "visitors get 503"
        return f"{who}, Retry-After {self.retry_after} s: {' / '.join(self.message.splitlines())}"


#: How it is kept, as JSON.
KEPT_MAINTENANCE: TypeAdapter[Maintenance] = TypeAdapter(Maintenance)


@dataclass(frozen=True, kw_only=True)
class Maintained:
    """What came of asking for maintenance, or for its end.

    changed: whether it was not so already. in_force: whether nginx runs, and does so.
    """

    changed: bool
    in_force: bool


def told_trouble(wanted: Maintenance | None) -> str:
    """Return what to say where nginx does something else than is wanted."""
    return "nginx keeps visitors out, and should not" if wanted is None else "nginx does not keep out whom it should"


def asked_for(message: str, retry_after: str, allow: Sequence[str]) -> Maintenance:
    """Return what a command line asks for; CommandError has a line for each mistake."""
    wrong: list[str] = []

    def taken(option: str, read: Callable[[str], str | int], text: str) -> str | int:
        try:
            return read(text)
        except ValueError as error:
            wrong.append(f"--{option}: {error}")
            return ""

    says, seconds = taken("message", _message, message), taken("retry-after", _seconds, retry_after)
    networks = tuple(dict.fromkeys(str(taken("allow", _network, text)) for text in allow))
    if len(networks) > MOST_NETWORKS:
        wrong.append(f"--allow: must be at most {MOST_NETWORKS} networks, got {len(networks)}")
    if wrong:
        raise CommandError("\n".join(wrong))
    return Maintenance(message=str(says), retry_after=int(seconds), allow=networks)
