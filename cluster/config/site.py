"""The keys of `cluster:site`: nginx's server, as the internet meets it."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    Field,
)

from cluster.config.kinds import Model, PathPrefix, Port, ServerName
from cluster.config.units import Duration, Size


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
