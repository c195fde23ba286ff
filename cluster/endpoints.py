"""Where something is reached: a unix socket or a TCP port. The one place in which addresses are composed."""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace

#: The ports that http:// and https:// mean.
HTTP, HTTPS = 80, 443


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A unix socket's `path`, or a TCP `port` of a `host`, empty for all of a machine's addresses.

    ValueError where it is neither or both.
    """

    path: str = ""
    host: str = ""
    port: int = 0

    def __post_init__(self) -> None:
        if bool(self.path) == bool(self.port) or (self.path and self.host):
            raise ValueError(f"an endpoint is a path, or a host and a port: {self!r}")

    def __str__(self) -> str:
        """Return the path, or host:port."""
        return self.path or f"{self.authority}:{self.port}"

    @property
    def authority(self) -> str:
        """The host as it stands before a port: an IPv6 address in brackets."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def nginx(self) -> str:
        """As nginx's `server`, `listen` and `proxy_pass` write it."""
        return f"unix:{self.path}" if self.path else str(self)

    @property
    def origin(self) -> str:
        """Its URL without a path; of a port alone. http's own port is left out."""
        return f"http://{self.authority}" if self.port == HTTP else f"http://{self}"

    @property
    def secure_origin(self) -> str:
        """Its URL by TLS, without a path; https's own port is left out."""
        return f"https://{self.authority}" if self.port == HTTPS else f"https://{self}"

    def below(self, directory: str) -> Endpoint:
        """Return it with its path in a directory; a port is the same everywhere."""
        return replace(self, path=f"{directory}/{self.path}") if self.path else self

    def connected(self, timeout: float) -> socket.socket:
        """Return a connection to it; OSError where there is none within so many seconds."""
        if not self.path:
            return socket.create_connection((self.host, self.port), timeout=timeout)
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        try:
            connection.connect(self.path)
        except OSError:
            connection.close()
            raise
        return connection
