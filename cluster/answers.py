"""Answers of instances: the project's code gives them, and may give anything, without end."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.endpoints import Endpoint

#: What of an answer is read at most, bytes.
MOST = 4 * 1024 * 1024

#: Nobody who is asked here speaks TLS; httpx would read all of the machine's certificates each time, in 50 ms.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class _Bounded(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for chunk in self._stream:
            size += len(chunk)
            if size > MOST:
                raise httpx.ReadError(f"an answer of more than {MOST:,} bytes")
            yield chunk

    def close(self) -> None:
        self._stream.close()


class BoundedTransport(httpx.HTTPTransport):
    """HTTP to an endpoint, whatever host is asked for; the answers have an end."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(uds=endpoint.path or None, verify=NO_TLS)
        self._endpoint = endpoint

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request."""
        if self._endpoint.port:
            request.url = request.url.copy_with(host=self._endpoint.host, port=self._endpoint.port)
        kept = bool(self._pool.connections)
        try:
            response = super().handle_request(request)
        except httpx.RemoteProtocolError:
            # Whoever answers may end a connection that was kept just when it is used again: nothing was begun then.
            if not kept or request.method != "GET":
                raise
            response = super().handle_request(request)
        # An answer that unpacks to more than it was sent as would pass the limit: it is taken as it was sent.
        headers = [(name, value) for name, value in response.headers.raw if name.lower() != b"content-encoding"]
        assert isinstance(response.stream, httpx.SyncByteStream)  # noqa: S101 - of a transport that is not asynchronous
        return httpx.Response(
            response.status_code, headers=headers, stream=_Bounded(response.stream), extensions=response.extensions
        )
