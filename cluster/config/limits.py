"""How much one address may send in a time: what a stack file says of it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from cluster.config.refusing import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.config.site import Location, Site

#: How many requests with a password may come at once beyond their limit: a page with its files, and the next one.
PASSWORDS_AT_ONCE = 200

Burst = Annotated[
    int | None,
    Field(
        ge=0,
        le=100_000,
        description="How many one address may send at once beyond the limit, until as much time has gone by; null: "
        "those of one second, and at least 1.",
    ),
]

PasswordBurst = Annotated[
    int | None,
    Field(
        ge=0,
        le=100_000,
        description=f"How many such may come at once beyond that limit: each file of a page brings the password along. "
        f"null: {PASSWORDS_AT_ONCE}.",
    ),
]


class Method(StrEnum):
    """What a request does."""

    GET = "GET"
    HEAD = "HEAD"
    POST = "POST"
    PUT = "PUT"
    PATCH = "PATCH"
    DELETE = "DELETE"
    OPTIONS = "OPTIONS"


def allowed_burst(of: Site | Location) -> int:
    """Return how many requests beyond its limit are answered at once."""
    if of.burst is not None or of.limit is None:
        return of.burst or 0
    count, _, unit = of.limit.partition("r/")
    return max(1, int(count) // (1 if unit == "s" else 60))


def allowed_passwords(site: Site) -> int:
    """Return how many requests with a password are answered at once beyond their limit."""
    return PASSWORDS_AT_ONCE if site.auth_basic_burst is None else site.auth_basic_burst


def limit_refusals(site: Site) -> Iterator[Refusal]:
    """Yield what is said of limits that are not there."""
    locations = ((("locations", number), one) for number, one in enumerate(site.locations))
    limits: list[tuple[tuple[int | str, ...], Site | Location]] = [((), site), *locations]
    for at, limited in limits:
        if limited.burst is not None and limited.limit is None:
            yield Refusal((*at, "burst"), "is that of a limit, and there is none", limited.burst)
    for number, location in enumerate(site.locations):
        if location.limit_methods and location.limit is None:
            at = ("locations", number, "limit_methods")
            yield Refusal(at, "is what a limit counts, and there is none", [str(one) for one in location.limit_methods])
    if site.auth_basic_limit is not None and site.auth_basic is None:
        message = "counts passwords, and site.auth_basic asks nobody for one"
        yield Refusal(("auth_basic_limit",), message, site.auth_basic_limit)
    if site.auth_basic_burst is not None and site.auth_basic_limit is None:
        message = "is that of auth_basic_limit, and there is none"
        yield Refusal(("auth_basic_burst",), message, site.auth_basic_burst)
