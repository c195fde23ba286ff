"""The keys of `cluster:site`: nginx's server, as the internet meets it."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import (
    Field,
    model_validator,
)

from cluster.config.kinds import (
    HeaderName,
    HeaderValue,
    Model,
    PathPrefix,
    Port,
    RedirectSource,
    RedirectTarget,
    ServerName,
    text_enum,
)
from cluster.config.redirects import path_redirects, redirect_refusals
from cluster.config.refusing import KEY, Refusal, refuse
from cluster.config.units import Duration, Size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: What search engines read first.
ROBOTS = "/robots.txt"


class Robots(StrEnum):
    """What search engines are asked to do."""

    NONE = "none"


class Site(Model):
    """nginx's server."""

    server_names: Annotated[list[ServerName], Field(min_length=1)] = Field(
        description="nginx's server_name and Django's ALLOWED_HOSTS; the first is the site's own."
    )
    listen: Port = Field(8080, description="The port.")
    instance_ports: Port | None = Field(
        None,
        description="The first instance alone answers on 127.0.0.1 at this port, the second on the next, and so on.",
    )
    client_max_body_size: Size = Field(Size.parse("1m"), description="nginx's own default; 0: no limit.")
    proxy_read_timeout: Duration = Field(
        Duration.parse("60s"), description="nginx's: how long an instance may be silent within a response."
    )
    connections_per_address: int = Field(
        1024,
        ge=0,
        le=65535,
        description="How many requests one address may have at a time (HTTP/1: connections that are in a request, "
        "WebSockets among them); more are answered with 429. The default is an office of a thousand people behind one "
        "address with a WebSocket each. 0: no limit, which a site behind a CDN or another proxy needs, as all its "
        "visitors come from few addresses.",
    )
    access_log: bool = Field(True, description="Write logs/access.log.")
    static_url: PathPrefix | None = Field(
        "/static/",
        description="The project's STATIC_URL, served by nginx itself; null: nginx serves no static files.",
    )
    redirects: Annotated[dict[RedirectSource, RedirectTarget], Field(max_length=500)] = Field(
        default_factory=dict,
        description="Names and paths that lead elsewhere, with status 308: a host name to one of server_names; a path, "
        "or all below it where it ends with /, to a path or to another site. What follows and the query are kept.",
    )

    headers: Annotated[dict[HeaderName, HeaderValue], Field(max_length=100)] = Field(
        default_factory=dict,
        description="Headers of every answer, errors among them, but where the project's own answer has that header "
        "already.",
    )
    robots: Annotated[Robots, text_enum(Robots)] | None = Field(
        None,
        description="none: search engines are asked to keep away, by the header X-Robots-Tag of every answer and by "
        "/robots.txt; null: what the project says.",
    )

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        static = {self.static_url: "where nginx serves static files (site.static_url)"} if self.static_url else {}
        robots = {ROBOTS: "where nginx answers itself (site.robots)"} if self.robots else {}
        refuse(
            [
                *redirect_refusals(self.redirects, self.server_names),
                *_header_refusals(self),
                *path_refusals(self, static | robots),
            ]
        )
        return self


def _header_refusals(site: Site) -> Iterator[Refusal]:
    seen: dict[str, str] = {"x-robots-tag": "site.robots"} if site.robots else {}
    for name in site.headers:
        if name.lower() in seen:
            yield Refusal(("headers", name, KEY), f"is said by {seen[name.lower()]} already", name)
        seen.setdefault(name.lower(), name)


def path_refusals(site: Site, taken: Mapping[str, str]) -> Iterator[Refusal]:
    """Yield what a site says of paths of which nginx does something else. taken: these, each with what that is."""
    for path, what in taken.items():
        for one in path_redirects(site.redirects):
            if one.covers(path) or _is_of(one.source, path):
                message = f"would take {_named(path)}, {what}"
                yield Refusal(("redirects", one.source, KEY), message, one.source)


def _is_of(path: str, taken: str) -> bool:
    """Tell whether a path is taken: by itself, or below one that ends with /."""
    return path.startswith(taken) if taken.endswith("/") else path == taken


def _named(taken: str) -> str:
    return f"what is below {taken}" if taken.endswith("/") else taken
